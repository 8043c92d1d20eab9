"""What does it take to read a checkpoint onto one device and onto eight?

    python benchmarks/loading.py
    python benchmarks/loading.py --gigabytes .1

Writes a Llama of random float32 weights, and reads it in a process of its own for each row, onto
devices of a CPU that share the weights ("model"). Their memory is the host's, so that the least
peak is what the devices hold. Of each row are told
  read in       seconds, the tokenizer included
  peak          of the process, over what it had before, by the bytes that devices hold
  a device      the most that one holds, by an even share of all
Costs: half a minute, the checkpoint on the disk, and 1.3 times its size in memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import jax
from measure.checkpoint import make_checkpoint
from measure.memory import watch_peak

from icmjax.lm import load_lm, make_mesh

HIDDEN_SIZE = 2048
LAYER_BYTES = 4 * 15 * HIDDEN_SIZE**2  # of matrices: attention's 3, the MLP's 12 widths squared
ROWS = [(1, "float32"), (8, "float32"), (1, "bfloat16"), (8, "bfloat16")]
MOST_PEAK, MOST_SHARE = 1.3, 1.1


def read(folder: Path, num_devices: int, dtype: str) -> dict:
    """Read it here, and tell what that took."""
    mesh = None if num_devices == 1 else make_mesh({"model": num_devices})
    started = time.perf_counter()
    with watch_peak() as peak:
        lm = load_lm(folder, dtype=dtype, mesh=mesh)
        leaves = jax.block_until_ready(jax.tree.leaves(lm.params))
    seconds = time.perf_counter() - started
    held: dict[jax.Device, int] = {}
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return {
        "devices": num_devices,
        "dtype": dtype,
        "seconds": seconds,
        "held_bytes": sum(held.values()),
        "peak_ratio": None if peak.num_bytes is None else peak.num_bytes / sum(held.values()),
        "share_ratio": max(held.values()) * num_devices / sum(leaf.nbytes for leaf in leaves),
    }


def read_apart(folder: Path, num_devices: int, dtype: str) -> dict:
    """The same in a process of its own."""
    child = [sys.executable, __file__, "--child", str(folder), str(num_devices), dtype]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices), "JAX_PLATFORMS": "cpu"}
    told = subprocess.run(child, env=environment, check=True, capture_output=True, text=True)
    return json.loads(told.stdout.splitlines()[-1])


@click.command(help=__doc__.splitlines()[0])
@click.option("--gigabytes", default=2.0, show_default=True, help="Of float32 weights.")
@click.option("--out", default="loading.json", show_default=True, type=Path)
def main(gigabytes: float, out: Path) -> None:
    """The command of this file."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        num_layers = max(1, round(gigabytes * 1e9 / LAYER_BYTES))
        made = make_checkpoint(Path(folder) / "model", ["A claim."], num_layers, HIDDEN_SIZE)
        print("devices  dtype     held     read in  peak   a device")
        for num_devices, dtype in ROWS:
            row = read_apart(made, num_devices, dtype)
            found.append(row)
            peak = "-" if row["peak_ratio"] is None else f"{row['peak_ratio']:.2f}"
            print(
                f"{num_devices:7}  {dtype:8}  {row['held_bytes'] / 1e9:.2f} GB  "
                f"{row['seconds']:6.1f} s  {peak:>4}  {row['share_ratio']:9.2f}",
                flush=True,
            )
    out.write_text(json.dumps(found, indent=1) + "\n")
    # The floor of other things that a process takes is a larger part of half the bytes.
    worst = max(row["peak_ratio"] or 0 for row in found if row["dtype"] == "float32")
    assert worst <= MOST_PEAK, f"a peak of {worst:.2f} times the weights is above {MOST_PEAK}"
    assert max(row["share_ratio"] for row in found) <= MOST_SHARE, (
        "a device has more than its share"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(read(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    else:
        main()
