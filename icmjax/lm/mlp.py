"""What a layer does to each token by itself: one MLP, or some of many."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.config import DecoderConfig
from icmjax.lm.linear import INIT_SCALE, Linear, residual_scale
from icmjax.lm.quantized import kernel_of

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class MLP(nnx.Module):
    """A gated linear unit (Shazeer, arXiv:2002.05202), or one without a gate."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden_size, mlp_size, bias = config.hidden_size, config.mlp_size, config.mlp_bias
        has_gate = config.has_gate
        self.gate = (
            Linear(hidden_size, mlp_size, bias, INIT_SCALE, dtype, rngs) if has_gate else None
        )
        self.up = Linear(hidden_size, mlp_size, bias, INIT_SCALE, dtype, rngs)
        self.down = Linear(mlp_size, hidden_size, bias, residual_scale(config), dtype, rngs)
        self.activation = config.activation

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[..., D]` to `[..., D]`."""
        activate = ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(activate(self.up(inputs)))
        return self.down(activate(self.gate(inputs)) * self.up(inputs))


class GroupedLinear(nnx.Module):
    """A linear map of each expert."""

    def __init__(self, sizes: tuple[int, int, int], scale: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        kernel = scale * jax.random.normal(rngs.params(), sizes, jnp.float32)
        self.kernel = nnx.Param(kernel.astype(dtype))  # [E, in, out]

    def __call__(self, inputs: jax.Array, group_sizes: jax.Array) -> jax.Array:
        """Map rows `[n, in]`, sorted by their expert, to `[n, out]`.

        Args:
            inputs: The rows.
            group_sizes: int32 `[E]`, rows of each expert.
        """
        return jax.lax.ragged_dot(inputs, kernel_of(self.kernel), group_sizes)


class Experts(nnx.Module):
    """Gated linear units of which each token is sent to a few (arXiv:1701.06538, 2401.04088).

    No token is dropped: the rows of all chosen experts are sorted by expert and multiplied group
    by group.
    """

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        num_experts, hidden_size = config.num_experts, config.hidden_size
        inner, outer = (
            (num_experts, hidden_size, config.mlp_size),
            (num_experts, config.mlp_size, hidden_size),
        )
        self.router = Linear(hidden_size, num_experts, False, INIT_SCALE, dtype, rngs)
        self.gate = GroupedLinear(inner, INIT_SCALE, dtype, rngs)
        self.up = GroupedLinear(inner, INIT_SCALE, dtype, rngs)
        self.down = GroupedLinear(outer, residual_scale(config), dtype, rngs)
        self.config = config

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[..., D]` to `[..., D]`."""
        graphdef, params = nnx.split(self)

        def send(params: nnx.State, tokens: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params).send(tokens)

        @jax.custom_batching.custom_vmap
        def send_rows(params: nnx.State, tokens: jax.Array) -> jax.Array:
            return send(params, tokens)

        @send_rows.def_vmap
        def send_batches(
            axis_size: int, is_batched: tuple, params: nnx.State, tokens: jax.Array
        ) -> tuple[jax.Array, bool]:
            # A token's outputs are its own, so that rows of all batches are sorted together: XLA
            # has no batches of grouped matmuls.
            assert not any(jax.tree.leaves(is_batched[0])), "one set of experts for all"
            rows = tokens.reshape(-1, tokens.shape[-1])
            return send_rows(params, rows).reshape(tokens.shape), True

        # What has a rule for batches of its own has no gradient of its own.
        differentiable = jax.custom_vjp(send_rows)
        differentiable.defvjp(
            lambda *given: (send_rows(*given), given),
            lambda given, gradient: jax.vjp(send, *given)[1](gradient),
        )
        return differentiable(params, inputs.reshape(-1, inputs.shape[-1])).reshape(inputs.shape)

    def send(self, tokens: jax.Array) -> jax.Array:
        """Map tokens `[n, D]` to `[n, D]`."""
        weights, chosen = self.route(tokens)
        by_expert = jnp.argsort(chosen.reshape(-1), stable=True)
        rows = tokens[by_expert // chosen.shape[-1]]
        group_sizes = jnp.bincount(chosen.reshape(-1), length=self.config.num_experts)
        group_sizes = group_sizes.astype(jnp.int32)
        gated = ACTIVATIONS[self.config.activation](self.gate(rows, group_sizes))
        outputs = self.down(gated * self.up(rows, group_sizes), group_sizes)
        outputs = outputs[jnp.argsort(by_expert)].reshape(*chosen.shape, -1)
        return jnp.einsum("tkd,tk->td", outputs, weights)

    def route(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return weights `[n, k]` and int32 `[n, k]`, the experts of tokens `[n, D]`."""
        shares = jax.nn.softmax(self.router(tokens).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(shares, self.config.num_chosen_experts)
        if self.config.normalizes_experts:
            weights /= jnp.sum(weights, axis=-1, keepdims=True)
        return weights.astype(tokens.dtype), chosen
