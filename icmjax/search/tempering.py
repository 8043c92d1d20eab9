"""Parallel tempering: replicas at many temperatures, informed proposals, the best state kept."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.claims import PairRules
from icmjax.errors import Fault, InputError
from icmjax.search.base import (
    Labelling,
    Outcome,
    acceptance_probability,
    check_ranges,
    metropolis_accept,
    score_labels,
    select,
    unless_finished,
    unscored,
)
from icmjax.search.diagnostics import tempering_diagnostics
from icmjax.search.ladder import (
    adapted_ladder,
    geometric_ladder,
    stretched_ladder,
    swap_log_ratio,
    swap_neighbours,
)
from icmjax.search.replicas import InformedMoves, labels_of_replicas, over_replicas, split_keys
from icmjax.search.schedule import TemperingSchedule
from icmjax.search.screening import ScreenedScorer, screening_correction
from icmjax.search.units import Units, check_labels, make_units
from icmjax.search.warm_start import relabel, replica_starts


class TemperingState(NamedTuple):
    """Where C chains of R replicas are; the replicas keep their place, the rungs move."""

    current: Labelling  # [C, R]
    cheap: Labelling  # [C, R], the same labels by the screening scorer; unscored without one
    best: Labelling  # [C], of the highest utility that any replica has scored
    rung: Array  # int32 [C, R], of each replica
    inverse_temperatures: Array  # float32 [C, R], by rung
    rejections: Array  # float32 [C, R - 1], summed in this round of adaptation
    num_trials: Array  # int32 [C], steps of this round
    units: Units
    num_steps: Array  # int32 [C]
    num_passes: Array  # int32 [C, R], labellings scored
    is_nonfinite: Array  # bool [C, R, N], claims that ever had a score that is not finite


class TemperingInfo(NamedTuple):
    """What one step did, by rung from the coldest on."""

    utility: Array  # float32 [C, R], after the step; -inf before a replica is scored
    best_utility: Array  # float32 [C], so far
    is_move: Array  # bool [C, R], whether the proposal differs from the labels before it
    is_accepted: Array  # bool [C, R]
    kind: Array  # int8 [C, R], of `icmjax.search.moves`; -1 in the warm start
    num_passes: Array  # int32 [C, R], labellings scored in the step: 0 or 1
    num_labelled: Array  # int32 [C, R]
    num_violated: Array  # int32 [C, R]
    replica: Array  # int32 [C, R], which one is at the rung
    swap_probability: Array  # float32 [C, R - 1], of rungs r and r + 1, tried or not
    is_swapped: Array  # bool [C, R - 1]
    inverse_temperature: Array  # float32 [C, R]
    cold_labels: Array  # int8 [C, N], of rung 0


class Moved(NamedTuple):
    """What became of the proposals of some replicas, axes `[C, R]`."""

    current: Labelling  # after acceptance
    cheap: Labelling  # of the same labels
    proposed: Labelling
    kind: Array  # int8
    is_move: Array  # bool
    is_accepted: Array  # bool
    num_passes: Array  # int32
    is_nonfinite: Array  # bool [C, R, N]


@dataclasses.dataclass(frozen=True)
class ParallelTempering(TemperingSchedule, InformedMoves):
    """Non-reversible parallel tempering with locally informed proposals.

    The law of rung r is exp(β_r U), on the labellings that keep the hard rules and the clamped
    labels. A step scores one proposal of every replica, all in one batch; then neighbouring rungs
    exchange their temperatures, even and odd pairs by turns (Syed et al., arXiv:1905.02939). How
    proposals are drawn is `InformedMoves`, and when what is done `TemperingSchedule`, whose fields
    this config has too.

    In the warm start replica 0 of chain 0 starts with no labels but the clamped ones, replicas 1
    and 2 with all-true and all-false ones, others with random ones of `num_seeds` claims; one that
    its argmax would not change is moved at the lowest temperature. The marginals are those of the
    cold rung after the burn-in. The best state that any replica has scored is kept.

    Attributes:
      num_chains: C; chain c is the same whatever C.
      hot_temperature: of the hottest rung, in units of U.
      num_seeds: claims that random starts of the warm start label, as icm's seeds do; 0 for all.
        Among many random labels each says little, so that such starts lead to few labellings.
      block_size: steps between two visits of the host (progress bar, trace, checkpoint).

    Raises:
      InputError: a field is out of its range.
    """

    num_chains: int = 1
    hot_temperature: float = 10.0
    num_seeds: int = 8
    block_size: int = 16

    info_type: ClassVar[type] = TemperingInfo

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_labels", tuple(int(y) for y in self.start_labels))
        ranges = {
            "num_chains": (self.num_chains >= 1, "1 or more"),
            "hot_temperature": (self.hot_temperature > self.temperature, "above temperature"),
            "num_seeds": (self.num_seeds >= 0, "0 or more"),
            "block_size": (self.block_size >= 1, "1 or more"),
        }
        check_ranges(self, self.move_ranges() | self.schedule_ranges() | ranges)

    def init(
        self, rng_key: Array, rules: PairRules, clamped: np.ndarray, num_options: int
    ) -> TemperingState:
        """C · R labellings, not scored yet: step 0 does that.

        Raises:
          ClaimsError: hard rules leave some claims no consistent labels, or very many.
          InputError: `start_labels` do not fit the claims.
        """
        units = make_units(rules, clamped, num_options)
        is_free = jnp.asarray(clamped) < 0
        labels = replica_starts(
            rng_key,
            units,
            is_free,
            num_chains=self.num_chains,
            num_replicas=self.num_replicas,
            num_claims=len(clamped),
            num_seeds=self.num_seeds if self.num_ascent_steps > 1 else 0,
            is_warm=self.warm_start != "random",
        )
        if self.warm_start in ("zero_shot", "bootstrap"):
            labels = labels.at[0, 0].set(jnp.asarray(clamped, jnp.int8))
        elif self.warm_start == "labels":
            first = np.asarray(self.start_labels, np.int8)
            check_labels("ParallelTempering(start_labels=...)", first, units, clamped)
            labels = labels.at[0, 0].set(jnp.asarray(first))
        per_chain = jnp.zeros((self.num_chains,), jnp.int32)
        per_replica = jnp.zeros((self.num_chains, self.num_replicas), jnp.int32)
        ladder = geometric_ladder(self.temperature, self.hot_temperature, self.num_replicas)
        best, current = unscored(labels[:, 0], num_options), unscored(labels, num_options)
        return TemperingState(
            current=current._replace(utility=jnp.full_like(current.utility, -jnp.inf)),
            cheap=unscored(labels, num_options),
            best=best._replace(utility=jnp.full_like(best.utility, -jnp.inf)),
            rung=per_replica + jnp.arange(self.num_replicas),
            inverse_temperatures=jnp.broadcast_to(ladder, per_replica.shape),
            rejections=per_replica[:, 1:].astype(jnp.float32),
            num_trials=per_chain,
            units=units,
            num_steps=per_chain,
            num_passes=per_replica,
            is_nonfinite=jnp.zeros(labels.shape, bool),
        )

    def is_finished(self, state: TemperingState) -> Array:
        """Whether all steps are done, bool `[C]`."""
        return state.num_steps >= self.last_step

    def step(
        self, rng_key: Array, state: TemperingState, scorer: Any, rules: PairRules
    ) -> tuple[TemperingState, TemperingInfo]:
        """A proposal of every replica, and swaps of neighbouring rungs.

        Raises:
          InputError: the config asks for screening, and the scorer is no `ScreenedScorer`.
        """
        if self.num_screenings and not isinstance(scorer, ScreenedScorer):
            raise InputError(
                Fault(
                    rule="Screening takes a cheap scorer besides the exact one.",
                    found=type(scorer).__name__,
                    where=f"ParallelTempering(num_screenings={self.num_screenings})",
                    remedy="search over ScreenedScorer(exact, cheap), or leave it out",
                )
            )
        return unless_finished(
            jnp.all(self.is_finished(state)),
            lambda state: self._step(rng_key, state, scorer, rules),
            state,
        )

    def _step(
        self, rng_key: Array, state: TemperingState, scorer: Any, rules: PairRules
    ) -> tuple[TemperingState, TemperingInfo]:
        n = state.num_steps[0]  # the same in every chain
        is_warm = n < self.num_warm_steps
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, jnp.arange(self.num_chains))
        move_keys, swap_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        ladder = stretched_ladder(state.inverse_temperatures, self.coldest(n))
        moved = self._move_replicas(move_keys, state, ladder, scorer, rules)
        current, proposed = moved.current, moved.proposed

        replica_of_rung = jnp.argsort(state.rung, axis=-1)
        by_rank = jnp.argsort(-current.utility, axis=-1)
        is_ranked = n == self.num_warm_steps - 1  # the warm start ends: the best one is the coldest
        before = jnp.where(is_ranked, by_rank, replica_of_rung)
        utility_by_rung = jnp.take_along_axis(current.utility, before, axis=-1)
        swap_log_ratios = swap_log_ratio(ladder, jnp.where(is_warm, 0.0, utility_by_rung))
        swap_probability = acceptance_probability(swap_log_ratios)
        is_tried = (jnp.arange(self.num_replicas - 1) % 2 == n % 2) & ~is_warm
        is_swapped = is_tried & jax.vmap(metropolis_accept)(swap_keys, swap_log_ratios)
        after = jax.vmap(swap_neighbours)(before, is_swapped)

        is_burn_in = ~is_warm & (n < self.num_burn_in)
        rejections = state.rejections + jnp.where(is_burn_in, 1 - swap_probability, 0.0)
        num_trials = state.num_trials + is_burn_in.astype(jnp.int32)
        is_round_over = jnp.any(n == jnp.asarray(self.round_ends(), jnp.int32))
        mean_rejections = rejections / jnp.maximum(num_trials, 1)[:, None].astype(jnp.float32)
        adapted = jax.vmap(adapted_ladder)(state.inverse_temperatures, mean_rejections)

        is_candidate = jnp.all(proposed.labels >= 0, axis=-1) & jnp.isfinite(proposed.utility)
        candidate_utility = jnp.where(is_candidate, proposed.utility, -jnp.inf)
        first = jnp.argmax(candidate_utility, axis=-1)
        candidate = jax.tree.map(lambda leaf: leaf[jnp.arange(self.num_chains), first], proposed)
        is_best = jnp.max(candidate_utility, axis=-1) > state.best.utility
        best = select(is_best, candidate, state.best)

        def by_rung(leaf: Array, replica_of_rung: Array) -> Array:
            return jnp.take_along_axis(leaf, replica_of_rung, axis=-1)

        new_state = TemperingState(
            current=current,
            cheap=moved.cheap,
            best=best,
            rung=jnp.argsort(after, axis=-1).astype(jnp.int32),
            inverse_temperatures=jnp.where(is_round_over, adapted, state.inverse_temperatures),
            rejections=jnp.where(is_round_over, 0.0, rejections),
            num_trials=jnp.where(is_round_over, 0, num_trials),
            units=state.units,
            num_steps=state.num_steps + 1,
            num_passes=state.num_passes + moved.num_passes,
            is_nonfinite=state.is_nonfinite | moved.is_nonfinite,
        )
        num_labelled = jnp.sum(current.labels >= 0, axis=-1, dtype=jnp.int32)
        info = TemperingInfo(
            utility=by_rung(current.utility, after),
            best_utility=best.utility,
            is_move=by_rung(moved.is_move, replica_of_rung),
            is_accepted=by_rung(moved.is_accepted, replica_of_rung),
            kind=by_rung(moved.kind, replica_of_rung),
            num_passes=by_rung(moved.num_passes, replica_of_rung),
            num_labelled=by_rung(num_labelled, after),
            num_violated=by_rung(current.num_violated, after),
            replica=after.astype(jnp.int32),
            swap_probability=swap_probability,
            is_swapped=is_swapped,
            inverse_temperature=ladder,
            cold_labels=current.labels[jnp.arange(self.num_chains), after[:, 0]],
        )
        return new_state, info

    def _move_replicas(
        self, keys: Array, state: TemperingState, ladder: Array, scorer: Any, rules: PairRules
    ) -> Moved:
        """A proposal of every replica; in the warm start, of one alone."""
        n = state.num_steps[0]
        is_warm = n < self.num_warm_steps
        beta = jnp.take_along_axis(ladder, state.rung, axis=-1)
        beta = jnp.where(is_warm, ladder[:, :1], beta)
        replicas = (self._replica_keys(keys), state.current, state.cheap, beta)

        def move(replicas: tuple[Array, Labelling, Labelling, Array]) -> Moved:
            keys, current, cheap, beta = replicas
            return self._move(n, keys, current, cheap, beta, state.units, scorer, rules)

        if self.num_ascent_steps == 1:
            return move(replicas)

        def move_one(replicas: tuple[Array, Labelling, Labelling, Array]) -> Moved:
            replica = n // self.num_ascent_steps
            moved = move(jax.tree.map(lambda leaf: leaf[:, replica[None]], replicas))
            zeros = jnp.zeros(state.rung.shape, jnp.int32)
            still = Moved(
                current=state.current,
                cheap=state.cheap,
                proposed=state.current,
                kind=zeros.astype(jnp.int8) - 1,
                is_move=zeros > 0,
                is_accepted=zeros > 0,
                num_passes=zeros,
                is_nonfinite=jnp.zeros_like(state.is_nonfinite),
            )
            return jax.tree.map(lambda all, one: all.at[:, replica].set(one[:, 0]), still, moved)

        return lax.cond(is_warm, move_one, move, replicas)

    def _move(
        self,
        n: Array,
        keys: Array,
        current: Labelling,
        cheap: Labelling,
        beta: Array,
        units: Units,
        scorer: Any,
        rules: PairRules,
    ) -> Moved:
        """Propose, score and accept, for replicas `[C, R]`.

        Args:
          n: int32 `[]`, the step.
          keys: `[C, R]`.
          current: of the replicas.
          cheap: the same labels by the screening scorer.
          beta: `[C, R]`.
          units: the units.
          scorer: of all claims.
          rules: of all claims.
        """
        is_warm = n < self.num_warm_steps
        is_first = is_warm & (n % self.num_ascent_steps == 0)

        def score(labels: Array, scorer: Any) -> Labelling:
            return score_labels(labels, scorer, rules, self.alpha, self.objective)

        draw_keys, screen_keys, accept_keys = split_keys(keys, 3)
        move = self.draw_moves(draw_keys, current, units, beta)
        move, is_relabelled = relabel(self, move, current, units, is_warm & ~is_first)
        labels = labels_of_replicas(units, move.new, current.labels.shape[-1])
        labels = jnp.where(is_first, current.labels, labels)
        screened, is_nonfinite = cheap, jnp.zeros(labels.shape, bool)
        if self.num_screenings:
            screened, is_nonfinite = self.screen(
                screen_keys,
                labels,
                cheap,
                units,
                beta,
                is_warm,
                functools.partial(score, scorer=scorer.cheap),
            )
            labels = screened.labels
        proposed = score(labels, scorer)
        if self.num_screenings:
            correction = beta * screening_correction(cheap.utility, screened.utility)
        else:
            correction = self.move_correction(move, current, proposed, units, beta)
        log_ratio = beta * (proposed.utility - current.utility)
        log_ratio = log_ratio + jnp.where(is_warm, 0.0, correction)
        is_accepted = over_replicas(metropolis_accept)(accept_keys, log_ratio)
        is_accepted |= is_relabelled | is_first
        is_nonfinite |= ~jnp.all(jnp.isfinite(proposed.label_log_probs), axis=-1)
        return Moved(
            current=select(is_accepted, proposed, current),
            cheap=select(is_accepted, screened, cheap),
            proposed=proposed,
            kind=jnp.where(is_warm, -1, move.kind).astype(jnp.int8),
            is_move=jnp.any(labels != current.labels, axis=-1),
            is_accepted=is_accepted,
            num_passes=jnp.ones(beta.shape, jnp.int32),
            is_nonfinite=is_nonfinite,
        )

    def _replica_keys(self, keys: Array) -> Array:
        """A key for each replica: `[C]` → `[C, R]`."""
        replicas = jnp.arange(self.num_replicas)
        return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, replicas)

    def scored_labels(self, info: TemperingInfo) -> tuple[np.ndarray, np.ndarray]:
        """Labels as long as those scored, int8 `[S, C, R, N]`, and how often, int `[S, C, R]`.

        What the other rungs proposed is not in the trace: the coldest one's labels stand for it.
        """
        num_rungs = info.num_passes.shape[-1]
        labels = np.repeat(info.cold_labels[:, :, None], num_rungs, axis=2)
        return labels, np.asarray(info.num_passes)

    def tokens_per_pass(self, scorer: Any, labels: np.ndarray) -> int:
        """Of an exact pass and of the screening before it."""
        num_tokens = scorer.tokens_per_pass(labels)
        if self.num_screenings:
            num_tokens += self.num_screenings * scorer.cheap.tokens_per_pass(labels)
        return num_tokens

    def finish(self, state: TemperingState, trace: TemperingInfo) -> Outcome:
        """The best of the chains; marginals of the cold rung after the burn-in."""
        chain = int(np.argmax(state.best.utility))
        labelling = Labelling(*(field[chain] for field in state.best))
        num_options = labelling.label_log_probs.shape[-1]
        samples = trace.cold_labels[min(self.num_burn_in, len(trace.cold_labels) - 1) :]
        marginals = np.asarray(samples[..., None] == np.arange(num_options)).mean(axis=(0, 1))
        diagnostics = {
            "num_steps": int(state.num_steps.max()),
            "num_passes": int(state.num_passes.sum()),
            "best_chain": chain,
            "chain_utilities": state.best.utility.tolist(),
            **tempering_diagnostics(trace, self.num_burn_in),
        }
        return Outcome(labelling, marginals.astype(np.float32), diagnostics)
