"""Labels by their marginals: what a model says of each claim, over contexts of its own labels.

The utility U is a pseudo-likelihood. Its maximum is the labelling that agrees with itself most, and
a better search finds one that agrees better and is right less often. For a model whose predictions
come from one joint law of all labels, the labels that are right most often are no such maximum.
They are each claim's most probable label by the law's marginals, within the pair rules (Besag
1986). Those marginals are what the model says without any demonstration. docs/objective.md has
the argument and the measurements.

A language model is not quite one joint law. What it says of a claim depends on the context, so its
zero-shot answer is one noisy reading of the marginal. Its answers after a few claims whose labels
are drawn from the marginals are others: in one joint law their mean is the marginal again. So
log-odds are averaged over such contexts, and more passes take noise away and add nothing else.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.csgraph
from jax import Array, lax

from icmjax.claims import UNLABELLED, PairRules
from icmjax.scoring import (
    BIASES,
    FEWEST_READ,
    Bias,
    cluster_border,
    score_in_context,
    share_border,
    tokens_in_context,
    without_bias,
)
from icmjax.search.base import Labelling, Scorer, labelling_of, names_fields
from icmjax.search.chains import ChainInfo, ChainSearch, ChainState
from icmjax.search.loop import mean_entropy
from icmjax.search.moves import mirrored
from icmjax.search.schedule import common
from icmjax.search.units import Units, labels_of, sum_by_assignment

ONE_SIDED = 0.9  # share of one label from which on a model is taken to favour it
TURN_SUPPORT = 1.0  # nats by which given labels have to speak for labels turned round
NUM_TURN_STEPS = 2  # before the last one
EVEN_SHARE = 0.9  # of the entropy of an even guess, from which on nothing was found


class Readings(NamedTuple):
    """What the passes so far said of each assignment of each unit, nats."""

    zero_shot: Array  # float32 [G, A]
    total: Array  # float32 [G, A], over all readings, the zero-shot one among them
    num_readings: Array  # int32 [G]
    bias: Array  # float32 [], taken off the zero-shot log-odds, nats
    true_share: Array  # float32 [], of the zero-shot log-odds that are above 0, bias and all
    ties: Array  # int32 [N], the claims that are shown together: of one group, or tied by rules
    given: Array  # int8 [N], the labels of claims of one alone, clamped or implied; -1 of the rest
    places: Array  # bool [S], all False: as many as claims that a context can show
    support: Array  # float32 [2, N], log P(given | the others as found, and turned round), nats
    others: Array  # bool [H], all False: as many as are shown for that; none where it is not asked

    @property
    def is_given(self) -> Array:
        """Claims of one label alone, bool `[..., N]`; they are always shown but for `support`."""
        return self.given >= 0

    @property
    def is_turned(self) -> Array:
        """Whether the given labels fit the others turned round, bool `[...]`."""
        as_found, turned = jnp.moveaxis(jnp.sum(self.support, axis=-1), -1, 0)
        return turned - as_found > TURN_SUPPORT


@names_fields
@dataclasses.dataclass(frozen=True)
class Marginals(ChainSearch):
    """The mean of readings of every claim: zero-shot, and in contexts of a few sampled labels.

    Step 0 reads all claims without demonstrations but those of clamped claims. Every step after it
    shows a few claims, whole units at random, with labels drawn from what step 0 said, and reads
    all others again. The labels found are the most probable ones by the mean of the readings,
    within the pair rules, soft ones too. The last step scores them, for U and the log-odds.

    Contexts find out which claims belong together, and a model may take one side for the other:
    then nearly all labels are wrong. Where labels are given, by people who were asked, two steps
    before the last one ask how well the others' labels predict the given ones, as they are and
    turned round. Where these speak for it by more than `TURN_SUPPORT`, all others are turned. The
    contexts of these two steps show as many labels of either kind, the surest ones.

    Attributes:
      num_iterations: passes, the first and the last one included.
      num_shots: free claims that a context shows, at most; one unit at least.
      bias: what is taken off the log-odds of binary claims in every pass: "clusters", the border
        between their two clusters, or "none". It cancels in a pair of which exactly one is true.
      balance: the share of claims that are known to be true, in place of clusters; None where it is
        not known.
    """

    num_iterations: int = 18
    num_shots: int = 4
    bias: Bias = "clusters"
    balance: float | None = None

    keeps_log_probs: ClassVar[bool] = True

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        balance = self.balance
        return super()._ranges() | {
            "num_chains": (self.num_chains == 1, "1, as more contexts are more iterations"),
            "num_shots": (self.num_shots >= 1, "1 or more"),
            "bias": (self.bias in BIASES, f"one of {', '.join(BIASES)}"),
            "balance": (
                balance is None or (0 < balance < 1 and self.bias != "none"),
                "between 0 and 1, or None, as it has to be where bias is none",
            ),
        }

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: np.ndarray,
        num_options: int,
        groups: Any = None,
    ) -> ChainState:
        """The chain before its first pass; see `ChainSearch.init`."""
        state = super().init(rng_key, rules, clamped, num_options, groups)
        ties = tied_claims(rules, len(clamped), groups)
        given = given_labels(state.units, len(clamped))
        is_given = given >= 0
        num_free = np.bincount(ties, ~is_given)
        most_free = int(max(self.num_shots, num_free.max()))
        # Zero-shot, one context, two sides, and the last step.
        is_asked = bool(is_given.any()) and num_options == 2 and self.num_iterations >= 5
        nothing = jnp.zeros((1, *state.units.is_allowed.shape), jnp.float32)
        readings = Readings(
            zero_shot=nothing,
            total=nothing,
            num_readings=jnp.zeros(nothing.shape[:2], jnp.int32),
            bias=jnp.zeros((1,), jnp.float32),
            true_share=jnp.zeros((1,), jnp.float32),
            ties=jnp.asarray(ties[None], jnp.int32),
            given=jnp.asarray(given[None]),
            places=jnp.zeros((1, min(len(clamped), int(is_given.sum()) + most_free)), bool),
            support=jnp.full((1, 2, len(clamped)), -jnp.inf, jnp.float32),
            others=jnp.zeros((1, int((~is_given).sum()) if is_asked else 0), bool),
        )
        return state._replace(memory=readings)

    def _scored(
        self, n: Array, labels: Array, state: ChainState, scorer: Scorer, rules: PairRules
    ) -> Labelling:
        """The last labels by a whole pass, those before them as one context of all queries."""
        step, memory = common(jnp.max(n)), state.memory
        is_last = step == self.num_iterations - 1
        reads: list[Any] = [
            partial(score_in_context, scorer, num_shown=memory.places.shape[-1]),
            lambda labels: scorer(labels),
        ]
        which = is_last.astype(jnp.int32)
        if memory.others.shape[-1]:
            reads.append(partial(score_in_context, scorer, num_shown=memory.others.shape[-1]))
            which = jnp.where(self._is_turn_step(step), 2, which)
        logp = lax.switch(which, reads, labels)
        found = labelling_of(labels, logp, rules, self.alpha, self.objective)
        # What a context shows is not read, so that it has no U.
        return found._replace(utility=jnp.where(is_last, found.utility, jnp.nan))

    def tokens_per_pass(self, scorer: Scorer, labels: np.ndarray) -> int:
        """Of a whole pass where all claims are labelled, else of one context."""
        if (labels >= 0).all():
            return scorer.tokens_per_pass(labels)
        return tokens_in_context(scorer, labels)

    def expected_tokens(self, scorer: Any) -> int:
        """Of all claims without demonstrations, after `num_shots` of them, and of a whole pass."""
        labels = np.full(scorer.num_claims, UNLABELLED, np.int8)
        zero_shot = self.tokens_per_pass(scorer, labels)
        labels[: min(self.num_shots, scorer.num_claims // 2)] = 0
        in_context = self.tokens_per_pass(scorer, labels)
        labels[:] = 0
        whole = self.tokens_per_pass(scorer, labels)
        return zero_shot + (self.num_iterations - 2) * in_context + whole

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: Readings, units: Units
    ) -> tuple[Array, Readings]:
        """A context of a few labels; see `ChainSearch.propose`."""
        shown_key, labels_key = jax.random.split(rng_key)
        memory = self._read(n, current, memory, units)
        num_claims = current.labels.shape[0]
        drawn = jax.random.categorical(labels_key, log_marginals(memory.zero_shot, units))
        context = labels_of(units, drawn.astype(jnp.int32), num_claims)
        is_shown = self._shown(shown_key, memory) | memory.is_given
        context = jnp.where(is_shown, context, jnp.int8(-1))
        best = jnp.argmax(log_marginals(self._estimate(memory, units), units), axis=-1)
        best = best.astype(jnp.int32)
        is_last = n == self.num_iterations - 1
        labels = jnp.where(is_last, labels_of(units, best, num_claims), context)
        if memory.others.shape[-1]:
            found = labels_of(units, best, num_claims)
            is_second = n == self.num_iterations - 2
            side = labels_of(units, jnp.where(is_second, mirrored(units, best), best), num_claims)
            is_shown = _balanced(found, self._certainty(memory, units, num_claims), memory.is_given)
            others = jnp.where(is_shown, side, jnp.int8(-1))
            labels = jnp.where(self._is_turn_step(n), others, labels)
        return labels, memory

    def _certainty(self, memory: Readings, units: Units, num_claims: int) -> Array:
        """The probability of the most probable assignment of each claim's unit, float32 `[N]`."""
        best = jnp.max(log_marginals(self._estimate(memory, units), units), axis=-1)
        spread = jnp.broadcast_to(jnp.exp(best)[:, None], units.members.shape)
        return jnp.zeros((num_claims,), jnp.float32).at[units.members].set(spread, mode="drop")

    def _is_turn_step(self, n: Array) -> Array:
        """Whether a step asks what the given labels say of the others', where there are any."""
        last = self.num_iterations - 1
        return (n >= last - NUM_TURN_STEPS) & (n < last)

    def _shown(self, rng_key: Array, memory: Readings) -> Array:
        """Free claims that a context shows, bool `[N]`: ties at random, half of them at most."""
        is_free = (~memory.is_given).astype(jnp.int32)
        num_free = jnp.zeros_like(memory.num_readings).at[memory.ties].add(is_free)
        is_tie = num_free > 0
        noise = jax.random.uniform(rng_key, is_tie.shape)
        order = jnp.argsort(jnp.where(is_tie, noise, jnp.inf))
        rank = jnp.arange(len(order), dtype=jnp.int32)
        fits = jnp.cumsum(num_free[order]) <= self.num_shots
        is_within = rank < jnp.sum(is_tie, dtype=jnp.int32) // 2
        is_shown = jnp.zeros_like(is_tie).at[order].set((fits | (rank == 0)) & is_within)
        return is_shown[memory.ties] & ~memory.is_given

    def _read(self, n: Array, current: Labelling, memory: Readings, units: Units) -> Readings:
        """The readings with those of the pass before this step."""
        if memory.others.shape[-1]:
            of_given = jnp.take_along_axis(
                current.label_log_probs, jnp.maximum(memory.given, 0)[:, None].astype(jnp.int32), 1
            )
            said = jnp.where(memory.is_given, of_given[:, 0], 0.0)
            place = n - 1 - (self.num_iterations - 1 - NUM_TURN_STEPS)
            asked = memory._replace(support=memory.support.at[place].set(said))
            return lax.cond(
                self._is_turn_step(n - 1),
                lambda: asked,
                lambda: self._add_reading(n, current, memory, units),
            )
        return self._add_reading(n, current, memory, units)

    def _add_reading(
        self, n: Array, current: Labelling, memory: Readings, units: Units
    ) -> Readings:
        """The readings with one more."""
        logp, border = current.label_log_probs, jnp.float32(0)
        is_zero_shot, is_read = n == 1, current.labels < 0
        log_odds = logp[:, 1] - logp[:, 0]  # read of binary claims alone
        if logp.shape[-1] == 2 and (self.bias == "clusters" or self.balance is not None):
            if self.balance is None:
                border = cluster_border(log_odds, is_read)
            else:
                border = share_border(log_odds, self.balance, is_read)
            # Of a few claims a border would be what these very claims say.
            is_known = jnp.sum(is_read) >= FEWEST_READ
            border = jnp.where(is_known, border, jnp.where(is_zero_shot, 0.0, memory.bias))
            logp = without_bias(logp, border)
        scores = sum_by_assignment(units, logp)
        # A context that shows a claim's opposite would hand back the label that was drawn for it.
        is_drawn = (current.labels >= 0) & ~memory.is_given
        is_drawn = jnp.take(is_drawn, units.members, mode="fill", fill_value=False)
        is_unit_read = is_zero_shot | ~jnp.any(is_drawn, axis=-1)
        num_true = jnp.sum(is_read & (log_odds > 0), dtype=jnp.float32)
        true_share = num_true / jnp.maximum(jnp.sum(is_read, dtype=jnp.float32), 1)
        return memory._replace(
            zero_shot=jnp.where(is_zero_shot, scores, memory.zero_shot),
            total=memory.total + jnp.where(is_unit_read[:, None], scores, 0.0),
            num_readings=memory.num_readings + is_unit_read.astype(jnp.int32),
            bias=jnp.where(is_zero_shot, border, memory.bias),
            true_share=jnp.where(is_zero_shot, true_share, memory.true_share),
        )

    def _estimate(self, readings: Readings, units: Units) -> Array:
        """The mean over the readings, float32 `[G, A]`, nats; a known balance holds of it too."""
        scores = readings.total / jnp.maximum(readings.num_readings, 1)[:, None].astype(jnp.float32)
        if readings.others.shape[-1]:
            turned = jnp.take_along_axis(scores, units.mirror, axis=1)
            scores = jnp.where(readings.is_turned, turned, scores)
        if self.balance is None:
            return scores
        is_free = are_free(units)
        log_odds = scores[:, 1] - scores[:, 0]
        border = jnp.where(is_free, share_border(log_odds, self.balance, is_free), 0.0)
        return scores.at[:, 1].add(-border)

    def _outcome_of(self, state: ChainState) -> Labelling:
        return state.current

    def _marginals(self, labelling: Labelling, state: ChainState, trace: ChainInfo) -> np.ndarray:
        del trace
        units, num_claims = state.units, labelling.labels.shape[0]
        readings = jax.tree.map(lambda leaf: leaf[0], state.memory)
        num_options = labelling.label_log_probs.shape[-1]
        return np.asarray(self._label_shares(readings, units, num_claims, num_options))

    @partial(jax.jit, static_argnames=("self", "num_claims", "num_options"))
    def _label_shares(
        self, readings: Readings, units: Units, num_claims: int, num_options: int
    ) -> Array:
        """The probability of every label of every claim, float32 `[N, Y]`."""
        probabilities = jnp.exp(log_marginals(self._estimate(readings, units), units))
        shares = jnp.stack(
            [
                jnp.sum(jnp.where(units.assignments == y, probabilities[..., None], 0.0), axis=1)
                for y in range(num_options)
            ],
            axis=-1,
        )  # [G, M, Y]
        of_claims = jnp.zeros((num_claims, num_options), jnp.float32)
        return of_claims.at[units.members].set(shares, mode="drop")

    def _diagnostics(self, state: ChainState, marginals: np.ndarray) -> dict[str, Any]:
        bias, share = float(state.memory.bias[0]), float(state.memory.true_share[0])
        most, label = max(share, 1 - share), "True" if share > 0.5 else "False"
        warnings = []
        if bias != 0 and most > ONE_SIDED and self.balance is None:
            warnings.append(
                f"Without demonstrations the model says {label} of {most:.0%} of the claims. So "
                f"labels change over at log-odds of {bias:+.2f} nats, between the two clusters "
                "that the claims fall into. --balance says which share is true, where that is "
                "known; --bias none leaves the model's own border."
            )
        is_free = ~np.asarray(state.memory.is_given[0])
        even = mean_entropy(marginals[is_free]) / np.log(marginals.shape[-1])
        if even >= EVEN_SHARE:
            warnings.append(
                f"The marginals are near even: their mean entropy is {even:.0%} of a guess's. "
                "The model is sure of hardly any label; have people answer some of these claims."
            )
        num_violated = int(state.current.num_violated[0])
        if num_violated:
            warnings.append(
                f"The labels violate {num_violated} pairs: soft rules tie more claims than are "
                "labelled together. --hard keeps them."
            )
        if self.balance is not None and not np.any(are_free(state.units)):
            warnings.append("--balance changed nothing: pair rules tie all claims.")
        found: dict[str, Any] = {"bias": bias, "zero_shot_true_share": share}
        if state.memory.others.shape[-1]:
            support = np.asarray(state.memory.support[0])
            as_found, turned = support.sum(axis=1).tolist()
            found["log_prob_of_given"] = {"as found": as_found, "turned round": turned}
            if bool(state.memory.is_turned[0]):
                gains = support[1] - support[0]
                order = np.argsort(-gains, kind="stable")
                found["spoke_for_turning"] = [
                    [int(claim), float(gains[claim])] for claim in order if gains[claim] > 0
                ]
                warnings.append(
                    "The labels that were given fit the others' better when these are turned "
                    f"round, by {turned - as_found:.1f} nats. So all others are turned round: the "
                    "model takes one side for the other, or an answer was a slip. More answers "
                    "would make it surer; where one was a slip, correct its row and answer again."
                )
        return found | {"warnings": warnings}


def _balanced(labels: Array, certainty: Array, is_given: Array) -> Array:
    """The surest free claims, as many of either label, bool `[N]`; all where one label has none.

    Turned round they are as many of either label again, so that a favoured label is favoured alike.
    """

    def rank(is_own: Array) -> Array:
        order = jnp.argsort(jnp.where(is_own, -certainty, jnp.inf))
        return jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))

    is_true, is_false = ~is_given & (labels == 1), ~is_given & (labels == 0)
    num = jnp.minimum(jnp.sum(is_true), jnp.sum(is_false))
    is_surest = (is_true & (rank(is_true) < num)) | (is_false & (rank(is_false) < num))
    return jnp.where(num > 0, is_surest, ~is_given)


def are_free(units: Units) -> Array:
    """The units of one claim that may be False or True, bool `[G]`."""
    is_alone = jnp.sum(units.assignments[:, 0] >= 0, axis=-1) == 1
    return is_alone & (jnp.sum(units.is_allowed, axis=-1) == 2)


def log_marginals(scores: Array, units: Units) -> Array:
    """Log-probabilities of a unit's assignments among those that violate the fewest pairs.

    Claims of a unit that rules tie say one thing in several wordings, so the sum of their scores
    counts it more than once. It is divided by the number of claims over the number that would be
    free: two for a claim and its opposite.

    Args:
      scores: float32 `[G, A]`, sums of label log-probs over a unit's claims, nats.

    Returns:
      float32 `[G, A]`, nats; -inf where an assignment is not allowed or violates more.
    """
    penalties = jnp.where(units.is_allowed, units.penalties, jnp.inf)
    is_least = penalties <= jnp.min(penalties, axis=-1, keepdims=True)
    is_consistent = units.is_allowed & is_least
    num_members = jnp.sum(units.assignments[:, 0] >= 0, axis=-1, dtype=jnp.float32)
    num_options = jnp.max(units.assignments).astype(jnp.float32) + 1
    num_consistent = jnp.sum(is_consistent, axis=-1, dtype=jnp.float32)
    num_free = jnp.log(num_consistent) / jnp.log(jnp.maximum(num_options, 2))
    repeats = jnp.where(num_free > 0, num_members / jnp.maximum(num_free, 1e-6), 1.0)
    return jax.nn.log_softmax(
        jnp.where(is_consistent, scores / repeats[:, None], -jnp.inf), axis=-1
    )


def tied_claims(rules: PairRules, num_claims: int, groups: Any = None) -> np.ndarray:
    """The claims that are of one consistency group, or tied by rules, by number: int64 `[N]`."""
    edges = [np.asarray(rules.pairs).reshape(-1, 2)]
    if groups is not None:
        _, first = np.unique(groups, return_inverse=True)
        heads = np.array([np.flatnonzero(first == group)[0] for group in range(first.max() + 1)])
        edges.append(np.stack([np.arange(num_claims), heads[first]], axis=1))
    rows, columns = np.concatenate(edges).T
    graph = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), (num_claims, num_claims))
    _, ties = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return ties


def given_labels(units: Units, num_claims: int) -> np.ndarray:
    """The labels that claims have in all allowed assignments of their unit: int8 `[N]`, or -1."""
    members, assignments = np.asarray(units.members), np.asarray(units.assignments)
    is_allowed = np.asarray(units.is_allowed)[..., None]
    low = np.where(is_allowed, assignments, np.iinfo(np.int8).max).min(axis=1)
    high = np.where(is_allowed, assignments, -1).max(axis=1)
    given = np.full(num_claims + 1, -1, np.int8)
    given[members] = np.where(low == high, low, -1)
    return given[:num_claims]
