"""`icmjax predict` labels claims as steering does, reads no gold, and writes nothing over."""

import json

import numpy as np
import pytest
from commands import invoke
from table_runs import search_in, write_task

import icmjax

NUM_SHOWN, NUM_ASKED = 6, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and held-out claims with and without gold labels."""
    folder = tmp_path_factory.mktemp("predict")
    claims = write_task(folder / "claims.jsonl", "persona-world:norvania:0", NUM_SHOWN)
    asked = write_task(folder / "gold.jsonl", "persona-world:norvania:0:test", NUM_ASKED)
    icmjax.write_claims(icmjax.load_claims(asked), folder / "asked.jsonl")
    algorithm = icmjax.Gibbs(num_iterations=8)
    search_in(folder / "run", icmjax.load_claims(claims), algorithm, template="world")
    return folder


@pytest.fixture
def out(made, tmp_path):
    """The arguments of a prediction, but for its claims, and where it goes."""
    path = tmp_path / "predictions.jsonl"
    files = "--model", "persona-world", "--demos", made / "run"
    return ("predict", *files, "--out", path), path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def steered(made):
    """What the library says of the claims: label log-probs."""
    run, claims = icmjax.read_run(made / "run"), icmjax.load_claims(made / "asked.jsonl")
    lm = icmjax.load_lm("persona-world")
    return icmjax.evaluate(lm, run.claims, run.labels, claims).label_log_probs


@pytest.mark.slow
def test_predictions_are_those_of_the_library(made, out, steered):
    arguments, path = out
    result = invoke(*arguments, "--claims", made / "asked.jsonl", "--json")
    assert result.exit_code == 0, result.output
    rows, claims = rows_of(path), icmjax.load_claims(made / "asked.jsonl")
    assert [row["id"] for row in rows] == [claim.id for claim in claims.claims]
    of_a_run = rows_of(made / "run/labels.jsonl")
    assert list(rows[0]) == list(of_a_run[0])  # the same columns in the same order
    labels = [row["label"] for row in rows]
    assert labels == steered.argmax(-1).tolist()
    probabilities = np.exp(steered)
    np.testing.assert_allclose([row["marginal"] for row in rows], probabilities[:, 1], rtol=1e-5)
    log_odds = steered[:, 1] - steered[:, 0]
    np.testing.assert_allclose([row["log_odds"] for row in rows], log_odds, rtol=1e-4, atol=1e-5)
    summary = json.loads(result.stdout)
    assert summary["num_claims"] == NUM_ASKED
    assert summary["label_shares"]["True"] == pytest.approx(np.mean(labels))
    assert summary["mean_probability_of_label"] == pytest.approx(
        probabilities.max(-1).mean(), rel=1e-5
    )
    assert result.stderr.endswith(f"wrote {path}\n")
    # What was predicted can be read as labels by the other commands.
    assert icmjax.load_gold(path).labels.tolist() == labels


@pytest.mark.slow
def test_gold_labels_change_nothing(made, out):
    arguments, path = out
    assert invoke(*arguments, "--claims", made / "asked.jsonl").exit_code == 0
    # The same rows are left as they are, though this file has gold labels.
    result = invoke(*arguments, "--claims", made / "gold.jsonl")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{path} has these rows already\n")


def test_calibrated_opposites_have_opposite_labels(made, out, steered):
    arguments, path = out
    result = invoke(*arguments, "--claims", made / "asked.jsonl", "--calibrated")
    assert result.exit_code == 0, result.output
    claims = icmjax.load_claims(made / "asked.jsonl")
    expected = icmjax.calibrate(steered, claims.rules)
    rows = rows_of(path)
    np.testing.assert_allclose(
        [row["log_odds"] for row in rows], expected[:, 1] - expected[:, 0], rtol=1e-3, atol=1e-4
    )
    assert np.asarray(claims.rules.pairs).size
    for first, second in np.asarray(claims.rules.pairs):
        assert rows[first]["label"] == 1 - rows[second]["label"]


def test_predictions_are_not_written_over(made, out):
    arguments, path = out
    path.write_text("mine")
    result = invoke(*arguments, "--claims", made / "asked.jsonl")
    assert result.exit_code == 2
    assert "not written over" in result.stderr
    assert path.read_text() == "mine"
    default = [word for word in arguments if word not in ("--out", path)]
    for name in ("predictions", "predictions"):
        result = invoke(*default, "--claims", made / "asked.jsonl")
        assert f"{name}.jsonl" in result.stdout.splitlines()[-1]
    invoke(*default, "--claims", made / "asked.jsonl", "--limit", 4)
    assert len(rows_of(made / "run/predictions-2.jsonl")) == 4


def test_demonstrations_among_the_claims_are_told_of(made, out):
    arguments, _ = out
    result = invoke(*arguments, "--claims", made / "claims.jsonl")
    assert result.exit_code == 0, result.output
    assert f"{NUM_SHOWN} of {NUM_SHOWN} claims are among the demonstrations" in result.stderr


def test_more_labels_than_two_are_not_calibrated(made, out, tmp_path):
    arguments, path = out
    rows = [{"question": "", "choice": f"{i}", "consistency_id": i, "persona": "P"} for i in "abc"]
    claims = icmjax.claims_from_rows(rows, options=("no", "so", "yes"), rule="none")
    asked = tmp_path / "three.jsonl"
    icmjax.write_claims(claims, asked)
    result = invoke(*arguments, "--claims", asked, "--calibrated")
    assert result.exit_code == 2
    assert "Predictions of two labels are calibrated" in result.stderr
    result = invoke(*arguments, "--claims", asked)
    assert result.exit_code == 2
    assert "have the same options" in result.stderr
    assert not path.exists()


def test_claims_of_another_kind_are_refused(made, tmp_path):
    """Persona statements without the column of answers would be bare statements."""
    rows = [
        {"statement": f"I like {word}.", "persona": "kind", "answer_matching_behavior": answer}
        for word, answer in zip(("tea", "rice"), (" Yes", " No"), strict=True)
    ]
    run = tmp_path / "run"
    search_in(run, icmjax.claims_from_rows(rows), icmjax.Gibbs(num_iterations=4), template="truth")
    bare = [{name: row[name] for name in ("statement", "persona")} | {"label": 1} for row in rows]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in bare))
    files = "--claims", asked, "--model", "persona-world", "--demos", run
    task = "export", run, "--format", "lm-eval", "--claims", asked
    for words in (("predict", *files), ("evaluate", *files), task):
        result = invoke(*words)
        assert result.exit_code == 2, result.output
        assert "claims of the kind truth, after claims of the kind persona" in result.stderr
        # Whoever names a wording for both has seen it.
        assert "of the kind" not in invoke(*words, "--template", "truth").output
    empty = [row | {"answer_matching_behavior": ""} for row in rows]
    asked.write_text("".join(json.dumps(row) + "\n" for row in empty))
    assert "of the kind" not in invoke("predict", *files).output


def test_an_evaluation_says_which_gold_it_lacks(made):
    """Of the demonstrations, and of the claims to be judged."""
    files = "--model", "persona-world", "--demos", made / "run"
    result = invoke("evaluate", *files, "--claims", made / "gold.jsonl", "--draws", 1)
    assert result.exit_code == 0, result.output
    assert "no row for gold labels" in result.stderr
    assert "--gold FILE" in result.stderr
    assert "gold labels" not in result.stdout
    gold = "--gold", made / "claims.jsonl"
    result = invoke("evaluate", *files, "--claims", made / "gold.jsonl", "--draws", 1, *gold)
    assert "no row" not in result.stderr
    assert "gold labels" in result.stdout
    result = invoke("evaluate", *files, "--claims", made / "asked.jsonl")
    assert result.exit_code == 2
    assert "icmjax predict" in result.stderr
