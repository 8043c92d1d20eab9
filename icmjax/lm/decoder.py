"""The decoder: a causal transformer whose layers are stacked and scanned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.attention import soft_cap
from icmjax.lm.config import DecoderConfig
from icmjax.lm.layers import Layer
from icmjax.lm.linear import INIT_SCALE, Linear
from icmjax.lm.norms import apply, make_norm
from icmjax.lm.rope import rotations
from icmjax.lm.segments import NO_WINDOW, KeyValues, Segment, Sight, own_sight, segment_sight

# Below this vocabulary size the gradient of the embeddings is a matmul with one-hot tokens, which
# on a CPU is faster than the scatter-add of a gather's gradient.
MAX_ONE_HOT_VOCAB = 2048


@jax.custom_vjp
def embed(embedding: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return rows `[..., D]` of the embedding `[V, D]`."""
    return embedding[tokens]


def _embed_forward(embedding: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple]:
    return embedding[tokens], (tokens, embedding)


def _embed_backward(residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, embedding = residuals
    rows = gradient.reshape(-1, gradient.shape[-1])
    if embedding.shape[0] <= MAX_ONE_HOT_VOCAB:
        one_hot = jax.nn.one_hot(tokens.reshape(-1), embedding.shape[0], dtype=gradient.dtype)
        return one_hot.T @ rows, None
    return jnp.zeros_like(embedding).at[tokens.reshape(-1)].add(rows), None


embed.defvjp(_embed_forward, _embed_backward)


class ScannedLayer(NamedTuple):
    """What differs between layers, each with a leading [L]."""

    params: nnx.State  # of `Layer`
    window: jax.Array  # int32 [], tokens
    rope: jax.Array  # int32 [], which of the distinct rotations
    past: tuple[KeyValues, ...]  # one per segment


class Reading(NamedTuple):
    """What all layers share while rows are read."""

    graphdef: nnx.GraphDef  # of `Layer`
    layers: ScannedLayer  # stacked
    positions: jax.Array  # int32 [B, T]
    segments: tuple[Segment, ...]
    sights: tuple[Sight, ...]  # of the rows themselves, and of each segment
    cosines: jax.Array  # float32 [R, B, T, size / 2], of R distinct rotations
    sines: jax.Array  # float32 [R, B, T, size / 2]
    is_windowless: bool
    is_whole: bool = True  # whether the rows are read as a whole, or at some columns

    def at(self, columns: jax.Array) -> "Reading":
        """Return the reading at few tokens of each row, int32 `[B, Q]`."""
        positions = jnp.take_along_axis(self.positions, columns, axis=1)
        own = self.sights[0]._replace(query_order=columns, query_positions=positions)
        angles = columns[None, ..., None]
        return self._replace(
            positions=positions,
            sights=(own, *(segment_sight(positions, past) for past in self.segments)),
            cosines=jnp.take_along_axis(self.cosines, angles, axis=2),
            sines=jnp.take_along_axis(self.sines, angles, axis=2),
            is_whole=False,
        )

    def layer(self, index: int | jax.Array) -> ScannedLayer:
        """Return one layer, read in place."""
        return jax.tree.map(
            lambda each: jax.lax.dynamic_index_in_dim(each, index, keepdims=False), self.layers
        )

    def key_values(self, hidden: jax.Array, scanned: ScannedLayer) -> KeyValues:
        """Return keys and values `[B, T, K, head_dim]` of rows `[B, T, D]` before a layer."""
        layer = nnx.merge(self.graphdef, scanned.params)
        return layer.key_values(apply(layer.attention_norm, hidden), self._rotation(scanned))

    def read(
        self, hidden: jax.Array, scanned: ScannedLayer, own: KeyValues | None = None
    ) -> tuple[jax.Array, KeyValues]:
        """Return the rows `[B, T, D]` after a layer, and its keys and values of whole rows.

        Args:
            hidden: The rows before it.
            scanned: The layer.
            own: Those keys and values, where `hidden` is not the whole rows.
        """
        layer = nnx.merge(self.graphdef, scanned.params)
        normed, rotation = apply(layer.attention_norm, hidden), self._rotation(scanned)
        own = layer.key_values(normed, rotation) if own is None else own
        window = None if self.is_windowless else scanned.window
        sights = [sight._replace(window=window) for sight in self.sights]
        temperings = [past.tempering for past in self.segments]
        seen = (own, *scanned.past)
        hidden = layer.read(hidden, normed, rotation, seen, sights, temperings, self.is_whole)
        return hidden, own

    def _rotation(self, scanned: ScannedLayer) -> tuple[jax.Array, jax.Array]:
        return self.cosines[scanned.rope], self.sines[scanned.rope]


class Decoder(nnx.Module):
    """A causal language model up to its logits; pure, under `jax.jit`, `vmap` and `grad` alike.

    Args:
        config: What it computes.
        rngs: The "params" stream draws the initial weights: normal with scale 0.02, those of the
            projections that add to the residual stream 0.02 / sqrt(2 L).
        dtype: Of the weights and of the activations between matmuls; norms, rotations, softmax and
            logits are float32 whatever it is.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stacked_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, dtype, rngs)

        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        embedding = INIT_SCALE * jax.random.normal(rngs.params(), shape, jnp.float32)
        self.embedding = nnx.Param(embedding.astype(dtype))  # [V, D]
        shape = (config.max_length, config.hidden_size)
        self.positions = (
            nnx.Param(INIT_SCALE * jax.random.normal(rngs.params(), shape, dtype))
            if config.has_positions
            else None
        )  # [max_length, D]
        self.layers = stacked_layers(rngs)  # every parameter with a leading [L]
        self.final_norm = make_norm(config, dtype)
        self.head = (
            None
            if config.tie_embeddings
            else Linear(config.hidden_size, config.vocab_size, False, INIT_SCALE, dtype, rngs)
        )

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        is_real: jax.Array,
        segments: tuple[Segment, ...] = (),
        *,
        is_checkpointed: bool = False,
    ) -> tuple[jax.Array, KeyValues]:
        """Read rows of tokens, each attending causally to itself and to the segments.

        Args:
            tokens: int `[B, T]`.
            positions: int32 `[B, T]`; the first real token that ever precedes a row has 0, padding
                does not count.
            is_real: bool `[B, T]`; False marks padding, which no token attends to.
            segments: What was read before, see `Segment`.
            is_checkpointed: Whether gradients recompute each layer instead of keeping its inner
                activations; also the faster way on a CPU, where memory traffic costs more.

        Returns:
            Hidden states `[B, T, D]` after the final norm, finite but meaningless at padding; and
            this call's own keys and values `[L, B, T, K, head_dim]`.
        """
        hidden, reading = self._open(tokens, positions, is_real, segments)

        def read_layer(hidden: jax.Array, scanned: ScannedLayer) -> tuple[jax.Array, KeyValues]:
            return reading.read(hidden, scanned)

        if is_checkpointed:
            read_layer = jax.checkpoint(read_layer, prevent_cse=False)
        hidden, key_values = jax.lax.scan(read_layer, hidden, reading.layers)
        return self.final_norm(hidden), key_values

    def key_values(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        is_real: jax.Array,
        segments: tuple[Segment, ...] = (),
    ) -> KeyValues:
        """Read rows that are only to be attended to, at little more than the cost of L - 1 layers.

        Arguments and result as of a call.
        """
        return self._read_below_last(*self._open(tokens, positions, is_real, segments))[-1]

    def read_at(
        self,
        columns: jax.Array,
        tokens: jax.Array,
        positions: jax.Array,
        is_real: jax.Array,
        segments: tuple[Segment, ...] = (),
    ) -> tuple[jax.Array, KeyValues]:
        """Read rows of which few tokens are to be continued: those alone are in the last layer.

        Args:
            columns: int32 `[B, Q]`, where those tokens are in each row.
            tokens, positions, is_real, segments: As of a call.

        Returns:
            Hidden states `[B, Q, D]` after the final norm, and keys and values as of a call.
        """
        hidden, reading = self._open(tokens, positions, is_real, segments)
        hidden, own, key_values = self._read_below_last(hidden, reading)
        at_columns = jnp.take_along_axis(hidden, columns[..., None], axis=1)
        last = reading.layer(self.config.num_layers - 1)
        hidden, _ = reading.at(columns).read(at_columns, last, own)
        return self.final_norm(hidden), key_values

    def _open(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        is_real: jax.Array,
        segments: tuple[Segment, ...],
    ) -> tuple[jax.Array, Reading]:
        """Return the residual stream `[B, T, D]` before the first layer, and what layers share."""
        config = self.config
        graphdef, params = nnx.split(self.layers)
        ropes = tuple(dict.fromkeys(config.ropes))
        size = config.rotary_size
        tables = [rotations(rope, size, config.head_dim, positions) for rope in ropes]
        cosines, sines = (jnp.stack(table) for table in zip(*tables, strict=True))
        sights = (segment_sight(positions, past) for past in segments)
        reading = Reading(
            graphdef=graphdef,
            layers=ScannedLayer(
                params,
                jnp.asarray([NO_WINDOW if window is None else window for window in config.windows]),
                jnp.asarray([ropes.index(rope) for rope in config.ropes]),
                tuple(past.key_values for past in segments),
            ),
            positions=positions,
            segments=segments,
            sights=(own_sight(positions, is_real), *sights),
            cosines=cosines,
            sines=sines,
            is_windowless=config.is_windowless,
        )
        hidden = embed(self.embedding[...], tokens)
        hidden = hidden * jnp.asarray(config.embedding_scale, hidden.dtype)
        if self.positions is not None:
            hidden = hidden + embed(self.positions[...], positions)
        return hidden, reading

    def _read_below_last(
        self, hidden: jax.Array, reading: Reading
    ) -> tuple[jax.Array, KeyValues, KeyValues]:
        """Return rows before the last layer, its keys and values, and those of all layers."""
        config, last = self.config, self.config.num_layers - 1
        heads = (config.num_kv_heads, config.head_dim)
        empty = jnp.zeros((config.num_layers, *hidden.shape[:-1], *heads), hidden.dtype)

        def keep(kept: KeyValues, own: KeyValues, index: int | jax.Array) -> KeyValues:
            return jax.tree.map(lambda each, one: each.at[index].set(one), kept, own)

        def read_layer(
            carry: tuple[jax.Array, KeyValues], index: jax.Array
        ) -> tuple[tuple[jax.Array, KeyValues], None]:
            hidden, kept = carry
            hidden, own = reading.read(hidden, reading.layer(index))
            return (hidden, keep(kept, own, index)), None

        # Layers are taken by their index, and what is kept is written in place: a part of what is
        # stacked, or a layer added to it, would be a copy.
        start = (hidden, KeyValues(empty, empty))
        (hidden, kept), _ = jax.lax.scan(read_layer, start, jnp.arange(last, dtype=jnp.int32))
        own = reading.key_values(hidden, reading.layer(last))
        return hidden, own, keep(kept, own, last)

    def logits(self, hidden: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
        """Return next-token logits, float32 `[..., V]`, of final hidden states `[..., D]`.

        Args:
          tokens: int32 `[n]`, whose logits alone are computed, float32 `[..., n]`; None for all.
        """
        if self.head is None:
            rows = self.embedding[...] if tokens is None else self.embedding[tokens]
            kernel = rows.T
        else:
            kernel = self.head.kernel[...] if tokens is None else self.head.kernel[:, tokens]
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        return soft_cap(logits / self.config.logit_divisor, self.config.logit_cap)
