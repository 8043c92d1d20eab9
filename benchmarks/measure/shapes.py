"""Random weights in the shapes of known models, and claims of random tokens for them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from icmjax.lm import (
    Decoder,
    DecoderConfig,
    Implementation,
    LanguageModel,
    Platform,
    RopeConfig,
    check_attention,
    platform_of,
    spread_config,
    weights_on,
)
from icmjax.prompts import TokenizedClaims

# Llama 3.2 1B, and Llama 3.1 8B, 70B and 405B: layers, width, MLP width, heads, key-value heads,
# head size.
SHAPES = {
    "tiny": (2, 64, 128, 4, 2, 16),
    "1b": (16, 2048, 8192, 32, 8, 64),
    "8b": (32, 4096, 14336, 32, 8, 128),
    "70b": (80, 8192, 28672, 64, 8, 128),
    "405b": (126, 16384, 53248, 128, 8, 128),
}
VOCAB_SIZE = 128_256


def shape_config(
    name: str, attention: Implementation = "einsum", platform: Platform = "cpu"
) -> DecoderConfig:
    """A Llama of one of the shapes."""
    num_layers, hidden, mlp, heads, kv_heads, head_dim = SHAPES[name]
    return DecoderConfig(
        vocab_size=512 if name == "tiny" else VOCAB_SIZE,
        num_layers=num_layers,
        hidden_size=hidden,
        mlp_size=mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_length=1 << 17,
        ropes=(RopeConfig(theta=500_000.0),) * num_layers,
        windows=(None,) * num_layers,
        attention=attention,
        platform=platform,
    )


def shape_bytes(name: str) -> int:
    """Bytes of the bfloat16 weights of a shape."""
    params = abstract_lm(name).params
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def abstract_lm(
    name: str,
    mesh: Mesh | None = None,
    attention: Implementation = "einsum",
    platform: Platform = "tpu",
) -> LanguageModel:
    """A Llama whose bfloat16 weights are shapes alone, each where it would lie on a mesh."""
    config = shape_config(name, attention, platform)
    if mesh is not None:
        config = spread_config(config, mesh)
    abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), jnp.dtype(jnp.bfloat16)))
    graphdef, shapes = nnx.split(abstract)
    if mesh is None:
        return LanguageModel(config, shapes, graphdef, None, name)
    place = weights_on(mesh, config)
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(shapes))
    placed = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(path, leaf.shape))
        for path, leaf in flat.items()
    }
    nnx.replace_by_pure_dict(shapes, nnx.traversals.unflatten_mapping(placed))
    return LanguageModel(config, shapes, graphdef, None, name, mesh=mesh)


def random_lm(name: str, attention: Implementation = "einsum") -> LanguageModel:
    """A Llama of random bfloat16 weights, without a tokenizer.

    Raises:
        CheckpointError: This device cannot compute attention in this way.
    """
    config = shape_config(name, attention, platform_of())
    check_attention(config, "bfloat16")
    abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), jnp.dtype(jnp.bfloat16)))
    graphdef, shapes = nnx.split(abstract)

    # Drawn leaf by leaf in bfloat16, so that float32 copies never fill the device.
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
        jnp.ones(leaf.shape, leaf.dtype)
        if leaf.ndim == 1 or leaf.shape == (config.num_layers, config.hidden_size)
        else 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return LanguageModel(config, jax.tree.unflatten(tree, drawn), graphdef, None, name)


def random_tokens(num_claims: int, length: int, vocab_size: int) -> TokenizedClaims:
    """Claims of about `length` tokens with labels of one token."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length * 4 // 5, length * 6 // 5 + 1, num_claims).astype(np.int32)
    width = int(lengths.max())
    texts = rng.integers(10, vocab_size, (num_claims, width)).astype(np.int32)
    column = np.arange(width)
    queries = np.where(column < lengths[:, None], texts, 0)
    demonstrations = np.zeros((num_claims, 2, width + 2), np.int32)
    demonstrations[:, :, :width] = queries[:, None]
    for label in range(2):
        demonstrations[np.arange(num_claims), label, lengths] = 3 + label
        demonstrations[np.arange(num_claims), label, lengths + 1] = 2
    return TokenizedClaims(
        preamble=np.array([1], np.int32),
        queries=queries,
        query_lengths=lengths,
        demonstrations=demonstrations,
        demonstration_lengths=np.repeat(lengths[:, None] + 2, 2, axis=1),
        label_forms=np.array([[[3]], [[4]]], np.int32),
        label_form_lengths=np.ones((2, 1), np.int32),
    )
