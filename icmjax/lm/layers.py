"""A transformer layer, in the order in which the papers write it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.attention import TILES, attend, soft_cap
from icmjax.lm.config import DecoderConfig
from icmjax.lm.fused import fused_kernel
from icmjax.lm.linear import INIT_SCALE, Linear, residual_scale
from icmjax.lm.mlp import MLP, Experts
from icmjax.lm.norms import Norm, apply, make_head_norm, make_norm
from icmjax.lm.rope import rotate
from icmjax.lm.segments import KeyValues, Sight, Tempering


class Attention(nnx.Module):
    """The projections of attention; how keys are found is in `icmjax.lm.attention`."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden_size, head_dim = config.hidden_size, config.head_dim
        size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
        bias, out_bias = config.attention_bias, config.attention_out_bias
        self.query = Linear(hidden_size, size, bias, INIT_SCALE, dtype, rngs)
        self.key = Linear(hidden_size, kv_size, bias, INIT_SCALE, dtype, rngs)
        self.value = Linear(hidden_size, kv_size, bias, INIT_SCALE, dtype, rngs)
        self.out = Linear(size, hidden_size, out_bias, residual_scale(config), dtype, rngs)
        self.query_norm = make_head_norm(config, config.num_heads, dtype)
        self.key_norm = make_head_norm(config, config.num_kv_heads, dtype)
        self.config = config

    def project_queries(self, inputs: jax.Array) -> jax.Array:
        """Return queries `[B, T, H, head_dim]`."""
        return self._heads(self.query(inputs), self.query_norm)

    def project_keys(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return keys and values `[B, T, K, head_dim]`."""
        return self._heads(self.key(inputs), self.key_norm), self._heads(self.value(inputs), None)

    def _heads(self, flat: jax.Array, norm: Norm | None) -> jax.Array:
        """Split `[B, T, size]` into heads, normed after that or before it as the config says."""
        shape = (*flat.shape[:-1], -1, self.config.head_dim)
        if self.config.qk_norm == "flat":
            return apply(norm, flat).reshape(shape)
        return apply(norm, flat.reshape(shape))

    def score(self, products: jax.Array) -> jax.Array:
        """Scale, and where the config says so cap, products of queries and keys."""
        scale = (self.config.query_size or self.config.head_dim) ** -0.5
        return soft_cap(products * scale, self.config.score_cap)


class Layer(nnx.Module):
    """Attention and MLP with the norms of what each reads and of what each adds."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        def norm(is_present: bool) -> Norm | None:
            return make_norm(config, dtype) if is_present else None

        self.attention_norm = norm(config.has_pre_norms)
        self.attention = Attention(config, dtype, rngs)
        self.attention_post_norm = norm(config.has_post_norms)
        self.mlp_norm = norm(config.has_pre_norms and config.residual != "shared")
        self.mlp = (Experts if config.num_experts else MLP)(config, dtype, rngs)
        self.mlp_post_norm = norm(config.has_post_norms)
        self.config = config

    def key_values(self, normed: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> KeyValues:
        """Return what is seen of rows: keys and values `[B, T, K, head_dim]`.

        Args:
            normed: The residual stream before this layer, after `attention_norm`, `[B, T, D]`.
            rotation: Cosines and sines at the rows' positions, float32 `[B, T, size / 2]`.
        """
        keys, values = self.attention.project_keys(normed)
        return KeyValues(rotate(keys, *rotation), values)

    def read(
        self,
        hidden: jax.Array,
        normed: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        seen: Sequence[KeyValues],
        sights: Sequence[Sight],
        temperings: Sequence[Tempering | None],
        is_whole: bool,
    ) -> jax.Array:
        """Return the residual stream `[B, T, D]` after this layer.

        Args:
            hidden: The residual stream before it, `[B, T, D]`.
            normed, rotation: As of `key_values`.
            seen, sights, temperings, is_whole: As of `attend`.
        """
        attended = self.attend(normed, rotation, seen, sights, temperings, is_whole)
        added = self._scale(apply(self.attention_post_norm, attended))
        match self.config.residual:
            case "sequential":
                transformed = self.mlp(apply(self.mlp_norm, hidden + added))
            case "parallel":
                transformed = self.mlp(apply(self.mlp_norm, hidden))
            case "shared":
                transformed = self.mlp(normed)
        return hidden + added + self._scale(apply(self.mlp_post_norm, transformed))

    def attend(
        self,
        normed: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        seen: Sequence[KeyValues],
        sights: Sequence[Sight],
        temperings: Sequence[Tempering | None],
        is_whole: bool,
    ) -> jax.Array:
        """Return what attention adds to rows `[B, T, D]`, before its post-norm.

        Args:
            normed, rotation: As of `key_values`.
            seen: Keys and values, `[B', S, K, head_dim]`, of the rows themselves and each segment.
            sights: Which of them are seen.
            temperings: Of the segments.
            is_whole: Whether these are all the tokens of their rows, see `attend`.
        """
        queries = rotate(self.attention.project_queries(normed), *rotation)
        kernel, score = fused_kernel(self.config), self.attention.score
        tiles = TILES[self.config.platform]
        mixed = attend(queries, seen, sights, score, temperings, kernel, is_whole, tiles)
        return self.attention.out(mixed.reshape(*normed.shape[:-1], -1))

    def _scale(self, added: jax.Array) -> jax.Array:
        return added * jnp.asarray(self.config.residual_multiplier, added.dtype)
