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
from icmjax.scoring import OBJECTIVES, Objective
from icmjax.search.base import (
    Labelling,
    Outcome,
    check_ranges,
    names_fields,
    select,
    unless_finished,
    unscored,
)
from icmjax.search.diagnostics import tempering_diagnostics
from icmjax.search.ladder import (
    Ladder,
    Rungs,
    Swaps,
    adapt,
    first_rungs,
    stretched_ladder,
    swap_rungs,
    unswapped,
)
from icmjax.search.replicas import InformedMoves, Moved, Replicas, Target
from icmjax.search.schedule import Phases, Tally, TemperingSchedule, common, first_tally
from icmjax.search.screening import ScreenedScorer
from icmjax.search.units import Units, make_units
from icmjax.search.warm_start import Start, ascend


class TemperingState(NamedTuple):
    """Where C chains of R replicas are; the replicas keep their place, the rungs move."""

    current: Labelling  # [C, R]
    cheap: Labelling  # [C, R], the same labels by the screening scorer; unscored without one
    best: Labelling  # [C], of the highest utility that any replica has scored
    rungs: Rungs
    units: Units
    tally: Tally  # of the cold rung's samples
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


@names_fields
@dataclasses.dataclass(frozen=True)
class ParallelTempering:
    """Non-reversible parallel tempering with locally informed proposals.

    The law of rung r is exp(β_r U), on the labellings that keep the hard rules and the clamped
    labels. A step scores one proposal of every replica, all in one batch; then neighbouring rungs
    exchange their temperatures, even and odd pairs by turns (Syed et al., arXiv:1905.02939).

    The warm start comes first, then the burn-in, which adapts the ladder, then the sampling. The
    marginals are those of the cold rung in the sampling. The best state that any replica has scored
    is kept. `with_fields(ParallelTempering(), temperature=1.0)` sets fields of the parts.

    Attributes:
      alpha: weight of the mutual predictability in U.
      objective: "log_prob" or "log_odds"; see `icmjax.mutual_predictability`.
      start: where replicas start, and how they are taken up.
      moves: how proposals are drawn.
      ladder: the temperatures.
      schedule: how long it takes.
      num_chains: C; chain c is the same whatever C.
      block_size: the most steps between two visits of the host (progress bar, trace, checkpoint).

    Raises:
      InputError: a field is out of its range.
    """

    alpha: float = 50.0
    objective: Objective = "log_prob"
    start: Start = dataclasses.field(default_factory=Start)
    moves: InformedMoves = dataclasses.field(default_factory=InformedMoves)
    ladder: Ladder = dataclasses.field(default_factory=Ladder)
    schedule: TemperingSchedule = dataclasses.field(default_factory=TemperingSchedule)
    num_chains: int = 1
    block_size: int = 16

    info_type: ClassVar[type] = TemperingInfo

    def __post_init__(self) -> None:
        ranges = {
            "alpha": (self.alpha > 0, "a number above 0"),
            "objective": (self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            "schedule": (
                self.schedule.num_iterations > self.start.num_ascent_steps,
                "of more iterations (num_iterations) than the passes of the warm start",
            ),
            "ladder": (
                self.schedule.marginal_tolerance is None or self.ladder.final_temperature is None,
                "without final_temperature where there is a marginal_tolerance: marginals that are "
                "annealed do not settle",
            ),
            "num_chains": (self.num_chains >= 1, "1 or more"),
            "block_size": (self.block_size >= 1, "1 or more"),
        }
        check_ranges(self, ranges)

    @property
    def phases(self) -> Phases:
        """When the warm start, the burn-in and the sampling end."""
        return self.schedule.phases(self.start.num_ascent_steps, self.ladder.num_replicas)

    def num_steps(self, num_claims: int) -> int:
        """The number of steps, whatever N."""
        del num_claims
        return self.phases.sampling

    def expected_tokens(self, scorer: Any) -> int | None:
        """Not known: it depends on the labels that are found."""
        del scorer
        return None

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: np.ndarray,
        num_options: int,
        groups: Any = None,
    ) -> TemperingState:
        """C · R labellings, not scored yet: their first step does that.

        Raises:
          ClaimsError: hard rules leave some claims no consistent labels, or very many.
          InputError: `start_labels` do not fit the claims.
        """
        del groups
        units, num_replicas = make_units(rules, clamped, num_options), self.ladder.num_replicas
        labels = self.start.labels(rng_key, units, clamped, self.num_chains, num_replicas)
        return self._first_state(labels, units, num_options)

    @functools.partial(jax.jit, static_argnames=("self", "num_options"))
    def _first_state(self, labels: Array, units: Units, num_options: int) -> TemperingState:
        num_claims = labels.shape[-1]
        best, current = unscored(labels[:, 0], num_options), unscored(labels, num_options)
        return TemperingState(
            current=current._replace(utility=jnp.full_like(current.utility, -jnp.inf)),
            cheap=unscored(labels, num_options),
            best=best._replace(utility=jnp.full_like(best.utility, -jnp.inf)),
            rungs=first_rungs(self.ladder, self.num_chains),
            units=units,
            tally=first_tally(self.num_chains, num_claims, num_options),
            num_steps=jnp.zeros((self.num_chains,), jnp.int32),
            num_passes=jnp.zeros(labels.shape[:-1], jnp.int32),
            is_nonfinite=jnp.zeros(labels.shape, bool),
        )

    def is_finished(self, state: TemperingState) -> Array:
        """Whether all steps are done, or the marginals have settled, bool `[C]`."""
        return (state.num_steps >= self.phases.sampling) | state.tally.is_settled

    def step(
        self, rng_key: Array, state: TemperingState, scorer: Any, rules: PairRules
    ) -> tuple[TemperingState, TemperingInfo]:
        """A proposal of every replica, and swaps of neighbouring rungs.

        Raises:
          InputError: the config asks for screening, and the scorer is no `ScreenedScorer`.
        """
        if self.moves.num_screenings and not isinstance(scorer, ScreenedScorer):
            raise InputError(
                Fault(
                    rule="Screening takes a cheap scorer besides the exact one.",
                    found=type(scorer).__name__,
                    where=f"InformedMoves(num_screenings={self.moves.num_screenings})",
                    remedy="search over ScreenedScorer(exact, cheap), or leave it out",
                )
            )
        is_active = ~self.is_finished(state)
        return unless_finished(
            ~common(jnp.any(is_active)),
            lambda state: self._step(rng_key, state, scorer, rules, is_active),
            state,
        )

    def _step(
        self,
        rng_key: Array,
        state: TemperingState,
        scorer: Any,
        rules: PairRules,
        is_active: Array,
    ) -> tuple[TemperingState, TemperingInfo]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            rng_key, jnp.arange(self.num_chains, dtype=jnp.int32)
        )
        move_keys, swap_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        n = common(jnp.max(state.num_steps))  # the same in every chain that is active
        target = Target(scorer, rules, state.units, self.alpha, self.objective)
        beta = self._inverse_temperatures(n, state.rungs)
        moved = self._move(n, move_keys, state, beta, target)
        moved = select(is_active, moved, unmoved(state))
        swaps = self._swap(n, swap_keys, state.rungs, beta, moved.current.utility)
        swaps = select(is_active, swaps, unswapped(state.rungs.replicas))
        new_state = state._replace(
            current=moved.current,
            cheap=moved.cheap,
            best=better(state.best, moved.proposed),
            rungs=self._adapt(n, state.rungs, swaps),
            tally=self._count(n, state.tally, moved.current.labels, swaps, is_active),
            num_steps=state.num_steps + is_active.astype(jnp.int32),
            num_passes=state.num_passes + moved.num_passes,
            is_nonfinite=state.is_nonfinite | moved.is_nonfinite,
        )
        return new_state, describe_step(state.rungs, beta, moved, swaps, new_state.best.utility)

    def _inverse_temperatures(self, n: Array, rungs: Rungs) -> Array:
        """By rung, `[C, R]`: the ladder as adapted, its cold end annealed in the sampling."""
        phases = self.phases
        num_annealed = phases.sampling - 1 - phases.burn_in
        coldest = self.ladder.coldest(n - phases.burn_in, num_annealed)
        return stretched_ladder(rungs.inverse_temperatures, coldest)

    def _move(
        self, n: Array, keys: Array, state: TemperingState, beta: Array, target: Target
    ) -> Moved:
        """A proposal of every replica; in the warm start one alone is taken up, at the coldest."""
        each = jnp.arange(self.ladder.num_replicas, dtype=jnp.int32)
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, each)
        own_beta = jnp.take_along_axis(beta, state.rungs.of_replica, axis=-1)
        if not self.start.is_warm:
            return self.moves.move(Replicas(keys, state.current, state.cheap, own_beta), target)

        def take_up_one() -> Moved:
            replica = n // self.start.num_ascent_steps
            coldest = jnp.broadcast_to(beta[:, :1], beta.shape)
            all_of_them = Replicas(keys, state.current, state.cheap, coldest)
            one = jax.tree.map(lambda leaf: leaf[:, replica[None]], all_of_them)
            moved = ascend(self.moves, one, target)
            return jax.tree.map(
                lambda all, one: all.at[:, replica].set(one[:, 0]), unmoved(state), moved
            )

        def move_all() -> Moved:
            return self.moves.move(Replicas(keys, state.current, state.cheap, own_beta), target)

        return lax.cond(n < self.phases.warm_start, take_up_one, move_all)

    def _swap(self, n: Array, keys: Array, rungs: Rungs, beta: Array, utility: Array) -> Swaps:
        """Swaps of neighbours; none in the warm start, whose end makes the best the coldest."""

        def rank() -> Swaps:
            by_utility = jnp.argsort(-utility, axis=-1).astype(jnp.int32)
            is_last = n == self.phases.warm_start - 1
            return unswapped(jnp.where(is_last, by_utility, rungs.replicas))

        def swap() -> Swaps:
            return swap_rungs(keys, beta, rungs.replicas, utility, n % 2)

        return lax.cond(n < self.phases.warm_start, rank, swap)

    def _adapt(self, n: Array, rungs: Rungs, swaps: Swaps) -> Rungs:
        """The rungs after the swaps, their ladder adapted where a round of the burn-in ends."""
        is_burn_in = (n >= self.phases.warm_start) & (n < self.phases.burn_in)
        is_round_over = jnp.any(n == jnp.asarray(self.phases.round_ends(), jnp.int32))
        of_replica = jnp.argsort(swaps.replicas, axis=-1).astype(jnp.int32)
        rungs = rungs._replace(of_replica=of_replica)
        return adapt(rungs, swaps.probability, is_burn_in, is_round_over)

    def _count(
        self, n: Array, tally: Tally, labels: Array, swaps: Swaps, is_active: Array
    ) -> Tally:
        """The tally with the cold rung's of labels int8 `[C, R, N]`, in a step of the sampling."""
        chains = jnp.arange(self.num_chains, dtype=jnp.int32)
        is_half = jnp.any(n == jnp.asarray(self.phases.half_ends(), jnp.int32))
        return tally.with_labels(
            labels[chains, swaps.replicas[:, 0]],
            is_active & (n >= self.phases.burn_in),
            is_half,
            self.schedule.marginal_tolerance,
        )

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
        if self.moves.num_screenings:
            num_tokens += self.moves.num_screenings * scorer.cheap.tokens_per_pass(labels)
        return num_tokens

    def finish(self, state: TemperingState, trace: TemperingInfo) -> Outcome:
        """The best of the chains; marginals of the cold rung after the burn-in."""
        chain = int(np.argmax(state.best.utility))
        labelling = Labelling(*(field[chain] for field in state.best))
        num_options = labelling.label_log_probs.shape[-1]
        first = min(self.phases.burn_in, len(trace.cold_labels) - 1)
        # Of every chain up to its own end; diagnostics up to the first end of all.
        is_sample = np.arange(first, len(trace.cold_labels))[:, None] < state.num_steps
        samples = trace.cold_labels[first:][is_sample]
        marginals = np.asarray(samples[..., None] == np.arange(num_options)).mean(axis=0)
        shared = TemperingInfo(*(field[: state.num_steps.min()] for field in trace))
        diagnostics = {
            "num_steps": int(state.num_steps.max()),
            "num_passes": int(state.num_passes.sum()),
            "best_chain": chain,
            "chain_utilities": state.best.utility.tolist(),
            "chain_passes": state.num_passes.sum(axis=1).tolist(),
            **tempering_diagnostics(shared, self.phases.burn_in),
        }
        return Outcome(labelling, marginals.astype(np.float32), diagnostics)


def unmoved(state: TemperingState) -> Moved:
    """Replicas that no step was taken with."""
    zeros = jnp.zeros(state.num_passes.shape, jnp.int32)
    return Moved(
        current=state.current,
        cheap=state.cheap,
        proposed=state.current,
        kind=zeros.astype(jnp.int8) - 1,
        is_move=zeros > 0,
        is_accepted=zeros > 0,
        num_passes=zeros,
        is_nonfinite=jnp.zeros_like(state.is_nonfinite),
    )


def better(best: Labelling, proposed: Labelling) -> Labelling:
    """The best so far `[C]`, or of the proposals `[C, R]` the first that is better and whole."""
    is_candidate = jnp.all(proposed.labels >= 0, axis=-1) & jnp.isfinite(proposed.utility)
    utility = jnp.where(is_candidate, proposed.utility, -jnp.inf)
    chains, first = jnp.arange(utility.shape[0], dtype=jnp.int32), jnp.argmax(utility, axis=-1)
    candidate = jax.tree.map(lambda leaf: leaf[chains, first], proposed)
    return select(jnp.max(utility, axis=-1) > best.utility, candidate, best)


def describe_step(
    before: Rungs, beta: Array, moved: Moved, swaps: Swaps, best_utility: Array
) -> TemperingInfo:
    """The Info of a step: moves by the rungs before the swaps, states by those after them."""

    def at(leaf: Array, replicas: Array) -> Array:
        return jnp.take_along_axis(leaf, replicas, axis=-1)

    old, new, current = before.replicas, swaps.replicas, moved.current
    num_labelled = jnp.sum(current.labels >= 0, axis=-1, dtype=jnp.int32)
    return TemperingInfo(
        utility=at(current.utility, new),
        best_utility=best_utility,
        is_move=at(moved.is_move, old),
        is_accepted=at(moved.is_accepted, old),
        kind=at(moved.kind, old),
        num_passes=at(moved.num_passes, old),
        num_labelled=at(num_labelled, new),
        num_violated=at(current.num_violated, new),
        replica=new.astype(jnp.int32),
        swap_probability=swaps.probability,
        is_swapped=swaps.is_swapped,
        inverse_temperature=beta,
        cold_labels=current.labels[jnp.arange(len(new), dtype=jnp.int32), new[:, 0]],
    )
