"""The configuration of the decoder, and how it is read from a Hugging Face configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.fields import COMMON_FIELDS, OLD_ROPE_FIELDS, kind_faults, sort_fields
from icmjax.lm.files import CONFIG_FILE
from icmjax.lm.quiet import quiet_transformers
from icmjax.lm.rope import RENAMED, ROPE_FIELDS, RopeConfig, rope_from_hf

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Implementation = Literal["einsum", "xla", "cudnn"]  # of attention; see `icmjax.lm.fused`
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


@dataclass(frozen=True, repr=False)
class DecoderConfig:
    """What a decoder computes, and how; models of the same config differ only in weights."""

    vocab_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int  # tokens the model was made for
    ropes: tuple[RopeConfig, ...]  # one per layer
    windows: tuple[int | None, ...]  # one per layer: tokens a query sees, itself included
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # added to every norm's learned scale; Gemma has 1
    has_pre_norms: bool = True  # norms of what attention and MLP read
    has_post_norms: bool = False  # norms of what they add to the residual stream
    qk_norm: Literal["none", "head", "flat"] = "none"  # over each head, or over all heads together
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    attention_bias: bool = False  # of the query, key and value projections
    attention_out_bias: bool = False
    mlp_bias: bool = False
    query_size: float | None = None  # scores are divided by its root; None: head_dim
    score_cap: float | None = None  # attention scores become cap * tanh(score / cap)
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    tie_embeddings: bool = False
    bos_id: int | None = None
    attention: Implementation = "einsum"

    def __post_init__(self) -> None:
        assert len(self.ropes) == len(self.windows) == self.num_layers
        assert self.num_heads % self.num_kv_heads == 0, "key-value heads must divide the heads"
        assert self.head_dim % 2 == 0, "rotary embeddings rotate pairs of dimensions"

    def __repr__(self) -> str:
        """Return the sizes in words; layers that are alike are not spelt out one by one."""
        return (
            f"DecoderConfig({self.num_layers} layers, hidden {self.hidden_size}, mlp "
            f"{self.mlp_size}, heads {self.num_heads}/{self.num_kv_heads} of {self.head_dim}, "
            f"vocab {self.vocab_size}, max_length {self.max_length}, {self.attention})"
        )

    @property
    def is_windowless(self) -> bool:
        """Whether every layer sees the whole context."""
        return all(window is None for window in self.windows)


class ReadConfig(NamedTuple):
    """What is read of a config.json."""

    config: DecoderConfig
    hf_config: "PretrainedConfig"
    ignored_fields: tuple[str, ...]  # which neither transformers nor the decoder knows


def read_config(fields: Mapping[str, Any]) -> ReadConfig:
    """Return the decoder's configuration by the fields of a config.json.

    The fields alone reach transformers, and of them those that it reads: no Python that comes
    with a model is run.

    Raises:
        CheckpointError: As of `config_from_hf`; or a field is not of the kind it has to be.
    """
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
        return ReadConfig(config_from_hf(hf_config), hf_config, ignored)


def config_from_hf(hf_config: "PretrainedConfig") -> DecoderConfig:
    """Return the decoder's configuration of a `transformers` configuration.

    Raises:
        CheckpointError: The family or a scaling of its positions is not supported, or a field is
            set that transformers reads and that the decoder does not compute.
    """
    family = _family(hf_config.model_type)
    defaults = type(hf_config)().to_dict()
    fields, _, faults = sort_fields(hf_config.to_dict(), family.computed, defaults)
    faults += [*_activation_faults(family, fields), *_shape_faults(fields)]
    layer_types = _layer_types(fields)
    ropes = {}
    for layer_type in dict.fromkeys(layer_types):
        ropes[layer_type], rope_faults = rope_from_hf(fields["rope_parameters"], layer_type)
        faults += rope_faults
    if faults:
        raise CheckpointError(faults)

    windows = {"full_attention": None, "sliding_attention": fields.get("sliding_window")}
    settings: dict[str, Any] = {
        "vocab_size": fields["vocab_size"],
        "num_layers": fields["num_hidden_layers"],
        "hidden_size": fields["hidden_size"],
        "mlp_size": fields["intermediate_size"],
        "num_heads": fields["num_attention_heads"],
        "num_kv_heads": fields["num_key_value_heads"],
        "head_dim": _head_dim(fields),
        "max_length": fields["max_position_embeddings"],
        "ropes": tuple(ropes[layer_type] for layer_type in layer_types),
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


def _family(model_type: Any) -> "Family":
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


ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Family:
    """How one `model_type` differs from Llama."""

    fields: frozenset[str] = frozenset()  # read beside COMMON_FIELDS
    settings_fn: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda fields: {}
    activation: str = "hidden_act"  # the field that names it

    @property
    def computed(self) -> frozenset[str]:
        """The fields that the decoder computes."""
        return COMMON_FIELDS | self.fields | {self.activation}


def _gemma_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm_offset": 1.0,
        "has_post_norms": True,
        "query_size": float(fields["query_pre_attn_scalar"]),
        "score_cap": fields["attn_logit_softcapping"],
        "logit_cap": fields["final_logit_softcapping"],
        "embedding_scale": fields["hidden_size"] ** 0.5,
    }


LAYER_TYPES = {"sliding_window", "layer_types"}
GEMMA = {"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"}
# Two of these, like Gemma 3's sliding_window_pattern, only say how transformers fills layer_types.
QWEN_LAYER_TYPES = {"use_sliding_window", "max_window_layers"} | LAYER_TYPES

FAMILIES = {
    "llama": Family(frozenset({"attention_bias", "mlp_bias"})),
    "mistral": Family(frozenset({"sliding_window"})),
    "qwen2": Family(frozenset(QWEN_LAYER_TYPES), lambda fields: {"attention_bias": True}),
    "qwen3": Family(
        frozenset({"attention_bias"} | QWEN_LAYER_TYPES), lambda fields: {"qk_norm": "head"}
    ),
    "olmo2": Family(
        frozenset({"attention_bias"}),
        lambda fields: {"has_pre_norms": False, "has_post_norms": True, "qk_norm": "flat"},
    ),
    "gemma2": Family(
        frozenset({"attention_bias"} | LAYER_TYPES | GEMMA), _gemma_settings, "hidden_activation"
    ),
    "gemma3_text": Family(
        frozenset({"attention_bias", "sliding_window_pattern"} | LAYER_TYPES | GEMMA),
        lambda fields: _gemma_settings(fields) | {"qk_norm": "head"},
        "hidden_activation",
    ),
}


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
    if _head_dim(fields) % 2:
        faults.append(
            Fault(
                rule="Rotary positions turn pairs of a head's dimensions.",
                found=f"heads of {_head_dim(fields)}",
                where=f"{CONFIG_FILE}: head_dim",
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

    rope = config.ropes[0]
    kind = "default" if rope.scaling == "none" else rope.scaling
    parameters = {name: getattr(rope, RENAMED[name]) for name in ROPE_FIELDS[kind]}
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
    exported = replace(config_from_hf(hf_config), attention=config.attention)
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
