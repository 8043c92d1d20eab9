"""What all experiments share: units that are run once each, tables of means with intervals."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from icmjax.errors import Fault, InputError, RunError
from icmjax.persona_world.world import World
from icmjax.statistics import Summary, summarise

UNITS_FILE, CONFIG_FILE = "units.jsonl", "config.json"
Unit = dict[str, Any]


class Row(NamedTuple):
    """One line of a table: a quantity over its units."""

    name: str
    summary: Summary
    p_value: float | None = None  # of a paired comparison, two-sided


def run_units(
    out: pathlib.Path,
    config: dict[str, Any],
    keys: Sequence[Sequence[Any]],
    run_unit: Callable[..., Unit],
) -> list[Unit]:
    """Runs `run_unit(*key)` for every key that `out` does not hold yet; results in order of keys.

    A unit's result depends on its key and `config` alone, so that a broken-off experiment goes on
    when it is started again.

    Raises:
      RunError: `out` holds units of another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    config, path = json.loads(json.dumps(config)), out / CONFIG_FILE
    there = json.loads(path.read_text()) if path.exists() else config
    faults = [
        Fault(
            "An experiment goes on under its own configuration.",
            f"{there.get(name)!r} then, {config.get(name)!r} now",
            f"{path}: {name}",
            "name another folder, or pass what it was started with",
        )
        for name in sorted(there.keys() | config.keys())
        if there.get(name) != config.get(name)
    ]
    if faults:
        raise RunError(faults)
    path.write_text(json.dumps(config, indent=1) + "\n")
    units_path = out / UNITS_FILE
    lines = units_path.read_text().splitlines() if units_path.exists() else []
    done = {json.dumps(unit["key"]): unit for unit in map(json.loads, lines)}
    with units_path.open("a") as file:
        for key in tqdm(keys, unit="unit"):
            name = json.dumps(list(key))
            if name not in done:
                done[name] = {"key": list(key)} | json.loads(json.dumps(run_unit(*key)))
                file.write(json.dumps(done[name]) + "\n")
                file.flush()
    return [done[json.dumps(list(key))] for key in keys]


def groups_of(world: World, groups: str | None, is_quick: bool) -> list[str]:
    """The groups asked for: named, or one a tier for a quick look, or all of the world."""
    if groups:
        return [world.group_names[world.group_index(name)] for name in groups.split(",")]
    return [tier[0] for tier in world.tiers.values()] if is_quick else list(world.group_names)


def tier_of(world: World, group: str) -> str:
    """The tier of a group's frequency."""
    return next(tier for tier, names in world.tiers.items() if group in names)


def mean_row(name: str, values: Iterable[float]) -> Row:
    """The mean over units."""
    return Row(name, summarise(np.array(list(values), np.float64)))


def table(rows: Sequence[Row], title: str) -> str:
    """One line a quantity: n, mean, spread, 95 % interval and, for a comparison, p."""
    width = max(len(row.name) for row in rows)
    lines = [
        title,
        f"{'':{width}} {'n':>4} {'mean':>8} {'spread':>7} {'95 % interval':>18} {'p':>8}",
    ]
    for name, summary, p_value in rows:
        interval = f"[{summary.low:.3f}, {summary.high:.3f}]"
        p_text = "" if p_value is None else f"{p_value:.4f}"
        lines.append(
            f"{name:{width}} {summary.num:4d} {summary.mean:8.3f} {summary.spread:7.3f} "
            f"{interval:>18} {p_text:>8}".rstrip()
        )
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of a table, for a JSON file."""
    return [{"name": row.name, "p_value": row.p_value} | row.summary._asdict() for row in rows]


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a result such that the same result is the same bytes."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def experiment(function: Callable[..., None]) -> click.Command:
    """A command whose help is its file's docstring and whose faults are messages, with status 2."""

    @functools.wraps(function)
    def command(**options: Any) -> None:
        start = time.monotonic()
        try:
            function(**options)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from error
        click.echo(f"{time.monotonic() - start:.0f} s; results in {options['out']}")

    out = click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
    quick = click.option("--quick", is_flag=True, help="A look in under three minutes.")
    groups = click.option("--groups", help="Names, separated by commas; by default all.")
    return click.command(help=function.__globals__["__doc__"])(out(quick(groups(command))))
