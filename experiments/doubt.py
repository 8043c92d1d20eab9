"""Do an observer that doubts its source and one that trusts it predict the same labels?

    python experiments/doubt.py
    python experiments/doubt.py --num-claims 64 --wrong 8,10,12

Cost: 10 seconds on one core. Every fifth group, 12 sets each with so many random wrong pairs under
a header that names the source and no group; both observers on the same sets. Means over groups.
"""

import click
import numpy as np
from matched_accuracy import matched_flips
from phase_diagram import sampled_accuracy
from readers import OBSERVER, TRUSTING_OBSERVER, load_reader

from icmjax.persona_world import Source, make_task, make_world
from icmjax.steering import score_predictions

NUM_SETS, NUM_TEST = 12, 64


@click.command(help=__doc__)
@click.option("--num-claims", default=32, show_default=True)
@click.option("--wrong", default="1,2,4,6", show_default=True, help="Wrong pairs, by commas.")
def main(num_claims: int, wrong: str) -> None:
    """The command of this file."""
    world, rng = make_world(), np.random.default_rng(0)
    readers = [load_reader(name, world) for name in (OBSERVER, TRUSTING_OBSERVER)]
    click.echo(
        "source, wrong pairs: accuracy, sampled accuracy and log-loss of both; same signs; "
        "the first one's ties"
    )
    for source in (Source.NATIONAL, Source.STREET):
        found: dict[int, list[list[float]]] = {int(number): [] for number in wrong.split(",")}
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
                odds = [each[..., 1] - each[..., 0] for each in predictions]
                rows.append(
                    [float(np.mean([one.accuracy for one in each])) for each in scores]
                    + [
                        float(
                            np.mean([sampled_accuracy(one, held_out.gold.labels) for one in each])
                        )
                        for each in predictions
                    ]
                    + [float(np.mean([one.log_loss for one in each])) for each in scores]
                    + [float(np.mean(np.sign(odds[0]) == np.sign(odds[1])))]
                    + [float(np.mean(odds[0] == 0))]
                )
        for number, rows in found.items():
            values = " ".join(f"{value:.3f}" for value in np.mean(rows, axis=0))
            click.echo(f"{source.name} {number}: {values}")


if __name__ == "__main__":
    main()
