"""Running an experiment's command inside a test, and reading what it wrote."""

import importlib
import json

import numpy as np
from click.testing import CliRunner


def invoke(name, options, out):
    command = importlib.import_module(name).main
    return CliRunner().invoke(command, [*options.split(), "--out", str(out)])


def run(name, options, out):
    result = invoke(name, options, out)
    assert result.exit_code == 0, result.output
    return result.output


def read_units(out):
    return [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]


def check_sets(sets, gold, pairs, num_wrong):
    labels = np.array([one["labels"] for one in sets])
    assert (labels[:, pairs].sum(-1) == 1).all()
    assert ((labels != gold).sum(-1) == 2 * num_wrong).all()
