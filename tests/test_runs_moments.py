"""Whenever a process dies, a run folder is empty, can be resumed, or is complete.

Every call of the file system is made to fail in turn, once or from then on as for a process that is
dead. Then the search is started or resumed, and must give the same bits.
"""

import contextlib
import errno
import itertools
import json
import os
from typing import NamedTuple

import numpy as np
import pytest

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError, RunError
from icmjax.runs import open_run, read_run
from icmjax.search import Account, SearchResult

NUM_CLAIMS, NUM_BLOCKS, BLOCK = 4, 3, 2
CALLS = ("open", "mkdir", "replace", "fsync", "unlink", "rmdir", "listdir")
RESULTS = ("labels.jsonl", "scores.npz", "trace.npz", "claims.jsonl", "answers.jsonl")
CLAIMS = claims_from_rows(
    [{"question": f"{i}?", "choice": "Yes", "consistency_id": i} for i in range(NUM_CLAIMS)],
    rule="none",
)


class Info(NamedTuple):
    """A step of the toy."""

    value: np.ndarray  # int64 [S]


def toy_search(folder, resume=False, gold=None, num_blocks=NUM_BLOCKS):
    """A search without a scorer: its state is a hash of the steps before."""
    configuration = {"rng_key": {"data": [0, 0]}}
    answers = {"answers.jsonl": '{"id": "0"}\n'}
    with open_run(folder, CLAIMS, configuration, resume=resume, private_files=answers) as run:
        state = {"value": np.zeros((), np.int64)}
        restored = run.restore(state)
        infos, account = [], Account(0, 0.0)
        if restored is not None:
            state, blocks, account = restored
            infos = [block["value"] for block in blocks]
        for number in range(len(infos), num_blocks):
            values = []
            for step in range(number * BLOCK, (number + 1) * BLOCK):
                state = {"value": (state["value"] * 31 + step + 7) % 1009}
                values.append(state["value"])
            infos.append(np.array(values))
            account = Account(account.num_tokens + 3, account.seconds + 0.5)
            run.save(state, Info(infos[-1]), (number + 1) * BLOCK, account)
        if num_blocks < NUM_BLOCKS:
            raise InterruptedError
        return run.write_results(_result(np.concatenate(infos), account), gold)


def test_a_manifest_with_answers_is_for_its_owner(tmp_path):
    """Also one that was begun when all could read it."""
    manifest = tmp_path / "manifest.json"
    with pytest.raises(InterruptedError):
        toy_search(tmp_path, num_blocks=1)
    assert manifest.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "checkpoints").stat().st_mode & 0o777 == 0o700
    manifest.chmod(0o644)
    toy_search(tmp_path, resume=True)
    assert manifest.stat().st_mode & 0o777 == 0o600


def _result(trace, account):
    labels = (trace[:NUM_CLAIMS] % 2).astype(np.int8)
    logp = np.log(np.full((NUM_CLAIMS, 2), 0.5, np.float32))
    return SearchResult(
        labels=labels,
        log_odds=(trace[-NUM_CLAIMS:] / 100).astype(np.float32),
        marginals=np.exp(logp),
        utility=float(trace[-1]),
        label_log_probs=logp,
        trace=Info(trace),
        tokens=np.ones(len(trace), np.int64),
        diagnostics={"seconds": account.seconds, "num_tokens": account.num_tokens},
    )


class Failure:
    """Counts the calls of the file system, and lets the given one fail, or all from it on."""

    def __init__(self, monkeypatch, number, error, is_for_good):
        self.num_calls = 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))
        self.number, self.error, self.is_for_good = number, error, is_for_good

    def _wrapped(self, call):
        def counted(*args, **kwargs):
            self.num_calls += 1
            if self.num_calls == self.number or (self.is_for_good and self.num_calls > self.number):
                raise self.error()
            return call(*args, **kwargs)

        return counted


def full_disk():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def results(folder):
    """All that a search gives, without what tells of time."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["sha256"]
    return summary, [(folder / name).read_bytes() for name in RESULTS]


@pytest.mark.parametrize("is_for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("error", [full_disk, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [0, 2], ids=["start", "resume"])
def test_every_moment_is_one_of_three(tmp_path, begun, error, is_for_good):
    whole = tmp_path / "whole"
    toy_search(whole)
    seen = set()
    for number in itertools.count(1):
        folder = tmp_path / f"{number}"
        if begun:
            with pytest.raises(InterruptedError):
                toy_search(folder, num_blocks=begun)
        with pytest.MonkeyPatch.context() as patch:
            failure = Failure(patch, number, error, is_for_good)
            with contextlib.suppress(InputError, KeyboardInterrupt):
                toy_search(folder, resume=bool(begun))
        has_begun, is_complete = ((folder / name).exists() for name in ("manifest.json", SUMMARY))
        seen.add((has_begun, is_complete))
        if is_complete:
            read_run(folder)
            before = (folder / SUMMARY).read_bytes()
        toy_search(folder, resume=has_begun)
        assert results(folder) == results(whole), f"call {number}"
        assert (folder / "answers.jsonl").stat().st_mode & 0o777 == 0o600
        left = [path.name for path in folder.rglob("*.partial")]
        assert is_complete or not left, f"call {number}: {left}"
        assert not is_complete or (folder / SUMMARY).read_bytes() == before
        if failure.num_calls < number:
            break
    assert number > 20
    assert seen == {(True, False), (True, True)} | ({(False, False)} if not begun else set())


SUMMARY = "summary.json"


@pytest.mark.parametrize("error", [full_disk, KeyboardInterrupt])
def test_a_search_that_kept_nothing_is_undone_whenever_that_is_cut_off(tmp_path, error):
    for number in itertools.count(1):
        folder = tmp_path / f"{number}"
        with pytest.MonkeyPatch.context() as patch:
            failure = Failure(patch, number, error, is_for_good=True)
            with contextlib.suppress(InputError, KeyboardInterrupt, InterruptedError):
                toy_search(folder, num_blocks=0)
        toy_search(folder, resume=(folder / "manifest.json").exists())
        read_run(folder)
        if failure.num_calls < number:
            break
    assert number > 20


def test_a_start_that_was_cut_off_leaves_other_files_alone(tmp_path):
    """Files that are not of a start are somebody's: nothing starts among them."""
    (tmp_path / ".manifest.json.0123456789abcdef.partial").write_text("{")
    (tmp_path / ".lock").write_text("")
    toy_search(tmp_path / "run")
    (tmp_path / "claims.jsonl").write_text("mine")
    with pytest.raises(RunError, match="other files"):
        toy_search(tmp_path)
    assert (tmp_path / "claims.jsonl").read_text() == "mine"


def test_the_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="can be written"):
        toy_search(tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_last_two_states_are_kept(tmp_path):
    toy_search(tmp_path / "run")
    steps = [path.name[:15] for path in sorted((tmp_path / "run/checkpoints").glob("state-*"))]
    assert steps == ["state-000000004", "state-000000006"]
