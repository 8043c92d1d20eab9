"""A search is resumed by what scores as before, and by nothing else."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_checkpoint
from commands import invoke

from icmjax import runs
from icmjax.claims import claims_from_rows
from icmjax.lm import load_lm
from icmjax.runs.fingerprints import settings_of
from icmjax.scoring import make_scorer, shapes
from icmjax.search import ICM

NUM_CLAIMS = 6
TEXT = "I think this claim is True False. Taxes dams and trade number 0 1 2 3 4 5 help harm?"


def cut_off_after_one_save(patch):
    save = runs.Run.save

    def save_once(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    patch.setattr(runs.Run, "save", save_once)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, claims, and a search by each of two methods that was cut off after a save."""
    folder = tmp_path_factory.mktemp("fingerprints")
    make_checkpoint(folder / "model", "llama", [TEXT] * 10)
    rows = [
        {"id": f"c{i}", "question": "", "choice": f"Taxes help {i}", "consistency_id": i // 2}
        for i in range(NUM_CLAIMS)
    ]
    (folder / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after_one_save(patch)
        for method in METHODS:
            result = invoke(*command(folder, folder / method, method))
            assert result.exit_code == 130, result.output
    return folder


METHODS = {"tree": (), "sequential": ("--context-size", 3)}


def command(made, out, method):
    files = "--model", made / "model", "--claims", made / "claims.jsonl", "--rule", "none"
    settings = "--method", method, *METHODS[method], "--iterations", 5, "--quiet"
    return "search", *files, "--out", out, *settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes", "names"),
    [
        ("tree", ("--leave", "group"), ["options.leave", "scorer.fingerprint"]),
        (
            "sequential",
            ("--leave", "group"),
            ["options.leave", "scorer.settings.leave"],
        ),
        (
            "sequential",
            ("--context-size", 4),
            ["options.context_size", "scorer.settings.context_size"],
        ),
        (
            "tree",
            ("--attention", "xla"),
            ["options.attention", "scorer.settings.lm.config.attention"],
        ),
        ("tree", ("--alpha", 20), ["algorithm.alpha", "options.alpha"]),
        ("tree", ("--template", "world"), ["options.template", "scorer.fingerprint"]),
        ("tree", ("--dtype", "bfloat16"), ["options.dtype", "scorer.fingerprint"]),
        ("tree", ("--seed", 1), ["options.seed", "rng_key.data"]),
    ],
)
def test_another_option_is_refused(made, tmp_path, method, changes, names):
    shutil.copytree(made / method, tmp_path / "run")
    result = invoke(*command(made, tmp_path / "run", method), *changes, "--resume")
    assert result.exit_code == 2, result.output
    shown = [line.split()[1] for line in result.output.splitlines() if "found:" in line]
    assert shown == names


def changed_model(folder, to, **fields):
    shutil.copytree(folder / "model", to)
    config = json.loads((to / "config.json").read_text())
    for name, value in fields.items():
        if name in config["rope_parameters"]:
            config["rope_parameters"][name] = value
        else:
            assert name in config
            config[name] = value
    (to / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"rope_theta": 20000.0}, "ropes.0.theta"),
        ({"hidden_act": "gelu"}, "activation"),
        ({"rms_norm_eps": 1e-3}, "norm_eps"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
@pytest.mark.parametrize("method", METHODS)
def test_another_configuration_of_the_model_is_refused(made, tmp_path, method, fields, name):
    shutil.copytree(made / method, tmp_path / "run")
    changed_model(made, tmp_path / "model", **fields)
    options = "--model", tmp_path / "model"
    result = invoke(*command(made, tmp_path / "run", method), *options, "--resume")
    assert result.exit_code == 2, result.output
    assert f"scorer.settings.lm.config.{name} = " in result.output


def test_a_weight_that_differs_in_its_last_bit_is_refused(made, tmp_path):
    shutil.copytree(made / "tree", tmp_path / "run")
    shutil.copytree(made / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 4] = np.nextafter(tensors[name][3, 4], np.float32(9))
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    options = "--model", tmp_path / "model", "--resume"
    result = invoke(*command(made, tmp_path / "run", "tree"), *options)
    assert result.exit_code == 2, result.output
    assert "scorer.fingerprint = " in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [("--batch-size", 1), ("--memory-budget", 0.1), ("--devices", 2), ()],
    ids=lambda changes: changes[0] if changes else "the same",
)
def test_the_machine_and_the_place_may_change(made, tmp_path, monkeypatch, changes):
    """The model was moved, and the claims are named from another folder."""
    shutil.copytree(made / "tree", tmp_path / "run")
    shutil.copytree(made / "model", tmp_path / "moved")
    monkeypatch.chdir(made)
    options = "--model", tmp_path / "moved", "--claims", "claims.jsonl", "--resume"
    result = invoke(*command(made, tmp_path / "run", "tree"), *options, *changes)
    assert result.exit_code == 0, result.output
    sessions = json.loads((tmp_path / "run" / "manifest.json").read_text())["sessions"]
    assert len(sessions) == 2


def make_claims(*lengths):
    return claims_from_rows(
        [
            {"question": "", "choice": "Taxes help " * length, "consistency_id": i}
            for i, length in enumerate(lengths)
        ],
        rule="none",
    )


def test_how_a_process_pads_its_trees_changes_nothing(made):
    """Trees take shapes that were given out before in the process."""
    lm, claims = load_lm(made / "model"), make_claims(1, 2, 1, 2, 2, 1)
    jax.clear_caches()

    def configuration():
        scorer = make_scorer(lm, claims, "tree")
        return scorer, runs.search_configuration(scorer, claims, ICM(), jax.random.key(0))

    shapes._given_out.clear()
    alone, expected = configuration()
    shapes._given_out.clear()
    make_scorer(lm, make_claims(3, 2, 2, 3, 2, 2), "tree")
    padded, found = configuration()
    assert padded.claims.queries.shape != alone.claims.queries.shape
    assert found == expected
    others = make_scorer(lm, make_claims(1, 2, 1, 2, 1, 2), "tree")
    other = runs.search_configuration(others, claims, ICM(), jax.random.key(0))
    assert other["scorer"]["fingerprint"] != expected["scorer"]["fingerprint"]


@pytest.mark.parametrize(
    ("method", "num_orders"),
    [*itertools.product(("tree", "sequential", "chain_rule"), (1, 2)), ("blockwise", 1)],
)
def test_every_scorer_has_the_settings_of_its_model(made, method, num_orders):
    scorer = make_scorer(
        load_lm(made / "model"), make_claims(1, 2, 1), method, num_orders=num_orders
    )
    flat = json.dumps(settings_of(getattr(scorer, "sources", scorer)))
    assert "norm_eps" in flat
    for harmless in ("batch_size", "width", "num_spare", "tokenizer"):
        assert harmless not in flat
