"""The decoder computes what transformers computes on torch, family by family and field by field."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from flax import nnx
from safetensors.numpy import load_file, save_file

from icmjax.errors import CheckpointError
from icmjax.lm import LanguageModel, Segment, load_lm, save_hf

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
# Each has attention unlike the others': grouped heads, caps and windows, two ropes, none.
KERNEL_FAMILIES = ("llama", "gemma2", "gemma3", "gpt2")
YARN = {
    "rope_type": "yarn",
    "rope_theta": 900.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 900.0,
    "short_factor": [1.0, 1.1, 1.3, 2.0],
    "long_factor": [1.5, 2.0, 4.0, 9.0],
    "original_max_position_embeddings": 64,
}
OLMO3_ROPES = {"sliding_attention": GEMMA3_ROPES["sliding_attention"], "full_attention": YARN}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 900.0, "factor": 4.0}
PARTIAL = {"rope_type": "default", "rope_theta": 900.0, "partial_rotary_factor": 0.5}
CASES |= {
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama yarn, all said": (
        "llama",
        {
            "rope_parameters": YARN
            | {"beta_fast": 3.0, "beta_slow": 0.3, "truncate": False, "attention_factor": 0.7}
        },
    ),
    "qwen3 yarn, scales": (
        "qwen3",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.4}},
    ),
    "llama dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "mixtral": ("mixtral", {}),
    "mixtral window, one expert": ("mixtral", {"sliding_window": 7, "num_experts_per_tok": 1}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe normalised": ("qwen3_moe", {"norm_topk_prob": True}),
    "olmo3": ("olmo3", {}),
    "olmo3 yarn": ("olmo3", {"rope_parameters": OLMO3_ROPES}),
    "phi3": ("phi3", {}),
    "phi3 window, partial": ("phi3", {"sliding_window": 7, "rope_parameters": PARTIAL}),
    "phi3 longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
    ),
    "phi3 longrope, amplitude": (
        "phi3",
        {
            "rope_parameters": LONGROPE | {"attention_factor": 0.6},
            "original_max_position_embeddings": 64,
        },
    ),
    "gpt2": ("gpt2", {}),
    "gpt2 inner": ("gpt2", {"n_inner": 40, "activation_function": "gelu"}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox no bias, whole": (
        "gpt_neox",
        {"attention_bias": False, "rope_parameters": PARTIAL | {"partial_rotary_factor": 1.0}},
    ),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", {}),
    "stablelm": ("stablelm", {"rope_parameters": PARTIAL}),
    "stablelm 12b": (
        "stablelm",
        {
            "use_qkv_bias": True,
            "qk_layernorm": True,
            "use_parallel_residual": True,
            "rope_parameters": PARTIAL,
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


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_a_gemma_that_sees(tmp_path: Path, prefix: str):
    """As published, and as transformers 5 writes it."""
    model = make_checkpoint(tmp_path, "gemma3")
    tensors = load_file(tmp_path / "model.safetensors")
    named = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    named["vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"] = np.ones(3, np.float32)
    named["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(3, np.float32)
    save_file(named, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    eos_id = text.pop("eos_token_id")
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": eos_id}))
    lm = load_lm(tmp_path)
    assert_parity(lm, model)
    assert set(lm.ignored_fields) <= {"_sliding_window_pattern"}


def test_longrope_has_one_set_of_factors_for_prompts_of_every_length(tmp_path: Path):
    """Those of long prompts where these are asked for, as transformers takes them of long ones."""
    rope = LONGROPE | {"original_max_position_embeddings": 32}
    fields = {"rope_parameters": rope, "original_max_position_embeddings": 32}
    model = make_checkpoint(tmp_path, "phi3", **fields)
    assert_parity(load_lm(tmp_path, max_length=512), model)
    lm = load_lm(tmp_path)
    assert lm.max_length == 32
    assert lm.config.ropes != load_lm(tmp_path, max_length=33).config.ropes
    with pytest.raises(CheckpointError, match="Give 512 or less"):
        load_lm(tmp_path, max_length=513)


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


SHORT = {"sliding_window": 7}
WINDOWS = dict.fromkeys(("mistral", "gemma2", "gemma3", "mixtral", "phi3"), SHORT)


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        pytest.param(
            family,
            attention,
            marks=() if (family, attention) == ("gemma2", "einsum") else pytest.mark.slow,
        )
        for family in FAMILIES
        for attention in ("einsum", "flash")
        if attention == "einsum" or family in KERNEL_FAMILIES
    ],
)
def test_what_was_read_before_is_as_good_as_read_anew(
    monkeypatch, tmp_path: Path, family: str, attention: str
):
    """Rows after a segment that holds their beginnings, which a window reaches back into."""
    model = make_checkpoint(tmp_path, family, **WINDOWS.get(family, {}))
    monkeypatch.setattr("icmjax.lm.loading.check_attention", lambda *_: None)
    lm = load_lm(tmp_path, attention=attention)
    tokens, positions, is_real = batch(lm)
    expected = torch_logits(model, tokens, is_real)

    @jax.jit
    def in_pieces(lm: LanguageModel) -> jax.Array:
        decoder = lm.decoder()
        first, second = (
            tuple(each[:, cut] for each in (tokens, positions, is_real))
            for cut in (slice(17), slice(17, None))
        )
        hidden, key_values = decoder(*first)
        after, _ = decoder(*second, (Segment(key_values, *first[1:]),))
        return decoder.logits(jnp.concatenate([hidden, after], axis=1))

    is_real = np.asarray(is_real)
    error = np.abs(np.asarray(in_pieces(lm)) - expected)[is_real].max()
    assert error <= 2e-5 * np.abs(expected[is_real]).max()


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        pytest.param(
            family,
            attention,
            marks=() if family in ("llama", "gemma2") else pytest.mark.slow,
        )
        for family in FAMILIES
        for attention in ("einsum", "flash")
        if attention == "einsum" or family in KERNEL_FAMILIES
    ],
)
def test_bfloat16_is_as_close_as_torch_is(monkeypatch, tmp_path: Path, family: str, attention: str):
    """Our error against float32 is within 1.5 times that of torch in bfloat16."""
    monkeypatch.setattr("icmjax.lm.loading.check_attention", lambda *_: None)
    model = make_checkpoint(tmp_path, family)
    inputs = batch(load_lm(tmp_path))
    is_real = np.asarray(inputs[2])
    exact = torch_logits(model, inputs[0], is_real)[is_real]
    theirs = torch_logits(model.to(torch.bfloat16), inputs[0], is_real)[is_real]
    lm = load_lm(tmp_path, dtype="bfloat16", attention=attention)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(lm.params))
    ours = np.asarray(logits(lm, *inputs))[is_real]
    assert ours.dtype == np.float32
    errors = [np.sqrt(np.mean((each - exact) ** 2, axis=-1)) for each in (ours, theirs)]
    # A token at the border between two experts may be sent to the other by either of them.
    typical = np.median if lm.config.num_experts else lambda each: np.sqrt(np.mean(each**2))
    assert typical(errors[0]) < 1.5 * typical(errors[1])
