"""What a unit draws at random: its keys and generators, orders of claims, wrong pairs."""

import zlib

import jax
import numpy as np


def unit_key(name: str, seed: int) -> jax.Array:
    """A typed key of one group and seed; other groups draw other numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def unit_rng(name: str, seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers of one group, seed and purpose, on the host."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), *purpose))


def orders_of(num_claims: int, num_orders: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled orders of the demonstrations, int32 `[S, N]`."""
    return np.stack([rng.permutation(num_claims) for _ in range(num_orders)]).astype(np.int32)


def matched_flips(
    rng: np.random.Generator, gold: np.ndarray, pairs: np.ndarray, num_wrong: int, num_draws: int
) -> np.ndarray:
    """Gold labels with both labels of `num_wrong` random pairs flipped: int8 `[num_draws, N]`."""
    draws = np.repeat(gold[None], num_draws, axis=0)
    for draw in draws:
        wrong = pairs[rng.choice(len(pairs), num_wrong, replace=False)].ravel()
        draw[wrong] = 1 - draw[wrong]
    return draws
