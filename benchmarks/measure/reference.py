"""The control flow of the published code of ICM, and what it asks of a server.

Written anew from https://github.com/Jiaxin-Wen/Unsupervised-Elicitation (src/experiments/ICM.py) on
Python lists, one claim and one pair at a time. Tests hold `ICM(reference_deviations=True)` to it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Labels = tuple[int, ...]  # one a claim, -1 where unlabelled


class Settings(NamedTuple):
    """Those of the published search that have an effect, with the values of its command line."""

    alpha: float = 50.0  # of the command in its README; 30 in the file
    num_seeds: int = 8
    num_iterations: int = 3000
    num_fixes: int = 10
    initial_temperature: float = 10.0
    final_temperature: float = 0.01
    partner_weight: float = 100.0


class Chance(Protocol):
    """All that the search draws."""

    def begin(self, step: int) -> None:
        """Step 0 has the seeds' fix, step n the n-th claim."""
        ...

    def group_order(self, num_groups: int) -> Sequence[int]:
        """A random order."""
        ...

    def seed_labels(self, num_seeds: int) -> Sequence[int]:
        """Half of them 1, in a random order."""
        ...

    def claim(self, weights: Sequence[float]) -> int:
        """One, by weights."""
        ...

    def pair(self, untried: Sequence[int]) -> int:
        """One of these, evenly."""
        ...

    def uniform(self) -> float:
        """Of [0, 1)."""
        ...


class NumpyChance:
    """Chances from a numpy generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def begin(self, step: int) -> None:
        """Steps share the generator."""

    def group_order(self, num_groups: int) -> Sequence[int]:
        """A permutation."""
        return self.rng.permutation(num_groups).tolist()

    def seed_labels(self, num_seeds: int) -> Sequence[int]:
        """A permutation of 0, 1, 0, 1, ..."""
        return self.rng.permutation(np.arange(num_seeds) % 2).tolist()

    def claim(self, weights: Sequence[float]) -> int:
        """By the weights' shares."""
        shares = np.asarray(weights) / np.sum(weights)
        return int(self.rng.choice(len(weights), p=shares))

    def pair(self, untried: Sequence[int]) -> int:
        """Evenly."""
        return int(self.rng.choice(untried))

    def uniform(self) -> float:
        """Of [0, 1)."""
        return float(self.rng.random())


class Step(NamedTuple):
    """What one drawn claim led to."""

    claim: int
    is_flip: bool
    is_accepted: bool
    temperature: float
    utility: float  # after the step
    labels: Labels  # after the step


class PublishedSearch:
    """One run of the published search.

    Args:
      score_fn: labels → log P(True) − log P(False) of every claim given the others' labels.
      rules: pair rules, all of them soft.
      groups: of each claim, the number of its consistency group.
      chance: what is drawn.
      ask_all: is told the labels whenever every labelled claim is scored given the others: one
        prompt for each.
      ask_one: is told the labels and the claim whenever one claim is scored: one prompt.
    """

    def __init__(
        self,
        score_fn: Callable[[Labels], np.ndarray],
        rules: Any,
        groups: Sequence[int],
        chance: Chance,
        settings: Settings,
        ask_all: Callable[[Labels], None] = lambda labels: None,
        ask_one: Callable[[Labels, int], None] = lambda labels, claim: None,
    ) -> None:
        self.score_fn, self.chance, self.settings = score_fn, chance, settings
        self.ask_all, self.ask_one = ask_all, ask_one
        self.pairs = [tuple(pair) for pair in np.asarray(rules.pairs).tolist()]
        self.penalties = np.asarray(rules.penalties)
        self.groups = np.asarray(groups)
        members = [np.flatnonzero(self.groups == g).tolist() for g in dict.fromkeys(groups)]
        order = chance.group_order(len(members))
        self.order = [claim for g in order for claim in members[g]]  # of prompts too

    def seeds(self) -> Labels:
        """The first claims of a random order of whole groups, half of them true."""
        labels = [-1] * len(self.groups)
        drawn = self.chance.seed_labels(self.settings.num_seeds)
        for claim, label in zip(self.order, drawn, strict=False):
            labels[claim] = label
        return tuple(labels)

    def violated(self, labels: Labels) -> list[int]:
        """The numbers of the pairs whose labels contradict each other."""
        return [
            e
            for e, (i, j) in enumerate(self.pairs)
            if labels[i] >= 0 and labels[j] >= 0 and self.penalties[e, labels[i], labels[j]] > 0
        ]

    def utility(self, labels: Labels) -> float:
        """U by log-odds, without asking for scores."""
        odds = self.score_fn(labels)
        own = [odds[i] if y else -odds[i] for i, y in enumerate(labels) if y >= 0]
        return self.settings.alpha * float(np.mean(own)) - len(self.violated(labels))

    def scored(self, labels: Labels) -> float:
        """U by log-odds, every labelled claim being asked about."""
        self.ask_all(labels)
        return self.utility(labels)

    def choices(self, labels: Labels, e: int) -> list[Labels]:
        """The two ways to mend a pair: one claim true, or for equal answers both or neither."""
        i, j = self.pairs[e]
        is_contradiction = self.penalties[e, 0, 1] == self.penalties[e, 1, 0] == 0
        found = []
        for first, second in ((0, 1), (1, 0)) if is_contradiction else ((0, 0), (1, 1)):
            changed = list(labels)
            changed[i], changed[j] = first, second
            found.append(tuple(changed))
        return found

    def fixed(self, labels: Labels, best: float) -> tuple[Labels, float]:
        """Labels after the consistency fix, which starts from U `best`."""
        is_mended = False  # of any round: later ones go on though nothing is taken any more
        for _ in range(self.settings.num_fixes):
            untried = self.violated(labels)
            while untried:
                e = self.chance.pair(untried)
                untried.remove(e)
                choices = self.choices(labels, e)
                utilities = [self.scored(choice) for choice in choices]
                if max(utilities) >= best:
                    best, labels = max(utilities), choices[int(np.argmax(utilities))]
                    is_mended = True
                    break
            if not is_mended or not self.violated(labels):
                break
        return labels, best

    def weights(self, labels: Labels) -> list[float]:
        """By which a claim is drawn."""
        known = {self.groups[i] for i, y in enumerate(labels) if y >= 0}
        return [
            self.settings.partner_weight if y < 0 and group in known else 1.0
            for y, group in zip(labels, self.groups, strict=True)
        ]

    def temperature(self, num_flips: int) -> float:
        """After so many accepted flips."""
        cooled = self.settings.initial_temperature / (1 + 2 * np.log(1 + num_flips))
        return max(self.settings.final_temperature, cooled)

    def run(self) -> list[Step]:
        """The whole search, step by step."""
        self.chance.begin(0)
        labels = self.seeds()
        labels, current = self.fixed(labels, self.scored(labels))
        steps = [Step(-1, False, True, np.inf, current, labels)]
        num_flips = 0
        for n in range(1, self.settings.num_iterations + 1):
            self.chance.begin(n)
            claim = self.chance.claim(self.weights(labels))
            self.ask_one(labels, claim)
            label = int(self.score_fn(labels)[claim] > 0)
            is_flip, is_accepted = label != labels[claim], True
            temperature = self.temperature(num_flips)
            if is_flip:
                flipped = (*labels[:claim], label, *labels[claim + 1 :])
                proposal, _ = self.fixed(flipped, -np.inf)
                proposed = self.scored(proposal)
                ratio = (proposed - current) / temperature
                is_accepted = self.chance.uniform() < np.exp(min(ratio, 0.0))
                if is_accepted:
                    labels, current, num_flips = proposal, proposed, num_flips + 1
            steps.append(Step(claim, is_flip, is_accepted, temperature, current, labels))
        return steps


class Prices:
    """The tokens of the prompts that a search asks for, at three prices.

    - "tree": scores of all claims are one pass of our tree; a prompt alone is read whole;
    - "whole": every prompt is read whole;
    - "cached": of a prompt, what no earlier one of the search began with; nothing is ever dropped.

    Args:
      tokens_per_pass: of our tree, by labels.
      order: the claims in the order of prompts.
      claims: `query_lengths` `[N]`, `demonstration_lengths` `[N, Y]` and `preamble`, in tokens.
    """

    def __init__(
        self, tokens_per_pass: Callable[[np.ndarray], int], order: Sequence[int], claims: Any
    ) -> None:
        self.tokens_per_pass, self.order = tokens_per_pass, order
        self.queries = np.asarray(claims.query_lengths).tolist()
        self.shown = np.asarray(claims.demonstration_lengths).tolist()
        self.preamble = len(claims.preamble)
        self.num_prompts = self.num_scorings = 0
        self.tokens = dict.fromkeys(("tree", "whole", "cached"), 0)
        self._known: dict[Any, int] = {}  # prefixes by the one before them and what it goes on with
        self._passes: dict[bytes, int] = {}

    def ask_all(self, labels: Labels) -> None:
        """One prompt for every labelled claim."""
        self.num_scorings += 1
        for claim, label in enumerate(labels):
            if label >= 0:
                self._prompt(labels, claim)
        array = np.asarray(labels, np.int8)
        key = (array >= 0).tobytes()
        if key not in self._passes:
            self._passes[key] = self.tokens_per_pass(array)
        self.tokens["tree"] += self._passes[key]

    def ask_one(self, labels: Labels, claim: int) -> None:
        """One prompt."""
        self.tokens["tree"] += self._prompt(labels, claim)

    def _prompt(self, labels: Labels, claim: int) -> int:
        """The tokens of a prompt, read whole."""
        self.num_prompts += 1
        node, whole = self._follow(0, "preamble", self.preamble), self.preamble
        for other in self.order:
            if other == claim or labels[other] < 0:
                continue
            query, shown = self.queries[other], self.shown[other][labels[other]]
            node = self._follow(node, other, query)
            node = self._follow(node, (other, labels[other]), shown - query)
            whole += shown
        self._follow(node, claim, self.queries[claim])
        whole += self.queries[claim]
        self.tokens["whole"] += whole
        return whole

    def _follow(self, node: int, piece: Any, num_tokens: int) -> int:
        """The prefix that goes on from another by a piece; one that is new costs its tokens."""
        key = (node, piece)
        if key not in self._known:
            self._known[key] = len(self._known) + 1
            self.tokens["cached"] += num_tokens
        return self._known[key]
