"""Where does the border between False and True lie, for a model that favours one of them?

    python experiments/borders.py --data FOLDER
    python experiments/borders.py --data FOLDER --quick

A unit is a persona of `in_vivo.py`. The model reads its train statements without demonstrations,
worded `A politically conservative person would say: "…"`, and one empty statement of that persona.
Of the log-odds
  1. the personas are kept whose AUC is above .75: elsewhere there is no border to find;
  2. 40 statements are drawn ten times for each share of true ones in .1, .25, .5, .75 and .9;
  3. a claim is called True where its log-odds are above a border:
       none          0, the model's own;
       mean          of the log-odds (batch calibration, Zhou et al., arXiv:2309.17249);
       clusters      between the two clusters (`icmjax/scoring/bias.py`; Han et al.,
                     arXiv:2205.10183; Otsu 1979);
       gated         between the clusters, if the model says one label of 9 claims in 10; else 0;
       content-free  those of the empty statement (contextual calibration, Zhao et al.,
                     arXiv:2102.09690).
No border sees a label. Accuracy is a mean over draws and then over personas.
"""

import functools
import pathlib
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.command import experiment
from harness.costs import Cost, Published
from harness.draws import unit_rng
from harness.readers import model_config
from harness.tables import Row, Unit, bars, mean_row, publish
from harness.units import run_units
from harness.wordings import (
    STATEMENTS,
    check_statements,
    data_option,
    fingerprint_of,
    personas_option,
    read_statements,
    real_model_option,
    require_folder,
    require_model,
    require_personas,
    word,
)

from icmjax.claims import UNLABELLED
from icmjax.lm import LanguageModel, load_lm
from icmjax.scoring import cluster_border
from icmjax.steering import auc, make_steerer

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
BORDERS = ("none", "mean", "clusters", "gated", "content-free")
ONE_SIDED = 0.9
NUM_DRAWN = 40
NUM_DRAWS = 10
LEAST_AUC = 0.75


def run_unit(lm: LanguageModel, data: pathlib.Path, persona: str, seed: int) -> dict[str, Any]:
    """Zero-shot log-odds of a persona's statements, and what follows for each border and share."""
    items = read_statements(data / "anthropic_personas" / "train" / f"{persona}.jsonl")
    empty = items[0]._replace(texts=("",), label=0)
    task = word([*items, empty], STATEMENTS["would say"])
    steerer = make_steerer(lm, task.claims, task.claims)
    logp = steerer(np.full(len(task.claims), UNLABELLED, np.int8))
    log_odds = (logp[:, 1] - logp[:, 0]).astype(np.float64)
    labels, rng = task.gold.labels[:-1], unit_rng(persona, seed)
    gold = task.gold.select(range(len(items)))
    by_label = [np.flatnonzero(labels == label) for label in (0, 1)]
    accuracies = {}
    for share in SHARES:
        num_true = round(share * NUM_DRAWN)
        rows = []
        for _ in range(NUM_DRAWS):
            sizes = (NUM_DRAWN - num_true, num_true)
            drawn = np.concatenate(
                [
                    rng.choice(own, size, replace=False)
                    for own, size in zip(by_label, sizes, strict=True)
                ]
            )
            borders = borders_of(log_odds[drawn], log_odds[-1])
            rows.append([((log_odds[drawn] > at) == labels[drawn]).mean() for at in borders])
        means = np.mean(rows, axis=0)
        accuracies[str(share)] = dict(zip(BORDERS, means.tolist(), strict=True))
    return {"AUC": auc(logp[:-1], gold), "accuracy": accuracies, "log-odds": log_odds.tolist()}


def borders_of(log_odds: np.ndarray, empty: float) -> tuple[float, ...]:
    """In the order of `BORDERS`, nats."""
    clusters = float(cluster_border(log_odds.astype(np.float32)))
    share = float((log_odds > 0).mean())
    gated = clusters if max(share, 1 - share) >= ONE_SIDED else 0.0
    return 0.0, float(log_odds.mean()), clusters, gated, empty


def analyse(units: list[Unit]) -> dict[str, list[Row]]:
    """A table a share, a row a border."""
    kept = [unit for unit in units if unit["AUC"] > LEAST_AUC]
    tables = {f"AUC, {len(units)} personas": [mean_row("zero-shot", units, lambda u: u["AUC"])]}
    for share in SHARES if kept else ():
        tables[f"{share:g} of the claims true: accuracy, {len(kept)} personas"] = [
            mean_row(name, kept, value_of(str(share), name)) for name in BORDERS
        ]
    return tables


def value_of(share: str, border: str) -> Any:
    """The accuracy of one border."""
    return lambda unit: unit["accuracy"][share][border]


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Accuracy against the share of true claims, a line a border."""
    figure = matplotlib.figure.Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    by_share = [rows for title, rows in tables.items() if not title.startswith("AUC")]
    for index, name in enumerate(BORDERS if by_share else ()):
        means, reach = bars([rows[index] for rows in by_share])
        axes.errorbar(SHARES, means, yerr=reach, marker="o", markersize=3, label=name)
    axes.set(xlabel="share of claims that are true", ylabel="accuracy", ylim=(0, 1))
    axes.legend(title="border", fontsize=8)
    figure.savefig(path, dpi=120)


@experiment(Published("", 360 / 24, "6 minutes for 24 units beside two other jobs"), is_sized=False)
@real_model_option
@data_option
@personas_option
@click.option("--quick", is_flag=True, help="Two personas.")
def main(
    model: str,
    data: pathlib.Path | None,
    out: pathlib.Path,
    cost: Cost,
    personas: list[str],
    quick: bool,
) -> None:
    """The command of this file."""
    data = require_folder(data, "anthropic_personas/train")
    require_personas(data, personas)
    for name in personas:
        check_statements(data, name, 2 * round(max(SHARES) * NUM_DRAWN))
    lm = load_lm(require_model(model))
    keys = [(name, 0) for name in personas[: 2 if quick else None]]
    run = functools.partial(run_unit, lm, data)
    config = model_config(lm) | {"data": fingerprint_of(data / "anthropic_personas")}
    tables = analyse(run_units(out, config, keys, run, cost=cost))
    publish(tables, out)
    plot(tables, out / "borders.png")


if __name__ == "__main__":
    main()
