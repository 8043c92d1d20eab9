"""A search that is asked to end does so between two blocks, and goes on as if it never had."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from scorers import table_scorer
from sessions import open_sessions
from test_runs import ALGORITHM, NUM_CLAIMS, contents, make_claims, run_in
from test_runs_answers import answered, invoke, made, results, run, search_options, write_rows

from icmjax import runs
from icmjax.cli import preemption
from icmjax.errors import Preempted
from icmjax.runs import open_run, search_configuration
from icmjax.search import hosts, run_search

__all__ = ["made", "run"]  # fixtures


def stopped_in(folder, stop_fn, resume=False):
    """Search until it is asked to end, and return how many steps it had taken."""
    claims, scorer, key = (
        make_claims(),
        table_scorer(0, NUM_CLAIMS, coupling=2.0),
        jax.random.key(0),
    )
    configuration = search_configuration(scorer, claims, ALGORITHM, key)
    with (
        pytest.raises(Preempted) as caught,
        open_run(folder, claims, configuration, resume=resume) as run,
    ):
        run_search(scorer, claims.rules, ALGORITHM, key, run=run, progress=False, stop_fn=stop_fn)
    assert "ended as it was asked to, after" in str(caught.value)
    return caught.value.num_steps


def after(num_blocks):
    """Asks to end after so many blocks."""
    answers = iter([False] * num_blocks + [True])
    return lambda: next(answers)


@pytest.mark.slow
def test_a_search_ends_where_its_caller_says(tmp_path):
    assert stopped_in(tmp_path / "run", after(2)) >= 2
    assert stopped_in(tmp_path / "run", after(1), resume=True) >= 3
    before = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert stopped_in(tmp_path / "run", after(0), resume=True) >= 3
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == before
    run_in(tmp_path / "run", resume=True)
    run_in(tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_search_that_ends_before_its_first_step_leaves_nothing(tmp_path):
    assert stopped_in(tmp_path / "run", after(0)) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("earlier", [signal.SIG_DFL, signal.SIG_IGN, lambda *arguments: None])
def test_the_handler_is_there_for_the_command_only(earlier):
    before = signal.signal(signal.SIGTERM, earlier)
    try:
        with preemption.notices_sigterm() as has_come:
            assert not has_come()
            os.kill(os.getpid(), signal.SIGTERM)
            assert has_come()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one ends it
        assert signal.getsignal(signal.SIGTERM) is earlier
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_sigterm_ends_the_process():
    code = """
import os, signal
from icmjax.cli.preemption import notices_sigterm
with notices_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)
    print("the first", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("the second", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "the first\n")


def sigterm_at(patch, name, count=1):
    """Let SIGTERM come when a method of an open run is called for the given time."""
    method, calls = getattr(runs.Run, name), []

    def terminate(*arguments, **named):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(*arguments, **named)

    patch.setattr(runs.Run, name, terminate)


def preempted(name, *words, count=1):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        sigterm_at(patch, name, count)
        result = invoke(*words)
    assert signal.getsignal(signal.SIGTERM) is before
    return result


@pytest.mark.slow
def test_a_command_that_is_preempted_says_how_it_goes_on(made, tmp_path):
    out = tmp_path / "a run"
    words = "search", *search_options(made, out)
    result = preempted("save", *words)
    assert (result.exit_code, result.stdout) == (143, "")
    *_, line = result.stderr.splitlines()  # after warnings of the claims
    assert line.startswith("preempted after 1 steps; go on with: icmjax search --model ")
    assert line.endswith(f"--out '{out}' --iterations 5 --quiet --resume")
    result = preempted("save", *words, "--resume")
    assert result.exit_code == 143
    assert result.stderr.count("--resume") == 1
    result = invoke(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert results(out) == results(made / "run")
    assert len(json.loads((out / "manifest.json").read_text())["sessions"]) == 3


def test_a_command_that_is_preempted_early_starts_anew(made, tmp_path):
    result = preempted("restore", "search", *search_options(made, tmp_path / "run"))
    assert result.exit_code == 143
    *_, line = result.stderr.splitlines()  # after warnings of the claims
    assert line.startswith(
        "preempted before the first step; start anew with: icmjax search --model "
    )
    assert "--resume" not in line
    assert not (tmp_path / "run").exists()


def test_a_command_that_is_through_completes(made, tmp_path):
    result = preempted("write_results", "search", *search_options(made, tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert results(tmp_path / "run") == results(made / "run")
    assert (tmp_path / "run" / "diagnostics.png").exists()


@pytest.mark.slow
def test_an_answer_that_is_preempted_is_resumed(run):
    words = "answer", run, "--labels", answered(run), "--quiet"
    result = preempted("save", *words)
    assert result.exit_code == 143
    assert f"--out {run / 'answered'} --resume" in result.stderr
    assert invoke(*words, "--resume").exit_code == 0


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_of_when_the_search_goes_on(made, tmp_path):
    words = "search", *search_options(made, tmp_path / "run")
    assert preempted("save", *words, count=2).exit_code == 143
    last = max((tmp_path / "run" / "checkpoints").glob("state-*"))
    last.write_bytes(last.read_bytes()[:-1])
    result = preempted("save", *words, "--resume")  # told of although it ends early again
    assert result.exit_code == 143
    *_, warning, line = result.stderr.splitlines()
    assert warning.startswith(f"warning: the last checkpoint is damaged ({last}: ")
    assert "whose digest is not the one in its name" in warning
    assert warning.endswith("the search goes on from the one before it, at step 1")
    assert line.startswith("preempted after ")
    result = invoke(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert "damaged" not in result.stderr
    assert results(tmp_path / "run") == results(made / "run")


def test_hosts_go_on_from_the_last_state_that_all_have(tmp_path, monkeypatch):
    """This host saved a state that another one, which says its numbers here, did not save."""
    num_steps = stopped_in(tmp_path / "run", after(2))
    others = iter([1, -1, 1, -1])
    claims, scorer, key = (
        make_claims(),
        table_scorer(0, NUM_CLAIMS, coupling=2.0),
        jax.random.key(0),
    )
    configuration = search_configuration(scorer, claims, ALGORITHM, key)
    first = ALGORITHM.init(key, claims.rules, np.full(NUM_CLAIMS, -1, np.int8), 2)
    with open_run(tmp_path / "run", claims, configuration, resume=True) as run:
        assert run.restore(first)[0].num_steps.max() == num_steps > 1
        monkeypatch.setattr(hosts, "least", lambda number: min(number, next(others)))
        state, blocks, _ = hosts.restore(run, first)
        assert state.num_steps.max() == 1
        assert len(blocks) == 1
        monkeypatch.setattr(hosts, "least", lambda number: min(number, 0))
        assert hosts.restore(run, first) is None
    monkeypatch.undo()
    run_in(tmp_path / "whole")
    run_in(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("asked", [(), ("caller",), ("another host",), ("service",)])
def test_all_hosts_end_where_one_is_asked_to(asked, monkeypatch):
    numbers = []

    def reached(number):
        numbers.append(number)
        return "service" in asked

    monkeypatch.setattr(hosts, "listens_for_preemption", lambda: True)
    monkeypatch.setattr(hosts.multihost_utils, "reached_preemption_sync_point", reached)
    monkeypatch.setattr(hosts, "least", lambda own: 0 if "another host" in asked else own)
    for _ in range(2):
        assert hosts.is_asked_to_stop(lambda: "caller" in asked) == bool(asked)
    assert numbers[1] == numbers[0] + 1


def test_a_host_alone_sends_nothing(monkeypatch):
    def send(*arguments):
        raise AssertionError

    fake = types.SimpleNamespace(process_allgather=send, reached_preemption_sync_point=send)
    monkeypatch.setattr(hosts, "multihost_utils", fake)
    assert hosts.least(3) == 3
    assert hosts.is_asked_to_stop(lambda: True)
    assert not hosts.is_asked_to_stop(None)


NUM_SHARED_STEPS = 100


class Hosts:
    """Two processes that share each pass of a search, as SLURM starts them."""

    def __init__(self, made, folder):
        self.alone = ["search", *search_options(made, ""), "--algorithm", "gibbs"]
        self.alone += ["--iterations", NUM_SHARED_STEPS]
        self.words = [*self.alone, "--distributed", "--mesh", "query=2"]
        self.words += ["--out", folder / "run"]
        self.folders = [folder / "run", folder / "run-host1"]
        folder.mkdir()

    def run(self, status, *words, sigterm_to=None):
        """Run both to their end, which they have to come to with one status.

        Returns what each of them printed, and the last line that each told.
        """
        command = [sys.executable, "-m", "icmjax", *map(str, [*self.words, *words])]
        with contextlib.ExitStack() as stack:
            processes = []
            for host, folder in enumerate(self.folders):
                slurm = {
                    "SLURM_JOB_ID": f"{os.getpid()}",  # of which the port is made
                    "SLURM_NTASKS": "2",
                    "SLURM_PROCID": f"{host}",
                    "SLURM_LOCALID": f"{host}",
                    "SLURM_STEP_NODELIST": "localhost",
                    "SLURM_STEP_NUM_NODES": "1",
                    "JAX_NUM_CPU_DEVICES": "1",
                }
                out, log = (
                    stack.enter_context(folder.with_suffix(suffix).open("w"))
                    for suffix in (".out", ".log")
                )
                process = subprocess.Popen(command, env=os.environ | slurm, stdout=out, stderr=log)
                stack.callback(process.wait)
                stack.callback(process.kill)
                processes.append(process)
            if sigterm_to is not None:
                deadline = time.monotonic() + 200
                while len(self.states(0)) < 2:
                    assert time.monotonic() < deadline
                    assert all(process.poll() is None for process in processes), self.logs()
                    time.sleep(0.01)
                processes[sigterm_to].send_signal(signal.SIGTERM)
            found = [process.wait(timeout=200) for process in processes]
        assert found == [status, status], self.logs()
        printed = [folder.with_suffix(".out").read_text() for folder in self.folders]
        return printed, [log.splitlines()[-1] for log in self.logs()]

    def logs(self):
        return [folder.with_suffix(".log").read_text() for folder in self.folders]

    def states(self, host):
        """The names of the states that a host has kept."""
        return sorted(path.name for path in self.folders[host].glob("checkpoints/state-*"))


@pytest.mark.slow
def test_hosts_of_a_job_are_preempted_and_resumed_together(made, tmp_path):
    """SIGTERM of one ends both at one step; a state that one of them lacks is on neither's way."""
    both, whole = Hosts(made, tmp_path / "killed"), tmp_path / "whole"
    _, told = both.run(143, sigterm_to=1)
    assert all(line.startswith("preempted after ") for line in told)
    ends = [[name[:15] for name in both.states(host)] for host in range(2)]
    assert ends[0] == ends[1]
    # As where that host was killed before it saved.
    (both.folders[1] / "checkpoints" / both.states(1)[-1]).unlink()
    printed, _ = both.run(0, "--resume")
    alone = invoke(*both.alone, "--out", whole)
    assert alone.exit_code == 0, alone.output
    # What connects the devices of CPUs prints too, and its threads into one another's lines.
    ours, *spoken = (set(text.split("\n")) - {""} for text in (alone.stdout, *printed))
    assert ours & spoken[0]
    assert not ours & spoken[1]
    assert results(both.folders[0]) == results(both.folders[1])
    one, two = (runs.read_run(folder) for folder in (whole, both.folders[0]))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_allclose(one.label_log_probs, two.label_log_probs, atol=1e-4)
    assert len(one.trace["utility"]) == len(two.trace["utility"])


@pytest.mark.slow
def test_a_search_goes_on_with_another_number_of_devices(made, tmp_path):
    rows = [
        {"id": f"{i}", "question": "", "choice": f"Taxes help {i}", "consistency_id": i // 2}
        for i in range(16)
    ]
    claims = write_rows(tmp_path / "claims.jsonl", rows)
    words = "search", "--model", made / "model", "--claims", claims, "--rule", "none", "--quiet"
    words = [str(word) for word in (*words, "--algorithm", "gibbs", "--iterations", 12)]

    def session(out, num_devices, *options, sends=None):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num_devices}"
        devices = "--devices", str(num_devices), "--out", str(tmp_path / out)
        with open_sessions(XLA_FLAGS=flags) as sessions:
            sessions.start([*words, *devices, *options], tmp_path / "log", sends)
            assert sessions.wait() == (0 if sends is None else 143), (tmp_path / "log").read_text()

    session("run", 4, sends=(signal.SIGTERM, 4, "renamed"))
    session("run", 1, "--resume")
    whole = invoke(*words, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    run, whole = (runs.read_run(tmp_path / name) for name in ("run", "whole"))
    numbers = [place["device"].split()[0] for place in run.manifest["sessions"]]
    assert numbers == ["4", "1"]
    np.testing.assert_array_equal(run.labels, whole.labels)
    np.testing.assert_allclose(run.label_log_probs, whole.label_log_probs, atol=1e-4)
    assert len(run.trace["utility"]) == len(whole.trace["utility"])
