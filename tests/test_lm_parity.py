"""The decoder computes what transformers computes on torch, family by family and field by field."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from flax import nnx

from icmjax.lm import LanguageModel, load_lm, save_hf

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # short, so that all three ranges of it occur
}
CASES = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama one key-value head": ("llama", {"num_key_value_heads": 1}),
    "llama odd theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    "llama linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 3.0}},
    ),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama norm eps": ("llama", {"rms_norm_eps": 0.3}),
    "llama gelu": ("llama", {"hidden_act": "gelu"}),
    "llama gelu tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "qwen3": ("qwen3", {}),
    "qwen3 tied, biases": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen3 windows": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
}
GEMMA3_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0},
}
CASES |= {
    "qwen2": ("qwen2", {}),
    "qwen2 head_dim": ("qwen2", {"head_dim": 12}),
    "qwen2 windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral window": ("mistral", {"sliding_window": 7}),
    "mistral window of one": ("mistral", {"sliding_window": 1}),  # a token sees itself alone
    "olmo2": ("olmo2", {}),
    "olmo2 biases": ("olmo2", {"attention_bias": True}),
    "gemma2": ("gemma2", {"sliding_window": 7}),
    "gemma2 uncapped": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 7},
    ),
    "gemma2 hard caps": (
        "gemma2",
        {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.3, "sliding_window": 7},
    ),
    "gemma2 query size": ("gemma2", {"query_pre_attn_scalar": 3, "sliding_window": 7}),
    "gemma2 untied": ("gemma2", {"tie_word_embeddings": False}),
    "gemma3": ("gemma3", {"sliding_window": 7, "num_hidden_layers": 7}),
    "gemma3 ropes": (
        "gemma3",
        {
            "sliding_window": 7,
            "rope_parameters": GEMMA3_ROPES,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
}
LENGTHS = (40, 23, 1)  # of the rows, padded to the first


def batch(lm: LanguageModel) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return random tokens, positions and is_real, `[B, T]` each."""
    shape = (len(LENGTHS), max(LENGTHS))
    tokens = jax.random.randint(jax.random.key(0), shape, 0, lm.config.vocab_size, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
    return tokens, positions, positions < jnp.asarray(LENGTHS)[:, None]


@jax.jit
def logits(lm: LanguageModel, tokens: jax.Array, positions: jax.Array, is_real: jax.Array):
    decoder = lm.decoder()
    return decoder.logits(decoder(tokens, positions, is_real)[0])


def torch_logits(model: torch.nn.Module, tokens: np.ndarray, is_real: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        output = model(
            torch.tensor(np.asarray(tokens), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(is_real), dtype=torch.long),
        )
    return output.logits.float().numpy()


def assert_parity(lm: LanguageModel, model: torch.nn.Module) -> None:
    """Check logits at real tokens to 1e-5 of the largest."""
    inputs = batch(lm)
    expected = torch_logits(model, inputs[0], inputs[2])
    is_real = np.asarray(inputs[2])
    error = np.abs(np.asarray(logits(lm, *inputs)) - expected)[is_real].max()
    assert error <= 1e-5 * np.abs(expected[is_real]).max()


@pytest.mark.parametrize(("family", "fields"), CASES.values(), ids=CASES.keys())
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, fields: dict):
    model = make_checkpoint(tmp_path, family, **fields)
    assert_parity(load_lm(tmp_path), model)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_matters(tmp_path: Path, family: str):
    """Parity would not see a weight that no logit depends on."""
    make_checkpoint(tmp_path, family)
    lm = load_lm(tmp_path)
    inputs = batch(lm)

    def total(params: nnx.State) -> jax.Array:
        decoder = nnx.merge(lm.graphdef, params)
        return jnp.sum(jnp.square(decoder.logits(decoder(*inputs)[0])))

    for path, gradient in nnx.to_flat_state(jax.jit(jax.grad(total))(lm.params)):
        assert jnp.any(gradient[...] != 0), path


def test_export_is_read_back_by_transformers_and_by_us(tmp_path: Path):
    for family in ("llama", "qwen3"):
        make_checkpoint(tmp_path / "made", family, tie_word_embeddings=family == "qwen3")
        lm = load_lm(tmp_path / "made")
        save_hf(tmp_path / family, lm.config, lm.params, lm.tokenizer)
        exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / family)
        assert_parity(lm, exported)
        again = load_lm(tmp_path / family)
        assert again.config == lm.config
        assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
        np.testing.assert_array_equal(logits(again, *batch(lm)), logits(lm, *batch(lm)))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16_is_as_close_as_torch_is(tmp_path: Path, family: str):
    """Our error against float32 is within 1.5 times that of torch in bfloat16."""
    model = make_checkpoint(tmp_path, family)
    inputs = batch(load_lm(tmp_path))
    is_real = np.asarray(inputs[2])
    exact = torch_logits(model, inputs[0], is_real)[is_real]
    theirs = torch_logits(model.to(torch.bfloat16), inputs[0], is_real)[is_real]
    lm = load_lm(tmp_path, dtype="bfloat16")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(lm.params))
    ours = np.asarray(logits(lm, *inputs))[is_real]
    assert ours.dtype == np.float32
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 1.5 * np.sqrt(np.mean((theirs - exact) ** 2))
