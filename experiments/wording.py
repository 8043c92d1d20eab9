"""How should a persona's statements and survey answers be worded for a real model?

    python experiments/wording.py --model models/gemma-3-270m --data FOLDER
    python experiments/wording.py --data FOLDER --quick

FOLDER holds public data of which `experiments/README.md` tells the layout. A unit is a persona and
a seed: 8 personas of model-written statements (Perez et al., arXiv:2212.09251), and the countries
and parties of two surveys (GlobalOpinionQA, arXiv:2306.16388; OpinionQA, arXiv:2303.17548). The
eight and the seeds were fixed before the first look; only the train files are read. Of each unit
  1. draw 16 claims to be shown and up to 32 items to be asked about, half of either label;
  2. word them in every way of `harness/wordings.py`; a pair is two claims, of which one is true;
  3. score the items zero-shot, and after the 16 claims with their gold labels.
Measured are, over the claims asked about,
  zero-shot    accuracy of the more probable label,
  calibrated   the same without the model's bias: against the opposite claim, or else the mean,
  AUC          of the zero-shot log-odds (area under the ROC curve): does it know, biased or not?
  16 shots     accuracy after the gold labels; in pairs these 16 claims are of eight statements.
The wording with the best accuracy after 16 shots, mean over personas, is what the other experiments
use with this model. What it is ahead of each other one by is tested, paired over personas, p by
Holm. It was chosen by the same numbers, so that these differences are too large on average.
"""

import functools
import pathlib

import click
import matplotlib.figure
import numpy as np
from harness.command import experiment
from harness.costs import Cost, Published
from harness.draws import unit_rng
from harness.readers import model_config
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    mean_row,
    publish,
    size_of,
    value_of,
    write_json,
)
from harness.units import run_units
from harness.wordings import (
    ANSWERS,
    STATEMENTS,
    Item,
    Wording,
    data_option,
    draw_items,
    fingerprint_of,
    read_answers,
    read_statements,
    real_model_option,
    require_folder,
    require_model,
    word,
)

from icmjax.claims import UNLABELLED
from icmjax.lm import LanguageModel, load_lm
from icmjax.steering import auc, calibrate, make_steerer, score_predictions

PERSONAS = (
    "agreeableness",
    "interest-in-science",
    "politically-conservative",
    "politically-liberal",
    "psychopathy",
    "risk-averse",
    "subscribes-to-Atheism",
    "subscribes-to-Christianity",
)
SURVEYS = {
    "goqa_personas": (
        "globaloqa_brazil",
        "globaloqa_britain",
        "globaloqa_france",
        "globaloqa_indonesia",
        "globaloqa_japan",
        "globaloqa_jordan",
        "globaloqa_russia",
        "globaloqa_turkey",
    ),
    "opinionqa_personas": ("opinionqa_democrat", "opinionqa_republican"),
}
KINDS = {"statements": STATEMENTS, "answers": ANSWERS}
FOLDERS = {"statements": ("anthropic_personas",), "answers": tuple(SURVEYS)}
METRICS = ("zero-shot", "calibrated", "AUC", "16 shots")
NUM_SHOWN = 16  # claims
NUM_ASKED = 32  # items


def read_persona(data: pathlib.Path, kind: str, name: str) -> list[Item]:
    """The train items of a persona."""
    if kind == "statements":
        return read_statements(data / "anthropic_personas" / "train" / f"{name}.jsonl")
    folder = next(folder for folder, names in SURVEYS.items() if name in names)
    return read_answers(data / folder / "train" / f"{name}.jsonl")


def run_unit(
    lm: LanguageModel, data: pathlib.Path, kind: str, name: str, seed: int
) -> dict[str, dict[str, float]]:
    """The metrics of every wording."""
    items = read_persona(data, kind, name)
    rng = unit_rng(name, seed)
    num_items = min(len(items), NUM_SHOWN + NUM_ASKED)
    drawn = draw_items(items, num_items, rng)
    half = min(NUM_SHOWN, num_items // 2)
    shown = draw_items(drawn, half, rng)
    asked = [item for item in drawn if item not in shown]
    return {wording: measure(lm, shown, asked, how, rng) for wording, how in KINDS[kind].items()}


def measure(
    lm: LanguageModel,
    shown: list[Item],
    asked: list[Item],
    wording: Wording,
    rng: np.random.Generator,
) -> dict[str, float]:
    """The metrics of one wording."""
    task, held_out = word(shown, wording), word(asked, wording)
    if len(task.claims) > NUM_SHOWN:
        kept = range(NUM_SHOWN)  # whole pairs, as they follow one another
        claims, labels = task.claims.select(kept), task.gold.labels[:NUM_SHOWN]
    else:
        claims, labels = task.claims, task.gold.labels
    steerer = make_steerer(lm, claims, held_out.claims)
    zero_shot = steerer(np.full(len(claims), UNLABELLED, np.int8))
    order = rng.permutation(len(claims)).astype(np.int32)
    calibrated = calibrate(zero_shot, held_out.claims.rules)
    return {
        "zero-shot": score_predictions(zero_shot, held_out.gold).accuracy,
        "calibrated": score_predictions(calibrated, held_out.gold).accuracy,
        "AUC": auc(zero_shot, held_out.gold),
        "16 shots": score_predictions(steerer(labels, order), held_out.gold).accuracy,
    }


def analyse(units: list[Unit], kind: str) -> dict[str, list[Row]]:
    """A table a metric, a row a wording; and what the best one after 16 shots is ahead by."""
    tables = {}
    size = size_of(units).replace("groups", "personas")
    for metric in METRICS:
        tables[f"{kind}: {metric}, {size}"] = [
            mean_row(wording, units, value_of(wording, metric)) for wording in KINDS[kind]
        ]
    best = best_wording(tables, kind)
    tables[f"{kind}: {best} − others, 16 shots, {size}, p by Holm"] = comparison_rows(
        [
            Comparison(name, units, value_of(best, "16 shots"), value_of(name, "16 shots"))
            for name in KINDS[kind]
            if name != best
        ]
    )
    return tables


def best_wording(tables: dict[str, list[Row]], kind: str) -> str:
    """That of the highest accuracy after 16 shots."""
    rows = next(rows for title, rows in tables.items() if title.startswith(f"{kind}: 16 shots"))
    return max(rows, key=lambda row: row.summary.mean).name


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Means with intervals: a panel a kind of item, a line a wording, a colour a metric."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(KINDS), sharex=True))
    for axes, (kind, wordings) in zip(panels, KINDS.items(), strict=True):
        for index, metric in enumerate(METRICS):
            rows = next(
                (rows for title, rows in tables.items() if title.startswith(f"{kind}: {metric}")),
                [],
            )
            means, reach = bars(rows)
            lines = np.arange(len(rows)) + 0.15 * (index - 1.5)
            axes.errorbar(means, lines, xerr=reach, fmt="o", markersize=3, label=metric)
        axes.set_yticks(range(len(wordings)), list(wordings), fontsize=8)
        axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set(title=kind, ylim=(len(wordings) - 0.5, -0.5))
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


@experiment(Published("", 70, "of 18 units on two CPU cores beside other jobs"), is_sized=False)
@real_model_option
@data_option
@click.option("--seeds", "num_seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help="Two personas of each kind.")
def main(
    model: str,
    data: pathlib.Path | None,
    out: pathlib.Path,
    cost: Cost,
    num_seeds: int,
    quick: bool,
) -> None:
    """The command of this file."""
    data = require_folder(data, *(f"{name}/train" for kind in KINDS for name in FOLDERS[kind]))
    names = {"statements": list(PERSONAS), "answers": [n for own in SURVEYS.values() for n in own]}
    for kind in KINDS:
        for name in names[kind]:  # before the first unit: a file that is missing is said
            read_persona(data, kind, name)
    lm = load_lm(require_model(model))
    tables: dict[str, list[Row]] = {}
    chosen = {}
    for kind in KINDS:
        personas = names[kind]
        keys = [
            (name, seed) for seed in range(num_seeds) for name in personas[: 2 if quick else None]
        ]
        run = functools.partial(run_unit, lm, data, kind)
        config = model_config(lm) | {"kind": kind, "claims shown": NUM_SHOWN, "items": NUM_ASKED}
        config |= {folder: fingerprint_of(data / folder) for folder in FOLDERS[kind]}
        units = run_units(out / kind, config, keys, run, cost=cost)
        tables |= analyse(units, kind)
        chosen[kind] = best_wording(tables, kind)
    publish(tables, out)
    for kind, wording in chosen.items():
        click.echo(f"{kind}: best after 16 shots: {wording}")
    write_json(out / "chosen.json", chosen)
    plot(tables, out / "wording.png")


if __name__ == "__main__":
    main()
