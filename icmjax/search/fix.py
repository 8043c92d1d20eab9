"""The consistency fix: Algorithm 2 of Wen et al. (arXiv:2506.10139)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.claims import PairRules, consistent_options, violated_pairs
from icmjax.search.base import Labelling, gain, select


class Scored(NamedTuple):
    """The best labelling found among some, and what finding it cost."""

    best: Labelling
    is_found: Array  # bool [], whether any has been looked at
    num_passes: Array  # int32 [], labellings scored
    is_nonfinite: Array  # bool [N], claims that had a score that is not finite


class Fix(NamedTuple):
    """A labelling on its way through the consistency fix."""

    labelling: Labelling
    num_rounds: Array  # int32 []
    num_fixes: Array  # int32 [], pairs relabelled
    num_passes: Array  # int32 [], labellings scored
    is_settled: Array  # bool [E], pairs tried without gain since a label last moved
    is_nonfinite: Array  # bool [N], claims that had a score that is not finite


def consistency_fix(
    rng_key: Array,
    labels: Array,
    known: Labelling,
    is_known: Array,
    is_settled: Array,
    is_free: Array,
    rules: PairRules,
    max_fixes: Array,
    score_fn: Callable[[Array], Labelling],
    *,
    is_reference: bool = False,
    is_first_taken: Array | bool = False,
) -> Fix:
    """Score labels, then up to `max_fixes` times try to mend a violated pair.

    Each time draw a violated pair, score every consistent choice of its two labels, and take the
    best one where it raises U or breaks fewer hard rules.

    The authors' code (`is_reference`) takes up to `max_fixes` pairs and tries, before each, all
    violated pairs in a random order until one is taken: drawing of those not tried yet is the same.
    It scores two choices of a pair (see `_reference_choices`), and takes one of equal U too.

    Scoring the labels themselves is round 0 of the same loop, and one choice is scored at a time,
    so that a program holds `score_fn` once and no pass is spent on a choice that is not allowed.

    Args:
      rng_key: a typed key.
      labels: int8 `[N]`.
      known: a labelling, scored already, that need not be scored again where it comes up.
      is_known: bool `[]`, whether `known` has been scored at all.
      is_settled: bool `[E]`, violated pairs of `known` that are known to be past mending.
      is_free: bool `[N]`, False where a label must not move.
      rules: E ≥ 1 pair rules; see `at_least_one_pair`.
      max_fixes: int32 `[]`.
      score_fn: int8 `[N]` → the `Labelling`, by one pass.
      is_reference: whether pairs are tried, and choices taken, as the authors' code does.
      is_first_taken: bool `[]`, whether the best choice for the first pair is taken even where U
        falls.
    """
    num_options = rules.penalties.shape[-1]
    choices = jnp.asarray(np.argwhere(np.ones((num_options, num_options))), jnp.int8)  # [Y * Y, 2]

    def is_at_known(labels: Array) -> Array:
        return is_known & jnp.all(labels == known.labels)

    def look_at(labels: Array, scored: Scored) -> Scored:
        is_pass = ~is_at_known(labels)
        new = lax.cond(is_pass, score_fn, lambda _: known, labels)
        is_better = ~scored.is_found | (gain(new, scored.best) > 0)
        return Scored(
            best=select(is_better, new, scored.best),
            is_found=jnp.array(True),
            num_passes=scored.num_passes + is_pass.astype(jnp.int32),
            is_nonfinite=scored.is_nonfinite | ~jnp.all(jnp.isfinite(new.label_log_probs), axis=-1),
        )

    def is_open(fix: Fix) -> Array:
        is_left = violated_pairs(fix.labelling.labels, rules) & ~fix.is_settled
        num_spent = 1 + fix.num_fixes if is_reference else fix.num_rounds
        return (fix.num_rounds == 0) | ((num_spent <= max_fixes) & jnp.any(is_left))

    def next_round(fix: Fix) -> Fix:
        is_first, labels = fix.num_rounds == 0, fix.labelling.labels
        is_drawn = violated_pairs(labels, rules)
        if is_reference:
            is_drawn &= ~fix.is_settled
        log_weights = jnp.where(is_drawn, 0.0, -jnp.inf)
        pair = jax.random.categorical(jax.random.fold_in(rng_key, fix.num_rounds), log_weights)
        claims = rules.pairs[pair]
        is_kept = jnp.all(is_free[claims] | (choices == labels[claims]), axis=-1)
        is_tried = consistent_options(rules)[pair].ravel() & is_kept & ~fix.is_settled[pair]
        if is_reference:
            is_tried &= _reference_choices(rules)[pair].ravel()
        # Round 0 looks once, at the labels as they are.
        is_tried = jnp.where(is_first, jnp.arange(len(choices), dtype=jnp.int32) == 0, is_tried)

        def try_choice(scored: Scored, choice: tuple[Array, Array]) -> tuple[Scored, None]:
            pair_labels, is_tried = choice
            new = jnp.where(is_first, labels, labels.at[claims].set(pair_labels))
            return lax.cond(is_tried, look_at, lambda _, scored: scored, new, scored), None

        start = Scored(fix.labelling, jnp.array(False), fix.num_passes, fix.is_nonfinite)
        scored, _ = lax.scan(try_choice, start, (choices, is_tried))
        change = gain(scored.best, fix.labelling)
        is_gain = change >= 0 if is_reference else change > 0
        is_fix = ~is_first & scored.is_found & (is_gain | (is_first_taken & (fix.num_fixes == 0)))
        labelling = select(is_first | is_fix, scored.best, fix.labelling)
        settled = jnp.where(is_fix, False, fix.is_settled.at[pair].set(True))
        settled |= is_fix & is_at_known(labelling.labels) & is_settled
        return Fix(
            labelling=labelling,
            num_rounds=fix.num_rounds + 1,
            num_fixes=fix.num_fixes + is_fix.astype(jnp.int32),
            num_passes=scored.num_passes,
            is_settled=jnp.where(is_first, fix.is_settled, settled),
            is_nonfinite=scored.is_nonfinite,
        )

    zero = jnp.int32(0)
    unscored = known._replace(labels=labels)
    settled = is_settled & is_at_known(labels)
    start = Fix(unscored, zero, zero, zero, settled, jnp.zeros_like(is_free))
    return lax.while_loop(is_open, next_round, start)


def _reference_choices(rules: PairRules) -> Array:
    """The choices that the authors' code scores for a violated pair: bool `[E, Y, Y]`.

    A rule that lets either claim alone be true is a contradiction: one becomes true, the other
    false, though both false may be consistent. Any other is an implication: both get one label.
    """
    consistent = consistent_options(rules)
    last = rules.penalties.shape[-1] - 1
    opposite = jnp.zeros(consistent.shape[1:], bool).at[0, last].set(True).at[last, 0].set(True)
    equal = jnp.eye(last + 1, dtype=bool)
    is_contradiction = consistent[:, 0, last] & consistent[:, last, 0]
    return jnp.where(is_contradiction[:, None, None], opposite, equal)


def at_least_one_pair(rules: PairRules) -> PairRules:
    """The rules; where there are none, a pair of a claim with itself that is never violated."""
    if len(rules.pairs):
        return rules
    num_options = rules.penalties.shape[-1]
    return PairRules(
        pairs=jnp.zeros((1, 2), jnp.int32),
        penalties=jnp.zeros((1, num_options, num_options), jnp.float32),
        is_hard=jnp.zeros((1,), bool),
    )
