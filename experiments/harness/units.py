"""Units of an experiment: each is run once, kept in a file, and found there the next time."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from harness.costs import Cost
from harness.together import run_together
from icmjax._version import __version__
from icmjax.devices import spare_memory_maps
from icmjax.errors import Fault, RunError

UNITS_FILE, CONFIG_FILE = "units.jsonl", "config.json"
Unit = dict[str, Any]


def run_units(
    out: pathlib.Path,
    config: dict[str, Any],
    keys: Sequence[Sequence[Any]],
    run_unit: Callable[..., Unit],
    num_together: int = 1,
    cost: Cost | None = None,
) -> list[Unit]:
    """Runs `run_unit(*key)` for every key that `out` does not hold yet; results in order of keys.

    The searches of so many units in a row are done together. The keys alone decide who is together
    with whom, so that a broken-off experiment has the results of one that was not.

    A unit's result depends on its key, `config` and the package's version alone, so that a
    broken-off experiment goes on when it is started again. So the config holds fingerprints of the
    weights and of the claims, rather than names and paths alone. Code that changed under one
    version is not seen: who changes it begins another folder.

    The cost is said before the first unit, and what is left of it after that one. A unit's kind is
    the last word of its key.

    Raises:
      RunError: `out` holds units of another configuration.
    """
    _keep_config(out, config)
    path = out / UNITS_FILE
    done = {json.dumps(unit["key"]): unit for unit in read_units(path)}
    names = [json.dumps(list(key)) for key in keys]
    kinds = {name: str(key[-1]) for name, key in zip(names, keys, strict=True)}
    num_done = sum(name in done for name in names)
    if cost:
        cost.say(num_done, [kinds[name] for name in names if name not in done])
    with path.open("a") as file, tqdm(total=len(keys), initial=num_done, unit="unit") as bar:
        for first in range(0, len(keys), num_together):
            block = slice(first, first + num_together)
            missing = [name not in done for name in names[block]]
            if not any(missing):
                continue
            start = time.monotonic()
            results = run_together([functools.partial(run_unit, *key) for key in keys[block]])
            for key, name, result, is_missing in zip(
                keys[block], names[block], results, missing, strict=True
            ):
                if is_missing:
                    done[name] = {"key": list(key)} | json.loads(json.dumps(result))
                    file.write(json.dumps(done[name]) + "\n")
                    file.flush()
            bar.update(sum(missing))
            spare_memory_maps()
            if cost:
                run = [kinds[name] for name in names[block]]
                left = [kinds[name] for name in names if name not in done]
                cost.say_rate(time.monotonic() - start, run, left)
                cost = None  # it is said once
    return [done[name] for name in names]


def _keep_config(out: pathlib.Path, config: dict[str, Any]) -> None:
    """Writes the configuration; raises a RunError where `out` holds another one."""
    path = out / CONFIG_FILE
    config = json.loads(json.dumps(config | {"version": __version__}))
    there = json.loads(path.read_text()) if path.exists() else config
    then, now = dict(_leaves(there)), dict(_leaves(config))
    faults = [
        Fault(
            "An experiment goes on under its own configuration.",
            f"{then.get(name)!r} then, {now.get(name)!r} now",
            f"{path}: {name}",
            "name another folder with --out, or pass what it was started with",
        )
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if faults:
        raise RunError(faults)
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(config, indent=1) + "\n")
        unfinished.replace(path)  # a kill leaves a whole file, or none


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
