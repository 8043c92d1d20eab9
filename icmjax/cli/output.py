"""What commands print: lines for people, JSON for programs, and a log for later."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from icmjax.cli.program import as_called
from icmjax.errors import Fault, RunError, printable

if TYPE_CHECKING:
    from icmjax import ClaimSet

json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON on stdout.")
log_option = click.option(
    "--log", type=click.Path(), help="Add lines with times to this file: progress, warnings."
)
OF_DIAGNOSTICS = ("label_shares", "mean_marginal_entropy")  # that are printed too
NOT_PRINTED = ("diagnostics", "versions", "warnings", "files", "configuration")


@contextlib.contextmanager
def logged(path: str | None) -> Iterator[None]:
    """Add what the logger `icmjax` is told to a file, where there is one.

    Raises:
      RunError: the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise RunError(Fault("A log can be written.", str(error), path, "choose another")) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger, level = logging.getLogger("icmjax"), logging.getLogger("icmjax").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def say(text: str) -> None:
    """A line on stderr and in the log."""
    click.echo(printable(text), err=True)
    logging.getLogger("icmjax").info("%s", printable(text))


def print_summary(
    summary: Mapping[str, Any],
    claims: ClaimSet,
    out: str,
    is_json: bool,
    said: Collection[str] = (),
) -> None:
    """What a search found: lines for people or JSON on stdout, warnings on stderr.

    Args:
      said: warnings that were shown already.
    """
    if is_json:
        shown = {name: value for name, value in summary.items() if name not in NOT_PRINTED}
        shown |= {name: summary["diagnostics"][name] for name in OF_DIAGNOSTICS}
        click.echo(json.dumps(shown, indent=1))
    else:
        for name, text in summary_lines(summary, claims, out):
            click.echo(printable(f"{name:<12}{text}"))
    for warning in summary["warnings"]:
        if warning not in said:
            say(f"warning: {warning}")


def summary_lines(
    summary: Mapping[str, Any], claims: ClaimSet, out: str
) -> Iterator[tuple[str, str]]:
    """A search's result as names and texts."""
    found = summary["diagnostics"]
    shares = zip(claims.options, found["label_shares"], strict=True)
    counts = ", ".join(f"{round(share * len(claims))} {option}" for option, share in shares)
    num_broken = summary["num_inconsistent"]
    tied = f", {num_broken} of {len(claims.rules.pairs)} pairs violated"
    yield "labels", counts + (tied if len(claims.rules.pairs) else "")
    if summary["accuracy"] is not None:
        yield "accuracy", f"{summary['accuracy']:.3f} of {summary['num_accuracy_claims']} claims"
    guess = math.log(len(claims.options))
    doubt = found["mean_marginal_entropy"]
    yield "doubt", f"{doubt:.3f} nats of entropy a claim, the mean; {guess:.3f} is a guess"
    predictability = summary["mutual_predictability"]
    yield "U", f"{summary['utility']:.3f}; a label's log-prob given the others {predictability:.3f}"
    seconds = summary["wall_seconds"]
    yield "read", f"{summary['num_tokens']:,} tokens in {seconds:.1f} s on {summary['device']}"
    yield "wrote", f"{out}; a page of it: {as_called(['report', out])}"
