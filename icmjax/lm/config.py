"""The configuration of the decoder: what it computes, and how."""

from dataclasses import dataclass
from typing import Literal, get_args

from jax.sharding import Mesh

from icmjax.lm.rope import RopeConfig

MODEL_AXIS = "model"  # of a mesh: parts of the weights
Platform = Literal["cpu", "gpu", "tpu"]
Implementation = Literal["einsum", "flash", "xla", "cudnn"]  # of attention; `icmjax.lm.fused`
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


@dataclass(frozen=True, repr=False)
class DecoderConfig:
    """What a decoder computes, and how; models of the same config differ only in weights."""

    vocab_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int  # of each expert where there are experts
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int  # tokens the model was made for
    ropes: tuple[RopeConfig | None, ...]  # one per layer; None rotates nothing
    windows: tuple[int | None, ...]  # one per layer: tokens a query sees, itself included
    has_positions: bool = False  # an embedding of each position is added to that of the token
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # added to every norm's learned scale; Gemma has 1
    has_pre_norms: bool = True  # norms of what attention and MLP read
    has_post_norms: bool = False  # norms of what they add to the residual stream
    # Over each head, over all heads together, or over each head with a scale of its own.
    qk_norm: Literal["none", "head", "flat", "own"] = "none"
    # The MLP reads what attention has added, or what attention reads, normed apart or once.
    residual: Literal["sequential", "parallel", "shared"] = "sequential"
    residual_multiplier: float = 1.0  # of what attention and MLP add
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    has_gate: bool = True  # whether the MLP is a gated linear unit
    num_experts: int = 0  # MLPs, of which a token is sent to some; 0: one MLP for all
    num_chosen_experts: int = 0  # to which a token is sent
    normalizes_experts: bool = True  # whether the chosen experts' weights sum to 1
    attention_bias: bool = False  # of the query, key and value projections
    attention_out_bias: bool = False
    mlp_bias: bool = False
    query_size: float | None = None  # scores are divided by its root; None: head_dim
    score_cap: float | None = None  # attention scores become cap * tanh(score / cap)
    logit_cap: float | None = None
    logit_divisor: float = 1.0
    embedding_scale: float = 1.0
    tie_embeddings: bool = False
    bos_id: int | None = None
    attention: Implementation = "einsum"
    platform: Platform = "cpu"  # that it is compiled for, whatever machine compiles it
    mesh: Mesh | None = None  # that the weights lie on
    kv_repeats: int = 1  # how often each key-value head of the files stands in the parameters

    def __post_init__(self) -> None:
        assert len(self.ropes) == len(self.windows) == self.num_layers
        assert self.num_heads % self.num_kv_heads == 0, "key-value heads must divide the heads"
        sizes = {rope.size(self.head_dim) for rope in self.ropes if rope is not None}
        assert len(sizes) < 2, "all layers that rotate do so with as many dimensions"
        assert self.rotary_size % 2 == 0, "rotary embeddings rotate pairs of dimensions"

    def __repr__(self) -> str:
        """Return the sizes in words; layers that are alike are not spelt out one by one."""
        experts = f"{self.num_experts} experts of " if self.num_experts else ""
        return (
            f"DecoderConfig({self.num_layers} layers, hidden {self.hidden_size}, mlp "
            f"{experts}{self.mlp_size}, heads {self.num_heads}/{self.num_kv_heads} of "
            f"{self.head_dim}, vocab {self.vocab_size}, max_length {self.max_length}, "
            f"{self.attention})"
        )

    @property
    def is_windowless(self) -> bool:
        """Whether every layer sees the whole context."""
        return all(window is None for window in self.windows)

    @property
    def rotary_size(self) -> int:
        """Dimensions of a head that are rotated."""
        return max((rope.size(self.head_dim) for rope in self.ropes if rope is not None), default=0)
