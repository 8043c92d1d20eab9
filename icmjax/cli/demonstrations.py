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
    from icmjax.steering import Overlap


def as_of_run(source: ClaimsOptions, run: RunRecord) -> ClaimsOptions:
    """The options of claims that a run's labels are shown before: as of its own, where not given.

    These are labels, rule, persona and, of a file that has them, columns. A task of the persona
    world says all of them itself. Of a file of several personas the claims of the run's are taken,
    and stderr says so.
    """
    if icmjax.persona_world.is_task_name(source.source):
        return source
    source = _columns_as_of_run(source, run)
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


def _columns_as_of_run(source: ClaimsOptions, run: RunRecord) -> ClaimsOptions:
    """With the run's columns, where none are given and the file has them; stderr says so.

    That of the labels may lack: claims to predict have none.
    """
    recorded = _recorded(run, "columns")
    if source.columns is not None or recorded is None:
        return source
    present = icmjax.claims.column_names(source.source)
    mapping = icmjax.claims.parse_columns(recorded)
    found = {ours: yours for ours, yours in mapping.items() if yours in present}
    if not found or mapping.keys() - found.keys() - {"label", "is_liberal"}:
        return source
    columns = icmjax.claims.columns_text(found)
    click.echo(printable(f"columns {columns}, as the run's; --columns names others"), err=True)
    return source._replace(columns=columns)


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
    overlap = icmjax.steering.overlap(demonstrations, queries)
    kept = (~overlap.is_known).nonzero()[0]
    known, advice = known_by(overlap), advice_on_ids(overlap)
    if not len(kept):
        raise ClaimsError(
            Fault(
                "Held-out claims are not among the demonstrations.",
                f"all {len(queries)} are: {known}",
                source,
                advice or "give claims of other questions",
            )
        )
    if known:
        left_out = f"left out {len(queries) - len(kept)} of {len(queries)} claims"
        click.echo(f"{left_out}, which the demonstrations answer: {known}", err=True)
        if advice:
            click.echo(advice, err=True)
    return queries.select(kept), gold.select(kept)


def known_by(overlap: Overlap) -> str:
    """How many claims a run's labels answer by their texts, and by their ids; "" for none."""
    numbers = (
        (int(overlap.is_same.sum()), "of the same text"),
        (int(overlap.is_opposite.sum()), "that are the opposite of one, or tied to it"),
        (int(overlap.is_by_id.sum()), "that only share a consistency_id and a question"),
    )
    return ", ".join(f"{number} {how}" for number, how in numbers if number)


def advice_on_ids(overlap: Overlap) -> str:
    """What to do about claims that ids alone tie to the run's; "" where there are none."""
    if not overlap.is_by_id.any():
        return ""
    advice = "give other questions other ids in the column consistency_id, in both files"
    if overlap.is_same.any() or overlap.is_opposite.any():
        return advice
    return f"no text is in both files, so the ids are likely numbered anew in each: {advice}"


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
