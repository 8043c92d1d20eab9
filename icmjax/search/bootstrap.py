"""Bootstrapping: the labels of one pass are the demonstrations of the next."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.scoring import BIASES, Bias, less_bias
from icmjax.search.base import Labelling, names_fields
from icmjax.search.chains import ChainInfo, ChainSearch, ChainState
from icmjax.search.moves import assignment_scores, best_assignment
from icmjax.search.units import Units, labels_of

# On the host, operation by operation, it would be a dozen programs.
_less_bias = jax.jit(less_bias, static_argnames="bias")

UNSETTLED = 0.25  # share of labels that another pass changes, from which on a result says so


@names_fields
@dataclasses.dataclass(frozen=True)
class Bootstrap(ChainSearch):
    """Zero-shot labels, then passes that relabel all claims given the labels of the pass before.

    With consistency, every unit takes its most probable labels among those that violate the fewest
    pairs. It is what remains of ICM without the search, and recovers much of what ICM does
    (Shrivastava et al. 2025, "Eliciting base models with simple unsupervised techniques").

    The result is the last labelling, which the last pass scores.

    Attributes:
      num_iterations: passes, the zero-shot one and the last one included; fewer where a pass
        changes nothing.
      is_consistent: whether relabelling heeds soft pair rules; hard ones it always does.
      num_shots: demonstrations of a pass, random claims each time; None for all the others.
      bias: what is taken off the log-odds of binary claims in every pass before they are read:
        "clusters", the border between their two clusters, or "none". A model that favours one
        label ends with it for all claims otherwise. It cancels in a pair of which exactly one is
        true. U and the log-odds of the result have it in.
    """

    num_iterations: int = 8
    is_consistent: bool = True
    num_shots: int | None = None
    bias: Bias = "none"

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        shots = self.num_shots
        return super()._ranges() | {
            "num_chains": (
                self.num_chains == 1 or shots is not None,
                "1 where num_shots is None, as all chains would be the same one",
            ),
            "num_shots": (shots is None or shots >= 1, "1 or more, or None"),
            "bias": (self.bias in BIASES, f"one of {', '.join(BIASES)}"),
        }

    def _memory(self, units: Units, num_options: int) -> Array:
        """Whether another pass would change nothing: bool `[]`."""
        del units, num_options
        return jnp.array(False)

    @functools.partial(jax.jit, static_argnames="self")
    def _relabelled(self, given: Labelling, units: Units) -> Array:
        """The most probable labels given these ones, int8 `[N]`."""
        num_claims = given.labels.shape[0]
        # Beyond the least that a unit can violate, so that scores keep their float32 resolution.
        allowed = jnp.where(units.is_allowed, units.penalties, jnp.inf)
        excess = units.penalties - jnp.min(allowed, axis=-1, keepdims=True)
        weight = 1e6 if self.is_consistent else 0.0
        units = units._replace(penalties=weight * excess)
        logp = less_bias(given.label_log_probs, self.bias)
        scores = assignment_scores(units, logp, num_claims)
        return labels_of(units, best_assignment(scores), num_claims)

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: Array, units: Units
    ) -> tuple[Array, Array]:
        """The best assignments of all units; see `ChainSearch.propose`."""
        labels = self._relabelled(current, units)
        if self.num_shots is None:
            return labels, memory
        rank = jnp.argsort(jax.random.permutation(rng_key, labels.shape[0])).astype(jnp.int32)
        is_shown = (rank < self.num_shots) | (n == self.num_iterations - 1)
        return jnp.where(is_shown, labels, jnp.int8(-1)), memory

    def accept(
        self, rng_key: Array, n: Array, old: Labelling, new: Labelling, memory: Array, units: Units
    ) -> tuple[Array, Array]:
        """See `ChainSearch.accept`."""
        del rng_key, n, old, memory
        is_fixed = jnp.all(self._relabelled(new, units) == new.labels)
        return jnp.array(True), is_fixed

    def _is_done(self, memory: Array) -> Array:
        return memory

    def _outcome_of(self, state: ChainState) -> Labelling:
        return state.current

    def _diagnostics(self, state: ChainState, marginals: np.ndarray) -> dict[str, Any]:
        if self.num_chains > 1:
            return {}
        last = jax.tree.map(lambda leaf: leaf[0], state.current)
        again = np.asarray(self._relabelled(last, state.units))
        num_changed = int((again != np.asarray(last.labels)).sum())
        if num_changed <= UNSETTLED * len(again):
            return {}
        return {
            "warnings": [
                f"Another pass would change the labels of {num_changed} of {len(again)} claims: "
                "they have not settled, and marginals are of that pass. More --iterations may "
                "settle them; labels that change to and fro are no finding."
            ]
        }

    def _marginals(self, labelling: Labelling, state: ChainState, trace: ChainInfo) -> np.ndarray:
        del state, trace
        return np.exp(_less_bias(labelling.label_log_probs, self.bias))
