"""Several searches as one device program: the personas are its leading axis."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import PairRules
from icmjax.errors import Fault, InputError, Preempted, check_kinds
from icmjax.search.base import Account, Algorithm, RunStore, Scorer
from icmjax.search.loop import (
    Pace,
    SearchResult,
    TokenCounter,
    check_scores,
    kind_of_algorithm,
    make_result,
    start,
    take_block,
)
from icmjax.search.progress import Progress


def search_together(
    scorers: Sequence[Scorer],
    rules: Sequence[PairRules],
    algorithm: Algorithm | Sequence[Algorithm],
    rng_keys: Sequence[Array],
    *,
    clamped: Sequence[np.ndarray | None] | None = None,
    groups: Sequence[np.ndarray | None] | None = None,
    runs: Sequence[RunStore | None] | None = None,
    stop_fn: Callable[[], bool] | None = None,
    progress: bool = False,
) -> list[SearchResult]:
    """Search the labels of P personas at once, each as `run_search` would alone.

    Every persona has its own key and its own state, and none reads another's claims: up to
    rounding the results are those of P searches. What all scorers hold in common, such as a
    model's weights, is on the device once. A search that is finished waits for the others: its
    steps are computed with theirs, and not counted. Memory for activations grows with P: hand
    scorers over that were planned for 1/P of it.

    Args:
      scorers: of claim sets of one shape, made in one way; from tree scorers of equally many claims
        of like lengths, see `have_one_shape`.
      rules: of each, over its claims.
      algorithm: of all; or of each, where they are one program and differ in data alone, such as
        the targets of `FixedAccuracy`.
      rng_keys: of each, typed.
      clamped: of each, as of `run_search`; by default nothing is.
      groups: of each, as of `run_search`.
      runs: of each, where to keep checkpoints. They have none yet: one that has goes on by
        `run_search`.
      stop_fn: asked before each block whether all searches are to end there.
      progress: whether to tell on stderr how far they are, as of `run_search`.

    Returns:
      what `run_search` returns, for each; `diagnostics["seconds"]` is the time of all together.

    Raises:
      InputError: the scorers or the rules have different shapes, or the algorithms differ.
      ClaimsError, ScoreError, Preempted: as of `run_search`.
    """
    if isinstance(algorithm, str):
        check_kinds(algorithm=kind_of_algorithm(algorithm))
    own = [*algorithm] if isinstance(algorithm, Sequence) else [algorithm] * len(scorers)
    _check_alike(scorers, own)
    none = [None] * len(scorers)
    starts = [
        start(*arguments)
        for arguments in zip(
            scorers, rules, own, rng_keys, clamped or none, groups or none, strict=True
        )
    ]
    step_keys, states = zip(*starts, strict=True)
    _check_shapes(rules, states)
    scorer, axes = _stack_scorers(scorers)
    keys, state, stacked_rules = jnp.stack(step_keys), _stack(states), _stack(rules)
    searches = [_Search(*each) for each in zip(own, scorers, runs or none, strict=True)]
    is_finished = jax.vmap(own[0].is_finished)
    num_begun, started = 0, time.perf_counter()
    pace = Pace(own[0].block_size)
    num_steps = own[0].num_steps(scorers[0].num_claims)
    with Progress(num_steps, 0, 0, _expected_tokens(own, scorers), progress) as told:
        while not np.all(is_finished(state)):
            if stop_fn is not None and stop_fn():
                raise Preempted(num_begun)
            with pace.block(num_begun) as size:
                block = jnp.int32(num_begun), jnp.int32(size)
                state, info = _run_blocks(
                    keys, state, scorer, stacked_rules, *block, algorithm=own[0], axes=axes
                )
                host_state, host_info = jax.tree.map(np.array, (state, info))
            num_begun += size
            check_scores(host_state.is_nonfinite)
            for persona, search in enumerate(searches):
                own_state, own_info = _part(host_state, persona), _part(host_info, persona)
                search.take(own_state, own_info, time.perf_counter() - started)
            told.update(num_begun, sum(search.num_tokens for search in searches), {})
    seconds = time.perf_counter() - started
    host_state = jax.tree.map(np.array, state)
    return [search.result(_part(host_state, each), seconds) for each, search in enumerate(searches)]


def _expected_tokens(algorithms: Sequence[Algorithm], scorers: Sequence[Scorer]) -> int | None:
    """Tokens of all searches; None where those of one are not known."""
    pairs = zip(algorithms, scorers, strict=True)
    numbers = [algorithm.expected_tokens(scorer) for algorithm, scorer in pairs]
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


class _Search:
    """What one of several searches has taken so far."""

    def __init__(self, algorithm: Algorithm, scorer: Scorer, run: RunStore | None) -> None:
        self.algorithm, self.run = algorithm, run
        self.counter = TokenCounter(algorithm, scorer)
        self.num_steps = 0
        self.blocks: list[dict[str, np.ndarray]] = []
        self.tokens: list[np.ndarray] = []

    def take(self, state: Any, info: Any, seconds: float) -> None:
        """Count a block's steps, and keep its end; a finished search took none."""
        num_taken = int(state.num_steps.max()) - self.num_steps
        if not num_taken:
            return
        taken = self.algorithm.info_type(*(np.array(field[:num_taken]) for field in info))
        self.blocks.append(taken._asdict())
        self.tokens.append(self.counter(taken))
        self.num_steps += num_taken
        if self.run is not None:
            self.run.save(state, taken, self.num_steps, self._account(seconds))

    def result(self, state: Any, seconds: float) -> SearchResult:
        """What the search found."""
        tokens = np.concatenate(self.tokens)
        return make_result(self.algorithm, state, self.blocks, tokens, self._account(seconds))

    def _account(self, seconds: float) -> Account:
        return Account(self.num_tokens, seconds)

    @property
    def num_tokens(self) -> int:
        """Tokens that the search has read."""
        return sum(int(tokens.sum()) for tokens in self.tokens)


def _part(tree: Any, persona: int) -> Any:
    """One persona's part of numpy arrays, as arrays of its own."""
    return jax.tree.map(lambda leaf: np.array(leaf[persona]), tree)


def _check_alike(scorers: Sequence[Scorer], algorithms: Sequence[Algorithm]) -> None:
    if not have_one_shape(scorers):
        raise InputError(
            Fault(
                rule="Claim sets that are searched together have one shape.",
                found=f"{len(scorers)} scorers of different arrays or settings",
                where="scorers",
                remedy="search them one by one, or take as many claims of each persona",
            )
        )
    if any(each != algorithms[0] for each in algorithms):
        raise InputError(
            Fault(
                rule="Searches that run together are by one algorithm.",
                found=", ".join(dict.fromkeys(type(each).__name__ for each in algorithms)),
                where="algorithm",
                remedy="give all the same settings, or search them one by one",
            )
        )


def _check_shapes(rules: Sequence[PairRules], states: Sequence[Any]) -> None:
    if not (have_one_shape(rules) and have_one_shape(states)):
        raise InputError(
            Fault(
                rule="Claim sets that are searched together have rules of one shape.",
                found="other numbers of pairs, or of claims that they tie together",
                where="rules",
                remedy="search them one by one",
            )
        )


def _stack_scorers(scorers: Sequence[Scorer]) -> tuple[Any, "_Axes"]:
    """All scorers as one, what they hold in common once, and which of its leaves are stacked."""
    leaves, structure = zip(*map(jax.tree.flatten, scorers), strict=True)
    is_common = tuple(all(leaf is each[0] for leaf in each) for each in zip(*leaves, strict=True))
    axes = jax.tree.unflatten(structure[0], [None if common else 0 for common in is_common])
    stacked = [
        each[0] if common else jnp.stack([jnp.asarray(leaf) for leaf in each])
        for common, each in zip(is_common, zip(*leaves, strict=True), strict=True)
    ]
    return jax.tree.unflatten(structure[0], stacked), _Axes(axes)


def have_one_shape(trees: Sequence[Any]) -> bool:
    """Whether pytrees have the same structure, static fields, shapes and dtypes."""
    first, *others = map(_shape, trees)
    return all(other == first for other in others)


def _shape(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(np.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves]


@jax.jit
def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class _Axes:
    """Which leaves of a scorer have a persona axis; equal where the leaves are."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        leaves, self.structure = jax.tree.flatten(axes, is_leaf=lambda leaf: leaf is None)
        self.leaves = tuple(leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Axes) and (self.leaves, self.structure) == (
            other.leaves,
            other.structure,
        )

    def __hash__(self) -> int:
        return hash((self.leaves, self.structure))


@functools.partial(jax.jit, static_argnames=("algorithm", "axes"), donate_argnames="state")
def _run_blocks(
    rng_keys: Array,
    state: Any,
    scorer: Scorer,
    rules: PairRules,
    first_step: Array,
    num_steps: Array,
    *,
    algorithm: Algorithm,
    axes: _Axes,
) -> tuple[Any, Any]:
    take = functools.partial(take_block, algorithm=algorithm)
    return jax.vmap(take, in_axes=(0, 0, axes.axes, 0, None, None))(
        rng_keys, state, scorer, rules, first_step, num_steps
    )
