"""Exact leave-one-out scores by a prefix tree: about N L (log2 N + 1) tokens for N claims of L.

Every query reads all the other labelled claims, in an order of its own that shares its prefixes
with other queries. The nodes of one level are one dense batch; each level's key-values are stored
once, and the levels below read them in place.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from icmjax.arrays import on_device
from icmjax.claims import UNLABELLED
from icmjax.errors import Fault, InputError
from icmjax.lm import CHAIN_AXIS, QUERY_AXIS, LanguageModel, Segment, make_mesh
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.brief import OfClaims
from icmjax.scoring.contexts import add_query, build_context, longest_lengths, shown_lengths
from icmjax.scoring.labels import label_log_probs, read_prompts
from icmjax.scoring.planner import MEMORY_BUDGET, level_bytes, refuse
from icmjax.scoring.shapes import shared_shapes
from icmjax.scoring.spread import on_each_device, own_children, share
from icmjax.scoring.tree_plan import TreePlan, plan_random_trees, plan_tree

BATCH_TOKENS = 8192  # padding included; passes of fewer are read together with others
LAYOUT = ("order", "leaves", "bounds")  # the fields in which trees of one shape differ


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TreeScorer(OfClaims):
    """Label log-probs of every claim given all the other labelled claims.

    A pytree, to be called inside or outside jit; make one by `icmjax.make_scorer`.
    """

    lm: LanguageModel
    claims: TokenizedClaims
    order: jax.Array  # int32 [N], the claims in leaf order
    queries: jax.Array  # int32 [S], the claims that are scored: all of them, or a subset
    leaves: jax.Array  # int32 [S], the leaf of each query
    bounds: tuple[jax.Array, ...]  # per level int32 [nodes, 4], what each node reads: `TreePlan`
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # per level, tokens
    batch_size: int = dataclasses.field(metadata={"static": True})  # labellings read together
    # Levels, from the top, whose nodes are read one after another, to save memory.
    num_serial: int = dataclasses.field(metadata={"static": True})
    # Rows at the end of `claims` that hold none, so that other N share the program.
    num_spare: int = dataclasses.field(default=0, metadata={"static": True})
    # The devices that share the work; None for the one that holds the arrays.
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})
    # Bytes beside the weights, to which contexts that all queries share keep too.
    memory_budget: int = dataclasses.field(default=MEMORY_BUDGET, metadata={"static": True})

    @property
    def num_claims(self) -> int:
        """N."""
        return self.claims.queries.shape[0] - self.num_spare

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs in nats: int8 `[..., N]` → float32 `[..., N, Y]`.

        Hand a batch of labellings over as leading axes: `batch_size` of them are read together.
        """
        if not self.num_spare:
            return _score(self, jnp.asarray(labels))
        filled = dataclasses.replace(self, num_spare=0)
        return _score(filled, self._fill(labels))[..., : self.num_claims, :]

    def _fill(self, labels: jax.Array | np.ndarray) -> jax.Array:
        """Labels of the spare rows too, added on the host where labels are known."""
        xp = jnp if isinstance(labels, jax.core.Tracer) else np
        spare = xp.full((*labels.shape[:-1], self.num_spare), UNLABELLED, np.int8)
        return jnp.asarray(xp.concatenate([xp.asarray(labels), spare], axis=-1))

    def demonstration_orders(self) -> np.ndarray:
        """The order in which query i reads the others: int32 `[S, N - 1]`, -1 after the last."""
        return self.plan().demonstration_orders()

    @property
    def arities(self) -> tuple[int, ...]:
        """Children of a node of the level above, per level."""
        sizes = [1, *(len(bounds) for bounds in self.bounds)]
        return tuple(size // above for above, size in pairwise(sizes))

    @property
    def num_devices(self) -> int:
        """D, that share the queries of a labelling."""
        return 1 if self.mesh is None else self.mesh.shape[QUERY_AXIS]

    @property
    def num_chains(self) -> int:
        """Groups of devices, each with labellings of its own."""
        return 1 if self.mesh is None else self.mesh.shape[CHAIN_AXIS]

    @property
    def shares(self) -> tuple[int, ...]:
        """Children of a node of the level above that one device reads, per level."""
        return share(self.arities, self.num_devices)

    def plan(self) -> TreePlan:
        """The tree, on the host."""
        return TreePlan(
            arities=self.arities,
            order=np.asarray(self.order)[: self.num_claims],
            leaves=np.asarray(self.leaves)[: self.num_claims],
            bounds=tuple(np.asarray(bounds) for bounds in self.bounds),
            widths=self.widths,
        )

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Real tokens that scoring int8 `[..., N]` reads, those of long label forms included."""
        labels = np.asarray(labels)
        starts = piece_starts(self, np.asarray(self._fill(labels)), np)
        segments = sum(
            int(stretches(starts, np.asarray(bounds))[1].sum()) for bounds in self.bounds
        )
        forms = np.maximum(np.asarray(self.claims.label_form_lengths) - 1, 0).sum()
        num_queries = min(len(self.queries), self.num_claims)
        queries = np.asarray(self.claims.query_lengths)[np.asarray(self.queries)].sum()
        return segments + math.prod(labels.shape[:-1]) * int(queries + forms * num_queries)


def make_tree_scorer(
    lm: LanguageModel,
    claims: TokenizedClaims,
    units: np.ndarray,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    is_shared: bool = False,
    devices: Sequence[jax.Device] = (),
) -> TreeScorer:
    """A tree scorer of claims that fit the model, the tree being planned for their lengths.

    Args:
      claims: numpy arrays.
      units: int `[N]`, from 0 on; claims of one unit do not read each other.
      batch_size: labellings read together; by default as many as make a batch of `BATCH_TOKENS`
        within the memory budget.
      memory_budget: bytes for key-values and activations, the weights apart. Where a single pass,
        or the batch asked for, takes more, the tree is read depth-first from the top, as far down
        as needed.
      is_shared: whether to take the shapes of a bucket, which other numbers of claims and claims
        of other lengths share (see `shapes`), rather than the shapes that pad least.
      devices: each holds the weights and reads a subtree of its own; the levels above it are read
        by all that need them. The budget is of each.

    Raises:
      InputError: a pass, or the batch asked for, does not fit the budget even depth-first; the
        devices cannot share the tree evenly.
    """
    if is_shared:
        claims, plan, num_spare = shared_shapes(lm.config, claims, units)
    else:
        plan, num_spare = plan_tree(*longest_lengths(claims), len(claims.preamble), units), 0
    return scorer_of_plan(lm, claims, plan, batch_size, memory_budget, num_spare, devices)


def scorer_of_plan(
    lm: LanguageModel,
    claims: TokenizedClaims,
    plan: TreePlan,
    batch_size: int | None,
    memory_budget: int,
    num_spare: int = 0,
    devices: Sequence[jax.Device] = (),
) -> TreeScorer:
    """The scorer that reads a plan; arguments as of `make_tree_scorer`."""
    mesh = lm.mesh
    if mesh is not None and devices:
        rule, remedy = "A model on a mesh says which devices share a pass.", "give no devices"
        raise InputError(Fault(rule, f"{len(devices)} devices beside it", "devices", remedy))
    if len(devices) > 1:
        mesh = make_mesh({QUERY_AXIS: len(devices)}, devices)
    shares = share(plan.arities, 1 if mesh is None else mesh.shape[QUERY_AXIS])
    taken = [
        level_bytes(lm, claims, shares, plan.widths, num_serial)[1]
        for num_serial in range(len(plan.arities))
    ]
    least = batch_size or 1
    refuse(min(taken), memory_budget)
    refuse(least * min(taken), memory_budget, batch_size)
    num_serial = next(level for level, size in enumerate(taken) if least * size <= memory_budget)
    if batch_size is None:
        wanted = -(-BATCH_TOKENS // plan.num_padded_tokens)
        batch_size = max(1, min(wanted, memory_budget // taken[num_serial]))
    num_rows = len(plan.leaves) + num_spare
    spare = np.arange(len(plan.order), len(plan.order) + num_spare, dtype=np.int32)
    scorer = TreeScorer(
        lm=lm,
        claims=on_device(claims),
        order=jnp.asarray(np.concatenate([plan.order, spare])),
        queries=jnp.arange(num_rows, dtype=jnp.int32),
        # A spare row's leaf is none: nothing is written there.
        leaves=jnp.asarray(np.append(plan.leaves, np.full(num_spare, plan.num_leaves, np.int32))),
        bounds=tuple(jnp.asarray(bounds) for bounds in plan.bounds),
        widths=plan.widths,
        batch_size=batch_size,
        num_serial=num_serial,
        num_spare=num_spare,
        mesh=mesh,
        memory_budget=memory_budget,
    )
    if mesh is None:
        return jax.device_put(scorer, devices[0]) if devices else scorer
    everywhere = NamedSharding(mesh, PartitionSpec())
    if lm.mesh is None:
        return jax.device_put(scorer, everywhere)
    # The weights lie where they were read to.
    leaves = {each.name for each in dataclasses.fields(scorer) if not each.metadata.get("static")}
    own = {name: getattr(scorer, name) for name in leaves - {"lm"}}
    if isinstance(jax.tree.leaves(lm.params)[0], jax.ShapeDtypeStruct):  # to be compiled alone
        place = partial(jax.ShapeDtypeStruct, sharding=everywhere)
        return dataclasses.replace(
            scorer, **jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), own)
        )
    return dataclasses.replace(scorer, **jax.device_put(own, everywhere))


def make_tree_orders(
    lm: LanguageModel,
    claims: TokenizedClaims,
    units: np.ndarray,
    rng_key: jax.Array,
    num_orders: int,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    devices: Sequence[jax.Device] = (),
) -> tuple[TreeScorer, dict[str, Any]]:
    """Trees whose claims are put into the leaves at random, of one shape.

    Arguments that are not told of here are those of `make_tree_scorer`.

    Args:
      rng_key: draws the leaves.
      num_orders: K, trees.

    Returns:
      the scorer of the first tree, and the fields in which the others differ, with a leading [K].
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rng_key)))
    plans = plan_random_trees(
        *longest_lengths(claims), len(claims.preamble), units, num_orders, rng
    )
    arguments = (batch_size, memory_budget, 0, devices)
    scorers = [scorer_of_plan(lm, claims, plan, *arguments) for plan in plans]
    layouts = [{name: getattr(scorer, name) for name in LAYOUT} for scorer in scorers]
    return scorers[0], jax.tree.map(lambda *each: jnp.stack(each), *layouts)


def piece_starts(scorer: TreeScorer, labels: jax.Array | np.ndarray, xp: ModuleType = jnp) -> Any:
    """Where each piece of the text starts, and where the last ends: int32 `[..., N + 2]`."""
    shown = shown_lengths(scorer.claims, labels, xp)[..., scorer.order]
    shape = (*labels.shape[:-1], 1)
    preamble = xp.full(shape, scorer.claims.preamble.shape[0], shown.dtype)
    ends = xp.cumsum(xp.concatenate([preamble, shown], axis=-1), axis=-1, dtype=np.int32)
    return xp.concatenate([xp.zeros(shape, np.int32), ends], axis=-1)


def stretches(starts: Any, bounds: Any) -> tuple[Any, Any]:
    """The tokens between the bounds of nodes, of `[..., N + 2]` piece starts.

    Returns:
      edges int32 `[..., nodes, 4]` and the number of tokens of each node, int32 `[..., nodes]`.
    """
    edges = starts[..., bounds]
    return edges, edges[..., 1] - edges[..., 0] + edges[..., 3] - edges[..., 2]


class Text(NamedTuple):
    """The preamble and all demonstrations in leaf order, of b labellings."""

    tokens: jax.Array  # int32 [b, tokens]
    starts: jax.Array  # int32 [b, N + 2], of each piece


class Path(NamedTuple):
    """What was read from the root down to n nodes, for b labellings: rows `[b n]`."""

    segments: tuple[Segment, ...]  # batches divide b n
    num_tokens: jax.Array  # int32 [b n], real ones


@jax.jit
def _score(scorer: TreeScorer, labels: jax.Array) -> jax.Array:
    num_claims = scorer.num_claims
    flat = labels.reshape(-1, num_claims)
    num_batches = -(-flat.shape[0] // (scorer.batch_size * scorer.num_chains))
    batch = -(-flat.shape[0] // (num_batches * scorer.num_chains)) * scorer.num_chains
    padding = jnp.full((num_batches * batch - flat.shape[0], num_claims), UNLABELLED, flat.dtype)
    batches = jnp.concatenate([flat, padding]).reshape(num_batches, batch, num_claims)
    logp = jax.lax.map(lambda labels: _score_batch(scorer, labels), batches)
    logp = logp.reshape(num_batches * batch, -1, scorer.num_options)
    return logp[: flat.shape[0]].reshape(*labels.shape[:-1], -1, scorer.num_options)


def _score_batch(scorer: TreeScorer, labels: jax.Array) -> jax.Array:
    """Label log-probs `[b, S, Y]` of labellings `[b, N]` that are read together."""
    claims = scorer.claims
    num_claims, _, width = claims.demonstrations.shape
    text_width = claims.preamble.shape[0] + num_claims * width
    is_shown = jnp.ones(num_claims, bool)
    tokens, _ = jax.vmap(
        lambda labels: build_context(claims, labels, is_shown, scorer.order, text_width)
    )(labels)
    text = Text(tokens, piece_starts(scorer, labels))
    root = Path(segments=(), num_tokens=jnp.zeros(labels.shape[0], jnp.int32))

    def read_leaves(scorer: TreeScorer, text: Text, root: Path) -> jax.Array:
        return _read_children(scorer, text, 0, jnp.zeros(1, jnp.int32), root)

    if scorer.mesh is None:
        by_leaf = read_leaves(scorer, text, root)
    else:
        by_leaf = on_each_device(
            read_leaves, scorer.mesh, scorer.arities, scorer.shares, scorer, text, root
        )
    return by_leaf.at[:, scorer.leaves].get(mode="clip")


def _read_children(
    scorer: TreeScorer, text: Text, level: int, parents: jax.Array, path: Path
) -> jax.Array:
    """Label log-probs `[b, leaves, Y]` of a device's leaves below `parents`, int32 `[n]`.

    Args:
      level: of the children.
      path: what the parents have read.
    """
    children = own_children(parents, level, scorer.arities, scorer.shares)
    if level >= scorer.num_serial:
        return _read_nodes(scorer, text, level, children.reshape(-1), path)
    one_by_one = jax.lax.map(
        lambda child: _read_nodes(scorer, text, level, child, path), children.T
    )
    return jnp.moveaxis(one_by_one, 0, 1).reshape(text.tokens.shape[0], -1, scorer.num_options)


def _read_nodes(
    scorer: TreeScorer, text: Text, level: int, nodes: jax.Array, path: Path
) -> jax.Array:
    """Label log-probs `[b, leaves, Y]` of a device's leaves below `nodes`, int32 `[n]`, or at them.

    Args:
      path: what the nodes' parents have read.
    """
    batch, is_last = text.tokens.shape[0], level + 1 == len(scorer.bounds)
    num_rows = batch * len(nodes)
    num_before = jnp.repeat(path.num_tokens, num_rows // len(path.num_tokens))
    if scorer.widths[level] == 0:
        return _read_children(scorer, text, level + 1, nodes, path._replace(num_tokens=num_before))
    tokens, lengths = _node_texts(text, scorer.bounds[level][nodes], scorer.widths[level])
    if is_last:
        add_queries = jax.vmap(jax.vmap(partial(add_query, scorer.claims)), (0, 0, None))
        tokens, lengths = add_queries(tokens, lengths, _claim_of_leaf(scorer)[nodes])
    tokens, lengths = tokens.reshape(num_rows, -1), lengths.reshape(num_rows)
    decoder = scorer.lm.decoder()
    if is_last:
        prompts = read_prompts(decoder, tokens, lengths, num_before, path.segments)
        logp = label_log_probs(decoder, prompts, scorer.claims)
        return logp.reshape(batch, len(nodes), -1)
    column = jnp.arange(scorer.widths[level], dtype=jnp.int32)
    positions, is_real = num_before[:, None] + column, column < lengths[:, None]
    key_values = decoder.key_values(tokens, positions, is_real, path.segments)
    path = Path((*path.segments, Segment(key_values, positions, is_real)), num_before + lengths)
    return _read_children(scorer, text, level + 1, nodes, path)


def _node_texts(text: Text, bounds: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """What each node reads, closed up: tokens int32 `[b, nodes, width]`, lengths `[b, nodes]`."""
    edges, lengths = stretches(text.starts, bounds)
    column = jnp.arange(width, dtype=jnp.int32)
    first_length = (edges[..., 1] - edges[..., 0])[..., None]
    index = column + jnp.where(
        column < first_length, edges[..., 0:1], edges[..., 2:3] - first_length
    )
    flat = index.reshape(index.shape[0], -1)
    tokens = jnp.take_along_axis(text.tokens, flat, axis=1, mode="clip").reshape(index.shape)
    return jnp.where(column < lengths[..., None], tokens, 0), lengths


def _claim_of_leaf(scorer: TreeScorer) -> jax.Array:
    """The claim in each leaf, int32 `[leaves]`; any claim in those that hold none."""
    claims = jnp.zeros(scorer.bounds[-1].shape[0], jnp.int32)
    return claims.at[scorer.leaves].set(scorer.queries, mode="drop")
