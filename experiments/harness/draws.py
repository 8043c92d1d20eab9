"""What a unit draws at random: its keys and generators, orders of claims, wrong labels."""

import zlib

import jax
import numpy as np


def unit_key(name: str, seed: int) -> jax.Array:
    """A typed key of one group and seed; other groups draw other numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def unit_rng(name: str, seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers of one group, seed and purpose, on the host; 0 is as no purpose."""
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


def split_flips(
    rng: np.random.Generator, gold: np.ndarray, pairs: np.ndarray, num_wrong: int, num_draws: int
) -> np.ndarray:
    """Gold labels with one label of `num_wrong` random pairs flipped: int8 `[num_draws, N]`."""
    draws = np.repeat(gold[None], num_draws, axis=0)
    for draw in draws:
        broken = pairs[rng.choice(len(pairs), num_wrong, replace=False)]
        wrong = broken[np.arange(num_wrong), rng.integers(2, size=num_wrong)]
        draw[wrong] = 1 - draw[wrong]
    return draws


def scattered_flips(
    rng: np.random.Generator, gold: np.ndarray, num_wrong: int, num_draws: int
) -> np.ndarray:
    """Gold labels with those of `num_wrong` random claims flipped: int8 `[num_draws, N]`."""
    draws = np.repeat(gold[None], num_draws, axis=0)
    for draw in draws:
        wrong = rng.choice(len(gold), num_wrong, replace=False)
        draw[wrong] = 1 - draw[wrong]
    return draws


def kept_labels(
    rng: np.random.Generator, gold: np.ndarray, keep: float, num_draws: int
) -> np.ndarray:
    """Gold labels of which each is kept with one probability, alone: int8 `[num_draws, N]`."""
    is_kept = rng.random((num_draws, len(gold))) < keep
    return np.where(is_kept, gold, 1 - gold).astype(np.int8)


def rounded_at_random(rng: np.random.Generator, value: float) -> int:
    """The whole number below a value or above it, the value itself in the mean."""
    return int(np.floor(value)) + int(rng.random() < value % 1)
