"""A run's labelled claims before other claims: what commands that steer with them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.options import ClaimsOptions, ModelOptions
from icmjax.errors import ClaimsError, Fault, printable

if TYPE_CHECKING:
    from icmjax import ClaimSet, GoldLabels
    from icmjax.runs import RunRecord


def as_of_run(source: ClaimsOptions, run: RunRecord) -> ClaimsOptions:
    """The options of claims that a run's labels are shown before: its labels, rule and persona.

    Options that are given come first. A task of the persona world says all of them itself. Of a
    file of several personas the claims of the run's are taken, and stderr says so.
    """
    if icmjax.persona_world.is_task_name(source.source):
        return source
    if source.label_options is None:
        source = source._replace(label_options=_recorded(run, "label_options"))
    if source.rule == "auto":
        source = source._replace(rule=_recorded(run, "rule") or "auto")
    persona = run.claims.personas[0]
    if source.persona is None and len(run.claims.personas) == 1 and persona:
        known = source.personas()
        if persona in known and len(known) > 1:
            click.echo(
                printable(f"claims of {persona} alone, as the run's; --persona takes another's"),
                err=True,
            )
            return source._replace(persona=persona)
    return source


def check_wording(
    claims: ClaimSet, run: RunRecord, template: str | None, source: ClaimsOptions
) -> None:
    """Refuse claims that the columns of their file word otherwise than the run's own claims.

    A published table is recognised by its columns, and without one of them it is another table.

    Args:
      claims: to be put after the run's.
      template: that was named, by somebody who knows that the two differ; None for none.
      source: of the claims.

    Raises:
      ClaimsError: they are of another kind.
    """
    kinds = claims.template, run.claims.template
    if template is None and None not in kinds and kinds[0] != kinds[1]:
        rule = "Claims that follow a run's are worded as these, as the columns of their files say."
        remedy = "keep the columns that the run's file has, empty where nothing is known, such as "
        remedy += "answer_matching_behavior; or name a wording for both with --template"
        found = f"claims of the kind {kinds[0]}, after claims of the kind {kinds[1]}"
        raise ClaimsError(Fault(rule, found, source.source, remedy))


def columns_of(source: ClaimsOptions, run: RunRecord) -> str | None:
    """How the columns of the run's own claim file are called: as given, else as its search was."""
    return source.columns or _recorded(run, "columns")


def held_out(
    demonstrations: ClaimSet, queries: ClaimSet, gold: GoldLabels, source: str
) -> tuple[ClaimSet, GoldLabels]:
    """The claims that the demonstrations do not answer; says on stderr how many they do.

    Raises:
      ClaimsError: no claim is left.
    """
    kept = icmjax.steering.held_out(demonstrations, queries)
    num_known = len(queries) - len(kept)
    if not len(kept):
        raise ClaimsError(
            Fault(
                "Held-out claims are not among the demonstrations.",
                f"all {num_known} are, or are the opposite of one",
                source,
                "give claims of other questions",
            )
        )
    if num_known:
        click.echo(
            f"left out {num_known} of {len(queries)} claims: they are among the demonstrations, "
            "or are the opposite of one",
            err=True,
        )
    return queries.select(kept), gold.select(kept)


def no_gold(source: str) -> ClaimsError:
    """The error about held-out claims of a file that has no labels."""
    remedy = "add a column label; icmjax predict labels claims without"
    return ClaimsError(Fault("Held-out claims have gold labels.", "none", source, remedy))


def template_of(model: ModelOptions, run: RunRecord) -> str | None:
    """The name of the template that was asked for, else the one that the run had."""
    return model.template or _recorded(run, "template")


def _recorded(run: RunRecord, name: str) -> Any:
    """An option of the run's search; None of a run that the library made."""
    return run.manifest.get("options", {}).get(name)
