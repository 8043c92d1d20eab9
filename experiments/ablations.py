"""What does each choice in the bundled model's pretraining bring?

    python experiments/ablations.py
    python experiments/ablations.py --quick

Every row is a pretraining run of its own that differs from the first in one choice: the curriculum,
the heads that it starts with, width, depth, learning rates, tokens. Runs are shorter than that of
the bundled model (--tokens), the learning rate falling to its end in each, so that a row says what
a choice is worth at that length and no more. After it, as `bundled_model.py` measures them and over
the same groups:
  1. label loss in nats, after 32 labels and more, over the last twentieth of the tokens, on
     transcripts never seen before;
  2. held-out accuracy after 32 gold demonstrations, and without any;
  3. the correlation of log-odds with the Bayes observer's;
  4. preferences after 16 gold preferences; short answers of the right stance after 16 answers.
Statistics are over groups, and each row is compared with the first one, paired by group. Cost:
eight rows of 3 M tokens took two hours on a core (`docs/measured.md` has the table).
"""

import dataclasses
import json
import pathlib
import time

import click
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.sources import groups_of, world_config
from harness.tables import Comparison, Unit, comparison_rows, mean_row, publish
from harness.units import run_units
from harness.world_readings import run_answers, run_claims, run_preferences

from icmjax.lm import load_lm
from icmjax.persona_world import WorldConfig, make_world
from icmjax.persona_world.pretrain import export
from icmjax.persona_world.training import LOG_FILE, Phase, PretrainConfig, train

FULL = "as bundled"
# By row: fields of the config with other values; tokens as a multiple of --tokens.
VARIANTS: dict[str, dict] = {
    FULL: {},
    "no curriculum": {"phases": (Phase(0.5, 176), Phase(0.5, 352))},
    "formats from the start": {
        "phases": tuple(
            phase._replace(
                changes=tuple(change for change in phase.changes if change[0] != "format_shares")
            )
            for phase in PretrainConfig.phases
        )
    },
    "heads started at random": {"has_started_heads": False},
    "width 64": {"hidden_size": 64},
    "width 192": {"hidden_size": 192},
    "2 layers": {"num_layers": 2},
    "6 layers": {"num_layers": 6},
    "four times the learning rates": {"muon_learning_rate": 0.02, "adam_learning_rate": 4e-3},
    "half the tokens": {"num_tokens": 0.5},
    "twice the tokens": {"num_tokens": 2.0},
}
TIMED = (
    "--tokens 3000000 --variants 'as bundled,no curriculum,2 layers,6 layers,width 64,width 192,"
    "half the tokens,twice the tokens'"
)
METRICS = {
    "label loss, 32 labels and more": lambda unit: unit["label_loss"],
    "accuracy, 32 demonstrations": lambda unit: unit["accuracy"][-1],
    "accuracy, none": lambda unit: unit["accuracy"][0],
    "correlation with the observer": lambda unit: float(np.corrcoef(unit["log_odds"])[0, 1]),
    "preferences": lambda unit: unit["preferences after preferences"],
    "answers' stance": lambda unit: unit["answers after answers"]["stance"],
}


def config_of(variant: str, num_tokens: int) -> PretrainConfig:
    """The pretraining of a row."""
    changes = dict(VARIANTS[variant])
    changes["num_tokens"] = round(num_tokens * changes.get("num_tokens", 1.0))
    return dataclasses.replace(PretrainConfig(), **changes)


def late_label_loss(log: pathlib.Path) -> float:
    """Label loss after 32 labels and more over the last twentieth of a run, in nats."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    late = rows[-max(1, len(rows) // 20) :]
    losses = [row["label_loss_by_labels_before"]["32"] for row in late]
    return float(np.mean([loss for loss in losses if loss is not None]))


def trained(variant: str, num_tokens: int, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a row's model, pretrained as far as it is not yet."""
    model = folder / "model"
    if not model.exists():
        config = config_of(variant, num_tokens)
        is_resume = (folder / "config.json").exists()
        decoder_config, params = train(config, WorldConfig(), folder, is_resume=is_resume)
        export(model, decoder_config, params)
    return model


@experiment(Published(TIMED, 900, "2 hours for 8 rows on one CPU core"))
@click.option("--tokens", default=8_000_000, show_default=True, help="Of each run.")
@click.option("--variants", help="Rows, separated by commas; by default all.")
def main(
    out: pathlib.Path,
    cost: Cost,
    tokens: int,
    variants: str | None,
    groups: str | None,
    quick: bool,
) -> None:
    """The command of this file."""
    world = make_world()
    names = chosen(variants, list(VARIANTS), "--variants") if variants else list(VARIANTS)
    names = names[:2] if quick else names
    tokens = 60_000 if quick else tokens
    config = {"tokens": tokens} | world_config(world)
    by_variant: dict[str, list[Unit]] = {}
    folders = {name: out / name.replace(" ", "_") for name in names}
    missing = [name for name, folder in folders.items() if not (folder / "model").exists()]
    cost.say(len(names) - len(missing), missing, "rows")
    for name, folder in folders.items():
        start = time.monotonic()
        lm = load_lm(str(trained(name, tokens, folder)))
        loss = late_label_loss(folder / LOG_FILE)

        def run_unit(group: str, seed: int, lm=lm, loss=loss) -> dict:
            return (
                {"label_loss": loss}
                | run_claims(lm, world, group, seed)
                | run_preferences(lm, world, group, seed)
                | run_answers(lm, world, group, seed)
            )

        keys = [(group, 0) for group in groups_of(world, groups, quick)]
        by_variant[name] = run_units(folder / "units", config, keys, run_unit)
        if [name] == missing[:1]:
            cost.say_rate(time.monotonic() - start, missing[:1], missing[1:], "rows")
    tables = {
        metric: [mean_row(name, units, value_fn) for name, units in by_variant.items()]
        for metric, value_fn in METRICS.items()
    }
    if FULL in by_variant:
        for metric, value_fn in list(METRICS.items())[1:]:
            compared = [
                Comparison(f"{name} − {FULL}", _paired(units, by_variant[FULL]), *_sides(value_fn))
                for name, units in by_variant.items()
                if name != FULL
            ]
            tables[f"{metric}: differences, p by Holm"] = comparison_rows(compared)
    publish(tables, out)


def _paired(units: list[Unit], others: list[Unit]) -> list[Unit]:
    """Units of two runs side by side, by group."""
    pairs = zip(units, others, strict=True)
    return [{"key": one["key"], "one": one, "other": other} for one, other in pairs]


def _sides(value_fn):
    return lambda unit: value_fn(unit["one"]), lambda unit: value_fn(unit["other"])


if __name__ == "__main__":
    main()
