"""How long would a search take at the best rates known, and what memory, on other accelerators?

    python benchmarks/scaling.py

Arithmetic alone: nothing is timed. Of a Llama's shape, N claims of L tokens and some chips are told
  memory   bfloat16 weights on a chip and what the widest pass needs beside them, as planned; with
           int8 weights where bfloat16 ones do not fit, and no time where neither do
  seconds  t = F_dense / (0.70 · peak · chips) + F_attention / (0.5 · peak · chips)
F are the operations of `measure/flops.py` on real tokens, peak the chip's dense bfloat16 rate. 0.7:
the highest published prefill figure on a TPU is 73 % (arXiv:2604.15464). 0.5: FlashAttention-3's
forward kernel reaches 75 % on an H100 (arXiv:2407.08608), and a tree's rows are short. Sums over
chips are taken to cost nothing: real searches are slower.
A search is the default, Marginals: 17 readings of all claims, each after four of them, and one tree
pass. 30 000 claims are 118 sets of 255.
"""

import math
from typing import NamedTuple, get_args

import click
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh
from measure.flops import Operations, Rows, pass_flops, rows_of
from measure.shapes import SHAPES, abstract_lm, random_tokens

from icmjax.lm import CHAIN_AXIS, MODEL_AXIS, QUERY_AXIS, Platform, is_quantized
from icmjax.prompts import TokenizedClaims
from icmjax.scoring import TreeScorer, level_bytes, make_tree_scorer, share
from icmjax.search import Marginals

GIB = 2**30
LENGTH = 60  # tokens of a claim
SETS = {256: (1, 256), 30_000: (118, 255)}  # claims → sets, and claims of each
SHARE_DENSE, SHARE_ATTENTION = 0.7, 0.5  # of a chip's peak
SHARE_MEMORY = 0.9  # of a chip's memory; the rest is the compiler's and the runtime's
NUM_CHIPS = (1, 8, 64)
INT8_BYTES = 1 + 2 / 32  # a weight's, with a bfloat16 step for each 32


class Chip(NamedTuple):
    """What one has, by its maker."""

    gib: float
    tflops: float  # dense bfloat16
    source: str


CHIPS = {
    "v5e": Chip(16, 197, "https://cloud.google.com/tpu/docs/v5e"),
    "v6e": Chip(32, 918, "https://cloud.google.com/tpu/docs/v6e"),
    "v5p": Chip(95, 459, "https://cloud.google.com/tpu/docs/v5p"),
    "H100": Chip(80e9 / GIB, 989, "https://www.nvidia.com/en-us/data-center/h100/"),
    "H200": Chip(141e9 / GIB, 989, "https://www.nvidia.com/en-us/data-center/h200/"),
}


class Memory(NamedTuple):
    """Bytes on a chip."""

    weights: int  # in bfloat16
    few_bits: int  # the same weights in int8
    layer: (
        int  # one layer's kernels in bfloat16, as they are multiplied where they are kept in int8
    )
    beside: int  # of the tree pass, as planned, where the fewest are: topmost levels one by one


class Search(NamedTuple):
    """A search of one set of claims."""

    operations: Operations
    memory: dict[tuple[Platform, int], Memory]  # by platform and number of chips
    num_tokens: int


def search_of(shape: str, num_claims: int) -> Search:
    """The default search of one set."""
    lm = abstract_lm(shape)
    claims = random_tokens(num_claims, LENGTH, lm.config.vocab_size)
    scorer = make_tree_scorer(lm, claims, np.arange(num_claims), memory_budget=1 << 62)
    tree_rows = rows_of(scorer, np.zeros(num_claims, np.int8))
    tree = pass_flops(lm, tree_rows)
    algorithm = Marginals()
    shown = algorithm.num_shots * (LENGTH + 2)
    lengths = np.append(claims.query_lengths, shown)
    before = np.append(np.full(num_claims, shown), 0)
    reading_rows = Rows(lengths, before, claims.query_lengths + shown)
    reading = pass_flops(lm, reading_rows)
    num_readings = algorithm.num_iterations - 1
    return Search(
        operations=Operations(
            *(one + num_readings * each for one, each in zip(tree, reading, strict=True))
        ),
        memory={
            (platform, number): memory_of(shape, claims, scorer, platform, number)
            for platform in get_args(Platform)
            for number in NUM_CHIPS
        },
        num_tokens=int(tree_rows.lengths.sum() + num_readings * lengths.sum()),
    )


def memory_of(
    shape: str, claims: TokenizedClaims, scorer: TreeScorer, platform: Platform, num_chips: int
) -> Memory:
    """What lies on each of the chips, of which as many share the weights as divide the heads."""
    num_parts = math.gcd(num_chips, SHAPES[shape][3])
    axes = (CHAIN_AXIS, QUERY_AXIS, MODEL_AXIS)
    mesh = AbstractMesh((1, num_chips // num_parts, num_parts), axes)
    lm = abstract_lm(shape, mesh, "flash", platform)
    weights = few_bits = layer = 0
    for path, leaf in nnx.traversals.flatten_mapping(nnx.to_pure_dict(lm.params)).items():
        size = math.prod(leaf.sharding.shard_shape(leaf.shape))
        weights += size * leaf.dtype.itemsize
        few_bits += int(size * (INT8_BYTES if is_quantized(path) else leaf.dtype.itemsize))
        layer += is_quantized(path) * size * leaf.dtype.itemsize // lm.config.num_layers
    shares = share(scorer.arities, num_chips // num_parts)
    beside = min(
        level_bytes(lm, claims, shares, scorer.widths, num_serial)[1]
        for num_serial in range(len(shares))
    )
    return Memory(weights, few_bits, layer, beside)


def cell(search: Search, name: str, num_chips: int, num_sets: int) -> str:
    """Seconds and GiB a chip, in words; a dash where it does not fit."""
    chip, platform = CHIPS[name], "tpu" if name.startswith("v") else "gpu"
    memory = search.memory[platform, num_chips]
    for mark, needed in (
        ("", memory.weights + memory.beside),
        (" int8", memory.few_bits + memory.layer + memory.beside),
    ):
        if needed <= SHARE_MEMORY * chip.gib * GIB:
            seconds = seconds_of(search, chip, num_chips) * num_sets
            return f"{in_words(seconds)}; {needed / GIB:.1f}{mark}"
    return "—"


def seconds_of(search: Search, chip: Chip, num_chips: int) -> float:
    """What a search of one set takes at these rates."""
    peak = chip.tflops * 1e12 * num_chips
    dense, attention = search.operations
    return dense / (SHARE_DENSE * peak) + attention / (SHARE_ATTENTION * peak)


def in_words(seconds: float) -> str:
    """3 s, 4 min, 5 h."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return (
                f"{seconds / size:.2g} {name}"
                if seconds < 99 * size
                else f"{seconds / size:.0f} {name}"
            )
    return f"{seconds:.2g} s"


@click.command(help=__doc__.splitlines()[0])
def main() -> None:
    """The command of this file."""
    for num_claims, (num_sets, size) in SETS.items():
        print(f"N = {num_claims:,}: time; GiB a chip".replace(",", " "))
        print()
        print(f"| model | chips | {' | '.join(CHIPS)} |")
        print("|---" * (2 + len(CHIPS)) + "|")
        for shape in ("8b", "70b", "405b"):
            search = search_of(shape, size)
            for num_chips in NUM_CHIPS:
                cells = [cell(search, name, num_chips, num_sets) for name in CHIPS]
                print(f"| {shape.upper()} | {num_chips} | {' | '.join(cells)} |")
        print()
    search = search_of("8b", 256)
    share = search.operations.attention / search.operations.total
    print(f"8B, N = 256: {search.num_tokens:,} tokens, {share:.0%} of the operations attention")


if __name__ == "__main__":
    main()
