"""Do an observer that doubts its source and one that trusts it predict the same labels?

    python experiments/doubt.py
    python experiments/doubt.py --num-claims 64 --wrong 8,10,12 --out runs/doubt_64

Every fifth group of the world has 12 label sets for every number of random wrong pairs, under a
header that names the source and no group. Both observers read the same sets. The table has means
over groups. Cost: 10 seconds on one core.
"""

import pathlib

import click
import numpy as np
from harness.command import experiment
from harness.costs import Cost, Published
from harness.draws import matched_flips
from harness.phase_diagram import sampled_accuracy
from harness.readers import OBSERVER, TRUSTING_OBSERVER, load_reader
from harness.sources import world_config
from harness.tables import write_json
from harness.units import run_units

from icmjax.persona_world import Source, World, make_task, make_world
from icmjax.steering import score_predictions

NUM_SETS, NUM_TEST = 12, 64
COLUMNS = [
    f"{metric}, {who}"
    for metric in ("accuracy", "sampled accuracy", "log-loss")
    for who in ("doubting", "trusting")
] + ["same signs", "ties of the doubting one"]


def run(world: World, num_claims: int, counts: list[int]) -> dict[str, dict[str, list[float]]]:
    """The columns by source and number of wrong pairs; one generator draws all sets in turn."""
    rng = np.random.default_rng(0)
    readers = [load_reader(name, world) for name in (OBSERVER, TRUSTING_OBSERVER)]
    table = {}
    for source in (Source.NATIONAL, Source.STREET):
        found: dict[int, list[list[float]]] = {number: [] for number in counts}
        for group in world.group_names[::5]:
            task = make_task(world, group, 0, "search", num_claims, source, is_named=False)
            held_out = make_task(world, group, 0, "test", NUM_TEST, source, is_named=False)
            steerers = [reader.make_steerer(task.claims, held_out.claims) for reader in readers]
            pairs = np.asarray(task.claims.rules.pairs)
            for number, rows in found.items():
                labels = matched_flips(rng, task.gold.labels, pairs, number, NUM_SETS)
                predictions = [steer(labels) for steer in steerers]
                scores = [
                    [score_predictions(logp, held_out.gold) for logp in each]
                    for each in predictions
                ]
                sampled = [
                    [sampled_accuracy(logp, held_out.gold.labels) for logp in each]
                    for each in predictions
                ]
                odds = [each[..., 1] - each[..., 0] for each in predictions]
                rows.append(
                    [float(np.mean([one.accuracy for one in each])) for each in scores]
                    + [float(np.mean(each)) for each in sampled]
                    + [float(np.mean([one.log_loss for one in each])) for each in scores]
                    + [float(np.mean(np.sign(odds[0]) == np.sign(odds[1])))]
                    + [float(np.mean(odds[0] == 0))]
                )
        table[source.name] = {
            str(number): np.mean(rows, axis=0).tolist() for number, rows in found.items()
        }
    return table


@experiment(Published("", 10, "on one CPU core"), is_sized=False)
@click.option("--num-claims", default=32, show_default=True)
@click.option("--wrong", default="1,2,4,6", show_default=True, help="Wrong pairs, by commas.")
def main(out: pathlib.Path, cost: Cost, num_claims: int, wrong: str) -> None:
    """The command of this file."""
    world, counts = make_world(), [int(number) for number in wrong.split(",")]
    config = {"num_claims": num_claims, "wrong": counts} | world_config(world)
    # One unit: its generator goes through all groups and sources.
    keys = [("every fifth group", 0)]
    (unit,) = run_units(out, config, keys, lambda *_: run(world, num_claims, counts), cost=cost)
    click.echo(f"source, wrong pairs: {', '.join(COLUMNS)}")
    report = {}
    for name, found in ((name, found) for name, found in unit.items() if name != "key"):
        for number, values in found.items():
            click.echo(f"{name} {number}: {' '.join(f'{value:.3f}' for value in values)}")
            report[f"{name} {number}"] = dict(zip(COLUMNS, values, strict=True))
    write_json(out / "report.json", report)


if __name__ == "__main__":
    main()
