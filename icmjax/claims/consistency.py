"""Pair rules: which label pairs of two tied claims contradict each other, as penalty tables.

The rules are those of Wen et al. (arXiv:2506.10139, section 2.2), each stated once a pair. Label
options run from false to true: the last one is "true". With two options every rule is the usual
one; with more, "true" means exactly the last option.
"""

import itertools
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

Rule = Literal[
    "none",  # labels are free
    "exactly_one_true",  # two opposite options of one question
    "not_both_true",  # answers that exclude each other, and may both be wrong
    "one_answer",  # all answers to one question: of two exactly one is true, of more no two
    "asymmetric_preference",  # "A is better than B" against "B is better than A"
    "same_answer_same_label",  # equal answers share a label, unequal ones are not both true
]
RULES: tuple[str, ...] = get_args(Rule)


class PairRules(NamedTuple):
    """Penalty tables over pairs of claims; a pytree, of numpy arrays on the host."""

    pairs: Array | np.ndarray  # int32 [E, 2], first < second, each unordered pair once
    penalties: Array | np.ndarray  # float32 [E, Y, Y]; 1 where the two labels violate the rule
    is_hard: Array | np.ndarray  # bool [E]; kept by construction, never merely paid for


def no_rules(num_options: int = 2) -> PairRules:
    """Rules of claims that are not tied to each other, E = 0."""
    return make_rules([], np.zeros((0, num_options, num_options)), num_options=num_options)


def make_rules(
    pairs: Sequence[Sequence[int]] | np.ndarray,
    penalties: ArrayLike,
    is_hard: ArrayLike = False,
    num_options: int = 2,
) -> PairRules:
    """Rules in their normal form: first < second within a pair, pairs in ascending order.

    Args:
      pairs: E pairs of distinct claims in either order, each unordered pair once.
      penalties: `[E, Y, Y]` or `[Y, Y]`, by the first and the second label of a pair as given.
      is_hard: `[E]` or one value for all.
      num_options: Y.

    Returns:
      PairRules of numpy arrays.
    """
    index = np.asarray(pairs, np.int32).reshape(-1, 2)
    shape = (len(index), num_options, num_options)
    tables = np.broadcast_to(np.asarray(penalties, np.float32), shape)
    hard = np.broadcast_to(np.asarray(is_hard, bool), shape[:1])
    is_turned = index[:, 0] > index[:, 1]
    index = np.sort(index, axis=1)
    tables = np.where(is_turned[:, None, None], tables.swapaxes(1, 2), tables)
    assert np.all(index[:, 0] < index[:, 1]), "a claim is tied to itself"
    order = np.lexsort((index[:, 1], index[:, 0]))
    index = index[order]
    assert np.all(np.any(index[1:] != index[:-1], axis=1)), "a pair is given twice"
    return PairRules(index, tables[order], hard[order])


def penalty_table(rule: Rule, num_options: int = 2, is_same_answer: bool = False) -> np.ndarray:
    """Penalties of one pair under a rule.

    Args:
      rule: any but "none", and "one_answer", which depends on the size of a group.
      num_options: Y; the last option is "true".
      is_same_answer: for "same_answer_same_label", whether the two claims give one answer.

    Returns:
      float32 `[Y, Y]`, 1 where the two labels contradict each other.
    """
    first, second = np.indices((num_options, num_options))
    is_first_true, is_second_true = first == num_options - 1, second == num_options - 1
    match rule:
        case "exactly_one_true":
            is_violated = is_first_true == is_second_true
        case "not_both_true":
            is_violated = is_first_true & is_second_true
        case "asymmetric_preference":
            # A graded preference is mirrored: as far from true in one claim as from false in
            # the other.
            is_violated = first + second != num_options - 1
        case "same_answer_same_label":
            is_violated = first != second if is_same_answer else is_first_true & is_second_true
        case _:
            of_pairs = [name for name in RULES if name not in ("none", "one_answer")]
            raise ValueError(f"rule must be one of {of_pairs}, found {rule!r}")
    return is_violated.astype(np.float32)


def rules_from_groups(
    rule: Rule,
    groups: Sequence[Sequence[int]],
    num_options: int = 2,
    is_hard: bool = False,
    answers: Sequence[Hashable] | None = None,
) -> PairRules:
    """One rule between every two claims of each consistency group.

    Args:
      rule: name of the rule.
      groups: claim indices of each group; the groups are disjoint.
      num_options: Y.
      is_hard: whether the rule is kept by construction.
      answers: the final answer of each of the N claims; needed by "same_answer_same_label" alone.

    Returns:
      PairRules of numpy arrays.
    """
    if rule == "none":
        return no_rules(num_options)
    if rule == "one_answer":
        return _one_answer(groups, num_options, is_hard)
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    if rule == "same_answer_same_label":
        assert answers is not None, "the rule compares answers"
        by_sameness = [penalty_table(rule, num_options, is_same) for is_same in (False, True)]
        penalties = np.array([by_sameness[answers[i] == answers[j]] for i, j in pairs])
        penalties = penalties.reshape(-1, num_options, num_options)
    else:
        penalties = penalty_table(rule, num_options)
    return make_rules(pairs, penalties, is_hard, num_options)


def _one_answer(groups: Sequence[Sequence[int]], num_options: int, is_hard: bool) -> PairRules:
    """That one claim of a group is true, as far as rules of pairs can say it."""
    pairs, tables = [], []
    by_kind = [penalty_table(rule, num_options) for rule in ("not_both_true", "exactly_one_true")]
    for group in groups:
        own = list(itertools.combinations(group, 2))
        pairs += own
        tables += [by_kind[len(group) == 2]] * len(own)
    penalties = np.array(tables).reshape(-1, num_options, num_options)
    return make_rules(pairs, penalties, is_hard, num_options)


def select_rules(rules: PairRules, indices: Sequence[int] | np.ndarray) -> PairRules:
    """The rules among some claims, which are renumbered to 0, 1, ... in the order of `indices`.

    A pair whose other claim is left out is dropped. On the host.
    """
    kept = np.asarray(indices, np.int64).reshape(-1)
    pairs = np.asarray(rules.pairs)
    new_index = np.full(1 + max(pairs.max(initial=-1), kept.max(initial=-1)), -1)
    new_index[kept] = np.arange(len(kept))
    renumbered = new_index[pairs]
    is_kept = np.all(renumbered >= 0, axis=1)
    return make_rules(
        renumbered[is_kept],
        np.asarray(rules.penalties)[is_kept],
        np.asarray(rules.is_hard)[is_kept],
        rules.penalties.shape[-1],
    )


def pair_penalties(labels: Array, rules: PairRules) -> Array:
    """What each pair costs under some labels; 0 where either claim is unlabelled.

    Args:
      labels: int8 `[..., N]`, `UNLABELLED` (-1) where there is no label yet.
      rules: rules over the N claims.

    Returns:
      float32 `[..., E]`.
    """
    pairs, penalties = jnp.asarray(rules.pairs), jnp.asarray(rules.penalties)
    pair_labels = labels[..., pairs].astype(jnp.int32)
    is_labelled = jnp.all(pair_labels >= 0, axis=-1)
    first, second = jnp.moveaxis(jnp.maximum(pair_labels, 0), -1, 0)
    penalty = penalties[jnp.arange(pairs.shape[0]), first, second]
    return jnp.where(is_labelled, penalty, 0.0)


def violated_pairs(labels: Array, rules: PairRules) -> Array:
    """Which pairs violate their rule: int8 `[..., N]` → bool `[..., E]`."""
    return pair_penalties(labels, rules) > 0


def count_violations(labels: Array, rules: PairRules) -> Array:
    """Number of violated pairs, the second term of the utility (arXiv:2506.10139, equation 2).

    Args:
      labels: int8 `[..., N]`, `UNLABELLED` (-1) where there is no label yet.
      rules: rules over the N claims; E may be 0.

    Returns:
      float32 `[...]`; a pair with an unlabelled claim costs nothing.
    """
    return jnp.sum(pair_penalties(labels, rules), axis=-1)


def consistent_options(rules: PairRules) -> Array:
    """Which label pairs each rule allows: bool `[E, Y, Y]`."""
    return jnp.asarray(rules.penalties) == 0
