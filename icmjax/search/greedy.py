"""Greedy ascent: the single relabelling that promises most, taken where U rises."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from icmjax.search.base import Labelling, gain, names_fields
from icmjax.search.chains import ChainSearch
from icmjax.search.moves import assignment_scores, best_assignment
from icmjax.search.units import Units, assignment_of, labels_of


@names_fields
@dataclasses.dataclass(frozen=True)
class Greedy(ChainSearch):
    """Ascent from zero-shot labels, one unit at a time, until no relabelling of a unit raises U.

    Each step tries the relabelling whose own score gains most, among those not yet tried from the
    labels at hand, and takes it where U rises. All chains would be the same one.
    """

    num_iterations: int = 256

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        return super()._ranges() | {"num_chains": (self.num_chains == 1, "1")}

    def _memory(self, units: Units, num_options: int) -> Array:
        """Relabellings tried from the labels at hand: bool `[G, A]`."""
        del num_options
        return ~units.is_allowed

    def _promise(self, current: Labelling, is_tried: Array, units: Units) -> tuple[Array, Array]:
        """What each relabelling adds to its own unit's score, and the current assignment."""
        scores = assignment_scores(units, current.label_log_probs, self.alpha, self.objective)
        assignment = assignment_of(units, current.labels)
        own = jnp.take_along_axis(scores, assignment[:, None], axis=1)
        return jnp.where(is_tried, -jnp.inf, scores - own), assignment

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: Array, units: Units
    ) -> tuple[Array, Array]:
        """The most promising relabelling; see `ChainSearch.propose`."""
        del rng_key
        num_assignments = units.is_allowed.shape[1]
        promise, assignment = self._promise(current, memory, units)
        unit, chosen = jnp.divmod(jnp.argmax(promise).astype(jnp.int32), num_assignments)
        moved = assignment.at[unit].set(chosen.astype(jnp.int32))
        scores = assignment_scores(units, current.label_log_probs, self.alpha, self.objective)
        new = jnp.where(n == 1, best_assignment(scores), moved)
        return labels_of(units, new, current.labels.shape[0]), memory.at[unit, chosen].set(True)

    def accept(
        self, rng_key: Array, n: Array, old: Labelling, new: Labelling, memory: Array, units: Units
    ) -> tuple[Array, Array]:
        """Where U rises; see `ChainSearch.accept`."""
        del rng_key
        is_accepted = (n == 1) | (gain(new, old) > 0)
        labelling_kept = assignment_of(units, jnp.where(is_accepted, new.labels, old.labels))
        is_current = (
            jnp.arange(units.is_allowed.shape[1], dtype=jnp.int32) == labelling_kept[:, None]
        )
        untried = ~units.is_allowed
        return is_accepted, jnp.where(is_accepted, untried, memory) | is_current

    def _is_done(self, memory: Array) -> Array:
        return jnp.all(memory, axis=(-2, -1))
