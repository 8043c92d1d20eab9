"""How long does a search take at least, and what memory, on accelerators that are not here?

    python benchmarks/scaling.py

Arithmetic alone: nothing is timed. Of a Llama's shape, N claims of L tokens and some chips are told
  memory   bfloat16 weights on a chip and what the widest pass needs beside them, as planned; with
           int8 weights where bfloat16 ones do not fit, and no time where neither do
  seconds  t ≥ F_dense / (0.70 · peak · chips) + F_attention / (0.5 · peak · chips)
F are the operations of `measure/flops.py` on real tokens, peak the chip's dense bfloat16 rate. 0.7:
the highest published prefill figure on a TPU is 73 % (arXiv:2604.15464). 0.5: FlashAttention-3's
forward kernel reaches 75 % on an H100 (arXiv:2407.08608), and a tree's rows are short. Sums over
chips are taken to cost nothing, so that no search can be faster, and real ones will be slower.
A search is the default, Marginals: 17 readings of all claims, each after four of them, and one tree
pass. 30 000 claims are 118 sets of 255: no context holds more of them.
"""

import math
from typing import NamedTuple

import click
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh
from measure.flops import Operations, Rows, pass_flops, rows_of
from measure.shapes import SHAPES, abstract_lm, random_tokens

from icmjax.lm import CHAIN_AXIS, MODEL_AXIS, QUERY_AXIS
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


class Search(NamedTuple):
    """A search of one set of claims."""

    operations: Operations
    weights: float  # bytes in bfloat16
    layers: float  # bytes of them that few bits can keep
    beside: dict[int, float]  # bytes of the tree pass beside the weights on a chip, by their number
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
    operations = Operations(
        *(one + num_readings * each for one, each in zip(tree, reading, strict=True))
    )
    sizes = {
        name: 2 * leaf.size
        for name, leaf in (("/".join(map(str, path)), leaf) for path, leaf in _leaves(lm.params))
    }
    return Search(
        operations=operations,
        weights=sum(sizes.values()),
        layers=sum(size for name, size in sizes.items() if "layers" in name and "kernel" in name),
        beside={chips: least_beside(shape, claims, scorer, chips) for chips in NUM_CHIPS},
        num_tokens=int(tree_rows.lengths.sum() + num_readings * lengths.sum()),
    )


def least_beside(shape: str, claims: TokenizedClaims, scorer: TreeScorer, num_chips: int) -> float:
    """Bytes on each chip, as planned, where the fewest are: topmost levels read one by one."""
    num_parts = math.gcd(num_chips, SHAPES[shape][3])  # heads
    mesh = AbstractMesh(
        (1, num_chips // num_parts, num_parts), (CHAIN_AXIS, QUERY_AXIS, MODEL_AXIS)
    )
    lm = abstract_lm(shape, mesh, "flash")
    shares = share(scorer.arities, num_chips // num_parts)
    return min(
        level_bytes(lm, claims, shares, scorer.widths, num_serial)[1]
        for num_serial in range(len(shares))
    )


def _leaves(params) -> list:
    """Paths and shapes of parameters."""
    return list(nnx.traversals.flatten_mapping(nnx.to_pure_dict(params)).items())


def cell(search: Search, chip: Chip, num_chips: int, num_sets: int) -> str:
    """Least seconds and GiB a chip, in words; a dash where it does not fit."""
    room = SHARE_MEMORY * chip.gib * GIB
    for mark, weights in (
        ("", search.weights),
        (" int8", search.weights - search.layers * (1 - INT8_BYTES / 2)),
    ):
        needed = weights / num_chips + search.beside[num_chips]
        if needed <= room:
            seconds = seconds_of(search, chip, num_chips) * num_sets
            return f"{in_words(seconds)}; {needed / GIB:.1f}{mark}"
    return "—"


def seconds_of(search: Search, chip: Chip, num_chips: int) -> float:
    """The least that a search of one set takes."""
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
        print(f"N = {num_claims:,}: least time; GiB a chip".replace(",", " "))
        print()
        print(f"| model | chips | {' | '.join(CHIPS)} |")
        print("|---" * (2 + len(CHIPS)) + "|")
        for shape in ("8b", "70b", "405b"):
            search = search_of(shape, size)
            for num_chips in NUM_CHIPS:
                cells = [cell(search, chip, num_chips, num_sets) for chip in CHIPS.values()]
                print(f"| {shape.upper()} | {num_chips} | {' | '.join(cells)} |")
        print()
    search = search_of("8b", 256)
    share = search.operations.attention / search.operations.total
    print(f"8B, N = 256: {search.num_tokens:,} tokens, {share:.0%} of the operations attention")


if __name__ == "__main__":
    main()
