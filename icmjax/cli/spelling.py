"""What messages of the library call its arguments, spelt as options of the command line."""

import json
import os
import re
import shlex

import click

from icmjax.cli.program import spelt_as_called
from icmjax.errors import Fault, InputError

# By the arguments' names in Python; the tests hold them to the commands' own.
OPTION_OF = {
    name: f"--{name.removeprefix('num_').replace('_', '-')}"
    for name in (
        "alpha",
        "attention",
        "balance",
        "batch_size",
        "bias",
        "budget",
        "burn_in",
        "columns",
        "context_size",
        "cooling_rate",
        "devices",
        "dtype",
        "final_temperature",
        "hard",
        "hot_temperature",
        "initial_temperature",
        "leave",
        "limit",
        "max_length",
        "memory_budget",
        "mesh",
        "method",
        "num_chains",
        "num_iterations",
        "num_orders",
        "num_replicas",
        "num_seeds",
        "num_shots",
        "objective",
        "options",
        "persona",
        "quantize",
        "reference_deviations",
        "resume",
        "rule",
        "selector",
        "temperature",
        "template",
        "warm_start",
    )
} | {"clamped": "--clamp", "form": "--format", "queries": "--claims"}
# Functions, by what a command has in their place.
IN_PLACE_OF = {
    "ICM": "--algorithm icm",
    "open_run": "a new --out",
    "load_claims": "a command without --personas",
    "load_personas": "--personas all",
    "icmjax.utility": "icmjax score",
}
_NAMES = "|".join(OPTION_OF)
# As JSON writes it; what it cannot read is a user's own text.
_TEXT = r"\"(?:[^\"\\\x00-\x1f]|\\[\"\\/bfnrt]|\\u[0-9a-fA-F]{4})*\""
_MAPPING = rf"(?P<mapping>\{{{_TEXT}: {_TEXT}\}})"
_VALUE = rf"{_MAPPING}|\"[^\"]*\"|'[^']*'|\([^()]*\)|\w++(?:\.\w++)*+"
# Folders may have such names, as data/persona=Peru/claims.csv, and commands such options.
_SAID = re.compile(
    r"(?P<command>`icmjax [^`]*`)|"
    rf"(?<![\w/.-])(?P<name>{_NAMES})=(?P<value>{_VALUE})(?!/)|`(?P<alone>[\w.]+)`"
)
# An argument as the place of a fault: alone, as a config's field, or before what is odd in it.
_PLACE = re.compile(rf"(?:[A-Z]\w*\()?(?P<name>{_NAMES})(?:=\.\.\.\)|(?= = |[,:]|$))")
_WORD = re.compile(r"\"([^\"]*)\"|'([^']*)'")


def as_options(error: InputError) -> InputError:
    """The same error with the library's arguments spelt as options.

    Messages of the library name an argument as `name` in backticks, or with its value as Python
    writes it, such as rule="none". A file or a folder that the command was given stays as it is,
    whatever its name.
    """
    context = click.get_current_context(silent=True)
    given = [] if context is None else [*map(str, context.params.values())]
    own = {*given, *map(os.path.normpath, given)}
    return type(error)([_fault(fault, own) for fault in error.faults])


def _fault(fault: Fault, own: set[str]) -> Fault:
    place = _PLACE.match(fault.where)
    if fault.where.partition(":")[0] in own:
        where = fault.where
    elif place is None:
        where = _text(fault.where) if _SAID.fullmatch(fault.where) else fault.where
    else:
        where = OPTION_OF[place["name"]] + fault.where[place.end() :].replace(" = ", " ", 1)
    # What was found in a file is a user's own text.
    found = fault.found if where == fault.where else _text(fault.found)
    return Fault(_text(fault.rule), found, where, _text(fault.remedy))


def _text(text: str) -> str:
    return _SAID.sub(_said, text)


def _said(found: re.Match[str]) -> str:
    if found["command"]:
        return f"`{spelt_as_called(found['command'].strip('`'))}`"
    if found["alone"]:
        return (OPTION_OF | IN_PLACE_OF).get(found["alone"], found[0])
    option, value = OPTION_OF[found["name"]], found["value"]
    if value == "True":
        return option
    if found["mapping"]:
        mapping = json.loads(found["mapping"])
        names = [f"{ours}={yours}" for ours, yours in mapping.items()]
    else:
        names = ["".join(pair) for pair in _WORD.findall(value)]
    # As CSV has it: what holds a comma or a quote stands in quotes.
    cells = [_cell(name) for name in names]
    return f"{option} {shlex.quote(','.join(cells)) if cells else value}"


def _cell(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name
