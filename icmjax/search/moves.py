"""The moves of one replica: what they propose, how probably, and when they are accepted.

Every kernel draws a `Move` from a state of its labels and leave-one-out matrix. Its probability is
a function of that matrix and of auxiliary numbers that no state has a say in (the kind of move,
how many units, the order in which they were drawn), and the move back has the same auxiliary
numbers. So the ratio of the two probabilities, each from the matrix of the labels that it starts
at, makes the Metropolis-Hastings acceptance exact, however rough a guess of ΔU the matrix gives.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from icmjax.scoring import Objective, claim_scores
from icmjax.search.units import Units, sum_by_assignment

Balancing = Literal["barker", "sqrt"]
BALANCINGS: tuple[str, ...] = get_args(Balancing)
FLIP, RESAMPLE, MIRROR, TURN = range(4)  # kinds of move
TURN_SIZES = (1, 2)  # how many units a TURN turns round, drawn evenly


class Move(NamedTuple):
    """A proposal from one assignment to another, with its auxiliary numbers."""

    old: Array  # int32 [G], assignment before
    new: Array  # int32 [G], assignment proposed
    kind: Array  # int32 [], FLIP, RESAMPLE, MIRROR or TURN
    order: Array  # int32 [K], FLIP: units in the order in which they were drawn
    num_flips: Array  # int32 [], FLIP: how many of them move, at most K
    is_resampled: Array  # bool [G], RESAMPLE: units drawn anew


def assignment_scores(
    units: Units, label_log_probs: Array, alpha: float, objective: Objective = "log_prob"
) -> Array:
    """What each assignment of a unit alone adds to U while the leave-one-out matrix stays.

    Args:
      label_log_probs: `[N, Y]`, nats.

    Returns:
      `[G, A]`, in units of U; -inf where an assignment is not allowed.
    """
    own = claim_scores(label_log_probs, objective)
    scores = alpha / label_log_probs.shape[0] * sum_by_assignment(units, own) - units.penalties
    return jnp.where(units.is_allowed, scores, -jnp.inf)


def flip_log_weights(
    scores: Array, assignment: Array, inverse_temperature: Array, balancing: Balancing = "barker"
) -> Array:
    """Weights g(t) of moving one unit to another assignment, t = exp(β Δscore), as logs.

    A balancing function has g(t) = t g(1/t): Barker's t / (1 + t), or √t (Zanella,
    arXiv:1711.07424, section 2).

    Args:
      scores: `[G, A]`, of `assignment_scores`.
      assignment: int32 `[G]`, where the units are.
      inverse_temperature: β.

    Returns:
      `[G, A]`; -inf for staying and where an assignment is not allowed.
    """
    is_current = jnp.arange(scores.shape[1], dtype=jnp.int32) == assignment[:, None]
    is_move = jnp.isfinite(scores) & ~is_current
    current = jnp.take_along_axis(scores, assignment[:, None], axis=1)
    log_ratio = inverse_temperature * jnp.where(is_move, scores - current, 0.0)
    log_weights = jax.nn.log_sigmoid(log_ratio) if balancing == "barker" else log_ratio / 2
    return jnp.where(is_move, log_weights, -jnp.inf)


def draw_flips(
    rng_key: Array, log_weights: Array, assignment: Array, num_flips: Array, max_flips: int
) -> tuple[Array, Array]:
    """Draws units without replacement by their weights, and an assignment for each.

    Args:
      rng_key: a typed key.
      log_weights: `[G, A]`, of `flip_log_weights`.
      assignment: int32 `[G]`.
      num_flips: int32 `[]`, units to move, from 1 to the number of units that can.
      max_flips: K, at most G.

    Returns:
      The proposed assignment int32 `[G]`, and the order int32 `[K]` of the units drawn.
    """
    order_key, assignment_key = jax.random.split(rng_key)
    by_unit = jax.nn.logsumexp(log_weights, axis=-1)
    noise = jax.random.gumbel(order_key, by_unit.shape, by_unit.dtype)
    _, order = jax.lax.top_k(by_unit + noise, max_flips)
    drawn = jax.random.categorical(assignment_key, log_weights).astype(assignment.dtype)
    chosen = jnp.where(
        jnp.arange(max_flips, dtype=jnp.int32) < num_flips, drawn[order], assignment[order]
    )
    return assignment.at[order].set(chosen), order


def flips_log_prob(log_weights: Array, new: Array, order: Array, num_flips: Array) -> Array:
    """Log-probability of drawing these units in this order and these assignments for them.

    Args:
      log_weights: `[G, A]`, of `flip_log_weights` where the flips start.
      new: int32 `[G]`, where they end.
      order: int32 `[K]`.
      num_flips: int32 `[]`.
    """
    by_unit = jax.nn.logsumexp(log_weights, axis=-1)
    units = jnp.arange(by_unit.shape[0], dtype=jnp.int32)
    draws = jnp.arange(order.shape[0], dtype=jnp.int32)
    is_earlier = draws[:, None] > draws[None, :]
    is_gone = jnp.any(is_earlier[:, :, None] & (order[None, :, None] == units), axis=1)  # [K, G]
    log_rest = jax.nn.logsumexp(jnp.where(is_gone, -jnp.inf, by_unit), axis=-1)
    each = log_weights[order, new[order]] - log_rest
    return jnp.sum(jnp.where(draws < num_flips, each, 0.0))


def resample_log_prob(
    scores: Array, new: Array, is_resampled: Array, inverse_temperature: Array
) -> Array:
    """Log-probability of drawing these assignments, each unit by itself ∝ exp(β score)."""
    log_probs = jax.nn.log_softmax(_tempered(scores, inverse_temperature), axis=-1)
    each = jnp.take_along_axis(log_probs, new[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(is_resampled, each, 0.0))


def draw_resample(
    rng_key: Array, scores: Array, old: Array, is_resampled: Array, inverse_temperature: Array
) -> Array:
    """Draws the chosen units anew, as `resample_log_prob` says: int32 `[G]`."""
    drawn = jax.random.categorical(rng_key, _tempered(scores, inverse_temperature)).astype(
        jnp.int32
    )
    return jnp.where(is_resampled, drawn.astype(old.dtype), old)


def _tempered(scores: Array, inverse_temperature: Array) -> Array:
    """β score; forbidden assignments, of score −inf, stay so at β = 0."""
    return jnp.where(jnp.isfinite(scores), inverse_temperature * scores, -jnp.inf)


def mirrored(units: Units, assignment: Array) -> Array:
    """Every unit's opposite assignment, where it is allowed; its own inverse: int32 `[G]`."""
    return jnp.take_along_axis(units.mirror, assignment[:, None], axis=1)[:, 0]


def is_turnable(units: Units) -> Array:
    """Units that a search may have to turn round unasked, bool `[G]`.

    Those of several claims that have labels besides an assignment and its mirror image: pairs under
    a soft rule. A claim that sees its partner is sure of its label, and the matrix holds either for
    immovable though both together may turn; a hard rule leaves no other way to go.
    """
    num_members = jnp.sum(units.assignments[:, 0] >= 0, axis=-1)
    return (num_members > 1) & (jnp.sum(units.is_allowed, axis=-1) > 2)


def draw_turned(rng_key: Array, units: Units) -> Array:
    """Draws turnable units, evenly, whatever the labels: bool `[G]`, none where there is none.

    One, or two where turning either of them alone would lead downhill.
    """
    unit_key, size_key = jax.random.split(rng_key)
    num_turned = jax.random.choice(size_key, jnp.asarray(TURN_SIZES, jnp.int32))
    noise = jax.random.uniform(unit_key, units.members.shape[:1])
    rank = jnp.argsort(jnp.argsort(-jnp.where(is_turnable(units), noise, -1.0))).astype(jnp.int32)
    return is_turnable(units) & (rank < num_turned)


def turnable_share(units: Units) -> Array:
    """The share of the claims that are in turnable units, float32 `[]`."""
    num_members = jnp.sum(units.assignments[:, 0] >= 0, axis=-1)
    num_turnable = jnp.sum(jnp.where(is_turnable(units), num_members, 0))
    return num_turnable.astype(jnp.float32) / jnp.sum(num_members).astype(jnp.float32)


def best_assignment(scores: Array) -> Array:
    """The assignment of the highest score in every unit: `[G, A]` → int32 `[G]`."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def move_log_prob(
    move: Move, scores: Array, inverse_temperature: Array, balancing: Balancing
) -> Array:
    """Log-probability of a move where it starts, given its auxiliary numbers.

    Args:
      scores: `[G, A]`, of the labels that it starts at.
      inverse_temperature: that the proposal's weights use.
    """
    log_weights = flip_log_weights(scores, move.old, inverse_temperature, balancing)
    flips = flips_log_prob(log_weights, move.new, move.order, move.num_flips)
    resample = resample_log_prob(scores, move.new, move.is_resampled, inverse_temperature)
    # What MIRROR and TURN do no state has a say in.
    return jnp.where(move.kind == FLIP, flips, jnp.where(move.kind == RESAMPLE, resample, 0.0))


def reverse(move: Move) -> Move:
    """The move back, with the same auxiliary numbers."""
    return move._replace(old=move.new, new=move.old)


def move_log_ratio(
    move: Move,
    old_scores: Array,
    new_scores: Array,
    inverse_temperature: Array,
    balancing: Balancing = "barker",
) -> Array:
    """Log of the probability of the move back over that of the move: the Hastings correction."""
    forward = move_log_prob(move, old_scores, inverse_temperature, balancing)
    backward = move_log_prob(reverse(move), new_scores, inverse_temperature, balancing)
    return backward - forward
