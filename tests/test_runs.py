"""Run folders: resumed after SIGKILL to the bit, written whole, refused where in use."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scorers import planted_scorer, table_scorer

from icmjax.claims import GoldLabels, claims_from_rows, no_rules
from icmjax.errors import RunError
from icmjax.runs import (
    checkpoints,
    files,
    open_run,
    pytree_fingerprint,
    read_run,
    search_configuration,
)
from icmjax.runs import folder as run_folder
from icmjax.scoring import utility
from icmjax.search import ICM, Account, Bootstrap, run_search, start
from icmjax.search.loop import COLLAPSED_SHARE

NUM_CLAIMS = 12
ALGORITHM = ICM(alpha=20.0, num_seeds=4, num_iterations=60, block_size=3, num_chains=2)


def make_claims():
    rows = [
        {"question": f"Question {i // 2}?", "choice": "yn"[i % 2], "consistency_id": i // 2}
        for i in range(NUM_CLAIMS)
    ]
    return claims_from_rows(rows, rule="exactly_one_true")


def run_in(folder, resume=False, seed=0, delay=0, gold=None, algorithm=ALGORITHM, clamped=None):
    claims, scorer = make_claims(), table_scorer(0, NUM_CLAIMS, coupling=2.0, delay=delay)
    rng_key = jax.random.key(seed)
    configuration = search_configuration(scorer, claims, algorithm, rng_key, clamped=clamped)
    with open_run(folder, claims, configuration, resume=resume) as run:
        result = run_search(
            scorer, claims.rules, algorithm, rng_key, clamped=clamped, run=run, progress=False
        )
        return result, run.write_results(result, gold)


def contents(folder):
    """Bytes of the results, without wall time and the summary's digest of itself."""
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    del summary["wall_seconds"], summary["sha256"]
    files = (run_folder.LABELS, run_folder.SCORES, run_folder.TRACE, run_folder.CLAIMS)
    return summary, [(folder / name).read_bytes() for name in files]


@pytest.mark.slow
def test_resume_after_sigkill_is_bit_identical(tmp_path):
    here = pathlib.Path(__file__).parent
    script = (
        "import sys, pathlib, jax\n"
        f"sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n"
        "jax.config.update('jax_default_matmul_precision', 'highest')\n"
        "import test_runs\n"
        "test_runs.run_in(pathlib.Path(sys.argv[1]), delay=300)\n"
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", script, str(killed)], cwd=here)
    saved = killed / run_folder.CHECKPOINTS
    deadline = time.monotonic() + 300
    try:
        while len(list(saved.glob("trace-*.npz"))) < 4:
            assert process.poll() is None, "the search ended before it could be killed"
            assert time.monotonic() < deadline, "the search does not get on"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        status = process.wait()
    assert status == -signal.SIGKILL
    assert not (killed / run_folder.SUMMARY).exists()
    with pytest.raises(RunError, match="not complete"):
        read_run(killed)

    run_in(killed, resume=True, delay=300)
    run_in(whole, delay=300)

    assert contents(killed) == contents(whole)
    sessions = json.loads((killed / run_folder.MANIFEST).read_text())["sessions"]
    assert len(sessions) == 2


@pytest.mark.slow
def test_resume_does_not_trust_a_trace_without_its_state(tmp_path, monkeypatch):
    """A process may die after it wrote a block's trace and before it wrote the state."""
    run_in(tmp_path / "whole")
    stopped, write_content = tmp_path / "stopped", checkpoints.write_content

    def write_or_die(path, content):
        if path.name.startswith("state-") and (path.parent / "trace-000000009.npz").exists():
            raise InterruptedError
        write_content(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_content", write_or_die)
        with pytest.raises(InterruptedError):
            run_in(stopped)
    assert (stopped / run_folder.CHECKPOINTS / "trace-000000009.npz").exists()
    run_in(stopped, resume=True)
    assert contents(stopped) == contents(tmp_path / "whole")


def test_resuming_a_complete_run_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    _, summary = run_in(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _, again = run_in(folder, resume=True, gold=GoldLabels(np.zeros(NUM_CLAIMS, np.int8)))
    assert again == summary
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failed_resume_of_a_complete_run_deletes_nothing(tmp_path):
    folder = tmp_path / "run"
    run_in(folder)
    for state in (folder / run_folder.CHECKPOINTS).glob("state-*"):
        state.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="no state of a run that is complete"):
        run_in(folder, resume=True)
    with pytest.raises(RunError, match="as it was started"):
        run_in(folder, resume=True, seed=1)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    read_run(folder)


def test_what_a_run_folder_holds(tmp_path):
    gold = GoldLabels(np.array([1, 0] * 5 + [-1, -1], np.int8))
    result, summary = run_in(tmp_path / "run", gold=gold)
    record = read_run(tmp_path / "run")
    claims = make_claims()

    assert record.claims == claims
    for name in ("labels", "log_odds", "marginals", "label_log_probs"):
        np.testing.assert_array_equal(getattr(record, name), getattr(result, name))
    assert record.trace.keys() == {*result.trace._fields, "tokens"}
    for name, field in (result.trace._asdict() | {"tokens": result.tokens}).items():
        np.testing.assert_array_equal(record.trace[name], field)
    kept = [json.loads(line) for line in (tmp_path / "run/gold.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept] == [claim.id for claim in claims.claims]
    assert [row["label"] for row in kept] == [1, 0] * 5 + [None, None]

    rows = [
        json.loads(line) for line in (tmp_path / "run" / run_folder.LABELS).read_text().splitlines()
    ]
    fields = "id persona consistency_id question choice label log_odds marginal".split()
    assert [list(row) for row in rows] == [fields] * NUM_CLAIMS
    assert [row["label"] for row in rows] == result.labels.tolist()
    assert [row["id"] for row in rows] == [claim.id for claim in claims.claims]
    np.testing.assert_allclose([row["marginal"] for row in rows], result.marginals[:, 1])

    assert summary == record.summary
    expected = utility(
        jnp.asarray(result.label_log_probs), jnp.asarray(result.labels), claims.rules, 20.0
    )
    np.testing.assert_allclose(summary["utility"], expected, rtol=1e-5)
    violated = sum(int(a == b) for a, b in result.labels.reshape(-1, 2))
    assert summary["num_inconsistent"] == violated
    mean = (summary["utility"] + violated) / 20.0
    np.testing.assert_allclose(summary["mutual_predictability"], mean, rtol=1e-5)
    assert summary["accuracy"] == np.mean(result.labels[:10] == gold.labels[:10])
    assert summary["num_accuracy_claims"] == 10
    assert summary["num_claims"] == NUM_CLAIMS
    assert summary["seeds"] == [0, 0]
    assert summary["num_tokens"] > 0
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["diagnostics"]["is_collapsed"] == (
        max(result.labels.mean(), 1 - result.labels.mean()) > COLLAPSED_SHARE
    )


def test_no_accuracy_without_gold(tmp_path):
    assert run_in(tmp_path / "run")[1]["accuracy"] is None


def test_accuracy_is_of_labels_that_were_found(tmp_path):
    """Labels that were handed in are right or wrong by themselves."""
    clamped = np.full(NUM_CLAIMS, -1, np.int8)
    clamped[:4] = 1, 0, 1, 0
    gold = GoldLabels(np.array([0, 1] * 5 + [-1, -1], np.int8))
    result, summary = run_in(tmp_path / "run", gold=gold, clamped=clamped)
    assert summary["num_accuracy_claims"] == 6
    assert summary["accuracy"] == np.mean(result.labels[4:10] == gold.labels[4:10])
    assert (result.labels[:4] == gold.labels[:4]).sum() == 0
    clamped[4:10] = gold.labels[4:10]
    summary = run_in(tmp_path / "next", gold=gold, clamped=clamped)[1]
    assert (summary["accuracy"], summary["num_accuracy_claims"]) == (None, 0)


@pytest.mark.parametrize("name", ["new", "empty"])
def test_where_a_run_may_start(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with open_run(tmp_path / name, make_claims(), {}):
        pass


def test_folders_that_are_refused(tmp_path):
    claims = make_claims()

    def refuse(folder, match, **kwargs):
        with pytest.raises(RunError, match=match), open_run(folder, claims, {}, **kwargs):
            pass

    (tmp_path / "notes.txt").write_text("mine")
    refuse(tmp_path, "other files")
    refuse(tmp_path / "notes.txt", "a file")
    refuse(tmp_path / "notes.txt" / "run", "can be written to")
    refuse(tmp_path / "absent", "has begun", resume=True)
    assert not (tmp_path / "absent").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    with open_run(tmp_path / "run", claims, {}):
        refuse(tmp_path / "run", f"process {os.getpid()} on .* is writing it", resume=True)
    refuse(tmp_path / "run", "resume=True")
    with open_run(tmp_path / "run", claims, {}, resume=True):  # the lock was let go
        pass
    with pytest.raises(RunError, match=r"no manifest\.json"):
        read_run(tmp_path / "absent")


def test_another_configuration_is_refused_field_by_field(tmp_path):
    clamped = np.full(NUM_CLAIMS, -1, np.int8)
    clamped[3] = 1
    run_in(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        run_in(
            tmp_path / "run",
            resume=True,
            seed=1,
            clamped=clamped,
            algorithm=ICM(alpha=30.0, num_seeds=4, num_iterations=60, block_size=3, num_chains=2),
        )
    assert [fault.found for fault in caught.value.faults] == [
        "algorithm.alpha = 30.0, before 20.0",
        "rng_key.data = [0, 1], before [0, 0]",
        "given since: claim '3' (True)",
    ]
    assert contents(tmp_path / "run") == before


def test_a_checkpoint_of_another_structure_is_refused(tmp_path):
    with open_run(tmp_path / "run", make_claims(), {}) as run:
        state = {"labels": np.zeros((1, 4), np.int8)}
        assert run.restore(state) is None
        info = ALGORITHM.info_type(*[np.zeros((2, 1))] * len(ALGORITHM.info_type._fields))
        run.save(state, info, 2, Account(5, 1.5))
        restored, blocks, account = run.restore(state)
        np.testing.assert_array_equal(restored["labels"], state["labels"])
        assert len(blocks) == 1
        assert account == Account(5, 1.5)
        with pytest.raises(RunError, match="labels"):
            run.restore({"labels": np.zeros((1, 5), np.int8)})


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_sealed(path, {"utility": 1.0})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(RunError, match="No space left"):
        files.write_sealed(path, {"utility": 2.0})
    assert files.read_sealed(path) == {"utility": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_fingerprint_sees_every_change(dtype):
    tree = {"a": jnp.ones((3, 4), dtype), "b": jnp.arange(3.0)}
    prints = [pytree_fingerprint(tree)]
    assert pytree_fingerprint(jax.tree.map(jnp.copy, tree)) == prints[0]
    for index in ((0, 1), (1, 0), (2, 3)):
        prints.append(
            pytree_fingerprint(tree | {"a": tree["a"].at[index].set(jnp.zeros((), dtype))})
        )
    prints.append(pytree_fingerprint(tree | {"b": jnp.array([1.0, 0.0, 2.0])}))
    prints += [pytree_fingerprint(tree | {"key": jax.random.key(seed)}) for seed in (0, 1)]
    prints.append(pytree_fingerprint({"a": tree["a"], "c": tree["b"]}))
    assert len(set(prints)) == len(prints)


def test_steps_that_another_version_kept_are_refused():
    """A field that is new is not made up."""
    scorer = planted_scorer(np.array([0, 1, 0, 1]), coupling=0.3, bias=0.4)
    arguments = scorer, no_rules(), Bootstrap(num_iterations=3), jax.random.key(0)
    _, first = start(*arguments, None)

    class Store:
        def restore(self, like, last_step=None):
            return first, [{"utility": np.zeros((1, 1))}], Account(0, 0.0)

        def save(self, *_):
            raise AssertionError("nothing is saved")

    with pytest.raises(RunError, match="version of icmjax that began it"):
        run_search(*arguments, run=Store(), progress=False)
