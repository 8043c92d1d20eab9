"""Moves of replicas, each at an inverse temperature of its own: drawn, screened and accepted."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from icmjax.claims import PairRules
from icmjax.scoring import Objective
from icmjax.search.base import (
    Labelling,
    Scorer,
    check_ranges,
    metropolis_accept,
    score_labels,
    select,
)
from icmjax.search.moves import (
    BALANCINGS,
    FLIP,
    MIRROR,
    RESAMPLE,
    TURN,
    Balancing,
    Move,
    assignment_scores,
    draw_flips,
    draw_resample,
    draw_turned,
    flip_log_weights,
    mirrored,
    move_log_ratio,
    turnable_share,
)
from icmjax.search.screening import screening_correction
from icmjax.search.units import Units, assignment_of, labels_of

RESAMPLED_SHARES = (0.25, 0.5, 1.0)


class Target(NamedTuple):
    """What replicas are drawn by: U of their labels."""

    scorer: Scorer
    rules: PairRules
    units: Units
    alpha: float
    objective: Objective

    def score(self, labels: Array) -> Labelling:
        """Labels int8 `[C, R, N]`, scored by one pass."""
        return score_labels(labels, self.scorer, self.rules, self.alpha, self.objective)

    def assignment_scores(self, label_log_probs: Array) -> Array:
        """What each assignment of a unit adds to U, `[N, Y]` → `[G, A]`."""
        return assignment_scores(self.units, label_log_probs, self.alpha, self.objective)

    @property
    def cheap(self) -> "Target":
        """The same by the cheap scorer of a `ScreenedScorer`."""
        return self._replace(scorer=self.scorer.cheap)  # type: ignore[attr-defined]


class Replicas(NamedTuple):
    """Replicas before a move, axes `[C, R]`."""

    keys: Array
    current: Labelling
    cheap: Labelling  # of the same labels by the screening scorer; unscored without one
    beta: Array  # float32, inverse temperatures

    @property
    def is_unscored(self) -> Array:
        """Those whose labels no pass has scored yet: bool."""
        return jnp.isneginf(self.current.utility)


class Moved(NamedTuple):
    """What became of the proposals of replicas, axes `[C, R]`."""

    current: Labelling  # after acceptance
    cheap: Labelling  # of the same labels
    proposed: Labelling
    kind: Array  # int8, of `icmjax.search.moves`; -1 where it is a step of the warm start
    is_move: Array  # bool, whether the proposal differs from the labels before it
    is_accepted: Array  # bool
    num_passes: Array  # int32, labellings scored: 0 or 1
    is_nonfinite: Array  # bool [C, R, N], claims with a score that is not finite


@dataclasses.dataclass(frozen=True)
class InformedMoves:
    """Moves of replicas that are drawn from the leave-one-out matrix of their labels.

    Most move a few units (see `icmjax.search.units`), drawn with weights g(exp(β Δscore)) (Zanella,
    arXiv:1711.07424); some draw many units anew from their conditionals, turn all labels round, or
    turn a pair or two round unasked. The matrix of the proposal gives the probability of the move
    back, so that the acceptance is exact.

    Attributes:
      flip_sizes: how many units an informed move relabels, drawn evenly.
      resample_rate: share of moves that draw many units from their conditionals.
      mirror_rate: share of moves that turn all labels round.
      turn_rate: share of moves that turn a unit or two round, drawn evenly of the `is_turnable`
        ones, where all claims are in such units; of fewer claims, so much less.
      balancing: "barker" or "sqrt".
      proposal_scale: Δscore is multiplied by it; a label counts for its own score and for the
        others' scores, of which the matrix shows the first.
      num_screenings: moves by the cheap scorer of a `ScreenedScorer` before each exact pass;
        0 for none.

    Raises:
      InputError: a field is out of its range.
    """

    flip_sizes: tuple[int, ...] = (1, 1, 2, 4)
    resample_rate: float = 0.1
    mirror_rate: float = 0.02
    turn_rate: float = 0.7
    balancing: Balancing = "barker"
    proposal_scale: float = 2.0
    num_screenings: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "flip_sizes": (
                len(self.flip_sizes) > 0 and min(self.flip_sizes) >= 1,
                "numbers of 1 or more",
            ),
            "resample_rate": (self.resample_rate >= 0, "0 or more"),
            "mirror_rate": (self.mirror_rate >= 0, "0 or more"),
            "turn_rate": (
                self.turn_rate >= 0 and self.turn_rate + self.mirror_rate + self.resample_rate <= 1,
                "0 or more, and at most 1 with resample_rate and mirror_rate",
            ),
            "balancing": (self.balancing in BALANCINGS, f"one of {', '.join(BALANCINGS)}"),
            "proposal_scale": (self.proposal_scale >= 0, "0 or more"),
            "num_screenings": (self.num_screenings >= 0, "0 or more"),
        }
        check_ranges(self, ranges)

    def draw_move(
        self, rng_key: Array, scores: Array, assignment: Array, units: Units, beta: Array
    ) -> Move:
        """Draw a move of one replica; its probability is `moves.move_log_prob`.

        Args:
          rng_key: a typed key.
          scores: `[G, A]`, of the replica's labels.
          assignment: int32 `[G]`, of the replica's labels.
          units: the units.
          beta: the replica's inverse temperature.
        """
        kind_key, size_key, flip_key, share_key, mask_key, resample_key, turn_key = (
            jax.random.split(rng_key, 7)
        )
        num_units = assignment.shape[0]
        max_flips = min(max(self.flip_sizes), num_units)
        num_movable = jnp.sum(jnp.sum(units.is_allowed, axis=-1) > 1, dtype=jnp.int32)
        num_flips = jax.random.choice(size_key, jnp.asarray(self.flip_sizes, jnp.int32))
        num_flips = jnp.minimum(jnp.minimum(num_flips, max_flips), num_movable)
        share = jax.random.choice(share_key, jnp.asarray(RESAMPLED_SHARES, jnp.float32))
        is_resampled = jax.random.bernoulli(mask_key, share, (num_units,))

        guide = beta * self.proposal_scale
        log_weights = flip_log_weights(scores, assignment, guide, self.balancing)
        flipped, order = draw_flips(flip_key, log_weights, assignment, num_flips, max_flips)
        resampled = draw_resample(resample_key, scores, assignment, is_resampled, guide)
        opposite = mirrored(units, assignment)
        turned = jnp.where(draw_turned(turn_key, units), opposite, assignment)
        turn_rate = self.turn_rate * turnable_share(units)
        limits = jnp.cumsum(jnp.stack([self.mirror_rate, self.resample_rate, turn_rate]))
        is_kind = list(jax.random.uniform(kind_key, (), limits.dtype) < limits)
        kind = jnp.select(is_kind, [MIRROR, RESAMPLE, TURN], FLIP)
        new = jnp.select(is_kind, [opposite, resampled, turned], flipped)
        return Move(assignment, new, kind.astype(jnp.int32), order, num_flips, is_resampled)

    def draw(self, keys: Array, replicas: Replicas, target: Target) -> Move:
        """A move of each replica from the matrix that is scored with its labels."""

        def draw_one(key: Array, current: Labelling, beta: Array) -> Move:
            scores = target.assignment_scores(current.label_log_probs)
            assignment = assignment_of(target.units, current.labels)
            return self.draw_move(key, scores, assignment, target.units, beta)

        return over_replicas(draw_one)(keys, replicas.current, replicas.beta)

    def correction(
        self, move: Move, old: Labelling, new: Labelling, beta: Array, target: Target
    ) -> Array:
        """Log-probability of each move back less that of the move, float32 `[C, R]`."""

        def correct(move: Move, old: Array, new: Array, beta: Array) -> Array:
            scores = target.assignment_scores(old), target.assignment_scores(new)
            guide = beta * self.proposal_scale
            return move_log_ratio(move, *scores, guide, self.balancing)

        return over_replicas(correct)(move, old.label_log_probs, new.label_log_probs, beta)

    def move(self, replicas: Replicas, target: Target) -> Moved:
        """A proposal of every replica, in detailed balance with exp(β U) of its own β.

        A replica that no pass has scored yet proposes the labels that it has.
        """
        draw_keys, screen_keys, accept_keys = split_keys(replicas.keys, 3)
        current, beta = replicas.current, replicas.beta
        move = self.draw(draw_keys, replicas, target)
        labels = labels_of_replicas(target.units, move.new, current.labels.shape[-1])
        labels = jnp.where(replicas.is_unscored[..., None], current.labels, labels)
        if self.num_screenings:
            screened, is_nonfinite = self.screen(screen_keys, labels, replicas, target)
            proposed = target.score(screened.labels)
            correction = beta * screening_correction(replicas.cheap.utility, screened.utility)
        else:
            screened, is_nonfinite = replicas.cheap, jnp.zeros(labels.shape, bool)
            proposed = target.score(labels)
            correction = self.correction(move, current, proposed, beta, target)
        log_ratio = beta * (proposed.utility - current.utility) + correction
        is_accepted = over_replicas(metropolis_accept)(accept_keys, log_ratio)
        return settle(
            replicas,
            proposed,
            screened,
            is_accepted=is_accepted | replicas.is_unscored,
            kind=jnp.where(replicas.is_unscored, -1, move.kind),
            is_nonfinite=is_nonfinite,
        )

    def screen(
        self, keys: Array, labels: Array, replicas: Replicas, target: Target
    ) -> tuple[Labelling, Array]:
        """Where some moves by the cheap scorer lead each replica, `[C, R]`.

        They leave exp(β U~) in detailed balance, U~ being the cheap utility. Of a replica that is
        not scored yet they do no more than score `labels`.

        Returns:
          The labelling, and whether any score on the way was not finite: bool `[C, R, N]`.
        """
        draw_keys, accept_keys = (
            jnp.stack(split_keys(each, self.num_screenings)) for each in split_keys(keys, 2)
        )
        beta, is_unscored, cheap = replicas.beta, replicas.is_unscored, target.cheap

        def move_once(
            carry: tuple[Labelling, Array], keys: tuple[Array, Array]
        ) -> tuple[tuple[Labelling, Array], None]:
            (old, is_nonfinite), (draw_keys, accept_keys) = carry, keys
            move = self.draw(draw_keys, replicas._replace(current=old), cheap)
            new = labels_of_replicas(cheap.units, move.new, labels.shape[-1])
            proposed = cheap.score(jnp.where(is_unscored[..., None], labels, new))
            log_ratio = beta * (proposed.utility - old.utility)
            log_ratio += self.correction(move, old, proposed, beta, cheap)
            is_accepted = over_replicas(metropolis_accept)(accept_keys, log_ratio) | is_unscored
            is_nonfinite |= ~jnp.all(jnp.isfinite(proposed.label_log_probs), axis=-1)
            return (select(is_accepted, proposed, old), is_nonfinite), None

        start = (replicas.cheap, jnp.zeros(labels.shape, bool))
        return lax.scan(move_once, start, (draw_keys, accept_keys))[0]


def settle(
    replicas: Replicas,
    proposed: Labelling,
    screened: Labelling,
    *,
    is_accepted: Array,
    kind: Array,
    is_nonfinite: Array,
) -> Moved:
    """Replicas after the acceptance of their proposals."""
    is_nonfinite = is_nonfinite | ~jnp.all(jnp.isfinite(proposed.label_log_probs), axis=-1)
    return Moved(
        current=select(is_accepted, proposed, replicas.current),
        cheap=select(is_accepted, screened, replicas.cheap),
        proposed=proposed,
        kind=kind.astype(jnp.int8),
        is_move=jnp.any(proposed.labels != replicas.current.labels, axis=-1),
        is_accepted=is_accepted,
        num_passes=jnp.ones(is_accepted.shape, jnp.int32),
        is_nonfinite=is_nonfinite,
    )


def labels_of_replicas(units: Units, assignment: Array, num_claims: int) -> Array:
    """Labellings of assignments: int32 `[C, R, G]` → int8 `[C, R, N]`."""
    return over_replicas(functools.partial(labels_of, units, num_claims=num_claims))(assignment)


def over_replicas(function: Callable) -> Callable:
    """The function of one replica over the axes [C, R]."""
    return jax.vmap(jax.vmap(function))


def split_keys(keys: Array, num: int) -> tuple[Array, ...]:
    """So many keys for each replica, `[C, R]` each."""
    split = over_replicas(lambda key: jax.random.split(key, num))(keys)
    return tuple(split[..., i] for i in range(num))
