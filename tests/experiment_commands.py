"""Running an experiment's command inside a test, and reading what it wrote."""

import contextlib
import importlib
import json
import re
import shlex

import numpy as np
from click.testing import CliRunner


def invoke(name, options, out):
    command = importlib.import_module(name).main
    return CliRunner().invoke(command, [*options.split(), "--out", str(out)])


def run(name, options, out):
    result = invoke(name, options, out)
    assert result.exit_code == 0, result.output
    return result.output


def invoke_in(folder, name, options=""):
    """As by a call in that folder that names no --out."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(importlib.import_module(name).main, shlex.split(options))


def check_resumes(folder, name, options, monkeypatch):
    """A second call finds all that the first one made, says so first, and runs no unit."""
    units = importlib.import_module("harness.units")
    with monkeypatch.context() as patch:
        patch.setattr(units, "run_together", None)
        result = invoke_in(folder, name, options)
    assert result.exit_code == 0, result.output
    first, *_ = result.stderr.splitlines()
    num_done, num_all = re.fullmatch(
        r"cost: (\d+) of (\d+) (?:units|rows) are there already; nothing is left to run", first
    ).groups()
    assert num_done == num_all


def read_units(out):
    return [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]


def check_sets(sets, gold, pairs, num_wrong):
    labels = np.array([one["labels"] for one in sets])
    assert (labels[:, pairs].sum(-1) == 1).all()
    assert ((labels != gold).sum(-1) == 2 * num_wrong).all()
