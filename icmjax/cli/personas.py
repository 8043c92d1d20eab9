"""Several personas in one command: each labelled by itself, together where that is one program."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import icmjax
from icmjax.cli.inputs import read_labels, read_personas
from icmjax.cli.labelling import (
    Place,
    Search,
    Task,
    algorithm_of,
    describe,
    has_begun,
    known_warnings,
    prepare,
)
from icmjax.cli.machine import Machine
from icmjax.cli.options import ClaimsOptions, ModelOptions, recorded
from icmjax.cli.output import say
from icmjax.errors import Fault, InputError, Preempted, RunError, printable
from icmjax.files import write_text

if TYPE_CHECKING:
    from icmjax import LanguageModel
    from icmjax.search import Algorithm

SUMMARY = "summary.csv"
SHOWN = ("num_claims", "accuracy", "mutual_predictability", "num_inconsistent")
WRITTEN = (*SHOWN, "num_accuracy_claims", "utility", "num_tokens", "wall_seconds")
MOVABLE = ("model", "source", "template")  # the first two are paths; the last is resolved


class Member(NamedTuple):
    """One of the personas: its claims, and the folder that its run is kept in."""

    persona: str
    task: Task
    place: Place
    options: Mapping[str, Any]  # of the command, for this persona alone


def label_personas(
    source: ClaimsOptions,
    personas: str,
    clamp: str | None,
    options: Mapping[str, Any],
    place: Place,
    machine: Machine,
    stop_fn: Callable[[], bool],
) -> None:
    """Search each persona's labels, write a table of all, and print it.

    Args:
      source: of the claims.
      personas: names with commas between, or "all".
      clamp: file of labels that must not move.
      options: those of the command, as a run records them.
      place: the folder in which each persona gets one of its own.
      machine: shared by the personas that are searched together.
      stop_fn: says whether the searches are to end after the block that is running.

    Raises:
      InputError: the options, the claims, the model or a folder are not usable.
      Preempted: the searches ended as they were asked to.
    """
    _check_hosts()
    algorithm = algorithm_of(options)
    _check_folder(place)
    members = _members(source, personas, clamp, options, place)
    _check_others(members, place)
    done = {each.persona: summary for each in members if (summary := _complete(each)) is not None}
    left = [each for each in members if each.persona not in done]
    for each in left:
        describe(each.task.claims, place, each.persona)
    said: dict[str, list[str]] = {each.persona: [] for each in members}
    said |= {each.persona: known_warnings(each.task.claims, options) for each in left}
    _warn(said)
    if len(left) < len(members) and not place.quiet:
        click.echo(f"{len(members) - len(left)} complete already", err=True)
    if left:
        lm = recorded(ModelOptions, options).load(machine.mesh)
        done |= _label_all(left, lm, machine, algorithm, stop_fn)
    summaries = [done[each.persona] for each in members]
    path = _write_table(members, summaries, place)
    found = {persona: done[persona]["warnings"] for persona in said}
    _warn({name: [text for text in found[name] if text not in said[name]] for name in found})
    click.echo(printable(f"wrote {path}"), err=place.is_json)


def folder_names(personas: Sequence[str]) -> list[str]:
    """A folder's name for each persona: letters, digits, `.`, `_` and `-`; no two alike.

    Case counts for nothing, since some file systems do not keep it.
    """
    names: list[str] = []
    for persona in personas:
        plain = re.sub(r"[^\w.-]+", "-", persona).strip("-.")[:60] or "persona"
        name, number = plain, 1
        while name.casefold() in {other.casefold() for other in (*names, SUMMARY)}:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def _check_hosts() -> None:
    """Refuse several processes: each would tell by itself which searches are left, or end.

    Raises:
      InputError: there are several.
    """
    import jax

    if jax.process_count() > 1:
        rule, remedy = "Processes share one search.", "start one command a persona, by --persona"
        found = f"{jax.process_count()} processes, and --personas"
        raise InputError(Fault(rule, found, "--distributed", remedy))


def _check_others(members: Sequence[Member], place: Place) -> None:
    """Refuse to resume without personas that were begun: the table has a row for each.

    Raises:
      RunError: the folder holds runs of others.
    """
    named = {os.path.basename(each.place.out) for each in members}
    within = sorted(pathlib.Path(place.out).iterdir()) if place.resume else []
    rule = "Searches are resumed with all personas that they were started with."
    remedy = "name them too, or all; or start anew in another folder"
    faults = [
        Fault(rule, f"a run that --personas leaves out: {each.name}", place.out, remedy)
        for each in within
        if each.name not in named and os.path.lexists(each / "manifest.json")
    ]
    if faults:
        raise RunError(faults)


def _check_folder(place: Place) -> None:
    """Refuse a folder that holds something already, or nothing to resume.

    Raises:
      RunError: it does.
    """
    if place.resume:
        if not place.has_begun:
            rule, remedy = "Searches that are resumed have begun.", "start them without --resume"
            raise RunError(Fault(rule, "no run in it", place.out, remedy))
        return
    folder = pathlib.Path(place.out)
    if place.has_begun:
        rule, remedy = "Searches start in a new or empty folder.", "name another, or --resume"
        raise RunError(Fault(rule, "runs", place.out, remedy))
    icmjax.runs.check_folder(folder, resume=False)


def _members(
    source: ClaimsOptions,
    personas: str,
    clamp: str | None,
    options: Mapping[str, Any],
    place: Place,
) -> list[Member]:
    claims_of = read_personas(source, personas)
    members = []
    for (persona, (claims, gold)), name in zip(
        claims_of.items(), folder_names([*claims_of]), strict=True
    ):
        clamped = None if clamp is None else read_labels(clamp, claims, is_part=True)
        out = os.path.join(place.out, name)
        own = place._replace(out=out, resume=place.resume and has_begun(out))
        task = Task(claims, gold, clamped, {})
        members.append(Member(persona, task, own, {**options, "persona": persona}))
    return members


def _complete(member: Member) -> dict[str, Any] | None:
    """The summary of a run that is complete and was asked for alike; None of one that is not.

    Raises:
      RunError: its files are damaged, or it had other options or claims.
    """
    folder = member.place.out
    if not (member.place.resume and os.path.lexists(os.path.join(folder, "summary.json"))):
        return None
    run = icmjax.read_run(folder)
    before = run.manifest.get("options", {})
    changes = {
        name: (before.get(name), value)
        for name, value in member.options.items()
        if name not in MOVABLE and before.get(name) != value
    }
    if run.claims != member.task.claims:
        changes["claims"] = (repr(run.claims), repr(member.task.claims))
    if changes:
        raise RunError(
            [
                Fault(
                    rule="Searches are resumed as they were started.",
                    found=f"{name} = {now!r}, before {earlier!r}",
                    where=folder,
                    remedy="resume with the value it had, or start anew in another folder",
                )
                for name, (earlier, now) in changes.items()
            ]
        )
    return run.summary


def _label_all(
    members: Sequence[Member],
    lm: LanguageModel,
    machine: Machine,
    algorithm: Algorithm,
    stop_fn: Callable[[], bool],
) -> dict[str, dict[str, Any]]:
    """The summaries of all searches, by persona. Those that have begun go on one by one."""
    summaries: dict[str, dict[str, Any]] = {}
    new = [each for each in members if not each.place.resume]
    groups = _groups(new, lm, machine, algorithm)
    together = {member.persona for group in groups for member, _ in group}
    for group in groups:
        summaries |= _label_together(group, algorithm, stop_fn)
    for member in members:
        if member.persona in together:
            continue
        if stop_fn():
            raise Preempted(0)
        if not member.place.quiet:
            click.echo(printable(f"searching {member.persona}"), err=True)
        search = prepare(member.task, member.options, lm, machine)
        summaries[member.persona] = search.run_alone(member.place, algorithm, stop_fn)
    return summaries


def _groups(
    members: Sequence[Member], lm: LanguageModel, machine: Machine, algorithm: Algorithm
) -> list[list[tuple[Member, Search]]]:
    """Two or more searches each that can be one program, within the memory budget.

    Meshes and several devices share one search at a time.
    """
    if lm.mesh is not None or machine.devices or len(members) < 2:
        return []
    share = machine._replace(memory_gib=machine.memory_gib / len(members))
    # Shapes are given out again where they fit, and those of longer claims fit shorter ones.
    by_length = sorted(members, key=_longest_text, reverse=True)
    try:
        searches = [(each, prepare(each.task, each.options, lm, share)) for each in by_length]
    except InputError:
        # What is wrong with one of them alone is found again when it is searched alone.
        if not members[0].place.quiet:
            click.echo("one after another: they do not share the memory budget", err=True)
        return []
    groups: list[list[tuple[Member, Search]]] = []
    for member, search in searches:
        for group in groups:
            if _go_together(group[0][1], search, algorithm):
                group.append((member, search))
                break
        else:
            groups.append([(member, search)])
    return [group for group in groups if len(group) > 1]


def _longest_text(member: Member) -> int:
    """Characters of the longest claim."""
    return max(len(claim.question) + len(claim.choice) for claim in member.task.claims.claims)


def _go_together(first: Search, second: Search, algorithm: Algorithm) -> bool:
    """Whether two searches are of one shape; states are made only where all else is."""
    parts = [(each.scorer, each.task.claims.rules) for each in (first, second)]
    if not icmjax.search.have_one_shape(parts):
        return False
    return icmjax.search.have_one_shape([each.first_state(algorithm) for each in (first, second)])


def _label_together(
    group: Sequence[tuple[Member, Search]], algorithm: Algorithm, stop_fn: Callable[[], bool]
) -> dict[str, dict[str, Any]]:
    members, searches = zip(*group, strict=True)
    if not members[0].place.quiet:
        names = ", ".join(member.persona for member in members)
        click.echo(printable(f"searching together: {names}"), err=True)
    tasks = [search.task for search in searches]
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(search.open(member.place, algorithm)) for member, search in group
        ]
        results = icmjax.search_together(
            [search.scorer for search in searches],
            [task.claims.rules for task in tasks],
            algorithm,
            [search.rng_key for search in searches],
            clamped=[task.clamped for task in tasks],
            groups=[task.claims.group_index for task in tasks],
            runs=runs,
            stop_fn=stop_fn,
            progress=not members[0].place.quiet,
        )
        return {
            member.persona: search.write(run, result, algorithm, member.place)
            for (member, search), run, result in zip(group, runs, results, strict=True)
        }


def _write_table(
    members: Sequence[Member], summaries: Sequence[Mapping[str, Any]], place: Place
) -> pathlib.Path:
    """Write a row a persona as CSV, and print the most of it, or all of it as JSON."""
    rows = [
        {
            "persona": member.persona,
            "folder": os.path.basename(member.place.out),
            **{name: summary[name] for name in WRITTEN},
            "label_shares": " ".join(
                f"{share:.3f}" for share in summary["diagnostics"]["label_shares"]
            ),
            "num_warnings": len(summary["warnings"]),
        }
        for member, summary in zip(members, summaries, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = pathlib.Path(place.out) / SUMMARY
    write_text(path, text.getvalue(), error=RunError)
    if place.is_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        _print_table(rows)
    return path


def _warn(of_persona: Mapping[str, Sequence[str]]) -> None:
    """Each warning once, with all personas that it is of."""
    of_text: dict[str, list[str]] = {}
    for persona, texts in of_persona.items():
        for text in texts:
            of_text.setdefault(text, []).append(persona)
    for text, whose in of_text.items():
        say(f"warning: {', '.join(whose)}: {text}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    shown = ("persona", *SHOWN, "label_shares", "num_warnings")
    cells = [shown, *(tuple(_cell(row[name]) for name in shown) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(printable("  ".join(padded).rstrip()))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
