"""Gibbs sampling from leave-one-out conditionals, with a vote over the samples."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.search.base import Labelling, names_fields
from icmjax.search.chains import ChainInfo, ChainSearch, ChainState
from icmjax.search.moves import assignment_scores
from icmjax.search.units import Units, assignment_of, labels_of


class Votes(NamedTuple):
    """How often a chain had each assignment of each unit."""

    counts: Array  # int32 [G, A]


@names_fields
@dataclasses.dataclass(frozen=True)
class Gibbs(ChainSearch):
    """Large Language Gibbs (arXiv:2606.19264): units drawn from their conditionals, then a vote.

    The first labels are drawn from the zero-shot probabilities. Then every pass draws
    `num_resampled` random units anew, each from its leave-one-out probabilities: exp(Σ log-probs of
    its labels − violated pairs inside it), to the power of 1 / temperature. The last pass scores
    the vote, the most frequent assignment of every unit. Conditionals that are no one's joint law,
    drawn for several units at once, have a stationary law of their own: U has no part in it.

    Attributes:
      num_resampled: units drawn anew in a pass.
      temperature: of the conditionals; 1 for the model's own.
      burn_in: share of the passes whose samples have no vote.
      is_vote: whether the result is the vote; otherwise the sample of the highest U.
    """

    num_iterations: int = 64
    num_resampled: int = 16
    temperature: float = 1.0
    burn_in: float = 0.25
    is_vote: bool = True

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        return super()._ranges() | {
            "num_iterations": (self.num_iterations >= 3, "3 or more"),
            "num_resampled": (self.num_resampled >= 1, "1 or more"),
            "temperature": (self.temperature > 0, "a number above 0"),
            "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
        }

    @property
    def num_burn_in(self) -> int:
        """Steps whose samples have no vote."""
        return 1 + int(self.burn_in * (self.num_iterations - 2))

    def _memory(self, units: Units, num_options: int) -> Votes:
        del num_options
        return Votes(jnp.zeros(units.is_allowed.shape, jnp.int32))

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: Votes, units: Units
    ) -> tuple[Array, Votes]:
        """Some units drawn anew; see `ChainSearch.propose`."""
        units_key, assignment_key = jax.random.split(rng_key)
        num_claims, num_units = current.labels.shape[0], units.members.shape[0]
        scores = assignment_scores(units, current.label_log_probs, num_claims) / self.temperature
        drawn = jax.random.categorical(assignment_key, scores).astype(jnp.int32)
        rank = jnp.argsort(jax.random.permutation(units_key, num_units)).astype(jnp.int32)
        is_resampled = (rank < self.num_resampled) | (n == 1)
        sample = jnp.where(is_resampled, drawn, assignment_of(units, current.labels))
        is_last = n == self.num_iterations - 1
        vote = jnp.argmax(jnp.where(units.is_allowed, memory.counts, -1), axis=-1)
        chosen = jnp.where(is_last & self.is_vote, vote.astype(jnp.int32), sample)
        is_counted = (n >= self.num_burn_in) & ~is_last
        votes = jax.nn.one_hot(sample, units.is_allowed.shape[1], dtype=jnp.int32)
        counts = memory.counts + jnp.where(is_counted, votes, 0)
        return labels_of(units, chosen, num_claims), Votes(counts)

    def _outcome_of(self, state: ChainState) -> Labelling:
        return state.current if self.is_vote else state.best

    def _marginals(self, labelling: Labelling, state: ChainState, trace: ChainInfo) -> np.ndarray:
        del state
        samples = trace.labels[self.num_burn_in : self.num_iterations - 1]
        num_options = labelling.label_log_probs.shape[-1]
        shares = np.asarray(samples[..., None] == np.arange(num_options)).mean(axis=(0, 1))
        return shares.astype(np.float32)
