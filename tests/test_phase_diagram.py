"""The phase diagram of matched accuracy, and what readers make of sources that they doubt."""

import importlib
import json

import numpy as np
import pytest
from experiment_commands import (
    check_resumes,
    check_sets,
    invoke,
    invoke_in,
    read_units,
    run,
)

from icmjax.errors import InputError
from icmjax.persona_world import Source, make_task, make_world

pytestmark = pytest.mark.usefixtures("experiments_on_path")


@pytest.fixture(scope="module")
def phase_units(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase")
    options = "--model trusting-observer --part phase --groups ilvania --seeds 1 --num-test 8"
    options += " --num-claims 32 --swaps 16 --repeats 1"
    result = invoke_in(folder, "matched_accuracy", options)
    assert result.exit_code == 0, result.output
    check_resumes(folder, "matched_accuracy", options, pytest.MonkeyPatch())
    return folder / "runs" / "matched_accuracy_phase", result.stdout


@pytest.mark.slow
def test_the_phase_diagram_at_toy_size(phase_units):
    out, printed = phase_units
    report = json.loads((out / "report.json").read_text())
    assert len(report) == 12  # of each reader four metrics, and U; two metrics that compare them
    for title, rows in report.items():
        assert len(rows) == (72 if "mean U" in title else 18)
        assert rows[0]["p_value"] is None  # of one group nothing can be tested
    assert "below f*, below f*(16)" in printed
    assert printed.count("with f*(n)") == 4  # of each reader by both kinds of accuracy
    assert (out / "phase_diagram.png").exists()


def test_coherent_sets_of_the_phase_diagram_are_coherent(phase_units):
    """Not stuck where the reader has given up: U rises with β in every cell."""
    out, _ = phase_units
    for unit in read_units(out):
        for source in ("NATIONAL", "WEB", "STREET"):
            found, gold = unit["observer"][source], np.array(unit["gold"][source])
            for one in found["sets"]:
                check_sets([one], gold, np.array(unit["pairs"][source]), one["num_wrong_pairs"])
            coherence = {
                beta: [one["mutual_predictability"] for one in found["sets"] if one["beta"] == beta]
                for beta in (0.0, 2.0)
            }
            assert np.mean(coherence[2.0]) > np.mean(coherence[0.0]) + 0.1
    means = np.mean([unit["observer"]["NATIONAL"]["mean_utility"] for unit in read_units(out)], 0)
    assert (means[1:, -1] > means[1:, 0] + 5).all()
    assert (means[:, -1] > -30).all()  # the plateau lies at -50 ln 2 = -34.7


@pytest.mark.parametrize("header", ["source", "group"])
def test_the_header_of_the_phase_diagram_names_what_it_is_asked_to(header):
    module, seen = importlib.import_module("harness.phase_diagram"), []

    class Stop(Exception):
        """Raised once the claims are known."""

    class OnlyLooks:
        def make_scorer(self, claims):
            seen.append(claims.preamble)
            raise Stop

    options = {"num_claims": 32, "num_test": 8, "header": header, "num_repeats": 1, "num_swaps": 16}
    with pytest.raises(Stop):
        module.run_unit({"model": OnlyLooks()}, make_world(), options, "Ilvania", 0)
    assert ("Ilvania" in seen[0]) == (header == "group")
    assert "poll" in seen[0]


def test_doubt_leaves_the_signs_of_what_an_observer_predicts():
    """An unreliable source says nothing of other claims: doubt mixes predictions with even ones."""
    world, readers = make_world(), importlib.import_module("harness.readers")
    options = {"source": Source.NATIONAL, "is_named": False}
    task = make_task(world, "Ilvania", 0, "search", 32, **options)
    held_out = make_task(world, "Ilvania", 0, "test", 32, **options)
    labels = np.repeat(task.gold.labels[None], 6, axis=0)
    for row, wrong in zip(
        labels, np.random.default_rng(0).permuted([range(16)] * 6, axis=1), strict=True
    ):
        wrong = np.asarray(task.claims.rules.pairs)[wrong[:4]].ravel()
        row[wrong] = 1 - row[wrong]
    doubting, trusting = (
        readers.load_reader(name, world).make_steerer(task.claims, held_out.claims)(labels)
        for name in (readers.OBSERVER, readers.TRUSTING_OBSERVER)
    )
    doubting, trusting = (logp[..., 1] - logp[..., 0] for logp in (doubting, trusting))
    assert (np.sign(doubting) == np.sign(trusting)).all()
    assert np.median(abs(doubting)) < 0.5 * np.median(abs(trusting))


def test_doubt_is_seen_in_sampled_accuracy():
    """Log-odds that shrink towards even ones move it to one half, and accuracy not at all."""
    module = importlib.import_module("harness.phase_diagram")
    probabilities, gold = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]]), np.array([1, 1, 0])
    even = np.full_like(probabilities, 0.5)
    found = [
        module.sampled_accuracy(np.log(doubt * even + (1 - doubt) * probabilities), gold)
        for doubt in (0.0, 0.9)
    ]
    np.testing.assert_allclose(found, [1.7 / 3, 0.1 * 1.7 / 3 + 0.45])


@pytest.mark.slow
def test_the_noise_that_an_observer_grants_is_found_from_its_predictions(tmp_path):
    options = "--model observer --groups ilvania,hestonia --seeds 1 --draws 1 --num-test 16"
    run("granted_noise", options, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    found = {row["name"]: row["mean"] for rows in report.values() for row in rows}
    for name, error in (("national", 0.01), ("web", 0.03), ("street", 0.1)):
        assert found[f"{name}, ε = {error:g}"] == pytest.approx(error, rel=0.1)
    assert found["street: f*(16)"] == pytest.approx(0.364, abs=0.02)


@pytest.mark.slow
def test_cells_of_a_phase_diagram_are_counted_by_granted_noise(phase_units, tmp_path):
    phase, _ = phase_units
    options = f"--model trusting-observer --seeds 1 --draws 1 --num-test 8 --phase {phase}"
    printed = run("granted_noise", f"{options} --groups ilvania", tmp_path / "same")
    # Of one group nothing is known but itself: no interval excludes anything.
    assert printed.count("of 0 cells whose interval excludes zero 0 agree") == 2
    for other in ("--groups ilvania --num-claims 34", "--groups hestonia"):
        result = invoke("granted_noise", f"{options} {other}", tmp_path / "other")
        assert result.exit_code == 2
        assert "Cells are those of a phase diagram of the same reader" in result.output
    assert not (tmp_path / "other").exists()


def test_the_lowest_point_of_a_parabola():
    module = importlib.import_module("granted_noise")
    for error in (0.01, 0.033, 0.2):
        assert module.lowest(np.log(module.ERRORS / error) ** 2) == pytest.approx(error)
    assert module.lowest(module.ERRORS) == module.ERRORS[0]
    assert module.lowest(-module.ERRORS) == module.ERRORS[-1]


@pytest.mark.slow
def test_doubt_at_toy_size(tmp_path, monkeypatch):
    options = "--num-claims 8 --wrong 1"
    result = invoke_in(tmp_path, "doubt", options)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("cost: 0 of 1 units are there already; no time is published")
    report = json.loads((tmp_path / "runs/doubt/report.json").read_text())
    assert report.keys() == {"NATIONAL 1", "STREET 1"}
    for name, values in report.items():
        printed = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert printed.split(": ")[1].split() == [f"{value:.3f}" for value in values.values()]
        assert values["accuracy, doubting"] == values["accuracy, trusting"]
        assert (values["same signs"], values["ties of the doubting one"]) == (1.0, 0.0)
    check_resumes(tmp_path, "doubt", options, monkeypatch)


def test_critical_shares():
    module, world = importlib.import_module("harness.phase_cells"), make_world()
    found = list(module.limits_of(world, 16).values())
    np.testing.assert_allclose(found, [[0.149, 0.195], [0.191, 0.252], [0.268, 0.364]], atol=0.0006)
    # Where the two likelihoods, times their priors, are equal.
    error, share = 0.03, module.critical_share(0.03, 16, np.log(30))
    reliable = 16 * (share * np.log(error) + (1 - share) * np.log(1 - error)) + np.log(0.9)
    assert reliable == pytest.approx(16 * np.log(0.5) + np.log(0.03))


def test_shares_that_coincide_are_refused():
    module = importlib.import_module("harness.phase_cells")
    assert module.wrong_pairs(32).tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match="another number of pairs"):
        module.wrong_pairs(16)
    cell = module.Cell("observer", Source.NATIONAL, 4, 20)
    assert "f = 0.2000 (above f*, above f*(20))" in cell.title(make_world())
