"""The ablations of pretraining run at toy size, and each row differs in what it says."""

import dataclasses
import importlib
import json

import jax
import pytest
from experiment_commands import check_resumes, invoke_in

from icmjax.persona_world.training import Phase, PretrainConfig

TOY = {
    "num_layers": 1,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_size": 32,
    "batch_tokens": 192,
    # The last twentieth of the log must hold transcripts of 32 labels.
    "phases": (Phase(1.0, 192),),
}


@pytest.fixture(scope="module")
def ablations(experiments_on_path):
    return importlib.import_module("ablations")


@pytest.fixture(autouse=True)
def _standard_promotion():
    # Optax's schedules mix Python floats and integer counts.
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_each_row_changes_what_it_names(ablations):
    full = ablations.config_of(ablations.FULL, 1000)
    assert full == PretrainConfig(num_tokens=1000)
    assert ablations.config_of("half the tokens", 1000).num_tokens == 500
    for name, changes in ablations.VARIANTS.items():
        config = ablations.config_of(name, 1000)
        changed = {
            field.name
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(full, field.name)
        }
        assert changed == changes.keys()
        assert sum(phase.share for phase in config.phases) == pytest.approx(1)


@pytest.mark.slow
def test_ablations_run_and_resume(ablations, tmp_path, monkeypatch):
    rows = {ablations.FULL: TOY, "half the tokens": TOY | {"num_tokens": 0.5}}
    monkeypatch.setattr(ablations, "VARIANTS", rows)
    options = "--tokens 6000 --groups hestonia,ilvania"
    first = invoke_in(tmp_path, "ablations", options)
    assert first.exit_code == 0, first.output
    assert first.stderr.startswith("cost: 0 of 2 rows are there already; no time is published")
    assert "cost: the first row took" in first.stderr
    out = tmp_path / "runs" / "ablations"
    report = (out / "report.json").read_bytes()
    tables = json.loads(report)
    for metric in ablations.METRICS:
        assert [row["name"] for row in tables[metric]] == list(rows)
        assert metric in first.stdout
    compared = tables["accuracy, none: differences, p by Holm"]
    assert [row["name"] for row in compared] == [f"half the tokens − {ablations.FULL}"]
    half = json.loads((out / "half_the_tokens" / "config.json").read_text())
    assert half["pretrain"]["num_tokens"] == 3000

    monkeypatch.setattr(ablations, "train", None)  # what is trained already is not trained again
    check_resumes(tmp_path, "ablations", options, monkeypatch)
    assert (out / "report.json").read_bytes() == report
