"""The fields of config.json: which are read, which are refused and which are ignored.

A field that transformers ignores is ignored here too. One that it reads, because the family's
configuration declares it or its code asks for it, has to be one that the decoder computes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from icmjax.errors import Fault
from icmjax.lm.files import CONFIG_FILE, USE_FULL_WEIGHTS

COMMON_FIELDS = frozenset(
    "vocab_size num_hidden_layers hidden_size intermediate_size num_attention_heads "
    "num_key_value_heads head_dim max_position_embeddings rope_parameters rms_norm_eps "
    "tie_word_embeddings bos_token_id".split()
)
# Where configurations of older versions of transformers say what is in rope_parameters today.
OLD_ROPE_FIELDS = frozenset(
    "rope_theta rope_scaling rope_local_base_freq partial_rotary_factor".split()
)
# These change neither the computation of a forward pass nor the weights. The tokens that end a
# text are read with the generation's settings, and the tokenizer's class with the tokenizer.
HARMLESS_FIELDS = frozenset(
    "model_type initializer_range attention_dropout pretraining_tp use_cache eos_token_id "
    "pad_token_id dtype torch_dtype cache_implementation tokenizer_class _name_or_path "
    "_attn_implementation _commit_hash "
    # These matter while a model is trained.
    "resid_pdrop embd_pdrop attn_pdrop hidden_dropout classifier_dropout output_router_logits "
    "router_aux_loss_coef router_jitter_noise "
    # And these to heads that are no language model's.
    "summary_type summary_use_proj summary_activation summary_proj_to_labels "
    "summary_first_dropout".split()
)
# What transformers' code reads of any model, by the values that change nothing.
SHARED_FIELDS: dict[str, Any] = {
    "is_causal": True,
    "sliding_window": None,
    "layer_types": None,
    "attention_chunk_size": None,
    "per_layer_config": None,
    "kv_sharing_modes": None,
    "transformers_weights": None,
}
QUANTISATION_FIELDS = ("quantization_config", "quantization")  # the second is MLX's


class Sorted(NamedTuple):
    """The fields of a configuration, by what becomes of them."""

    read: dict[str, Any]
    ignored: tuple[str, ...]
    faults: list[Fault]


def sort_fields(
    fields: Mapping[str, Any], computed: frozenset[str], defaults: Mapping[str, Any]
) -> Sorted:
    """Return what becomes of each field of a configuration.

    Args:
        fields: As config.json has them.
        computed: The names of those that the decoder computes.
        defaults: The fields that the family's configuration declares, with their defaults.
    """
    harmless = HARMLESS_FIELDS | _undeclared_by_families()
    read, ignored, faults = {}, [], []
    for name, value in fields.items():
        if name in QUANTISATION_FIELDS:
            if value is not None:
                faults.append(_quantised(name, value))
        elif name in computed:
            read[name] = value
        elif name in SHARED_FIELDS or (name in defaults and not name.startswith("_")):
            if name in harmless or _changes_nothing(value, SHARED_FIELDS | dict(defaults), name):
                continue
            faults.append(
                Fault(
                    rule="A field that transformers reads must be one that the decoder computes.",
                    found=f"{name} = {value!r}",
                    where=f"{CONFIG_FILE}: {name}",
                    remedy="Use a model without it.",
                )
            )
        elif name not in harmless:
            ignored.append(name)
    return Sorted(read, tuple(ignored), faults)


def _undeclared_by_families() -> frozenset[str]:
    """What every configuration has, and what transformers moves out of it to the generation's."""
    from transformers import GenerationConfig, PretrainedConfig

    shared = PretrainedConfig().to_dict().keys() | GenerationConfig().to_dict().keys()
    return frozenset(shared - SHARED_FIELDS.keys())


def _changes_nothing(value: Any, defaults: Mapping[str, Any], name: str) -> bool:
    default = defaults[name]
    is_default = type(value) is type(default) and value == default
    return value is None or is_default or (value is False and default is not True)


def _quantised(name: str, value: Any) -> Fault:
    method = value.get("quant_method") if isinstance(value, Mapping) else None
    return Fault(
        rule="Weights are read in full precision.",
        found="quantised weights" if method is None else f"weights quantised by {method}",
        where=f"{CONFIG_FILE}: {name}",
        remedy=USE_FULL_WEIGHTS,
    )


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    # Sizes beyond 32 bits are no array's.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _is_rope(value: Any) -> bool:
    """Whether rotary parameters are an object of texts and numbers, perhaps by layer type."""
    if not isinstance(value, dict):
        return False
    for name, parameter in value.items():
        if name in ("full_attention", "sliding_attention"):
            is_right = _is_rope(parameter)
        elif name in ("rope_type", "type"):
            is_right = isinstance(parameter, str)
        elif name in ROPE_LISTS:
            is_list = isinstance(parameter, list)
            is_right = is_list and all(_is_number(one) and one > 0 for one in parameter)
        elif name == "truncate":
            is_right = isinstance(parameter, bool)
        elif parameter is None:  # where one is needed, `rope_from_hf` says so
            is_right = name not in ("rope_theta", "partial_rotary_factor")
        else:
            is_right = name not in ROPE_NUMBERS or (_is_number(parameter) and parameter > 0)
        if not is_right:
            return False
    return True


ROPE_NUMBERS = frozenset(
    "rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings "
    "partial_rotary_factor attention_factor mscale mscale_all_dim beta_fast beta_slow".split()
)
ROPE_LISTS = frozenset({"short_factor", "long_factor"})


class Kind(NamedTuple):
    """What the value of a field has to be where it is not null."""

    what: str
    is_fn: Callable[[Any], bool]
    names: tuple[str, ...]


KINDS = (
    Kind(
        "a whole number above 0",
        lambda value: _is_whole(value) and value > 0,
        tuple(
            "vocab_size num_hidden_layers hidden_size intermediate_size num_attention_heads "
            "num_key_value_heads head_dim max_position_embeddings sliding_window "
            "sliding_window_pattern original_max_position_embeddings moe_intermediate_size "
            "num_experts num_local_experts num_experts_per_tok n_embd n_layer n_head n_inner "
            "n_positions no_rope_layer_interval".split()
        ),
    ),
    Kind("a whole number", lambda value: _is_whole(value), ("max_window_layers",)),
    Kind("a token's number", lambda value: _is_whole(value), ("bos_token_id",)),
    Kind(
        "a number above 0",
        lambda value: _is_number(value) and value > 0,
        tuple(
            "rms_norm_eps query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping "
            "rope_theta rope_local_base_freq partial_rotary_factor rotary_pct rotary_emb_base "
            "layer_norm_eps "
            "layer_norm_epsilon embedding_multiplier attention_multiplier residual_multiplier "
            "logits_scaling".split()
        ),
    ),
    Kind(
        "true or false",
        lambda value: isinstance(value, bool),
        tuple(
            "tie_word_embeddings attention_bias mlp_bias use_sliding_window norm_topk_prob "
            "use_parallel_residual use_qkv_bias qk_layernorm".split()
        ),
    ),
    Kind(
        "a text",
        lambda value: isinstance(value, str),
        ("hidden_act", "hidden_activation", "activation_function"),
    ),
    Kind(
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        ("layer_types",),
    ),
    Kind(
        "a list of 0 and 1",
        lambda value: isinstance(value, list) and all(one in (0, 1) for one in value),
        ("no_rope_layers",),
    ),
    Kind(
        "an object of rotary parameters, numbers above 0 among them",
        _is_rope,
        ("rope_parameters", "rope_scaling"),
    ),
)


# What no family can do without; transformers 5.0 takes null for it.
NOT_NULL = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "query_pre_attn_scalar",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
)


def kind_faults(fields: Mapping[str, Any]) -> Iterator[Fault]:
    """Return a fault for each value of a kind that transformers would stumble over."""
    for name in NOT_NULL:
        if name in fields and fields[name] is None:
            yield Fault(
                rule=f"{name} is a number.",
                found="null",
                where=f"{CONFIG_FILE}: {name}",
                remedy="Use the config.json that belongs to the weights.",
            )
    for kind in KINDS:
        for name in kind.names:
            value = fields.get(name)
            if value is not None and not kind.is_fn(value):
                yield Fault(
                    rule=f"{name} is {kind.what}.",
                    found=repr(value),
                    where=f"{CONFIG_FILE}: {name}",
                    remedy="Use the config.json that belongs to the weights.",
                )
