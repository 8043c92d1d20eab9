"""How far are the scores of 16-bit and quantised weights from those of float32?

    python benchmarks/fidelity.py --model models/gemma-3-270m --claims CLAIMS

A pass of tree scores over the claims with their gold labels, by the same model read in each way.
Of each are told
  weights     bytes on the device
  Δ log-prob  of the gold labels, in nats: mean and largest of its size, over claims, against
              bfloat16 weights
  Δ log-odds  the same of log P(True) − log P(False), by which labels are chosen
  turned      claims whose more probable label is another one
  a pass      seconds, the second of two
Costs: four loads and eight passes.
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from icmjax.claims import ClaimSet, load_claims, load_gold
from icmjax.lm import load_lm
from icmjax.scoring import make_scorer

WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32"},
    "int8": {"dtype": "bfloat16", "quantize": "int8"},
    "int4": {"dtype": "bfloat16", "quantize": "int4"},
}


def weight_bytes(params: Any) -> int:
    """Bytes of weights; four bits are half a byte, whatever a device makes of them."""
    return sum(
        leaf.size // 2 if leaf.dtype == "int4" else leaf.nbytes for leaf in jax.tree.leaves(params)
    )


def read(model: str, claims: ClaimSet, labels: np.ndarray, way: str) -> dict[str, Any]:
    """Scores `[N, 2]` of the labels, seconds of a pass and bytes of weights."""
    lm = load_lm(model, **WAYS[way])
    scorer = make_scorer(lm, claims)
    for _ in range(2):
        started = time.perf_counter()
        scores = np.asarray(scorer(labels), np.float64)
    seconds = time.perf_counter() - started
    return {"scores": scores, "seconds": seconds, "bytes": weight_bytes(lm.params)}


def compare(found: dict[str, Any], base: dict[str, Any], labels: np.ndarray) -> dict[str, Any]:
    """What differs between two readings."""
    place = np.arange(len(labels))
    own = np.abs(found["scores"][place, labels] - base["scores"][place, labels])
    odds = [each["scores"][:, 1] - each["scores"][:, 0] for each in (found, base)]
    apart = np.abs(odds[0] - odds[1])
    return {
        "bytes": found["bytes"],
        "seconds": found["seconds"],
        "log_prob_mean": own.mean(),
        "log_prob_max": own.max(),
        "log_odds_mean": apart.mean(),
        "log_odds_max": apart.max(),
        "turned": int(((odds[0] > 0) != (odds[1] > 0)).sum()),
        "claims": len(labels),
    }


@click.command(help=__doc__.splitlines()[0])
@click.option("--model", required=True, help="A folder or a hub id.")
@click.option("--claims", "source", required=True, help="A file of claims with gold labels.")
@click.option("--out", default="fidelity.json", show_default=True, type=Path)
def main(model: str, source: str, out: Path) -> None:
    """The command of this file."""
    claims = load_claims(source)
    gold = load_gold(source)
    if gold is None:
        raise click.ClickException(f"{source}: no row has a label, and labels are what is scored")
    labels = gold.labels
    rows, base = {}, None
    print("weights          MB   |Δ log-prob|      |Δ log-odds|      turned  a pass")
    for way in WAYS:
        found = read(model, claims, labels, way)
        base = found if base is None else base
        row = rows[way] = compare(found, base, labels)
        print(
            f"{way:9} {row['bytes'] / 1e6:9.0f}   {row['log_prob_mean']:.4f} ≤ "
            f"{row['log_prob_max']:.4f}   {row['log_odds_mean']:.4f} ≤ {row['log_odds_max']:.4f}  "
            f"{row['turned']:3}/{row['claims']}  {row['seconds']:.1f} s",
            flush=True,
        )
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
