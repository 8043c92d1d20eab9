"""Where chains of ICM start, and which claim they draw next."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.claims import PairRules

NUM_SPREAD = 32  # starts that are spread evenly


def tied_groups(rules: PairRules, num_claims: int) -> np.ndarray:
    """The claims that pair rules tie, each group by its first claim: int32 `[N]`; on the host."""
    group_of = np.arange(num_claims, dtype=np.int32)
    for first, second in np.asarray(rules.pairs):
        one, other = sorted((group_of[first], group_of[second]))
        group_of[group_of == other] = one
    return group_of


def first_of_groups(groups: np.ndarray) -> np.ndarray:
    """Any numbers of groups, int `[N]`, as the number of each group's first claim: int32 `[N]`."""
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int32)


def random_seeds(
    rng_key: Array, chain: Array, clamped: Array, num_seeds: int, num_options: int
) -> Array:
    """The clamped labels and random seeds: int8 `[N]`.

    Args:
      rng_key: a typed key, of all chains.
      chain: int32 `[]`. Seeds of chains 1 to Y have one label each, the last option first.
      clamped: int8 `[N]`, -1 where free.
      num_seeds: K.
      num_options: Y.
    """
    num_claims, is_free = clamped.shape[0], clamped < 0
    seeds_key, labels_key = jax.random.split(jax.random.fold_in(rng_key, chain))
    priority = jnp.where(is_free, jax.random.uniform(seeds_key, (num_claims,)), -1.0)
    _, seeds = lax.top_k(priority, min(num_seeds, num_claims))
    drawn = jax.random.randint(labels_key, seeds.shape, 0, num_options, jnp.int8)
    is_uniform = (chain >= 1) & (chain <= num_options)
    drawn = jnp.where(is_uniform, (num_options - chain).astype(jnp.int8), drawn)
    return clamped.at[seeds].set(jnp.where(is_free[seeds], drawn, clamped[seeds]))


def reference_seeds(
    rng_key: Array, chain: Array, clamped: Array, groups: Array, num_seeds: int, num_options: int
) -> Array:
    """Seeds as the authors' code has them: whole groups, as many of each label: int8 `[N]`.

    The groups come in a random order, and of their claims the first K that are free are seeds. Only
    the last group may be cut. Labels are a permutation of 0, 1, ..., Y − 1, 0, 1, ...

    Args:
      groups: int32 `[N]`, each group by its first claim.
      rng_key, chain, clamped, num_seeds, num_options: as of `random_seeds`.
    """
    num_claims, is_free = clamped.shape[0], clamped < 0
    order_key, labels_key = jax.random.split(jax.random.fold_in(rng_key, chain))
    priority = jax.random.uniform(order_key, (num_claims,))[groups]
    order = jnp.lexsort((jnp.arange(num_claims, dtype=jnp.int32), priority, ~is_free))
    seeds = order[: min(num_seeds, num_claims)]
    labels = jnp.arange(num_seeds, dtype=jnp.int32) % num_options
    drawn = jax.random.permutation(labels_key, labels).astype(jnp.int8)[: len(seeds)]
    return clamped.at[seeds].set(jnp.where(is_free[seeds], drawn, clamped[seeds]))


def spread_labels(
    rng_key: Array, index: Array, clamped: Array, rules: PairRules, num_options: int
) -> Array:
    """Start number `index` of a set that is spread evenly over what pair rules allow: int8 `[N]`.

    Of the claims that are not the second of a pair, the first few in a random order have all their
    Y^d joint labels once in every Y^d starts, Y^d being the highest power up to `NUM_SPREAD`; the
    others' are random. The second claim of a pair gets a label that keeps the rule.

    Args:
      rng_key: a typed key, the same for the whole set.
      index: int32 `[]`.
      clamped: int8 `[N]`, labels that are kept, -1 where free.
      rules: the pair rules.
      num_options: Y.
    """
    clamped, num_claims = jnp.asarray(clamped), clamped.shape[0]
    num_digits = max(d for d in range(NUM_SPREAD) if num_options**d <= NUM_SPREAD)
    order_key, first_key, random_key = jax.random.split(jax.random.fold_in(rng_key, 1 << 16), 3)
    is_lead = (clamped < 0).at[rules.pairs[:, 1]].set(False)
    priority = jnp.where(is_lead, jax.random.uniform(order_key, (num_claims,)), -1.0)
    rank = jnp.argsort(jnp.argsort(-priority)).astype(jnp.int32)
    first = jax.random.randint(first_key, (num_claims,), 0, num_options, jnp.int32)
    digit = index // num_options ** jnp.minimum(rank, num_digits)
    index_key = jax.random.fold_in(random_key, index)
    random = jax.random.randint(index_key, (num_claims,), 0, num_options, jnp.int32)
    labels = jnp.where(rank < num_digits, (first + digit) % num_options, random)
    labels = jnp.where(clamped < 0, labels.astype(jnp.int8), clamped)

    def keep_rule(labels: Array, rule: tuple[Array, Array]) -> tuple[Array, None]:
        (one, other), penalties = rule
        violation = penalties[labels[one].astype(jnp.int32)]
        is_changed = jnp.arange(num_options, dtype=jnp.int8) != labels[other]
        cost = 2.0 * violation + is_changed.astype(jnp.float32)
        kept = jnp.argmin(cost).astype(jnp.int8)
        return labels.at[other].set(jnp.where(clamped[other] < 0, kept, labels[other])), None

    pairs, penalties = jnp.asarray(rules.pairs), jnp.asarray(rules.penalties)
    return lax.scan(keep_rule, labels, (pairs, penalties))[0]


def draw_claim(
    rng_key: Array, labels: Array, is_free: Array, groups: Array, partner_weight: float
) -> Array:
    """The claim to relabel next, int32 `[]`: one that is free.

    An unlabelled claim of a group that has a labelled one has weight `partner_weight`, every other
    free claim, labelled or not, weight 1.

    Args:
      rng_key: a typed key.
      labels: int8 `[N]`, -1 where unlabelled.
      is_free: bool `[N]`.
      groups: int32 `[N]`, each group by its first claim.
      partner_weight: a number above 0.
    """
    is_labelled = labels >= 0
    has_labelled = jnp.zeros_like(is_labelled).at[groups].max(is_labelled)
    is_partner = has_labelled[groups] & ~is_labelled
    log_weights = jnp.where(is_partner, math.log(partner_weight), 0.0)
    drawn = jax.random.categorical(rng_key, jnp.where(is_free, log_weights, -jnp.inf))
    return drawn.astype(jnp.int32)
