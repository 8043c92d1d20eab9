"""Several searches as one device program: the personas are its leading axis."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import PairRules
from icmjax.errors import Fault, InputError
from icmjax.search.base import Account, Algorithm, Scorer
from icmjax.search.loop import (
    Pace,
    SearchResult,
    TokenCounter,
    check_scores,
    make_result,
    start,
    take_block,
)


def search_together(
    scorers: Sequence[Scorer],
    rules: Sequence[PairRules],
    algorithm: Algorithm | Sequence[Algorithm],
    rng_keys: Sequence[Array],
    *,
    clamped: Sequence[np.ndarray | None] | None = None,
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

    Returns:
      what `run_search` returns, for each; `diagnostics["seconds"]` is the time of all together.

    Raises:
      InputError: the scorers or the rules have different shapes, or the algorithms differ.
      ClaimsError, ScoreError: as of `run_search`.
    """
    if not have_one_shape(scorers):
        raise InputError(
            Fault(
                rule="Claim sets that are searched together have one shape.",
                found=f"{len(scorers)} scorers of different arrays or settings",
                where="scorers",
                remedy="search them one by one, or take as many claims of each persona",
            )
        )
    own = [*algorithm] if isinstance(algorithm, Sequence) else [algorithm] * len(scorers)
    if any(each != own[0] for each in own):
        raise InputError(
            Fault(
                rule="Searches that run together are by one algorithm.",
                found=", ".join(dict.fromkeys(type(each).__name__ for each in own)),
                where="algorithm",
                remedy="give all the same settings, or search them one by one",
            )
        )
    fixed = [None] * len(scorers) if clamped is None else clamped
    starts = [
        start(*arguments) for arguments in zip(scorers, rules, own, rng_keys, fixed, strict=True)
    ]
    step_keys, states = zip(*starts, strict=True)
    if not (have_one_shape(rules) and have_one_shape(states)):
        raise InputError(
            Fault(
                rule="Claim sets that are searched together have rules of one shape.",
                found="other numbers of pairs, or of claims that they tie together",
                where="rules",
                remedy="search them one by one",
            )
        )
    leaves, structure = zip(*map(jax.tree.flatten, scorers), strict=True)
    is_common = tuple(all(leaf is each[0] for leaf in each) for each in zip(*leaves, strict=True))
    axes = jax.tree.unflatten(structure[0], [None if common else 0 for common in is_common])
    scorer = jax.tree.unflatten(
        structure[0],
        [
            each[0] if common else jnp.stack([jnp.asarray(leaf) for leaf in each])
            for common, each in zip(is_common, zip(*leaves, strict=True), strict=True)
        ],
    )
    keys, state, stacked_rules = jnp.stack(step_keys), _stack(states), _stack(rules)
    counters = [TokenCounter(*pair) for pair in zip(own, scorers, strict=True)]
    num_steps = np.zeros(len(scorers), int)  # of each
    blocks: list[list[dict[str, np.ndarray]]] = [[] for _ in scorers]
    tokens: list[list[np.ndarray]] = [[] for _ in scorers]
    is_finished = jax.vmap(own[0].is_finished)
    num_begun, started = 0, time.perf_counter()
    pace = Pace(own[0].block_size)
    while not np.all(is_finished(state)):
        with pace.block(num_begun) as size:
            block = jnp.int32(num_begun), jnp.int32(size)
            state, info = _run_blocks(
                keys, state, scorer, stacked_rules, *block, algorithm=own[0], axes=_Axes(axes)
            )
            host_state = jax.tree.map(np.array, state)
        num_begun += size
        check_scores(host_state.is_nonfinite)
        for persona, before in enumerate(num_steps):
            num_taken = int(host_state.num_steps[persona].max()) - before
            if num_taken:
                fields = (np.array(field[persona, :num_taken]) for field in info)
                taken = own[persona].info_type(*fields)
                blocks[persona].append(taken._asdict())
                tokens[persona].append(counters[persona](taken))
                num_steps[persona] += num_taken
    seconds = time.perf_counter() - started
    results = []
    for persona, (own_blocks, own_tokens) in enumerate(zip(blocks, tokens, strict=True)):
        own_state = jax.tree.map(lambda leaf, persona=persona: np.array(leaf[persona]), state)
        counted = np.concatenate(own_tokens)
        account = Account(int(counted.sum()), seconds)
        results.append(make_result(own[persona], own_state, own_blocks, counted, account))
    return results


def have_one_shape(trees: Sequence[Any]) -> bool:
    """Whether pytrees have the same structure, static fields, shapes and dtypes."""
    first, *others = map(_shape, trees)
    return all(other == first for other in others)


def _shape(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(np.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


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
