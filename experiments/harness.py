"""What all experiments share: units that are run once each, seeds of their own, the command."""

import functools
import inspect
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import jax
import numpy as np
from together import run_together
from tqdm import tqdm

from icmjax._version import __version__
from icmjax.errors import Fault, InputError, RunError
from icmjax.persona_world import World

UNITS_FILE, CONFIG_FILE = "units.jsonl", "config.json"
Unit = dict[str, Any]


def run_units(
    out: pathlib.Path,
    config: dict[str, Any],
    keys: Sequence[Sequence[Any]],
    run_unit: Callable[..., Unit],
    num_together: int = 1,
) -> list[Unit]:
    """Runs `run_unit(*key)` for every key that `out` does not hold yet; results in order of keys.

    The searches of so many units in a row are done together. Who is together with whom depends on
    the keys alone, so that a broken-off experiment has the results of one that was not.

    A unit's result depends on its key, `config` and the package's version alone, so that a
    broken-off experiment goes on when it is started again. So the config holds fingerprints of the
    weights and of the claims, rather than names and paths alone.

    Raises:
      RunError: `out` holds units of another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG_FILE
    config = json.loads(json.dumps(config | {"version": __version__}))
    there = json.loads(path.read_text()) if path.exists() else config
    then, now = dict(_leaves(there)), dict(_leaves(config))
    faults = [
        Fault(
            "An experiment goes on under its own configuration.",
            f"{then.get(name)!r} then, {now.get(name)!r} now",
            f"{path}: {name}",
            "name another folder, or pass what it was started with",
        )
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if faults:
        raise RunError(faults)
    path.write_text(json.dumps(config, indent=1) + "\n")
    done = {json.dumps(unit["key"]): unit for unit in read_units(out / UNITS_FILE)}
    with (out / UNITS_FILE).open("a") as file:
        for first in tqdm(range(0, len(keys), num_together), unit="unit", unit_scale=num_together):
            block = keys[first : first + num_together]
            missing = [json.dumps(list(key)) not in done for key in block]
            if not any(missing):
                continue
            results = run_together([functools.partial(run_unit, *key) for key in block])
            for key, result, is_missing in zip(block, results, missing, strict=True):
                if is_missing:
                    unit = {"key": list(key)} | json.loads(json.dumps(result))
                    done[json.dumps(list(key))] = unit
                    file.write(json.dumps(unit) + "\n")
                    file.flush()
    return [done[json.dumps(list(key))] for key in keys]


def read_units(path: pathlib.Path) -> list[Unit]:
    """The units of a file; what a kill left of a half-written line is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested configuration."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def unit_key(name: str, seed: int) -> jax.Array:
    """A typed key of one group and seed; other groups draw other numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def unit_rng(name: str, seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers of one group, seed and purpose, on the host."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), *purpose))


def groups_of(world: World, groups: str | None, is_quick: bool) -> list[str]:
    """The groups asked for: named, or one a tier for a quick look, or all of the world."""
    if groups:
        return [world.group_names[world.group_index(name)] for name in groups.split(",")]
    return [tier[0] for tier in world.tiers.values()] if is_quick else list(world.group_names)


def tier_of(world: World, group: str) -> str:
    """The tier of a group's frequency."""
    return next(tier for tier, names in world.tiers.items() if group in names)


def chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    """The names of a comma-separated option.

    Raises:
      InputError: one of them is not known.
    """
    names = text.split(",")
    faults = [
        Fault("An option names what there is.", repr(name), option, f"choose of {', '.join(known)}")
        for name in names
        if name not in known
    ]
    if faults:
        raise InputError(faults)
    return names


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a result such that the same result is the same bytes; NaN and infinities are null."""
    path.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


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
    return click.command(help=inspect.unwrap(function).__globals__["__doc__"])(
        out(quick(groups(command)))
    )
