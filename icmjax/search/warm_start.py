"""Where replicas start, and how a warm start takes them up, one after the other."""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.search.base import Labelling, check_ranges, metropolis_accept
from icmjax.search.moves import Move, best_assignment
from icmjax.search.replicas import (
    InformedMoves,
    Moved,
    Replicas,
    Target,
    labels_of_replicas,
    over_replicas,
    settle,
    split_keys,
)
from icmjax.search.units import Units, check_labels, labels_of

WarmStart = Literal["zero_shot", "bootstrap", "random", "labels"]
WARM_STARTS: tuple[str, ...] = get_args(WarmStart)
NUM_WHOLE = 3  # replicas of chain 0 that start with labels of their own, and all of them


@dataclasses.dataclass(frozen=True)
class Start:
    """Where replicas start, and how they are taken up.

    The warm starts "zero_shot" and "bootstrap" take one replica of each chain after another, since
    the first ones often do: a pass scores where the replica starts, and then its own argmax
    relabels it once, with "bootstrap" `num_bootstraps` times more. Replica 0 of chain 0 starts with
    no labels but the clamped ones, replicas 1 and 2 with all-true and all-false ones, others with
    random ones of `num_seeds` claims.

    Attributes:
      warm_start: "zero_shot", "bootstrap", or, without a warm start: "random", or "labels", where
        replica 0 of chain 0 starts from `start_labels`.
      num_bootstraps: argmax relabellings of every replica after the first one, where the warm start
        is "bootstrap".
      num_seeds: claims that random starts of the warm start label, as icm's seeds do; 0 for all.
        Among many random labels each says little, so that such starts lead to few labellings.
      start_labels: of all N claims, where the warm start is "labels". No part of equality and of
        the hash, as no program depends on them.

    Raises:
      InputError: a field is out of its range.
    """

    warm_start: WarmStart = "bootstrap"
    num_bootstraps: int = 2
    num_seeds: int = 8
    start_labels: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_labels", tuple(int(y) for y in self.start_labels))
        ranges = {
            "warm_start": (self.warm_start in WARM_STARTS, f"one of {', '.join(WARM_STARTS)}"),
            "num_bootstraps": (self.num_bootstraps >= 0, "0 or more"),
            "num_seeds": (self.num_seeds >= 0, "0 or more"),
            "start_labels": (
                bool(self.start_labels) == (self.warm_start == "labels"),
                'given where warm_start is "labels", and only there',
            ),
        }
        check_ranges(self, ranges)

    @property
    def num_ascent_steps(self) -> int:
        """Steps in which the warm start takes one replica up; 1 without it, of all together."""
        return {"zero_shot": 2, "bootstrap": 2 + self.num_bootstraps}.get(self.warm_start, 1)

    @property
    def is_warm(self) -> bool:
        """Whether replicas are taken up one after the other."""
        return self.num_ascent_steps > 1

    def labels(
        self,
        rng_key: Array,
        units: Units,
        clamped: np.ndarray,
        num_chains: int,
        num_replicas: int,
    ) -> Array:
        """Where C · R replicas start: int8 `[C, R, N]`.

        Raises:
          InputError: `start_labels` do not fit the claims.
        """
        labels = replica_starts(
            rng_key,
            units,
            jnp.asarray(clamped) < 0,
            num_chains=num_chains,
            num_replicas=num_replicas,
            num_claims=len(clamped),
            num_seeds=self.num_seeds if self.is_warm else 0,
            has_extremes=self.warm_start != "random",
        )
        if self.is_warm:
            return labels.at[0, 0].set(jnp.asarray(clamped, jnp.int8))
        if self.warm_start == "labels":
            first = np.asarray(self.start_labels, np.int8)
            check_labels("Start(start_labels=...)", first, units, clamped)
            return labels.at[0, 0].set(jnp.asarray(first))
        return labels


@functools.partial(
    jax.jit,
    static_argnames=("num_chains", "num_replicas", "num_claims", "num_seeds", "has_extremes"),
)
def replica_starts(
    rng_key: Array,
    units: Units,
    is_free: Array,
    *,
    num_chains: int,
    num_replicas: int,
    num_claims: int,
    num_seeds: int,
    has_extremes: bool,
) -> Array:
    """Random labels, of all claims or of `num_seeds`: int8 `[C, R, N]`.

    They violate as little as their rules allow, soft ones too: labels drawn evenly break half of
    the pairs, and where a model would rather call both claims of each true, half of the searches
    of one task ended so. Where `has_extremes`, replicas 1 and 2 of chain 0 have all-true and
    all-false ones. Whatever C and R, a replica starts the same.
    """
    num_units = units.members.shape[0]
    num_true = jnp.maximum(units.assignments, 0).astype(jnp.float32).sum(-1)
    penalties = jnp.where(units.is_allowed, units.penalties, jnp.inf)
    is_lightest = units.is_allowed & (penalties <= jnp.min(penalties, axis=-1, keepdims=True))
    weights = jnp.where(is_lightest, 0.0, -jnp.inf)
    extremes = [jnp.where(units.is_allowed, x, -jnp.inf) for x in (num_true, -num_true)]

    def start(chain: Array, replica: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(rng_key, chain), replica)
        labels_key, seeds_key = jax.random.split(key)
        drawn = jax.random.categorical(labels_key, weights, shape=(num_units,))
        assignment = drawn.astype(jnp.int32)
        for index, scores in enumerate(extremes, start=1):
            is_extreme = (chain == 0) & (replica == index) & has_extremes
            extreme = jnp.argmax(scores, axis=-1).astype(jnp.int32)
            assignment = jnp.where(is_extreme, extreme, assignment)
        labels = labels_of(units, assignment, num_claims)
        if not num_seeds:
            return labels
        priority = jnp.where(is_free, jax.random.uniform(seeds_key, (num_claims,)), -1.0)
        is_seed = jnp.argsort(jnp.argsort(-priority)).astype(jnp.int32) < num_seeds
        is_whole = (chain == 0) & (replica < NUM_WHOLE)
        return jnp.where(is_whole | is_seed | ~is_free, labels, jnp.int8(-1))

    chains, replicas = (
        jnp.arange(num_chains, dtype=jnp.int32),
        jnp.arange(num_replicas, dtype=jnp.int32),
    )
    return jax.vmap(jax.vmap(start, (None, 0)), (0, None))(chains, replicas)


def ascend(moves: InformedMoves, replicas: Replicas, target: Target) -> Moved:
    """Takes replicas up: scores where they start, and then relabels them by their own argmax.

    One that its argmax would not change makes a move instead, accepted as at its β without the
    Hastings correction: a way up, and not a sample.
    """
    draw_keys, screen_keys, accept_keys = split_keys(replicas.keys, 3)
    current, is_unscored = replicas.current, replicas.is_unscored
    move = moves.draw(draw_keys, replicas, target)
    move, is_relabelled = relabel(move, current, target, ~is_unscored)
    labels = labels_of_replicas(target.units, move.new, current.labels.shape[-1])
    labels = jnp.where(is_unscored[..., None], current.labels, labels)
    screened, is_nonfinite = replicas.cheap, jnp.zeros(labels.shape, bool)
    if moves.num_screenings:
        unscored = replicas._replace(
            current=current._replace(utility=jnp.full_like(current.utility, -jnp.inf))
        )
        screened, is_nonfinite = moves.screen(screen_keys, labels, unscored, target)
    proposed = target.score(labels)
    log_ratio = replicas.beta * (proposed.utility - current.utility)
    is_accepted = over_replicas(metropolis_accept)(accept_keys, log_ratio)
    return settle(
        replicas,
        proposed,
        screened,
        is_accepted=is_accepted | is_relabelled | is_unscored,
        kind=jnp.full(is_accepted.shape, -1, jnp.int32),
        is_nonfinite=is_nonfinite,
    )


def relabel(move: Move, current: Labelling, target: Target, is_asked: Array) -> tuple[Move, Array]:
    """Relabel replicas `[C, R]` by their argmax where asked, unless that changes nothing.

    Returns:
      the moves, and which of them relabel: bool `[C, R]`.
    """

    def relabel_one(move: Move, current: Labelling, is_asked: Array) -> tuple[Move, Array]:
        best = best_assignment(target.assignment_scores(current.label_log_probs))
        is_fixed = jnp.all(best == move.old) & jnp.all(current.labels >= 0)
        is_relabelled = is_asked & ~is_fixed
        return move._replace(new=jnp.where(is_relabelled, best, move.new)), is_relabelled

    return over_replicas(relabel_one)(move, current, is_asked)
