"""Which tensors of a Hugging Face checkpoint make each parameter of the decoder, by family."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

Path = tuple[str, ...]  # of a module in the decoder's parameters

# Buffers that older versions of transformers wrote; the config says the same.
ROTARY_BUFFERS = r"rotary_emb\.inv_freq$"


class Share(NamedTuple):
    """The part of a tensor, along its output axis, that makes one parameter.

    In a fused tensor blocks of rows of several parameters follow each other: once, or once for
    every head.
    """

    names: tuple[str, ...]  # whose blocks follow each other, of query, key, value or gate, up
    place: int  # which of these
    is_by_head: bool = False  # whether they do so for every head

    def where(self, sizes: Mapping[str, int]) -> slice:
        """The rows, where they follow each other once; sizes are rows of each name."""
        before = sum(sizes[name] for name in self.names[: self.place])
        return slice(before, before + sizes[self.names[self.place]])


@dataclass(frozen=True)
class Layout:
    """The tensors of a family.

    Names stand for "{layer}" along our leading [L], and for "{part}" along the axis after it:
    experts, or heads with scales of their own.
    """

    modules: Mapping[Path, str]
    embedding: str = "model.embed_tokens.weight"
    positions: str = ""
    is_transposed: bool = True  # whether a matrix is [out, in], as of torch's Linear
    renamed: tuple[tuple[str, str], ...] = ()  # patterns of other names in use, and the names here
    ignored: str = ROTARY_BUFFERS  # a pattern of tensors that no language model's parameter reads
    shares: Mapping[Path, Share] = field(default_factory=dict)  # of modules in fused tensors

    def rename(self, name: str) -> str:
        """The name that is used here for a tensor of a file."""
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    @property
    def head(self) -> str:
        """The output head's matrix."""
        return f"{self.modules['head',]}.weight"


def _in_layer(prefix: str, names: Mapping[str, str]) -> dict[Path, str]:
    return {("layers", *path.split(".")): f"{prefix}.{name}" for path, name in names.items()}


def _attention(room: str) -> dict[str, str]:
    """Attention as Llama and most others name it."""
    kinds = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    kinds |= {"query_norm": "q_norm", "key_norm": "k_norm"}
    return {f"attention.{ours}": f"{room}.{theirs}" for ours, theirs in kinds.items()}


MLP = {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
# "post_attention_layernorm" is the norm before the MLP where there is none after the attention.
PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
POST = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
ENDS: dict[Path, str] = {("final_norm",): "model.norm", ("head",): "lm_head"}
ATTENTION = _attention("self_attn")
BLOCK = "model.layers.{layer}"

LLAMA = Layout(ENDS | _in_layer(BLOCK, ATTENTION | MLP | PRE_NORMS))
# Gemma 3 from 4B on sees as well: its language model is one part of the checkpoint.
POST_NORMS = Layout(
    ENDS | _in_layer(BLOCK, ATTENTION | MLP | POST),
    renamed=(
        (r"^(model\.)?language_model\.(model\.)?(?!lm_head)", "model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    ),
    ignored=rf"{ROTARY_BUFFERS}|^(model\.)?(vision_tower|multi_modal_projector)\.",
)


def _experts(room: str, router: str, names: tuple[str, str, str]) -> dict[str, str]:
    kinds = zip(("gate", "up", "down"), names, strict=True)
    experts = {f"mlp.{ours}": f"{room}.experts.{{part}}.{theirs}" for ours, theirs in kinds}
    return {"mlp.router": f"{room}.{router}"} | experts


MIXTRAL_MLP = _experts("block_sparse_moe", "gate", ("w1", "w3", "w2"))
QWEN_MLP = _experts("mlp", "gate", ("gate_proj", "up_proj", "down_proj"))
MIXTRAL = Layout(ENDS | _in_layer(BLOCK, ATTENTION | MIXTRAL_MLP | PRE_NORMS))
QWEN_MOE = Layout(ENDS | _in_layer(BLOCK, ATTENTION | QWEN_MLP | PRE_NORMS))


def _fused(room: Path, names: tuple[str, ...], is_by_head: bool = False) -> dict[Path, Share]:
    return {(*room, name): Share(names, i, is_by_head) for i, name in enumerate(names)}


QKV, GATE_UP = ("query", "key", "value"), ("gate", "up")
ATTENTION_PATH, MLP_PATH = ("layers", "attention"), ("layers", "mlp")


def _all(names: tuple[str, ...], room: str, tensor: str) -> dict[str, str]:
    return {f"{room}.{name}": tensor for name in names}


FUSED = Layout(
    ENDS
    | _in_layer(
        BLOCK,
        _all(QKV, "attention", "self_attn.qkv_proj")
        | {"attention.out": "self_attn.o_proj"}
        | _all(GATE_UP, "mlp", "mlp.gate_up_proj")
        | {"mlp.down": "mlp.down_proj"}
        | PRE_NORMS,
    ),
    shares=_fused(ATTENTION_PATH, QKV) | _fused(MLP_PATH, GATE_UP),
)
STABLELM_NORMS = {
    "attention.query_norm": "self_attn.q_layernorm.norms.{part}",
    "attention.key_norm": "self_attn.k_layernorm.norms.{part}",
}
STABLELM = replace(
    LLAMA, modules=ENDS | _in_layer(BLOCK, ATTENTION | MLP | PRE_NORMS | STABLELM_NORMS)
)
GPT2 = Layout(
    {("final_norm",): "ln_f", ("head",): "lm_head"}
    | _in_layer(
        "h.{layer}",
        _all(QKV, "attention", "attn.c_attn")
        | {"attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
        | {"attention_norm": "ln_1", "mlp_norm": "ln_2"},
    ),
    embedding="wte.weight",
    positions="wpe.weight",
    is_transposed=False,  # its Conv1D is [in, out]
    renamed=((r"^transformer\.", ""),),
    ignored=r"^h\.\d+\.attn\.(masked_)?bias$",  # causal masks
    shares=_fused(ATTENTION_PATH, QKV),
)
GPT_NEOX = Layout(
    {("final_norm",): "gpt_neox.final_layer_norm", ("head",): "embed_out"}
    | _in_layer(
        "gpt_neox.layers.{layer}",
        _all(QKV, "attention", "attention.query_key_value")
        | {"attention.out": "attention.dense"}
        | {"mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h"}
        | {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    ),
    embedding="gpt_neox.embed_in.weight",
    renamed=((r"^lm_head\.", "embed_out."),),
    ignored=rf"attention\.(masked_)?bias$|{ROTARY_BUFFERS}",
    shares=_fused(ATTENTION_PATH, QKV, is_by_head=True),
)
