"""What does the TPU's own compiler make of a pass, for chips that are not here?

    python benchmarks/compile_tpu.py
    python benchmarks/compile_tpu.py --rows 1b

libtpu (extra `tpu-compile`) compiles for a topology on any x86 machine; nothing runs. A row is one
pass of tree scores, or a block of a tempering search: a Llama's shape in bfloat16, N claims of L
tokens, chips, and how they share the work (chain, query, model). Of each are told
  peak         memory on a chip beside the weights, by the compiler, and what was planned
  weights      on a chip
  compiled in  seconds, lowering and compiling, on this machine
  collectives  named and counted, with the bytes of the largest; of weights there must be none
  FLOPs        of the pass on a chip, by formula (`measure/flops.py`): the compiler counts the body
               of a loop once
  at least     seconds of a pass on these chips, at .7 of their peak: 73 % is the highest published
               prefill figure on a TPU (arXiv:2604.15464)
Costs: each row a minute or more on one core, and some GiB of memory.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Before jax: there is no TPU here, and nobody to ask about one.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from measure.flops import pass_flops, rows_of
from measure.shapes import abstract_lm, random_tokens

from icmjax.claims import no_rules
from icmjax.lm import CHAIN_AXIS, MODEL_AXIS, QUERY_AXIS, Implementation
from icmjax.scoring import TreeScorer, level_bytes, make_tree_scorer
from icmjax.search import ParallelTempering, run_block

AXES = (CHAIN_AXIS, QUERY_AXIS, MODEL_AXIS)
GIB = 2**30
# GiB of memory on a chip: https://cloud.google.com/tpu/docs/v5e, v5p and v6e.
CHIP_GIB = {"v5e": 16, "v5p": 95, "v6e": 32}
# bfloat16 TFLOP/s and GB/s of memory of a chip, from the same pages.
PEAK_TFLOPS = {"v5e": 197, "v5p": 459, "v6e": 918}
CHIP_GBS = {"v5e": 819, "v5p": 2765, "v6e": 1640}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ITEM_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}


class Row(NamedTuple):
    """One program."""

    shape: str
    topology: str
    mesh: tuple[int, int, int]  # chain, query, model
    num_claims: int = 256
    num_tokens: int = 60  # of a claim
    attention: Implementation = "einsum"
    program: Literal["pass", "tempering"] = "pass"  # one pass, or a block of steps of a search


ROWS = {
    "tiny": Row("tiny", "v5e:2x2", (1, 2, 2), 8, 10),
    "tiny-tempering": Row("tiny", "v5e:2x2", (1, 2, 2), 8, 10, "flash", "tempering"),
    "tiny-flash": Row("tiny", "v5e:2x2", (1, 2, 2), 8, 10, "flash"),
    "1b": Row("1b", "v5e:2x2", (1, 1, 1), 64),
    "1b-flash": Row("1b", "v5e:2x2", (1, 1, 1), 64, attention="flash"),
    "8b-v5e-8": Row("8b", "v5e:2x4", (1, 1, 8)),
    "8b-v5e-8-flash": Row("8b", "v5e:2x4", (1, 1, 8), attention="flash"),
    "8b-v6e-8": Row("8b", "v6e:2x4", (1, 4, 2)),
    "8b-v6e-8-flash": Row("8b", "v6e:2x4", (1, 4, 2), attention="flash"),
    "70b-v5e-64-flash": Row("70b", "v5e:8x8", (1, 4, 16), attention="flash"),
    "70b-v6e-16-flash": Row("70b", "v6e:4x4", (1, 2, 8), attention="flash"),
    "70b-v5p-16-flash": Row("70b", "v5p:2x2x4", (1, 4, 4), attention="flash"),
    "405b-v5e-64-flash": Row("405b", "v5e:8x8", (1, 1, 64), attention="flash"),
    "405b-v5p-16-flash": Row("405b", "v5p:2x2x4", (1, 1, 16), attention="flash"),
    "8b-v5e-8-tempering": Row("8b", "v5e:2x4", (1, 1, 8), attention="flash", program="tempering"),
}


def mesh_of(row: Row) -> Mesh:
    """The mesh of a row's topology, of its first chips where it takes fewer."""
    topology = topologies.get_topology_desc(row.topology, platform="tpu")
    devices = np.array(topology.devices[: int(np.prod(row.mesh))])
    return Mesh(devices.reshape(row.mesh), AXES)


def compile_row(row: Row) -> dict[str, Any]:
    """Compile one pass, and tell what the compiler says of it."""
    mesh = mesh_of(row)
    lm = abstract_lm(row.shape, mesh, row.attention)
    chip = row.topology.partition(":")[0]
    weights = sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(lm.params)
    )
    # A tenth of a chip stays with the compiler.
    budget = int(0.9 * CHIP_GIB[chip] * GIB - weights)
    claims = random_tokens(row.num_claims, row.num_tokens, lm.config.vocab_size)
    units = np.arange(row.num_claims)
    scorer = make_tree_scorer(lm, claims, units, batch_size=1, memory_budget=budget)
    everywhere = NamedSharding(mesh, PartitionSpec())
    labels = jax.ShapeDtypeStruct((row.mesh[0], row.num_claims), jnp.int8, sharding=everywhere)

    started = time.perf_counter()
    if row.program == "pass":
        lowered = jax.jit(lambda scorer, labels: scorer(labels)).lower(scorer, labels)
    else:
        lowered = lower_block(scorer, row.num_claims, everywhere)
    lowering = time.perf_counter() - started
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    shape = (lm, claims, scorer.shares, scorer.widths, scorer.num_serial)
    planned = level_bytes(*shape)[1] * scorer.batch_size
    here = make_tree_scorer(abstract_lm(row.shape), claims, units, memory_budget=1 << 60)
    demonstrations = np.zeros(row.num_claims, np.int8)
    operations = pass_flops(here.lm, rows_of(here, demonstrations))
    flops = operations.total / (row.mesh[1] * row.mesh[2])
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "chips": int(np.prod(row.mesh)),
        "mesh": "×".join(map(str, row.mesh)),
        "weights": weights / GIB,
        "peak": memory.temp_size_in_bytes / GIB,
        "planned": planned / GIB,
        "fits": bool(memory.temp_size_in_bytes + weights <= CHIP_GIB[chip] * GIB),
        "lowering": lowering,
        "seconds": seconds,
        "collectives": collectives_of(text_of(compiled), lm.params),
        "flops": flops,
        "at_least": flops / (0.7 * PEAK_TFLOPS[chip] * 1e12),
        "bytes_of_weights_s": weights / (CHIP_GBS[chip] * 1e9),
        "flops_by_compiler": cost.get("flops"),
    }


def lower_block(scorer: TreeScorer, num_claims: int, everywhere: NamedSharding) -> Any:
    """Lower a block of steps of parallel tempering, as a search runs it."""
    algorithm, rules = ParallelTempering(), no_rules()
    unlabelled = np.full((num_claims,), -1, np.int8)
    state = algorithm.init(jax.random.key(0), rules, unlabelled, num_options=2)
    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        (jax.random.key(0), jax.tree.map(jnp.asarray, state), rules, jnp.int32(0)),
    )
    rng_key, state, rules, step = given
    return run_block.lower(rng_key, state, scorer, rules, step, step, algorithm=algorithm)


def text_of(compiled: Any) -> str | None:
    """The program as compiled; None where this jaxlib cannot read what a newer compiler writes."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        if "RET_CHECK failure" not in str(error):
            raise
        return None


def collectives_of(text: str | None, params: Any) -> dict[str, Any] | None:
    """Collectives of a program by their names: how many, and the bytes of the largest.

    "weights" has the shapes of what is gathered that are those of a whole parameter, or of one
    layer of it.
    """
    if text is None:
        return None
    found: dict[str, list[int]] = {}
    for kind in COLLECTIVES:
        pattern = rf"= (\(?[^=]*?) {kind}(?:-start)?\("
        sizes = [_bytes_of(shapes) for shapes in re.findall(pattern, text)]
        if sizes:
            found[kind] = sizes
    counted = {kind: {"count": len(sizes), "largest": max(sizes)} for kind, sizes in found.items()}
    whole = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    whole |= {shape[1:] for shape in whole if len(shape) > 2}
    gathered = re.findall(r"= (\(?[^=]*?) all-gather(?:-start)?\(", text)
    shapes = {
        tuple(int(size) for size in sizes.split(",") if size)
        for each in gathered
        for sizes in re.findall(r"\w+\[([\d,]*)\]", each)
    }
    return counted | {"weights": sorted(shapes & whole)}


def _bytes_of(shapes: str) -> int:
    """Bytes of shapes as the compiler writes them, such as f32[8,128]{1,0}."""
    total = 0
    for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        total += ITEM_BYTES.get(kind, 4) * int(np.prod([int(n) for n in sizes.split(",") if n]))
    return total


@click.command(help=__doc__.splitlines()[0])
@click.option("--rows", default=",".join(list(ROWS)[3:]), show_default=True, help="By commas.")
@click.option("--out", default="compile_tpu.json", show_default=True, type=Path)
def main(rows: str, out: Path) -> None:
    """The command of this file."""
    found = json.loads(out.read_text()) if out.exists() else {}
    for name in rows.split(","):
        row = ROWS[name]
        found[name] = row._asdict() | compile_row(row)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
