"""Parallel tempering: replicas at many temperatures, informed proposals, the best state kept."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.consistency import PairRules
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
from icmjax.search.moves import (
    BALANCINGS,
    FLIP,
    MIRROR,
    RESAMPLE,
    Balancing,
    Move,
    assignment_scores,
    best_assignment,
    draw_flips,
    draw_resample,
    flip_log_weights,
    mirrored,
    move_log_ratio,
)
from icmjax.search.screening import ScreenedScorer
from icmjax.search.units import Units, assignment_of, check_labels, labels_of, make_units
from icmjax.utility import OBJECTIVES, Objective

WarmStart = Literal["zero_shot", "bootstrap", "random"]
WARM_STARTS: tuple[str, ...] = get_args(WarmStart)
RESAMPLED_SHARES = (0.25, 0.5, 1.0)
FIRST_ROUND = 8  # steps before the ladder is first adapted; every round is twice as long


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
class ParallelTempering:
    """Non-reversible parallel tempering with locally informed proposals.

    The law of rung r is exp(β_r U), on the labellings that keep the hard rules and the clamped
    labels. A step scores one proposal of every replica, all in one batch; then neighbouring rungs
    exchange their temperatures, even and odd pairs by turns (Syed et al., arXiv:1905.02939).

    A proposal is drawn from the leave-one-out matrix that came with the replica's labels. Most move
    a few units (see `icmjax.search.units`), drawn with weights g(exp(β Δscore)) (Zanella,
    arXiv:1711.07424); some draw many units anew from their conditionals, or turn all labels round.
    The matrix of the proposal gives the probability of the move back, so that the acceptance is
    exact.

    Steps come in phases. The warm start, of "zero_shot" and "bootstrap", takes one replica of each
    chain after another, since the first ones often do: it scores where the replica starts, and then
    relabels it by its own argmax once, with "bootstrap" `num_bootstraps` times more, or moves it at
    the lowest temperature where that would change nothing. Replica 0 of chain 0 starts with no
    labels but the clamped ones, replicas 1 and 2 with all-true and all-false ones, others with
    random ones of `num_seeds` claims. The burn-in, a share `burn_in` of the other steps, adapts the
    ladder in rounds of doubling length, after which it is frozen. The marginals are those of the
    cold rung after the burn-in. The best state that any replica has scored is kept.

    Attributes:
      alpha: weight of the mutual predictability in U.
      objective: "log_prob" or "log_odds"; see `icmjax.utility.mutual_predictability`.
      num_iterations: passes for every replica; those of the warm start are steps of their own.
      num_replicas: R, of a chain.
      num_chains: C; chain c is the same whatever C.
      temperature: of the coldest rung, in units of U.
      hot_temperature: of the hottest rung.
      final_temperature: where the coldest rung is annealed to after the burn-in, geometrically, the
        ladder stretching with it; None to stay. The marginals are then of no one law.
      burn_in: share of the steps after the warm start in which the ladder adapts.
      warm_start: "zero_shot", "bootstrap", or, without a warm start: "random", or N labels for
        replica 0 of chain 0, for each of which a program is compiled.
      num_bootstraps: argmax relabellings of every replica after the first one, where the warm start
        is "bootstrap".
      num_seeds: claims that random starts of the warm start label, as icm's seeds do; 0 for all.
        Among many random labels each says little, so that such starts lead to few labellings.
      flip_sizes: how many units an informed move relabels, drawn evenly.
      resample_rate: share of moves that draw many units from their conditionals.
      mirror_rate: share of moves that turn all labels round.
      balancing: "barker" or "sqrt".
      proposal_scale: Δscore is multiplied by it; a label counts for its own score and for the
        others' scores, of which the matrix shows the first.
      num_screenings: moves by the cheap scorer of a `ScreenedScorer` before each exact pass;
        0 for none.
      block_size: steps between two visits of the host (progress bar, trace, checkpoint).

    Raises:
      InputError: a field is out of its range.
    """

    alpha: float = 50.0
    objective: Objective = "log_prob"
    num_iterations: int = 64
    num_replicas: int = 8
    num_chains: int = 1
    temperature: float = 0.2
    hot_temperature: float = 10.0
    final_temperature: float | None = None
    burn_in: float = 0.3
    warm_start: WarmStart | tuple[int, ...] = "bootstrap"
    num_bootstraps: int = 2
    num_seeds: int = 8
    flip_sizes: tuple[int, ...] = (1, 1, 2, 4)
    resample_rate: float = 0.1
    mirror_rate: float = 0.02
    balancing: Balancing = "barker"
    proposal_scale: float = 2.0
    num_screenings: int = 0
    block_size: int = 16

    info_type: ClassVar[type] = TemperingInfo

    def __post_init__(self) -> None:
        if not isinstance(self.warm_start, str):
            object.__setattr__(self, "warm_start", tuple(int(y) for y in self.warm_start))
        final = self.final_temperature
        check_ranges(
            self,
            {
                "alpha": (self.alpha > 0, "a number above 0"),
                "objective": (self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
                "num_iterations": (
                    self.num_iterations > self.num_ascent_steps,
                    "more than the passes of the warm start",
                ),
                "num_replicas": (self.num_replicas >= 1, "1 or more"),
                "num_chains": (self.num_chains >= 1, "1 or more"),
                "temperature": (self.temperature > 0, "a number above 0"),
                "hot_temperature": (
                    self.hot_temperature > self.temperature,
                    "above temperature",
                ),
                "final_temperature": (
                    final is None or 0 < final <= self.temperature,
                    "above 0 and not above temperature, or None",
                ),
                "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
                "warm_start": (
                    not isinstance(self.warm_start, str) or self.warm_start in WARM_STARTS,
                    f"one of {', '.join(WARM_STARTS)}, or labels",
                ),
                "num_bootstraps": (self.num_bootstraps >= 0, "0 or more"),
                "num_seeds": (self.num_seeds >= 0, "0 or more"),
                "flip_sizes": (
                    len(self.flip_sizes) > 0 and min(self.flip_sizes) >= 1,
                    "numbers of 1 or more",
                ),
                "resample_rate": (self.resample_rate >= 0, "0 or more"),
                "mirror_rate": (
                    self.mirror_rate >= 0 and self.mirror_rate + self.resample_rate <= 1,
                    "0 or more, and at most 1 with resample_rate",
                ),
                "balancing": (self.balancing in BALANCINGS, f"one of {', '.join(BALANCINGS)}"),
                "proposal_scale": (self.proposal_scale >= 0, "0 or more"),
                "num_screenings": (self.num_screenings >= 0, "0 or more"),
                "block_size": (self.block_size >= 1, "1 or more"),
            },
        )

    @property
    def num_ascent_steps(self) -> int:
        """Steps in which the warm start takes one replica up; 1 without it, of all together."""
        return {"zero_shot": 2, "bootstrap": 2 + self.num_bootstraps}.get(str(self.warm_start), 1)

    @property
    def num_warm_steps(self) -> int:
        """Steps before the sampling."""
        is_warm = self.num_ascent_steps > 1
        return self.num_ascent_steps * self.num_replicas if is_warm else 1

    @property
    def num_burn_in(self) -> int:
        """Steps up to the end of the burn-in."""
        return self.num_warm_steps + int(self.burn_in * (self._last_step - self.num_warm_steps))

    @property
    def _last_step(self) -> int:
        return self.num_iterations - self.num_ascent_steps + self.num_warm_steps

    def num_steps(self, num_claims: int) -> int:
        """The number of steps, whatever N."""
        del num_claims
        return self._last_step

    def coldest(self, step: Array) -> Array:
        """Inverse temperature of rung 0 at step n, int32 `[...]` → float32 `[...]`."""
        cold = jnp.float32(1 / self.temperature)
        if self.final_temperature is None:
            return jnp.broadcast_to(cold, step.shape)
        num_annealed = max(self._last_step - 1 - self.num_burn_in, 1)
        share = jnp.clip((step - self.num_burn_in).astype(jnp.float32) / num_annealed, 0, 1)
        return cold * (self.temperature / self.final_temperature) ** share

    def init(
        self, rng_key: Array, rules: PairRules, clamped: np.ndarray, num_options: int
    ) -> TemperingState:
        """C · R labellings, not scored yet: step 0 does that.

        Raises:
          ClaimsError: hard rules leave some claims no consistent labels, or very many.
          InputError: the labels of the warm start do not fit the claims.
        """
        units = make_units(rules, clamped, num_options)
        is_free = jnp.asarray(clamped) < 0
        labels = self._starts(rng_key, units, is_free, num_claims=len(clamped))
        if self.warm_start in ("zero_shot", "bootstrap"):
            labels = labels.at[0, 0].set(jnp.asarray(clamped, jnp.int8))
        elif not isinstance(self.warm_start, str):
            first = np.asarray(self.warm_start, np.int8)
            check_labels("ParallelTempering(warm_start=...)", first, units, clamped)
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

    @functools.partial(jax.jit, static_argnames=("self", "num_claims"))
    def _starts(self, rng_key: Array, units: Units, is_free: Array, num_claims: int) -> Array:
        """Random labels, of all or some claims, all-true and all-false ones: int8 `[C, R, N]`."""
        num_units = units.members.shape[0]
        num_true = jnp.maximum(units.assignments, 0).astype(jnp.float32).sum(-1)
        weights = jnp.where(units.is_allowed, 0.0, -jnp.inf)
        extremes = [jnp.where(units.is_allowed, x, -jnp.inf) for x in (num_true, -num_true)]

        def start(chain: Array, replica: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(rng_key, chain), replica)
            labels_key, seeds_key = jax.random.split(key)
            assignment = jax.random.categorical(labels_key, weights, shape=(num_units,))
            for index, scores in enumerate(extremes, start=1):
                is_extreme = (chain == 0) & (replica == index) & (self.warm_start != "random")
                assignment = jnp.where(is_extreme, jnp.argmax(scores, axis=-1), assignment)
            labels = labels_of(units, assignment, num_claims)
            if not self.num_seeds or self.num_ascent_steps == 1:
                return labels
            priority = jnp.where(is_free, jax.random.uniform(seeds_key, (num_claims,)), -1.0)
            is_seed = jnp.argsort(jnp.argsort(-priority)) < self.num_seeds
            is_whole = (chain == 0) & (replica <= 2)
            return jnp.where(is_whole | is_seed | ~is_free, labels, jnp.int8(-1))

        chains, replicas = jnp.arange(self.num_chains), jnp.arange(self.num_replicas)
        return jax.vmap(jax.vmap(start, (None, 0)), (0, None))(chains, replicas)

    def is_finished(self, state: TemperingState) -> Array:
        """Whether all steps are done, bool `[C]`."""
        return state.num_steps >= self._last_step

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
        is_round_over = jnp.any(n == jnp.asarray(self._round_ends(), jnp.int32))
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

        draw_keys, screen_keys, accept_keys = _split(keys, 3)
        move = self._draw_moves(draw_keys, current, units, beta)
        move, is_relabelled = self._relabel(move, current, units, is_warm & ~is_first)
        labels = _labels_of_replicas(units, move.new, current.labels.shape[-1])
        labels = jnp.where(is_first, current.labels, labels)
        screened, is_nonfinite = cheap, jnp.zeros(labels.shape, bool)
        if self.num_screenings:
            screened, is_nonfinite = self._screen(
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
            correction = self._move_correction(move, current, proposed, units, beta)
        log_ratio = beta * (proposed.utility - current.utility)
        log_ratio = log_ratio + jnp.where(is_warm, 0.0, correction)
        is_accepted = _over_replicas(metropolis_accept)(accept_keys, log_ratio)
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

    def _round_ends(self) -> list[int]:
        """Steps after which the ladder is adapted: rounds of 8, 16, 32, ... in the burn-in."""
        end, length, ends = self.num_warm_steps - 1 + FIRST_ROUND, FIRST_ROUND, []
        while end < self.num_burn_in:
            ends.append(end)
            length *= 2
            end += length
        return ends

    def _replica_keys(self, keys: Array) -> Array:
        """A key for each replica: `[C]` → `[C, R]`."""
        replicas = jnp.arange(self.num_replicas)
        return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, replicas)

    def _draw_moves(self, keys: Array, current: Labelling, units: Units, beta: Array) -> Move:
        """A move of each replica from the matrix that is scored with its labels."""

        def draw(key: Array, current: Labelling, beta: Array) -> Move:
            scores = assignment_scores(units, current.label_log_probs, self.alpha, self.objective)
            return self.draw_move(key, scores, assignment_of(units, current.labels), units, beta)

        return _over_replicas(draw)(keys, current, beta)

    def _relabel(
        self, move: Move, current: Labelling, units: Units, is_asked: Array
    ) -> tuple[Move, Array]:
        """Relabels a replica by its argmax where asked, unless that changes nothing."""

        def relabel(move: Move, current: Labelling, is_asked: Array) -> tuple[Move, Array]:
            scores = assignment_scores(units, current.label_log_probs, self.alpha, self.objective)
            best = best_assignment(scores)
            is_fixed = jnp.all(best == move.old) & jnp.all(current.labels >= 0)
            is_relabelled = is_asked & ~is_fixed
            return move._replace(new=jnp.where(is_relabelled, best, move.new)), is_relabelled

        is_asked = jnp.broadcast_to(is_asked, current.utility.shape)
        return _over_replicas(relabel)(move, current, is_asked)

    def _move_correction(
        self, move: Move, old: Labelling, new: Labelling, units: Units, beta: Array
    ) -> Array:
        """Log-probability of each move back less that of the move, float32 `[C, R]`."""

        def correct(move: Move, old: Array, new: Array, beta: Array) -> Array:
            old_scores, new_scores = (
                assignment_scores(units, logp, self.alpha, self.objective) for logp in (old, new)
            )
            guide = beta * self.proposal_scale
            return move_log_ratio(move, old_scores, new_scores, guide, self.balancing)

        return _over_replicas(correct)(move, old.label_log_probs, new.label_log_probs, beta)

    def _screen(
        self,
        keys: Array,
        labels: Array,
        cheap: Labelling,
        units: Units,
        beta: Array,
        is_warm: Array,
        score_fn: Callable[[Array], Labelling],
    ) -> tuple[Labelling, Array]:
        """Where some moves by the cheap scorer lead each replica, `[C, R]`.

        They leave exp(β U~) in detailed balance, U~ being the cheap utility. In the warm start they
        do no more than score `labels`.

        Returns:
          The labelling, and whether any score on the way was not finite: bool `[C, R, N]`.
        """
        draw_keys, accept_keys = (
            jnp.stack(_split(each, self.num_screenings)) for each in _split(keys, 2)
        )

        def move_once(
            carry: tuple[Labelling, Array], keys: tuple[Array, Array]
        ) -> tuple[tuple[Labelling, Array], None]:
            (old, is_nonfinite), (draw_keys, accept_keys) = carry, keys
            move = self._draw_moves(draw_keys, old, units, beta)
            new = _labels_of_replicas(units, move.new, labels.shape[-1])
            proposed = score_fn(jnp.where(is_warm, labels, new))
            log_ratio = beta * (proposed.utility - old.utility)
            log_ratio += self._move_correction(move, old, proposed, units, beta)
            is_accepted = _over_replicas(metropolis_accept)(accept_keys, log_ratio) | is_warm
            is_nonfinite |= ~jnp.all(jnp.isfinite(proposed.label_log_probs), axis=-1)
            return (select(is_accepted, proposed, old), is_nonfinite), None

        start = (cheap, jnp.zeros(labels.shape, bool))
        return lax.scan(move_once, start, (draw_keys, accept_keys))[0]

    def draw_move(
        self, rng_key: Array, scores: Array, assignment: Array, units: Units, beta: Array
    ) -> Move:
        """Draw a move of one replica; its probability is `moves.move_log_prob`.

        Args:
          rng_key: a typed key.
          scores: `[G, A]`, of the replica's labels.
          assignment: int32 `[G]`, of the replica's labels.
          units: the units.
          beta: the replica's inverse temperature.
        """
        kind_key, size_key, flip_key, share_key, mask_key, resample_key = jax.random.split(
            rng_key, 6
        )
        num_units = assignment.shape[0]
        max_flips = min(max(self.flip_sizes), num_units)
        num_movable = jnp.sum(jnp.sum(units.is_allowed, axis=-1) > 1, dtype=jnp.int32)
        num_flips = jax.random.choice(size_key, jnp.asarray(self.flip_sizes, jnp.int32))
        num_flips = jnp.minimum(jnp.minimum(num_flips, max_flips), num_movable)
        share = jax.random.choice(share_key, jnp.asarray(RESAMPLED_SHARES, jnp.float32))
        is_resampled = jax.random.bernoulli(mask_key, share, (num_units,))

        guide = beta * self.proposal_scale
        log_weights = flip_log_weights(scores, assignment, guide, self.balancing)
        flipped, order = draw_flips(flip_key, log_weights, assignment, num_flips, max_flips)
        resampled = draw_resample(resample_key, scores, assignment, is_resampled, guide)
        opposite = mirrored(units, assignment)
        chance = jax.random.uniform(kind_key)
        is_mirror = chance < self.mirror_rate
        is_resample = ~is_mirror & (chance < self.mirror_rate + self.resample_rate)
        kind = jnp.where(is_mirror, MIRROR, jnp.where(is_resample, RESAMPLE, FLIP))
        new = jnp.where(is_mirror, opposite, jnp.where(is_resample, resampled, flipped))
        return Move(assignment, new, kind.astype(jnp.int32), order, num_flips, is_resampled)

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


def screening_correction(old_cheap_utility: Array, new_cheap_utility: Array) -> Array:
    """What screening adds to ΔU in the acceptance: −ΔU~, U~ being the utility by the cheap scorer.

    The cheap moves are in detailed balance with exp(β U~), so that β (ΔU − ΔU~) decides: delayed
    acceptance (Christen and Fox 2005), for several cheap moves the surrogate transition (Liu 2001,
    section 9.4.3).
    """
    return old_cheap_utility - new_cheap_utility


def _labels_of_replicas(units: Units, assignment: Array, num_claims: int) -> Array:
    """Labellings of assignments: int32 `[C, R, G]` → int8 `[C, R, N]`."""
    return _over_replicas(functools.partial(labels_of, units, num_claims=num_claims))(assignment)


def _over_replicas(function: Callable) -> Callable:
    """The function of one replica over the axes [C, R]."""
    return jax.vmap(jax.vmap(function))


def _split(keys: Array, num: int) -> tuple[Array, ...]:
    """So many keys for each replica, `[C, R]` each."""
    split = _over_replicas(lambda key: jax.random.split(key, num))(keys)
    return tuple(split[..., i] for i in range(num))
