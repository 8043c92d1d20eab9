"""The parts of the robustness experiment; `robustness.py` says what each measures."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.draws import orders_of, unit_key, unit_rng
from harness.readers import Reader
from harness.rules import hard_rules, require_gold
from harness.sources import Source
from harness.together import search
from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.errors import Fault, InputError
from icmjax.feedback import implied_labels
from icmjax.persona_world import Source as Poll
from icmjax.persona_world import Task, World, make_task, text
from icmjax.search import (
    ParallelTempering,
    assignment_scores,
    best_assignment,
    labels_of,
    make_units,
    with_fields,
)
from icmjax.steering import score_predictions

TRUE_SHARES = (0.5, 0.7, 0.9)
GIVEN_SHARE = 0.25  # of the pairs under a header that contradicts them
Run = dict[str, float]


class Bench:
    """One unit's reader, tasks and search."""

    def __init__(
        self, reader: Reader, source: Source, options: dict[str, Any], key: tuple[str, int]
    ):
        self.reader, self.source, self.options, self.key = reader, source, options, key

    def tasks(self) -> tuple[Task, Task]:
        """Search claims and held-out claims, with gold labels that keep the rules."""
        task, held_out = self.source.draw(*self.key)
        require_gold(task, self.key[0])
        return task, held_out

    def pool(self, part: str, **changes: Any) -> tuple[World, Task]:
        """The world and all of its search claims of this group, in an order of this seed."""
        world, (group, seed) = self.source.require_world(part), self.key
        num_items = len(world.search_topics) * len(world.config.difficulties)
        num_claims = num_items * (2 if changes.get("is_paired", True) else 1)
        return world, make_task(world, group, seed, num_claims=num_claims, **changes)

    def search(
        self, claims: ClaimSet, algorithm: Any = None, clamped: np.ndarray | None = None
    ) -> Any:
        """The labels of a search under hard rules, and its U."""
        algorithm = algorithm or with_fields(
            ParallelTempering(), num_iterations=self.options["num_iterations"]
        )
        scorer, key = self.reader.make_scorer(claims), unit_key(*self.key)
        return search(scorer, hard_rules(claims), algorithm, key, clamped)

    def zero_shot(self, claims: ClaimSet) -> np.ndarray:
        """The most probable labels within the hard rules before any demonstration: int8 `[N]`."""
        free = np.full(len(claims), UNLABELLED, np.int8)
        units = make_units(hard_rules(claims), free, len(claims.options))
        logp = self.reader.make_scorer(claims)(free)
        scores = assignment_scores(units, logp, 1.0, "log_prob")
        return np.asarray(labels_of(units, best_assignment(scores), len(claims)))


def run_order(bench: Bench) -> dict[str, Run]:
    """Accuracy over shuffles of the demonstrations."""
    task, held_out = bench.tasks()
    labels = {"search": bench.search(task.claims).labels, "gold": task.gold.labels}
    steerer = bench.reader.make_steerer(task.claims, held_out.claims)
    orders = orders_of(len(task.claims), bench.options["num_orders"], unit_rng(*bench.key, 0))
    result = {}
    for name, row in labels.items():
        predictions = steerer(np.broadcast_to(row, orders.shape), orders)
        accuracy = [score_predictions(logp, held_out.gold).accuracy for logp in predictions]
        result[name] = {
            "mean": float(np.mean(accuracy)),
            "standard deviation": float(np.std(accuracy, ddof=1)),
            "range": float(np.ptp(accuracy)),
        }
    return result


def run_start(bench: Bench) -> dict[str, Run]:
    """Starts from the best, the worst and the model's own labels."""
    task, _ = bench.tasks()
    gold = task.gold.labels
    starts: dict[str, Any] = {
        "gold": tuple(gold.tolist()),
        "worst case": tuple((1 - gold).tolist()),
        "zero-shot": tuple(bench.zero_shot(task.claims).tolist()),
    }
    result = {}
    for name, start in starts.items():
        for num_replicas in (1, 4):
            algorithm = with_fields(
                ParallelTempering(),
                num_iterations=bench.options["num_iterations"],
                num_replicas=num_replicas,
                warm_start="labels",
                start_labels=start,
            )
            found = bench.search(task.claims, algorithm)
            result[f"{REPLICAS[num_replicas]} from {name}"] = {
                "utility": found.utility,
                "label accuracy": float((found.labels == gold).mean()),
            }
    return result


def run_balance(bench: Bench, shares: Sequence[float] = TRUE_SHARES) -> dict[str, Run]:
    """Claims of which other than half are true."""
    _, pool = bench.pool("balance", is_paired=False)
    num, result = bench.options["num_claims"], {}
    for share in shares:
        members = with_share_true(pool.gold.labels, share, num)
        gold = pool.gold.labels[members]
        labels = bench.search(pool.claims.select(members)).labels
        recalls = [np.mean(labels[gold == label] == label) for label in np.unique(gold)]
        result[f"{share:.0%} true"] = {
            "label accuracy": float((labels == gold).mean()),
            "all true would be right": float(gold.mean()),
            "balanced accuracy": float(np.mean(recalls)),
            "true among labels": float(labels.mean()),
        }
    return result


def with_share_true(gold: np.ndarray, share: float, num: int) -> np.ndarray:
    """The first claims of which exactly that share is true, in their order: int64 `[num]`.

    Raises:
      InputError: there are too few true or too few false ones.
    """
    num_true = round(share * num)
    wanted = {1: num_true, 0: num - num_true}
    faults = [
        Fault(
            f"There are {number} claims that are {bool(label)}.",
            f"{int((gold == label).sum())}",
            f"balance, {share:.0%} true",
            "choose a smaller --num-claims",
        )
        for label, number in wanted.items()
        if (gold == label).sum() < number
    ]
    if faults:
        raise InputError(faults)
    kept = [np.flatnonzero(gold == label)[:number] for label, number in wanted.items()]
    return np.sort(np.concatenate(kept))


def run_unknown(bench: Bench) -> dict[str, Run]:
    """Gold turned round by a coin a topic, in part given."""
    _, pool = bench.pool("unknown")
    _, held_out = bench.tasks()
    rng, num = unit_rng(*bench.key, 1), bench.options["num_claims"]
    members, topics = few_topics(pool.claims, num, rng)
    claims, gold = pool.claims.select(members), pool.gold.labels[members]
    hidden = (gold ^ coins_of(topics, rng)).astype(np.int8)
    is_told = np.isin(topics, rng.permutation(np.unique(topics))[: len(set(topics.tolist())) // 2])
    clamped = np.full(num, UNLABELLED, np.int8)
    for topic in np.unique(topics[is_told]):
        of_topic = np.flatnonzero(topics == topic)
        given = of_topic[: len(of_topic) // 4 * 2]  # whole pairs, half of them
        clamped[given] = hidden[given]
    labels = bench.search(claims, clamped=clamped).labels
    is_right, is_free = labels == hidden, clamped == UNLABELLED
    logp = bench.reader.make_steerer(claims, held_out.claims)(hidden)
    other = coins_of(topics_of(held_out.claims), rng)
    scores = score_predictions(logp, GoldLabels((held_out.gold.labels ^ other).astype(np.int8)))
    return {
        "hidden labels": {
            "agreement where nothing is given": float(is_right[~is_told].mean()),
            "agreement where some are given": float(is_right[is_told & is_free].mean()),
            "held-out accuracy": scores.accuracy,
            "held-out log-loss": scores.log_loss,
        }
    }


def topics_of(claims: ClaimSet) -> np.ndarray:
    """The topic of each claim of the world: int64 `[N]`."""
    return np.array([_parts(claim.choice)[0] for claim in claims.claims])


def _parts(choice: str) -> tuple[int, int, bool]:
    parts = text.parse_claim(choice)
    if parts is None:
        rule, remedy = "A claim of the world is one of its topics.", "leave out --claims"
        raise InputError(Fault(rule, repr(choice), "choice", remedy))
    return parts


def coins_of(topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A coin for each topic, the same for all of its claims: int64 `[N]`."""
    _, index = np.unique(topics, return_inverse=True)
    return rng.integers(2, size=index.max() + 1)[index]


def few_topics(
    claims: ClaimSet, num_claims: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs from as few topics as hold them, two at least: claims and their topics, int64 `[N]`.

    Raises:
      InputError: the claims do not divide into that many topics.
    """
    num_topics = max(2, num_claims // 8)
    if num_claims % (2 * num_topics) or num_claims < 4 * num_topics:
        rule, remedy = "Every topic has two pairs or more, as many each.", "take 8, 16, 24, 32, ..."
        raise InputError(Fault(rule, f"{num_claims} claims", "--num-claims", remedy))
    topics = topics_of(claims)
    kept = [
        np.flatnonzero(topics == topic)[: num_claims // num_topics]
        for topic in rng.permutation(np.unique(topics))[:num_topics]
    ]
    members = np.concatenate(kept)
    return members, topics[members]


def run_salient(bench: Bench) -> dict[str, Run]:
    """A header that names another group than the one that the given labels are of."""
    world = bench.source.require_world("salient")
    task, _ = bench.tasks()
    parts = [_parts(claim.choice) for claim in task.claims.claims]
    gold, pairs = task.gold.labels, np.asarray(task.claims.rules.pairs)
    answers = {
        name: np.array(
            [
                (world.margins(world.group_values[world.group_index(name)])[topic, strength] > 0)
                ^ is_reversed
                for topic, strength, is_reversed in parts
            ]
        ).astype(np.int8)
        for name in world.tiers["frequent"]
        if name != bench.key[0]
    }
    other = max(answers, key=lambda name: int((answers[name] != gold).sum()))
    given = unit_rng(*bench.key, 2).permutation(len(pairs))
    given = pairs[given[: max(1, round(GIVEN_SHARE * len(pairs)))], 0]
    clamped = np.full(len(gold), UNLABELLED, np.int8)
    clamped[given] = gold[given]
    clamped = implied_labels(clamped, hard_rules(task.claims))
    is_free = clamped == UNLABELLED
    is_differing = is_free & (answers[other] != gold)
    wording = np.array([not is_reversed for *_, is_reversed in parts])
    headers = {
        "right header": task.claims.preamble,
        "no header": "",
        "contradicting header": text.header(Poll.NATIONAL, other),
    }
    result = {}
    for name, header in headers.items():
        claims = dataclasses.replace(task.claims, preamble=header)
        labels = bench.search(claims, clamped=clamped).labels
        result[name] = {
            "agrees with gold": float((labels == gold)[is_free].mean()),
            "agrees with the wording": float((labels == wording)[is_free].mean()),
        }
        if is_differing.any():
            share = (labels == gold)[is_differing].mean()
            result[name]["agrees with gold where the groups differ"] = float(share)
    result["gold"] = {"agrees with the wording": float((gold == wording)[is_free].mean())}
    return result


REPLICAS = {1: "one replica", 4: "4 replicas"}
PARTS: dict[str, Callable[[Bench], dict[str, Run]]] = {
    "order": run_order,
    "start": run_start,
    "balance": run_balance,
    "unknown": run_unknown,
    "salient": run_salient,
}
