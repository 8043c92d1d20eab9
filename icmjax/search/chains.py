"""What the algorithms of one pass a step share: C chains, each with one labelling at a time."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import PairRules
from icmjax.scoring import OBJECTIVES, Objective
from icmjax.search.base import (
    Labelling,
    Outcome,
    Scorer,
    check_ranges,
    score_labels,
    select,
    unless_finished,
    unscored,
)
from icmjax.search.diagnostics import mixing
from icmjax.search.units import Units, make_units


class ChainState(NamedTuple):
    """Where C chains are."""

    current: Labelling  # [C]
    best: Labelling  # [C], of the highest utility among wholly labelled ones
    memory: Any  # a pytree of the algorithm's own, axes [C, ...]
    units: Units
    num_steps: Array  # int32 [C]
    num_passes: Array  # int32 [C], labellings scored
    is_nonfinite: Array  # bool [C, N], claims that ever had a score that is not finite


class ChainInfo(NamedTuple):
    """What one step did in each chain."""

    utility: Array  # float32 [C], after the step
    best_utility: Array  # float32 [C], so far; -inf before all claims are labelled
    is_move: Array  # bool [C], whether the proposal differs from the labels before it
    is_accepted: Array  # bool [C]
    num_passes: Array  # int32 [C], labellings scored in the step: 0 or 1
    num_labelled: Array  # int32 [C]
    num_violated: Array  # int32 [C]
    labels: Array  # int8 [C, N], after the step
    label_log_probs: Array  # float32 [C, N, Y], of the pass; [C, 0, Y] where they are not kept


@functools.partial(jax.jit, static_argnames="num_options")
def first_state(labels: Array, units: Units, memory: Any, num_options: int) -> ChainState:
    """Chains at labels int8 `[C, N]`, not scored yet; `memory` is one chain's, or `()`."""
    num_chains = labels.shape[0]
    first, per_chain = unscored(labels, num_options), jnp.zeros((num_chains,), jnp.int32)
    return ChainState(
        current=first,
        best=first._replace(utility=jnp.full_like(first.utility, -jnp.inf)),
        memory=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)), memory),
        units=units,
        num_steps=per_chain,
        num_passes=per_chain,
        is_nonfinite=jnp.zeros(labels.shape, bool),
    )


@dataclasses.dataclass(frozen=True)
class ChainSearch:
    """C independent chains that score one labelling a step, all in one batch.

    Step 0 scores where the chains start, by default with no labels but the clamped ones.

    Attributes:
      alpha: weight of the mutual predictability in U.
      objective: "log_prob" or "log_odds"; see `icmjax.mutual_predictability`.
      num_iterations: the most steps, of one pass for every chain.
      num_chains: C; chain c is the same whatever C.
      block_size: the most steps between two visits of the host (progress bar, trace, checkpoint).

    Raises:
      InputError: a field is out of its range.
    """

    alpha: float = 50.0
    objective: Objective = "log_prob"
    num_iterations: int = 16
    num_chains: int = 1
    block_size: int = 16

    info_type: ClassVar[type] = ChainInfo
    keeps_log_probs: ClassVar[bool] = False  # in the trace, of every pass

    def __post_init__(self) -> None:
        check_ranges(self, self._ranges())

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        """By field, whether it is valid, and the range in words."""
        return {
            "alpha": (self.alpha > 0, "a number above 0"),
            "objective": (self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            "num_iterations": (self.num_iterations >= 2, "2 or more"),
            "num_chains": (self.num_chains >= 1, "1 or more"),
            "block_size": (self.block_size >= 1, "1 or more"),
        }

    def num_steps(self, num_claims: int) -> int:
        """The most steps that the search takes."""
        del num_claims
        return self.num_iterations

    def expected_tokens(self, scorer: Any) -> int | None:
        """Not known: it depends on the labels that are found."""
        del scorer
        return None

    def scored_labels(self, info: ChainInfo) -> tuple[np.ndarray, np.ndarray]:
        """What the trace keeps: a proposal that is not accepted labels the same claims."""
        return np.asarray(info.labels), np.asarray(info.num_passes)

    def tokens_per_pass(self, scorer: Scorer, labels: np.ndarray) -> int:
        """Of one pass of the scorer."""
        return scorer.tokens_per_pass(labels)

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: np.ndarray,
        num_options: int,
        groups: Any = None,
    ) -> ChainState:
        """The chains, not scored yet: step 0 does that.

        Raises:
          ClaimsError: hard rules leave some claims no consistent labels, or very many.
        """
        del rng_key, groups
        labels = np.tile(np.asarray(clamped, np.int8), (self.num_chains, 1))
        units = make_units(rules, clamped, num_options)
        return first_state(labels, units, self._memory(units, num_options), num_options)

    def _memory(self, units: Units, num_options: int) -> Any:
        """What one chain keeps besides its labels at first: a pytree."""
        del units, num_options
        return ()

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: Any, units: Units
    ) -> tuple[Array, Any]:
        """The labels that one chain scores in step n ≥ 1, int8 `[N]`, and its new memory.

        An algorithm of one's own has this one, and `accept` where it may refuse. Step 0 scores the
        claims without labels, but for clamped ones.

        Args:
          n: int32 `[]`, the number of the step.
          current: labels and what the scorer said of them, without the axis of the chains.
          memory: what `_memory` gave, and earlier steps changed.
          units: claims that move together, and the assignments that hard rules and clamped labels
            leave them.
        """
        raise NotImplementedError

    def accept(
        self, rng_key: Array, n: Array, old: Labelling, new: Labelling, memory: Any, units: Units
    ) -> tuple[Array, Any]:
        """Whether one chain takes its proposal on, bool `[]`, and its new memory."""
        del rng_key, n, old, new, units
        return jnp.array(True), memory

    def _is_done(self, memory: Any) -> Array:
        """Whether chains have nothing left to do before their last step, bool `[C]`."""
        del memory
        return jnp.array(False)

    def _scored(
        self, n: Array, labels: Array, state: ChainState, scorer: Scorer, rules: PairRules
    ) -> Labelling:
        """What the scorer says of the labels of step n in every chain, int8 `[C, N]`."""
        del n, state
        return score_labels(labels, scorer, rules, self.alpha, self.objective)

    def is_finished(self, state: ChainState) -> Array:
        """Whether all steps are taken, or nothing is left to do, bool `[C]`."""
        return (state.num_steps >= self.num_iterations) | self._is_done(state.memory)

    def step(
        self, rng_key: Array, state: ChainState, scorer: Scorer, rules: PairRules
    ) -> tuple[ChainState, ChainInfo]:
        """One labelling scored in every chain that is not finished."""
        is_finished = self.is_finished(state)
        return unless_finished(
            jnp.all(is_finished),
            lambda state: self._step(rng_key, state, scorer, rules, ~is_finished),
            state,
        )

    def _step(
        self,
        rng_key: Array,
        state: ChainState,
        scorer: Scorer,
        rules: PairRules,
        is_active: Array,
    ) -> tuple[ChainState, ChainInfo]:
        chains = jnp.arange(state.num_steps.shape[0], dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, chains)
        propose_keys, accept_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        n, old = state.num_steps, state.current
        is_first = n == 0
        labels, memory = jax.vmap(functools.partial(self.propose, units=state.units))(
            propose_keys, n, old, state.memory
        )
        labels = jnp.where(is_first[:, None], old.labels, labels)
        new = self._scored(n, labels, state, scorer, rules)
        is_accepted, memory = jax.vmap(functools.partial(self.accept, units=state.units))(
            accept_keys, n, old, new, memory
        )
        is_accepted = (is_accepted | is_first) & is_active
        is_better = jnp.all(labels >= 0, axis=-1) & (new.utility > state.best.utility) & is_active
        current = select(is_accepted, new, old)
        best = select(is_better, new, state.best)
        is_nonfinite = ~jnp.all(jnp.isfinite(new.label_log_probs), axis=-1)
        new_state = ChainState(
            current=current,
            best=best,
            memory=select(is_active & ~is_first, memory, state.memory),
            units=state.units,
            num_steps=n + is_active.astype(jnp.int32),
            num_passes=state.num_passes + is_active.astype(jnp.int32),
            is_nonfinite=state.is_nonfinite | (is_nonfinite & is_active[:, None]),
        )
        info = ChainInfo(
            utility=current.utility,
            best_utility=best.utility,
            is_move=jnp.any(labels != old.labels, axis=-1) & is_active,
            is_accepted=is_accepted,
            num_passes=is_active.astype(jnp.int32),
            num_labelled=jnp.sum(current.labels >= 0, axis=-1, dtype=jnp.int32),
            num_violated=current.num_violated,
            labels=current.labels,
            label_log_probs=new.label_log_probs[:, : None if self.keeps_log_probs else 0],
        )
        return new_state, info

    def _outcome_of(self, state: ChainState) -> Labelling:
        """What each chain found, `[C]`."""
        return state.best

    def _marginals(self, labelling: Labelling, state: ChainState, trace: ChainInfo) -> np.ndarray:
        """Probability of every label, `[N, Y]`: its leave-one-out probabilities."""
        del state, trace
        return np.exp(labelling.label_log_probs)

    def _diagnostics(self, state: ChainState, marginals: np.ndarray) -> dict[str, Any]:
        """What an algorithm reports of its own: plain numbers, and warnings in words."""
        del state, marginals
        return {}

    def finish(self, state: ChainState, trace: ChainInfo) -> Outcome:
        """The best of the chains."""
        found = self._outcome_of(state)
        chain = int(np.lexsort((-found.utility, found.num_hard_violated))[0])
        labelling = Labelling(*(field[chain] for field in found))
        moves = np.asarray(trace.is_move[1:])
        # U of fewer labelled claims is not comparable.
        is_full = (trace.num_labelled == labelling.labels.shape[0]).all(axis=1)
        utilities = np.asarray(trace.utility)[is_full]
        of_utility = mixing(utilities[len(utilities) // 2 :])
        diagnostics = {
            "num_steps": int(state.num_steps.max()),
            "num_passes": int(state.num_passes.sum()),
            "acceptance_rate": float((trace.is_accepted[1:] & moves).sum() / max(moves.sum(), 1)),
            "best_chain": chain,
            "chain_utilities": found.utility.tolist(),
            "chain_passes": state.num_passes.tolist(),
            "ess_utility": of_utility["ess"],
            "r_hat_utility": of_utility["r_hat"],
        }
        marginals = self._marginals(labelling, state, trace)
        return Outcome(labelling, marginals, diagnostics | self._diagnostics(state, marginals))
