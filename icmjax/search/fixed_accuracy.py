"""Labels of one accuracy, made coherent or incoherent: a chain whose moves swap errors."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import PairRules
from icmjax.errors import Fault, InputError
from icmjax.search.base import Labelling, Outcome, Scorer, metropolis_accept, names_fields
from icmjax.search.chains import ChainInfo, ChainSearch, ChainState, first_state
from icmjax.search.moves import BALANCINGS, Balancing, assignment_scores, flip_log_weights
from icmjax.search.units import Units, assignment_of, labels_of, make_units, sum_by_assignment

# On the host, operation by operation, they would be a dozen programs each.
_labels_of = jax.jit(labels_of, static_argnames="num_claims")
_assignments_of = jax.jit(jax.vmap(assignment_of, in_axes=(None, 0)))
_sums = jax.jit(sum_by_assignment)


class Swap(NamedTuple):
    """A move of one unit, and of a second one that makes up for it; a pytree."""

    old: Array  # int32 [G], assignment before
    new: Array  # int32 [G], assignment proposed
    units: Array  # int32 [2], in the order drawn
    is_single: Array  # bool [], the first unit's move keeps all counts and is the whole move


class SwapMemory(NamedTuple):
    """What a chain keeps."""

    counts: Array  # int32 [G, A, K], kept constant in their sum over units
    inverse_temperature: Array  # float32 []
    swap: Swap  # the proposal at hand
    partners: Array  # int32 [2], chains to exchange labels with, by turns; itself for none


@names_fields
@dataclasses.dataclass(frozen=True)
class FixedAccuracy(ChainSearch):
    """Samples exp(β U) among the labellings with exactly so many errors.

    A move relabels one unit and makes up for it by another, so that the number of errors against
    the target, and the number of claims with each label, stay what they were: β above 0 gives
    coherent sets, below 0 incoherent ones, 0 random ones, all equally accurate. Chains have one
    target, number of errors and β each. Units are drawn by informed weights, and accepted with the
    exact Metropolis-Hastings correction (see `icmjax.search.moves`).

    The target, the numbers of errors and the βs are no part of equality and of the hash, as no
    program depends on them. The result is the first chain's last labelling; those of all chains are
    in `diagnostics`, and every step's in `trace.labels`.

    Attributes:
      target: labels of all N claims, or of N claims for each chain.
      num_errors: labels that differ from the target; one number, or one for each chain.
      inverse_temperatures: β of each chain, in 1 / units of U.
      is_balanced: whether the number of claims with each label is the target's.
      exchanges: whether chains exchange labels; otherwise each is the same whatever the others.
      keeps_pairs: whether no pair rule is violated, soft ones included; otherwise hard ones alone.
      burn_in: share of the steps in which β grows linearly from 0.
      balancing: "barker" or "sqrt".
      proposal_scale: see `icmjax.search.InformedMoves`.

    Raises:
      InputError: a field is out of its range.
    """

    target: Any = dataclasses.field(default=(), compare=False)
    num_errors: Any = dataclasses.field(default=0, compare=False)
    inverse_temperatures: tuple[float, ...] = dataclasses.field(default=(1.0,), compare=False)
    num_iterations: int = 128
    num_chains: int = dataclasses.field(default=1, init=False)  # that of inverse_temperatures
    is_balanced: bool = True
    exchanges: bool = True
    keeps_pairs: bool = True
    burn_in: float = 0.5
    balancing: Balancing = "barker"
    proposal_scale: float = 2.0

    def __post_init__(self) -> None:
        betas = tuple(float(beta) for beta in self.inverse_temperatures)
        object.__setattr__(self, "inverse_temperatures", betas)
        object.__setattr__(self, "num_chains", len(betas))
        targets = np.asarray(self.target, np.int64)
        if targets.ndim == 1 and targets.size:
            targets = np.tile(targets, (len(betas), 1))
        object.__setattr__(self, "target", tuple(map(tuple, targets.tolist())))
        errors = np.asarray(self.num_errors, np.int64)
        if errors.ndim == 0:
            errors = np.tile(errors, len(betas))
        object.__setattr__(self, "num_errors", tuple(errors.tolist()))
        super().__post_init__()

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        num_chains = len(self.inverse_temperatures)
        return super()._ranges() | {
            "target": (
                len(self.target) == num_chains > 0 and min(map(min, self.target)) >= 0,
                "labels of all claims, for each chain",
            ),
            "num_errors": (
                len(self.num_errors) == num_chains and min(self.num_errors, default=0) >= 0,
                "0 or more, for each chain",
            ),
            "inverse_temperatures": (
                num_chains > 0 and bool(np.isfinite(self.inverse_temperatures).all()),
                "finite numbers, one for each chain",
            ),
            "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
            "balancing": (self.balancing in BALANCINGS, f"one of {', '.join(BALANCINGS)}"),
            "proposal_scale": (self.proposal_scale >= 0, "0 or more"),
        }

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: np.ndarray,
        num_options: int,
        groups: Any = None,
    ) -> ChainState:
        """Chains at random labellings of their number of errors, not scored yet.

        Every such labelling is equally probable.

        Raises:
          ClaimsError: hard rules leave some claims no consistent labels, or very many.
          InputError: no labelling has that many errors, or a target does not fit the claims.
        """
        del groups
        num_claims = len(clamped)
        if self.keeps_pairs:
            rules = rules._replace(is_hard=np.ones(len(rules.pairs), bool))
        units = make_units(rules, clamped, num_options)
        faults, starts, counts = [], [], []
        for chain, (target, num_errors) in enumerate(
            zip(self.target, self.num_errors, strict=True)
        ):
            labels = np.asarray(target)
            if len(labels) != num_claims or labels.max() >= num_options:
                faults.append(_target_fault(labels, num_claims, num_options, chain))
                continue
            table = kept_counts(units, labels, num_options, self.is_balanced)
            wanted = (num_errors, *np.bincount(labels, minlength=num_options))
            wanted = wanted[: table.shape[-1]]
            rng = np.random.default_rng([*np.asarray(jax.random.key_data(rng_key)), chain])
            start = random_assignment(rng, table, np.asarray(units.is_allowed), wanted)
            if start is None:
                faults.append(_count_fault(num_errors, chain, self.is_balanced))
            else:
                starts.append(_labels_of(units, start, num_claims))
                counts.append(table)
        if faults:
            raise InputError(faults)
        stacked = jnp.stack(starts)
        state = first_state(stacked, units, (), num_options)
        assignment = _assignments_of(units, stacked)
        num_chains = len(starts)
        swap = Swap(
            old=assignment,
            new=assignment,
            units=jnp.zeros((num_chains, 2), jnp.int32),
            is_single=jnp.ones(num_chains, bool),
        )
        memory = SwapMemory(
            counts=jnp.asarray(np.stack(counts)),
            inverse_temperature=jnp.asarray(self.inverse_temperatures, jnp.float32),
            swap=swap,
            partners=jnp.asarray(self._partners()),
        )
        return state._replace(memory=memory)

    def _partners(self) -> np.ndarray:
        """The chains that each exchanges labels with in even and in odd steps: int32 `[C, 2]`."""
        partners = np.tile(np.arange(self.num_chains, dtype=np.int32)[:, None], (1, 2))
        if not self.exchanges:
            return partners
        ladders: dict[Any, list[int]] = defaultdict(list)
        num_seen: Counter = Counter()
        for chain, kind in enumerate(zip(self.target, self.num_errors, strict=True)):
            beta = self.inverse_temperatures[chain]
            ladders[kind, num_seen[kind, beta]].append(chain)
            num_seen[kind, beta] += 1
        for chains in ladders.values():
            ordered = sorted(chains, key=self.inverse_temperatures.__getitem__)
            for position, (one, other) in enumerate(itertools.pairwise(ordered)):
                partners[one, position % 2], partners[other, position % 2] = other, one
        return partners

    def _step(
        self,
        rng_key: Array,
        state: ChainState,
        scorer: Scorer,
        rules: PairRules,
        is_active: Array,
    ) -> tuple[ChainState, ChainInfo]:
        """A swap of errors in every chain, then exchanges of labels between chains."""
        swap_key, exchange_key = jax.random.split(rng_key)
        n = state.num_steps[0]  # the same in every chain
        state, info = super()._step(swap_key, state, scorer, rules, is_active)
        chains = jnp.arange(state.num_steps.shape[0], dtype=jnp.int32)
        partner = jnp.take(state.memory.partners, n % 2, axis=1)
        betas = self.inverse_temperature(n, state.memory.inverse_temperature)
        log_ratio = exchange_log_ratio(betas, state.current.utility, partner)
        # Both chains of a pair read one number, and so decide alike.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(exchange_key, jnp.minimum(chains, partner))
        is_exchanged = jax.vmap(metropolis_accept)(keys, log_ratio) & is_active
        source = jnp.where(is_exchanged, partner, chains)
        current = jax.tree.map(lambda leaf: leaf[source], state.current)
        info = info._replace(
            utility=current.utility,
            num_labelled=jnp.sum(current.labels >= 0, axis=-1, dtype=jnp.int32),
            num_violated=current.num_violated,
            labels=current.labels,
        )
        return state._replace(current=current), info

    def inverse_temperature(self, n: Array, final: Array) -> Array:
        """β in step n, for a chain whose β is `final` after the burn-in."""
        num_burn_in = max(int(self.burn_in * self.num_iterations), 1)
        return final * jnp.minimum(n.astype(jnp.float32) / num_burn_in, 1)

    def _weights(self, labelling: Labelling, assignment: Array, units: Units, beta: Array) -> Array:
        scores = assignment_scores(units, labelling.label_log_probs, self.alpha, self.objective)
        return flip_log_weights(scores, assignment, beta * self.proposal_scale, self.balancing)

    def propose(
        self, rng_key: Array, n: Array, current: Labelling, memory: SwapMemory, units: Units
    ) -> tuple[Array, SwapMemory]:
        """Two claims swap being wrong; see `ChainSearch.propose`."""
        beta = self.inverse_temperature(n, memory.inverse_temperature)
        assignment = assignment_of(units, current.labels)
        log_weights = self._weights(current, assignment, units, beta)
        swap = draw_swap(rng_key, log_weights, memory.counts, assignment)
        labels = labels_of(units, swap.new, current.labels.shape[0])
        return labels, memory._replace(swap=swap)

    def accept(
        self,
        rng_key: Array,
        n: Array,
        old: Labelling,
        new: Labelling,
        memory: SwapMemory,
        units: Units,
    ) -> tuple[Array, SwapMemory]:
        """By Metropolis and Hastings; see `ChainSearch.accept`."""
        beta = self.inverse_temperature(n, memory.inverse_temperature)
        swap = memory.swap
        ratio = swap_log_ratio(
            swap,
            self._weights(old, swap.old, units, beta),
            self._weights(new, swap.new, units, beta),
            memory.counts,
        )
        is_swap = jnp.any(swap.old != swap.new)
        log_ratio = beta * (new.utility - old.utility) + ratio
        return is_swap & metropolis_accept(rng_key, log_ratio), memory

    def finish(self, state: ChainState, trace: ChainInfo) -> Outcome:
        """The last labelling of the first chain; diagnostics have those of all chains."""
        outcome = super().finish(state, trace)
        first = Labelling(*(field[0] for field in state.current))
        num_errors = (state.current.labels != np.array(self.target)).sum(axis=1)
        del outcome.diagnostics["best_chain"]
        diagnostics = outcome.diagnostics | {
            "chain_labels": state.current.labels.tolist(),
            "chain_utilities": state.current.utility.tolist(),
            "chain_num_errors": num_errors.tolist(),
            "inverse_temperatures": list(self.inverse_temperatures),
        }
        return Outcome(first, self._marginals(first, state, trace), diagnostics)

    def _marginals(self, labelling: Labelling, state: ChainState, trace: ChainInfo) -> np.ndarray:
        del state
        samples = trace.labels[int(self.burn_in * self.num_iterations) :, 0]
        num_options = labelling.label_log_probs.shape[-1]
        shares = np.asarray(samples[..., None] == np.arange(num_options)).mean(axis=0)
        return shares.astype(np.float32)


def kept_counts(
    units: Units, target: np.ndarray, num_options: int, is_balanced: bool
) -> np.ndarray:
    """What each assignment adds to the kept counts: errors, and claims of each label: `[G, A, K]`.

    K is 1, or 1 + Y where class balance is kept too.
    """
    is_error = target[:, None] != np.arange(num_options)
    tables = [is_error]
    if is_balanced:
        tables += [
            np.tile(np.arange(num_options) == y, (len(target), 1)) for y in range(num_options)
        ]
    return np.stack([np.asarray(_sums(units, t.astype(np.int32))) for t in tables], axis=-1)


def random_assignment(
    rng: np.random.Generator, counts: np.ndarray, is_allowed: np.ndarray, wanted: Sequence[int]
) -> np.ndarray | None:
    """An assignment whose counts sum to what is wanted, all equally probable; None for none.

    Args:
      counts: int `[G, A, K]`.
      is_allowed: bool `[G, A]`.
      wanted: K numbers.

    Returns:
      int32 `[G]`.
    """
    options = [
        [(a, tuple(row[a].tolist())) for a in np.flatnonzero(allowed)]
        for row, allowed in zip(counts, is_allowed, strict=True)
    ]
    zero = (0,) * counts.shape[-1]
    # ways[g][s]: in how many ways the units from g on sum to s; whole numbers, however large.
    ways: list[Counter] = [Counter({zero: 1})]
    for choices in reversed(options):
        before: Counter = Counter()
        for _, added in choices:
            for total, number in ways[-1].items():
                before[tuple(x + y for x, y in zip(total, added, strict=True))] += number
        ways.append(before)
    ways.reverse()
    left = tuple(int(x) for x in wanted)
    if not ways[0][left]:
        return None
    chosen = np.zeros(len(options), np.int32)
    for unit, choices in enumerate(options):
        rests = [tuple(x - y for x, y in zip(left, added, strict=True)) for _, added in choices]
        shares = np.array([ways[unit + 1][rest] / ways[unit][left] for rest in rests], np.float64)
        index = rng.choice(len(choices), p=shares / shares.sum())
        chosen[unit], left = choices[index][0], rests[index]
    return chosen


def draw_swap(rng_key: Array, log_weights: Array, counts: Array, assignment: Array) -> Swap:
    """Draws a unit's move by its weight, then one of another unit that makes up for its counts.

    Args:
      rng_key: a typed key.
      log_weights: `[G, A]`, of `flip_log_weights`.
      counts: int32 `[G, A, K]`.
      assignment: int32 `[G]`, where the units are.

    Returns:
      The swap; the null move where nothing makes up for the first one.
    """
    first_key, second_key = jax.random.split(rng_key)
    num_assignments = log_weights.shape[1]
    drawn = jax.random.categorical(first_key, log_weights.reshape(-1)).astype(jnp.int32)
    unit, chosen = jnp.divmod(drawn.astype(jnp.int32), num_assignments)
    is_single = _is_single(counts, assignment, unit, chosen)
    seconds = _second_log_weights(log_weights, counts, assignment, unit, chosen)
    is_possible = jnp.any(jnp.isfinite(seconds))
    drawn = jax.random.categorical(second_key, seconds.reshape(-1)).astype(jnp.int32)
    other, other_chosen = jnp.divmod(drawn.astype(jnp.int32), num_assignments)
    moved = assignment.at[unit].set(chosen)
    both = moved.at[other].set(other_chosen)
    new = jnp.where(is_single, moved, jnp.where(is_possible, both, assignment))
    return Swap(assignment, new, jnp.stack([unit, other]), is_single)


def swap_log_prob(swap: Swap, log_weights: Array, counts: Array) -> Array:
    """Log-probability of drawing a swap, from the weights where it starts."""
    first, second = swap.units
    first_log_prob = log_weights[first, swap.new[first]] - jax.nn.logsumexp(log_weights)
    seconds = _second_log_weights(log_weights, counts, swap.old, first, swap.new[first])
    second_log_prob = seconds[second, swap.new[second]] - jax.nn.logsumexp(seconds)
    return first_log_prob + jnp.where(swap.is_single, 0.0, second_log_prob)


def swap_log_ratio(
    swap: Swap, old_log_weights: Array, new_log_weights: Array, counts: Array
) -> Array:
    """Log of the probability of the swap back over that of the swap: the Hastings correction.

    The way back moves the same units in the same order.
    """
    back = swap._replace(old=swap.new, new=swap.old)
    return swap_log_prob(back, new_log_weights, counts) - swap_log_prob(
        swap, old_log_weights, counts
    )


def exchange_log_ratio(betas: Array, utilities: Array, partner: Array) -> Array:
    """(β − β') (U' − U) of each chain and its partner, the log acceptance of exchanging labels.

    Args:
      betas, utilities: float32 `[C]`.
      partner: int32 `[C]`, its own inverse.

    Returns:
      float32 `[C]`, the same for both chains of a pair.
    """
    return (betas - betas[partner]) * (utilities[partner] - utilities)


def _change(counts: Array, assignment: Array) -> Array:
    """How each move of one unit changes the counts: int32 `[G, A, K]`."""
    current = jnp.take_along_axis(counts, assignment[:, None, None], axis=1)
    return counts - current


def _is_single(counts: Array, assignment: Array, unit: Array, chosen: Array) -> Array:
    return jnp.all(_change(counts, assignment)[unit, chosen] == 0)


def _second_log_weights(
    log_weights: Array, counts: Array, assignment: Array, unit: Array, chosen: Array
) -> Array:
    """Weights of the moves of other units that make up for the first one: `[G, A]`."""
    change = _change(counts, assignment)
    makes_up = jnp.all(change == -change[unit, chosen], axis=-1)
    is_other = jnp.arange(log_weights.shape[0], dtype=jnp.int32)[:, None] != unit
    return jnp.where(makes_up & is_other, log_weights, -jnp.inf)


def _target_fault(labels: np.ndarray, num_claims: int, num_options: int, chain: int) -> Fault:
    return Fault(
        rule=f"A target labels every claim with one of 0 to {num_options - 1}.",
        found=f"{len(labels)} labels up to {labels.max()}, {num_claims} claims",
        where=f"FixedAccuracy(target=...), chain {chain}",
        remedy="give the target of these claims",
    )


def _count_fault(num_errors: int, chain: int, is_balanced: bool) -> Fault:
    kept = " and as many claims of each label as the target" if is_balanced else ""
    return Fault(
        rule=f"Some labelling within the rules has that many errors{kept}.",
        found=f"none with {num_errors} errors",
        where=f"FixedAccuracy(num_errors=...), chain {chain}",
        remedy="try a number one higher or lower, or leave is_balanced or keeps_pairs out",
    )
