"""The families of models: how each one's configuration differs from Llama's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from icmjax.lm.fields import COMMON_FIELDS
from icmjax.lm.layouts import (
    FUSED,
    GPT2,
    GPT_NEOX,
    LLAMA,
    MIXTRAL,
    POST_NORMS,
    QWEN_MOE,
    STABLELM,
    Layout,
)

ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def _nothing(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """How one `model_type` differs from Llama."""

    fields: frozenset[str] = frozenset()  # read beside COMMON_FIELDS
    settings_fn: Callable[[Mapping[str, Any]], dict[str, Any]] = _nothing
    activation: str = "hidden_act"  # the field that names it
    layout: Layout = LLAMA
    is_partly_rotated: bool = False  # whether its heads may be rotated in part
    names: Mapping[str, str] = field(default_factory=dict)  # its own of common fields → the common

    @property
    def computed(self) -> frozenset[str]:
        """The fields that the decoder computes."""
        return COMMON_FIELDS | self.fields | {self.activation} | self.names.keys()

    def common(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields by their common names."""
        return {self.names.get(name, name): value for name, value in fields.items()}


def _gemma_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm_offset": 1.0,
        "has_post_norms": True,
        "query_size": float(fields["query_pre_attn_scalar"]),
        "score_cap": fields["attn_logit_softcapping"],
        "logit_cap": fields["final_logit_softcapping"],
        "embedding_scale": fields["hidden_size"] ** 0.5,
    }


def _olmo_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"has_pre_norms": False, "has_post_norms": True, "qk_norm": "flat"}


def _expert_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mlp_size": fields.get("moe_intermediate_size", fields["intermediate_size"]),
        "num_experts": fields["num_local_experts"],
        "num_chosen_experts": fields["num_experts_per_tok"],
        "normalizes_experts": fields.get("norm_topk_prob", True),
    }


def _granite_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embedding_scale": fields["embedding_multiplier"],
        "query_size": fields["attention_multiplier"] ** -2,
        "residual_multiplier": fields["residual_multiplier"],
        "logit_divisor": fields["logits_scaling"],
    }


def _gpt2_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "has_positions": True,
        "norm": "layer",
        "has_gate": False,
        "attention_bias": True,
        "attention_out_bias": True,
        "mlp_bias": True,
    }


def _neox_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm": "layer",
        "has_gate": False,
        "mlp_bias": True,
        "residual": "parallel" if fields["use_parallel_residual"] else "sequential",
    }


def _stablelm_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm": "layer",
        "attention_bias": fields["use_qkv_bias"],
        "attention_out_bias": False,
        "qk_norm": "own" if fields["qk_layernorm"] else "none",
        "residual": "shared" if fields["use_parallel_residual"] else "sequential",
    }


LAYER_TYPES = {"sliding_window", "layer_types"}
GEMMA = {"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"}
# Two of these, like Gemma 3's sliding_window_pattern, only say how transformers fills layer_types.
QWEN_LAYER_TYPES = {"use_sliding_window", "max_window_layers"} | LAYER_TYPES
EXPERTS = {"num_experts_per_tok", "num_local_experts"}

FAMILIES = {
    "llama": Family(frozenset({"attention_bias", "mlp_bias"})),
    "mistral": Family(frozenset({"sliding_window"})),
    "mixtral": Family(frozenset({"sliding_window"} | EXPERTS), _expert_settings, layout=MIXTRAL),
    "qwen2": Family(frozenset(QWEN_LAYER_TYPES), lambda fields: {"attention_bias": True}),
    "qwen3": Family(
        frozenset({"attention_bias"} | QWEN_LAYER_TYPES), lambda fields: {"qk_norm": "head"}
    ),
    "qwen3_moe": Family(
        frozenset(
            {"attention_bias", "moe_intermediate_size", "norm_topk_prob", "num_experts"}
            | {"use_sliding_window", "max_window_layers", "sliding_window"}
            | EXPERTS
        ),
        lambda fields: _expert_settings(fields) | {"qk_norm": "head"},
        layout=QWEN_MOE,
    ),
    "olmo2": Family(frozenset({"attention_bias"}), _olmo_settings, layout=POST_NORMS),
    "olmo3": Family(frozenset({"attention_bias"} | LAYER_TYPES), _olmo_settings, layout=POST_NORMS),
    "gemma2": Family(
        frozenset({"attention_bias"} | LAYER_TYPES | GEMMA),
        _gemma_settings,
        "hidden_activation",
        POST_NORMS,
    ),
    "gemma3_text": Family(
        frozenset({"attention_bias", "sliding_window_pattern"} | LAYER_TYPES | GEMMA),
        lambda fields: _gemma_settings(fields) | {"qk_norm": "head"},
        "hidden_activation",
        POST_NORMS,
    ),
    "phi3": Family(
        frozenset({"sliding_window", "original_max_position_embeddings"}),
        layout=FUSED,
        is_partly_rotated=True,
    ),
    "smollm3": Family(
        frozenset({"attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval"})
        | QWEN_LAYER_TYPES
    ),
    "granite": Family(
        frozenset(
            "attention_bias mlp_bias embedding_multiplier attention_multiplier "
            "residual_multiplier logits_scaling".split()
        ),
        _granite_settings,
    ),
    "gpt2": Family(
        frozenset(),
        _gpt2_settings,
        "activation_function",
        GPT2,
        names={
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_inner": "intermediate_size",
            "n_positions": "max_position_embeddings",
            "layer_norm_epsilon": "rms_norm_eps",
        },
    ),
    "gpt_neox": Family(
        frozenset({"attention_bias", "use_parallel_residual", "rotary_pct", "rotary_emb_base"}),
        _neox_settings,
        layout=GPT_NEOX,
        is_partly_rotated=True,
        names={"layer_norm_eps": "rms_norm_eps"},
    ),
    "stablelm": Family(
        frozenset({"use_qkv_bias", "qk_layernorm", "use_parallel_residual"}),
        _stablelm_settings,
        layout=STABLELM,
        is_partly_rotated=True,
        names={"layer_norm_eps": "rms_norm_eps"},
    ),
}
