"""A search that is killed time and again ends with the bits of one that never was."""

import os
import random
import signal
import time

import pytest
from sessions import STAGES, open_sessions
from test_runs import contents

from icmjax.claims import write_claims
from icmjax.persona_world import make_task, make_world

# When a kill comes: while a session starts, while it searches, or while it writes a checkpoint.
MOMENTS = ("start", "search", "write")
KILLS = [(number, moment) for number in (signal.SIGTERM, signal.SIGKILL) for moment in MOMENTS]
START_SECONDS, SEARCH_SECONDS = 3.0, 0.4  # the longest of these
DEADLINE = 120.0


class Search:
    """A search of the bundled model in a folder, session by session."""

    def __init__(self, sessions, folder, claims):
        self.sessions, self.folder = sessions, folder
        self.log = folder.with_suffix(".log")
        words = "--model", "persona-world", "--claims", str(claims), "--algorithm", "gibbs"
        self.words = ["search", *words, "--iterations", "400", "--quiet", "--out", str(folder)]

    def start(self, sends=None):
        is_begun = (self.folder / "manifest.json").exists()
        return self.sessions.start([*self.words, *["--resume"] * is_begun], self.log, sends)

    def saved(self):
        return {path.name for path in (self.folder / "checkpoints").glob("state-*")}

    def kill(self, number, moment, rng):
        """Run a session that is killed, and return its status."""
        before = self.saved()
        if moment == "write":
            self.start((number, rng.randint(1, 4), rng.choice(STAGES)))
            return self.sessions.wait()
        session, deadline = self.start(), time.monotonic() + DEADLINE
        if moment == "start":
            time.sleep(rng.uniform(0, START_SECONDS))
        else:
            while self.saved() <= before:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.002)
            time.sleep(rng.uniform(0, SEARCH_SECONDS))
        os.kill(session, number)
        return self.sessions.wait()


@pytest.mark.slow
def test_a_search_that_is_killed_at_random_ends_with_the_same_bits(tmp_path):
    claims, rng = tmp_path / "claims.jsonl", random.Random(0)
    task = make_task(make_world(), "norvania", 0, num_claims=8)
    write_claims(task.claims, claims, task.gold)
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with open_sessions(**environment) as sessions:
        whole, killed = (Search(sessions, tmp_path / name, claims) for name in ("whole", "killed"))
        whole.start()
        assert sessions.wait() == 0, whole.log.read_text()
        for number, moment in rng.sample(KILLS, len(KILLS)):
            status = killed.kill(number, moment, rng)
            if number == signal.SIGTERM and not (moment == "start" and status == -number):
                assert status == 143, (moment, killed.log.read_text())
                assert killed.log.read_text().splitlines()[-1].startswith("preempted ")
            else:
                assert status == -number, (moment, killed.log.read_text())
        killed.start()
        assert sessions.wait() == 0, killed.log.read_text()
    assert contents(killed.folder) == contents(whole.folder)
