"""The options that several commands of `icmjax` take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.errors import Fault, InputError

if TYPE_CHECKING:
    from icmjax.claims import ClaimSet
    from icmjax.cli.machine import Machine
    from icmjax.lm import LanguageModel
    from icmjax.scoring import Scorer
    from icmjax.search import Algorithm

# Spelt out, so that help and mistakes import nothing; the tests hold them to the code's own.
IMPLEMENTATIONS = ("einsum", "xla", "cudnn")
METHODS = ("tree", "sequential", "blockwise", "chain_rule")
SELECTORS = (
    "zero_shot_entropy",
    "leave_one_out_entropy",
    "marginal_entropy",
    "margin",
    "expected_gain",
    "random",
)
CLAIMS_HELP = (
    "A JSON, JSONL, CSV or Parquet file, or persona-world:GROUP:SEED[:preferences][:test]."
)
RULES = "auto|none|exactly_one_true|not_both_true|asymmetric_preference|same_answer_same_label"


def grouped_options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in the order in which help shows them."""
    return lambda command: functools.reduce(
        lambda f, option: option(f), reversed(decorators), command
    )


model_options = grouped_options(
    click.option("--model", required=True, help="persona-world, a folder, or a hub id."),
    click.option("--dtype", default="float32", show_default=True, help="Of the weights."),
    click.option(
        "--attention",
        default="einsum",
        show_default=True,
        type=click.Choice(IMPLEMENTATIONS),
        help="cudnn: NVIDIA's fused kernel, in 16 bits.",
    ),
    click.option("--template", help="By default the model's own, then the data's."),
)
claims_options = grouped_options(
    click.option("--claims", "source", required=True, help=CLAIMS_HELP),
    click.option("--persona", help="Take this persona's claims alone."),
    click.option("--limit", type=int, help="Take the first so many claims."),
    click.option(
        "--rule",
        default="auto",
        show_default=True,
        type=click.Choice(RULES.split("|")),
        help="Pair rule within a consistency group; auto: the one that the file's schema declares.",
    ),
    click.option("--hard", "is_hard", is_flag=True, help="Keep the rule instead of paying for it."),
)
utility_options = grouped_options(
    click.option(
        "--method",
        default="tree",
        show_default=True,
        type=click.Choice(METHODS),
        help="How scores are computed: tree and sequential are exact, in different orders; "
        "blockwise is an approximation; chain_rule scores the joint likelihood.",
    ),
    click.option(
        "--leave",
        default="claim",
        show_default=True,
        type=click.Choice(["claim", "group"]),
        help="What a query does not read: itself, or its whole consistency group.",
    ),
    click.option("--context-size", type=int, help="sequential: the most claims a query reads."),
    click.option(
        "--orders", "num_orders", default=1, show_default=True, help="Averaged over, at random."
    ),
    click.option("--alpha", default=50.0, show_default=True, help="Weight of predictability in U."),
    click.option(
        "--objective",
        default="log_prob",
        show_default=True,
        type=click.Choice(["log_prob", "log_odds"]),
        help="What mutual predictability averages.",
    ),
)


ALGORITHMS = {
    "icm": "ICM",
    "tempering": "ParallelTempering",
    "gibbs": "Gibbs",
    "bootstrap": "Bootstrap",
    "greedy": "Greedy",
}
algorithm_options = grouped_options(
    click.option(
        "--algorithm",
        default="icm",
        show_default=True,
        type=click.Choice(list(ALGORITHMS)),
        help="An option below that has no meaning for it is refused.",
    ),
    click.option("--iterations", "num_iterations", type=int, help="Steps of the search."),
    click.option("--chains", "num_chains", type=int, help="Independent searches."),
    click.option(
        "--seeds", "num_seeds", type=int, help="icm, tempering: claims labelled at random at first."
    ),
    click.option("--initial-temperature", type=float, help="icm."),
    click.option("--final-temperature", type=float, help="icm; tempering: annealed to it."),
    click.option("--cooling-rate", type=float, help="icm."),
    click.option(
        "--reference-deviations", type=bool, help="icm: as the authors' code, where it differs."
    ),
    click.option("--replicas", "num_replicas", type=int, help="tempering: of each chain."),
    click.option("--temperature", type=float, help="tempering: of the coldest rung; gibbs."),
    click.option("--hot-temperature", type=float, help="tempering: of the hottest rung."),
    click.option("--burn-in", type=float, help="tempering, gibbs: share of the steps."),
    click.option("--warm-start", help="tempering: zero_shot, bootstrap or random."),
    click.option("--shots", "num_shots", type=int, help="bootstrap: demonstrations of a pass."),
)


def make_algorithm(name: str, alpha: float, objective: str, options: dict[str, Any]) -> Algorithm:
    """The algorithm of a name with the options that are given, its own defaults elsewhere.

    Args:
      options: by field, None where not given.

    Raises:
      InputError: the algorithm has no such field, or the value is out of its range.
    """
    given = {field: value for field, value in options.items() if value is not None}
    default = getattr(icmjax, ALGORITHMS[name])()
    faults = [
        Fault(
            f"An option means something for the algorithm {name}.",
            f"{field} = {given[field]!r}",
            f"--algorithm {name}",
            "leave it out, or choose another algorithm",
        )
        for field in sorted(given.keys() - icmjax.search.field_names(default))
    ]
    if faults:
        raise InputError(faults)
    return icmjax.search.with_fields(default, alpha=alpha, objective=objective, **given)


SCORER_OPTIONS = ("method", "template", "leave", "context_size", "num_orders")


def scorer_of(
    lm: LanguageModel, claims: ClaimSet, options: Mapping[str, Any], machine: Machine
) -> Scorer:
    """The scorer that a command's options ask for.

    Raises:
      InputError, PromptError: see `make_scorer`.
    """
    return icmjax.make_scorer(
        lm,
        claims,
        **{name: options[name] for name in SCORER_OPTIONS},
        batch_size=machine.batch_size,
        memory_budget=machine.memory_budget,
        devices=machine.devices,
    )
