"""Where replicas start, and the relabelling by which a warm start takes them up."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from icmjax.search.base import Labelling
from icmjax.search.moves import Move, assignment_scores, best_assignment
from icmjax.search.replicas import InformedMoves, over_replicas
from icmjax.search.units import Units, labels_of

NUM_WHOLE = 3  # replicas of chain 0 that start with labels of their own, and all of them


@functools.partial(
    jax.jit, static_argnames=("num_chains", "num_replicas", "num_claims", "num_seeds", "is_warm")
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
    is_warm: bool,
) -> Array:
    """Random labels, of all claims or of `num_seeds`: int8 `[C, R, N]`.

    They violate as little as their rules allow, soft ones too: labels drawn evenly break half of
    the pairs, and where a model would rather call both claims of each true, half of the searches
    of one task ended so. In a warm start replicas 1 and 2 of chain 0 have all-true and all-false
    ones. Whatever C and R, a replica starts the same.
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
        assignment = jax.random.categorical(labels_key, weights, shape=(num_units,))
        for index, scores in enumerate(extremes, start=1):
            is_extreme = (chain == 0) & (replica == index) & is_warm
            assignment = jnp.where(is_extreme, jnp.argmax(scores, axis=-1), assignment)
        labels = labels_of(units, assignment, num_claims)
        if not num_seeds:
            return labels
        priority = jnp.where(is_free, jax.random.uniform(seeds_key, (num_claims,)), -1.0)
        is_seed = jnp.argsort(jnp.argsort(-priority)) < num_seeds
        is_whole = (chain == 0) & (replica < NUM_WHOLE)
        return jnp.where(is_whole | is_seed | ~is_free, labels, jnp.int8(-1))

    chains, replicas = jnp.arange(num_chains), jnp.arange(num_replicas)
    return jax.vmap(jax.vmap(start, (None, 0)), (0, None))(chains, replicas)


def relabel(
    config: InformedMoves, move: Move, current: Labelling, units: Units, is_asked: Array
) -> tuple[Move, Array]:
    """Relabel replicas `[C, R]` by their argmax where asked, unless that changes nothing.

    Returns:
      the moves, and which of them relabel: bool `[C, R]`.
    """

    def relabel_one(move: Move, current: Labelling, is_asked: Array) -> tuple[Move, Array]:
        scores = assignment_scores(units, current.label_log_probs, config.alpha, config.objective)
        best = best_assignment(scores)
        is_fixed = jnp.all(best == move.old) & jnp.all(current.labels >= 0)
        is_relabelled = is_asked & ~is_fixed
        return move._replace(new=jnp.where(is_relabelled, best, move.new)), is_relabelled

    is_asked = jnp.broadcast_to(is_asked, current.utility.shape)
    return over_replicas(relabel_one)(move, current, is_asked)
