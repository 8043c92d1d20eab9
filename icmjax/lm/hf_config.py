"""How the decoder's configuration is read from a Hugging Face configuration, and written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.config import DecoderConfig
from icmjax.lm.families import ACTIVATIONS, FAMILIES, Family
from icmjax.lm.fields import OLD_ROPE_FIELDS, kind_faults, sort_fields
from icmjax.lm.files import CONFIG_FILE
from icmjax.lm.layouts import Layout
from icmjax.lm.quiet import quiet_transformers
from icmjax.lm.rope import EXPORTED, NEEDED, RENAMED, RopeConfig, rope_from_hf

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ReadConfig(NamedTuple):
    """What is read of a config.json."""

    config: DecoderConfig
    layout: Layout  # of its weights
    hf_config: "PretrainedConfig"
    ignored_fields: tuple[str, ...]  # which neither transformers nor the decoder knows


def read_config(fields: Mapping[str, Any], max_length: int | None = None) -> ReadConfig:
    """Return the decoder's configuration by the fields of a config.json.

    The fields alone reach transformers, and of them those that it reads: no Python that comes
    with a model is run.

    Args:
        fields: Of the file; of a model that sees as well, those of its language model are read.
        max_length: As of `config_from_hf`.

    Raises:
        CheckpointError: As of `config_from_hf`; or a field is not of the kind it has to be.
    """
    fields = _language_fields(fields)
    family = _family(fields.get("model_type"))
    model_type = fields["model_type"]
    with quiet_transformers():
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        defaults = AutoConfig.for_model(model_type).to_dict()
        read, ignored, faults = sort_fields(fields, family.computed | OLD_ROPE_FIELDS, defaults)
        faults += kind_faults(read)
        if faults:
            raise CheckpointError(faults)
        # Null is a value to transformers where the family does not declare the field.
        read = {
            name: value for name, value in read.items() if value is not None or name in defaults
        }
        try:
            hf_config = AutoConfig.for_model(model_type, **read)
        # Fields that contradict each other or are absent; null where there has to be a value.
        except (ValueError, KeyError, StrictDataclassError) as error:
            raise CheckpointError(
                Fault(
                    rule="The configuration must be one that transformers can read.",
                    found=" ".join(str(error).split()),
                    where=CONFIG_FILE,
                    remedy="Use the config.json that belongs to the weights.",
                )
            ) from error
        config = config_from_hf(hf_config, max_length)
        return ReadConfig(config, family.layout, hf_config, ignored)


def _language_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model: of Gemma 3 from 4B on they are a part of the file."""
    language = fields.get("text_config")
    if fields.get("model_type") != "gemma3" or not isinstance(language, Mapping):
        return fields
    outer = {name: fields[name] for name in ("bos_token_id", "eos_token_id") if name in fields}
    return outer | dict(language) | {"model_type": "gemma3_text"}


def config_from_hf(hf_config: "PretrainedConfig", max_length: int | None = None) -> DecoderConfig:
    """Return the decoder's configuration of a `transformers` configuration.

    Args:
        hf_config: Of a family that the decoder computes.
        max_length: Tokens that prompts may have; None for what the model was made for, or where
            its positions are scaled by "longrope", for the length up to which those are short:
            transformers scales by the length of each prompt, and here all prompts are scaled alike.

    Raises:
        CheckpointError: The family or a scaling of its positions is not supported, a field is
            set that transformers reads and that the decoder does not compute, or `max_length` is
            longer than what the model was made for.
    """
    family = _family(hf_config.model_type)
    defaults = type(hf_config)().to_dict()
    fields, _, faults = sort_fields(hf_config.to_dict(), family.computed, defaults)
    faults += _activation_faults(family, fields)
    fields = _without_gaps(family.common(fields))
    faults += _shape_faults(fields)
    stated = fields["max_position_embeddings"]
    longest = _short_length(fields) if max_length is None else max_length
    if not 0 < longest <= stated:
        rule = "Prompts are at most as long as the model was made for."
        faults.append(Fault(rule, f"{longest} tokens", "max_length", f"Give {stated} or less."))
    layer_types = _layer_types(fields)
    ropes: dict[str, RopeConfig | None] = {}
    for layer_type in dict.fromkeys(layer_types):
        if "rope_parameters" not in fields:
            ropes[layer_type] = None
            continue
        ropes[layer_type], rope_faults = rope_from_hf(
            fields["rope_parameters"], layer_type, _head_dim(fields), (stated, longest)
        )
        faults += rope_faults
    fractions = {rope.fraction for rope in ropes.values() if rope is not None}
    if fractions - {1.0} and not family.is_partly_rotated:
        rule = f"Heads of a {hf_config.model_type} model are rotated whole."
        found, where = f"a part of {min(fractions):g}", f"{CONFIG_FILE}: partial_rotary_factor"
        remedy = "Use the config.json that belongs to the weights."
        faults.append(Fault(rule, found, where, remedy))
    if faults:
        raise CheckpointError(faults)
    has_rope = fields.get("no_rope_layers") or [True] * len(layer_types)

    windows = {"full_attention": None, "sliding_attention": fields.get("sliding_window")}
    settings: dict[str, Any] = {
        "vocab_size": fields["vocab_size"],
        "num_layers": fields["num_hidden_layers"],
        "hidden_size": fields["hidden_size"],
        "mlp_size": fields["intermediate_size"],
        "num_heads": fields["num_attention_heads"],
        "num_kv_heads": fields["num_key_value_heads"],
        "head_dim": _head_dim(fields),
        "max_length": longest,
        "ropes": tuple(
            ropes[layer_type] if is_rotated else None
            for layer_type, is_rotated in zip(layer_types, has_rope, strict=True)
        ),
        "windows": tuple(windows[layer_type] for layer_type in layer_types),
        "norm_eps": fields["rms_norm_eps"],
        "activation": ACTIVATIONS[fields[family.activation]],
        "attention_bias": fields.get("attention_bias", False),
        "attention_out_bias": fields.get("attention_bias", False),
        "mlp_bias": fields.get("mlp_bias", False),
        "tie_embeddings": fields["tie_word_embeddings"],
        "bos_id": fields["bos_token_id"],
    }
    return DecoderConfig(**settings | family.settings_fn(fields))


def _without_gaps(fields: dict[str, Any]) -> dict[str, Any]:
    """Fill in what follows from other fields where a family leaves it out."""
    if fields.get("intermediate_size") is None:
        fields["intermediate_size"] = 4 * fields["hidden_size"]
    if "num_key_value_heads" not in fields:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    return fields


def _short_length(fields: Mapping[str, Any]) -> int:
    """The most tokens by default: of "longrope" as many as its short factors are for."""
    parameters, stated = fields.get("rope_parameters") or {}, fields["max_position_embeddings"]
    if parameters.get("rope_type") == "longrope":
        return min(parameters.get("original_max_position_embeddings") or stated, stated)
    return stated


def _family(model_type: Any) -> Family:
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is not None:
        return family
    raise CheckpointError(
        Fault(
            rule="The model must be of a family that the decoder computes.",
            found="no model_type" if model_type is None else f"model_type {model_type!r}",
            where=f"{CONFIG_FILE}: model_type",
            remedy=f"Use a model of one of {', '.join(sorted(FAMILIES))}.",
        )
    )


def _activation_faults(family: Family, fields: Mapping[str, Any]) -> list[Fault]:
    if fields[family.activation] in ACTIVATIONS:
        return []
    return [
        Fault(
            rule="The activation must be one that the decoder computes.",
            found=repr(fields[family.activation]),
            where=f"{CONFIG_FILE}: {family.activation}",
            remedy=f"Use a model with one of {', '.join(sorted(ACTIVATIONS))}.",
        )
    ]


def _shape_faults(fields: Mapping[str, Any]) -> list[Fault]:
    faults = []
    num_heads, num_kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    # Null is left standing by transformers 5.0 where later versions refuse it.
    if not num_kv_heads or num_heads % num_kv_heads:
        faults.append(
            Fault(
                rule="The number of key-value heads must divide the number of heads.",
                found=f"{num_kv_heads} key-value heads for {num_heads} heads",
                where="config.json: num_key_value_heads",
                remedy="Use the config.json that belongs to the weights.",
            )
        )
    num_flags = len(fields.get("no_rope_layers") or _layer_types(fields))
    if num_flags != fields["num_hidden_layers"]:
        faults.append(
            Fault(
                rule="Every layer has its positions rotated or not.",
                found=f"{num_flags} flags for {fields['num_hidden_layers']} layers",
                where=f"{CONFIG_FILE}: no_rope_layers",
                remedy="Use the config.json that belongs to the weights.",
            )
        )
    num_experts, num_chosen = (
        fields.get(name, 0) for name in ("num_local_experts", "num_experts_per_tok")
    )
    if num_chosen > num_experts:
        faults.append(
            Fault(
                rule="A token is sent to no more experts than there are.",
                found=f"{num_chosen} of {num_experts}",
                where=f"{CONFIG_FILE}: num_experts_per_tok",
                remedy="Use the config.json that belongs to the weights.",
            )
        )
    if "sliding_attention" in _layer_types(fields) and fields.get("sliding_window") is None:
        faults.append(
            Fault(
                rule="Layers with a sliding window need its size.",
                found="null",
                where=f"{CONFIG_FILE}: sliding_window",
                remedy="Use the config.json that belongs to the weights.",
            )
        )
    wrong = sorted(set(_layer_types(fields)) - {"full_attention", "sliding_attention"})
    if wrong or len(_layer_types(fields)) != fields["num_hidden_layers"]:
        faults.append(
            Fault(
                rule="Every layer's type must be full_attention or sliding_attention.",
                found=f"{len(_layer_types(fields))} types, among them {wrong}",
                where="config.json: layer_types",
                remedy="Use a model whose layers are all of these two types.",
            )
        )
    return faults


def _head_dim(fields: Mapping[str, Any]) -> int:
    return fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]


def _layer_types(fields: Mapping[str, Any]) -> list[str]:
    """Return the type of each layer; a family without the field has one type for all."""
    every = "full_attention" if fields.get("sliding_window") is None else "sliding_attention"
    return fields.get("layer_types") or [every] * fields["num_hidden_layers"]


def config_to_hf(config: DecoderConfig, **fields: Any) -> "PretrainedConfig":
    """Return the `transformers` configuration of a decoder that Llama or Qwen3 can express.

    Args:
        config: What the decoder computes.
        fields: Further fields that do not change the computation, such as `eos_token_id`.

    Raises:
        CheckpointError: Neither family computes what the config says.
    """
    with quiet_transformers():
        from transformers import LlamaConfig, Qwen3Config

    # Of what neither family expresses the comparison below tells.
    rope = config.ropes[0] or RopeConfig()
    kind = rope.scaling if rope.scaling in EXPORTED else "default"
    parameters = {name: getattr(rope, RENAMED[name]) for name in NEEDED[kind]}
    fields |= {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_length,
        "rope_parameters": {"rope_type": kind, "rope_theta": rope.theta} | parameters,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "bos_token_id": config.bos_id,
    }
    if config.qk_norm == "head":
        hf_config: PretrainedConfig = Qwen3Config(**fields, architectures=["Qwen3ForCausalLM"])
    else:
        fields["mlp_bias"] = config.mlp_bias
        hf_config = LlamaConfig(**fields, architectures=["LlamaForCausalLM"])
    exported = replace(
        config_from_hf(hf_config), attention=config.attention, platform=config.platform
    )
    if exported != config:
        said, meant = vars(exported), vars(config)
        lost = [f"{name} = {meant[name]!r}" for name in meant if said[name] != meant[name]]
        raise CheckpointError(
            Fault(
                rule="A decoder is exported as Llama, or as Qwen3 where it has query-key norms.",
                found=f"a config that {hf_config.model_type} cannot express: {', '.join(lost)}",
                where="the decoder's config",
                remedy="Export a decoder without windows, caps, post-norms and norm offsets.",
            )
        )
    return hf_config
