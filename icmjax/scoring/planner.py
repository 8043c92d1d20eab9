"""What a scoring pass will take: tokens, padding, decoder calls and bytes, from shapes alone."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from icmjax.errors import Fault, InputError
from icmjax.lm import MODEL_AXIS, TILES, LanguageModel, Platform, Quantized
from icmjax.prompts import TokenizedClaims

MEMORY_BUDGET = 4 << 30  # bytes beside the weights
# What compiled programs took of what is counted here, at most. The TPU's compiler took so much of
# it as `docs/scaling.md` has; for a GPU nothing was compiled.
SLACK: dict[Platform, float] = {"cpu": 1.2, "gpu": 1.2, "tpu": 1.0}
ALIVE_PARTS = 5  # of the attention, which the TPU's compiler merges as they come; by five programs
LANES = 128  # that the last axis of an array is padded to in a TPU's memory
MASK_COPIES = 4
# XLA's own memory is not known before it compiles. So much was seen with an empty cache.
COMPILING = "compiling is not counted (seen: 2.3 GiB more, tempering of 64 claims)"


class PassPlan(NamedTuple):
    """What one pass of a scorer over one labelling takes, every label in its longest form."""

    method: str
    num_claims: int
    num_tokens: int  # real ones
    num_padded_tokens: int  # computed ones
    num_passes: int  # calls of the decoder
    batch_size: int  # labellings, or prompts, read together
    cache_bytes: int  # key-values kept for later tokens
    peak_bytes: int  # of all that is alive at once, the weights apart
    memory_budget: int  # bytes
    num_devices: int = 1  # calls and bytes are of each, tokens of all

    def __str__(self) -> str:
        padding = self.num_padded_tokens / self.num_tokens - 1
        each = "" if self.num_devices == 1 else f" on each of {self.num_devices} devices"
        return (
            f"{self.method}: {self.num_claims} claims, {self.num_tokens} tokens a pass "
            f"({self.num_padded_tokens} with {padding:.0%} padding) in {self.num_passes} decoder "
            f"calls{each}, {self.batch_size} at a time; key-values {in_units(self.cache_bytes)}, "
            f"peak about {in_units(self.peak_bytes)} of {in_units(self.memory_budget)}; {COMPILING}"
        )


def in_units(num_bytes: float) -> str:
    """Bytes for people: 1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def key_value_bytes(lm: LanguageModel) -> int:
    """Bytes of one token's keys and values in all layers; where weights are shared, of a part."""
    config = lm.config
    heads = config.num_kv_heads // _num_parts(lm)
    head_dim = config.head_dim
    if config.platform == "tpu":
        head_dim = -(-head_dim // LANES) * LANES
    return 2 * config.num_layers * heads * head_dim * _itemsize(lm)


def call_bytes(
    lm: LanguageModel,
    num_rows: int,
    width: int,
    segments: Sequence[int] = (),
    num_limits: int = 0,
) -> int:
    """Bytes alive inside of one decoder call, key-values apart: one layer's activations.

    Args:
      num_rows: B.
      width: T, tokens of a row.
      segments: keys that each row sees in each segment.
      num_limits: rows of what sees some keys of a segment and not others (`Segment.is_read`).
    """
    config, num_parts = lm.config, _num_parts(lm)
    num_heads = config.num_heads // num_parts
    heads = num_heads * config.head_dim
    read = [width, *segments]
    # A chunk is of one query of one row at the least.
    most_scores = max(TILES[config.platform].chunk_scores, num_heads * max(read))
    scores = num_rows * num_heads * width * max(read)
    if config.attention == "flash" and not num_limits:
        scores = 0  # never in memory; what rows see apart from one another goes by einsum
    elif config.attention != "xla":
        scores = min(scores, most_scores)
    # The residual stream, its norm, queries, and the parts of the attention in float32; or the
    # gated linear unit.
    num_parts_alive = 2 + len(read)
    if config.platform == "tpu":
        num_parts_alive = min(num_parts_alive, ALIVE_PARTS)
    attention = 3 * config.hidden_size * _itemsize(lm) + num_parts_alive * heads * 4
    unit = 2 * config.hidden_size * _itemsize(lm) + 3 * config.mlp_size // num_parts * _itemsize(lm)
    masks = scores + MASK_COPIES * num_limits * max(read)
    if config.attention == "flash":
        # Queries, and what comes out, in the order of the heads; two statistics in eight lines.
        masks += num_rows * width * (heads * (_itemsize(lm) + 4) + num_heads * 8 * 4)
    elif config.attention != "einsum":
        # What each token sees of all keys, and of the widest as what is added to its scores.
        masks += num_rows * width * (sum(read) + _itemsize(lm) * max(read))
    rows = num_rows * width * max(attention, unit)
    return rows + 2 * 4 * scores + masks + dequantized_bytes(lm)


def dequantized_bytes(lm: LanguageModel) -> int:
    """Bytes of one layer's kernels in the activations' dtype, where they are kept in fewer bits."""
    kept = jax.tree.leaves(lm.params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    sizes = [leaf.values.size for leaf in kept if isinstance(leaf, Quantized)]
    return sum(sizes) * _itemsize(lm) // (lm.config.num_layers * _num_parts(lm))


def logit_bytes(lm: LanguageModel, num_queries: int) -> int:
    """Bytes of the logits and log-probs of so many tokens."""
    return 2 * 4 * num_queries * lm.config.vocab_size


def form_tokens(claims: TokenizedClaims) -> int:
    """Tokens of a query's label forms that are read, which are all but the last of each."""
    num_options, num_forms, width = claims.label_forms.shape
    return num_options * num_forms * (width - 1)


def label_bytes(
    lm: LanguageModel,
    claims: TokenizedClaims,
    num_queries: int,
    segments: Sequence[int],
    num_limits: int = 0,
) -> int:
    """Bytes of the label log-probs of so many queries, long label forms read after the segments.

    Args:
      num_queries: B.
      segments, num_limits: as of `call_bytes`.
    """
    num_options, num_forms, width = claims.label_forms.shape
    first = 2 * 4 * num_queries * num_options * num_forms
    if width == 1:
        return first
    logits = first + logit_bytes(lm, num_queries * form_tokens(claims))
    num_rows = num_queries * num_options * num_forms
    return logits + call_bytes(lm, num_rows, width - 1, segments, num_limits)


def prompt_bytes(lm: LanguageModel, claims: TokenizedClaims, width: int) -> int:
    """Bytes of one prompt of so many tokens that is read alone, at the peak."""
    working = max(call_bytes(lm, 1, width), label_bytes(lm, claims, 1, [width]))
    return int(_slack(lm) * (width * key_value_bytes(lm) + working))


def query_bytes(
    lm: LanguageModel, claims: TokenizedClaims, num_queries: int, segments: Sequence[int]
) -> int:
    """Bytes of so many queries read together, each with limits of its own, and of their labels.

    Args:
      segments: keys of each segment that they read.
    """
    width = claims.queries.shape[1]
    reading = call_bytes(lm, num_queries, width, segments, num_queries)
    labels = label_bytes(lm, claims, num_queries, [*segments, width], num_queries)
    return num_queries * width * key_value_bytes(lm) + max(reading, labels)


def blocks_bytes(lm: LanguageModel, claims: TokenizedClaims, num_queries: int) -> tuple[int, int]:
    """Bytes of all blocks' key-values and of a blockwise pass at the peak.

    Args:
      num_queries: read together.
    """
    num_claims, num_options, width = claims.demonstrations.shape
    # The blocks of every label are kept; those of one labelling are put side by side.
    cached = num_claims * (num_options + 1) * width * key_value_bytes(lm)
    segments = [claims.preamble.shape[0], num_claims * width]
    return cached, int(_slack(lm) * (cached + query_bytes(lm, claims, num_queries, segments)))


def text_bytes(
    lm: LanguageModel, claims: TokenizedClaims, width: int, num_texts: int, num_queries: int
) -> tuple[int, int]:
    """Bytes of the key-values of texts whose queries are read after them, and of all at the peak.

    Args:
      width: tokens of a text.
      num_texts: read together.
      num_queries: of each text, read or labelled together.
    """
    cached = num_texts * width * key_value_bytes(lm)
    working = max(call_bytes(lm, 1, width), query_bytes(lm, claims, num_queries, [width]))
    return cached, int(_slack(lm) * (cached + num_texts * working))


def level_bytes(
    lm: LanguageModel,
    claims: TokenizedClaims,
    arities: Sequence[int],
    widths: Sequence[int],
    num_serial: int,
) -> tuple[int, int]:
    """Bytes of a tree's key-values and of its whole pass at the peak, for one labelling.

    Args:
      arities: children of a node of the level above, per level.
      widths: tokens of each level's rows.
      num_serial: levels, from the top, whose nodes are read one after another.
    """
    rows = np.cumprod([1] * num_serial + list(arities[num_serial:]))
    cached = peak = 0
    # Nothing reads the last level's key-values but label forms of several tokens. On a CPU they are
    # a margin, with which its tables were measured.
    last = len(widths) - 1
    is_last_kept = lm.config.platform != "tpu" or form_tokens(claims) > 0
    for level, (num_rows, width) in enumerate(zip(rows, widths, strict=True)):
        working = call_bytes(lm, int(num_rows), width, [w for w in widths[:level] if w])
        if level < last or is_last_kept:
            cached += int(num_rows) * width * key_value_bytes(lm)
        peak = max(peak, cached + working)
    labels = label_bytes(lm, claims, int(rows[-1]), [width for width in widths if width])
    peak = max(peak, cached + labels)
    return cached, int(_slack(lm) * peak)


def refuse(needed: int, memory_budget: int, batch_size: int | None = None) -> None:
    """Refuse a pass that needs more bytes than the budget.

    Args:
      batch_size: what was asked for, where a smaller one fits.

    Raises:
      InputError: it does.
    """
    if needed > memory_budget:
        where = "memory_budget"
        remedy = (
            "allow more memory, or take fewer or shorter claims, or, in a search, let each query "
            "read fewer of them (`context_size`)"
        )
        if batch_size is not None:
            where = f"batch_size = {batch_size}"
            remedy = "leave `batch_size` out, or allow more memory"
        raise InputError(
            Fault(
                "A scoring pass fits the memory budget.",
                f"{needed} bytes ({in_units(needed)}) at the least, {needed - memory_budget} more "
                "than the budget",
                where,
                remedy,
            )
        )


def fitting_batch(
    bytes_of: Callable[[int], int], most: int, memory_budget: int, batch_size: int | None
) -> int:
    """The batch size asked for, or else the largest of `most` or fewer within the budget.

    Args:
      bytes_of: of a batch of so many; more take no fewer.

    Raises:
      InputError: the one asked for, or a batch of one, is not within it.
    """
    refuse(bytes_of(1), memory_budget)
    if batch_size is not None:
        refuse(bytes_of(batch_size), memory_budget, batch_size)
        return batch_size
    sizes = range(1, max(1, most) + 1)
    return bisect_right(sizes, memory_budget, key=bytes_of)


def _num_parts(lm: LanguageModel) -> int:
    """Devices that share the weights, and with them heads and columns of the MLP."""
    return 1 if lm.mesh is None else lm.mesh.shape[MODEL_AXIS]


def _slack(lm: LanguageModel) -> float:
    return SLACK[lm.config.platform]


def _itemsize(lm: LanguageModel) -> int:
    return jax.tree.leaves(lm.params)[0].dtype.itemsize
