"""Sessions of `icmjax` as processes of their own, which a test may kill.

As a script it imports once what sessions need, and forks each of them. It reads a line of JSON a
session: the words of the command, a file for what it prints, and what it sends to itself. It prints
the session's process id, and when the session has ended its status.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

STAGES = ("empty", "half", "whole", "renamed")  # of a file that is being written


class Sessions:
    """The process that forks sessions, one after the other."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def start(self, words: list[str], log: pathlib.Path, sends: tuple | None = None) -> int:
        """Start a session, and return its process id.

        Args:
          words: of the command.
          log: gets what it prints.
          sends: a signal that it sends to itself while it writes checkpoints, the number of the
            file that it then writes, counted from 1, and one of `STAGES`.
        """
        self.process.stdin.write(json.dumps([words, str(log), sends]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The status of the session that was started last, negative where a signal killed it."""
        return int(self.process.stdout.readline())


@contextlib.contextmanager
def open_sessions(**environment: str) -> Iterator[Sessions]:
    """Sessions that have these environment variables too."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, __file__]
    with subprocess.Popen(command, env=os.environ | environment, **pipes) as process:
        yield Sessions(process)


def signal_within(number: int, nth_file: int, stage: str) -> None:
    """Send this process a signal when a file of a checkpoint has come to a stage."""
    from icmjax.runs import checkpoints

    write_content, fsync, replace = checkpoints.write_content, os.fsync, os.replace
    num_files = 0

    def write(path: pathlib.Path, content: bytes) -> None:
        nonlocal num_files
        num_files += 1

        def stop_and_sync(descriptor: int) -> None:
            if stage in ("empty", "half"):
                os.ftruncate(descriptor, len(content) // 2 if stage == "half" else 0)
                os.kill(os.getpid(), number)
                os.pwrite(descriptor, content, 0)
            fsync(descriptor)
            if stage == "whole":
                os.kill(os.getpid(), number)

        def replace_and_stop(*paths: str) -> None:
            replace(*paths)
            if stage == "renamed":
                os.kill(os.getpid(), number)

        if num_files == nth_file:
            os.fsync, os.replace = stop_and_sync, replace_and_stop
        try:
            write_content(path, content)
        finally:
            os.fsync, os.replace = fsync, replace

    checkpoints.write_content = write


def run_session(words: list[str], log: str, sends: tuple | None) -> None:
    """Run the command as the rest of this process."""
    from icmjax.cli import main

    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if sends is not None:
        signal_within(*sends)
    sys.argv = ["icmjax", *words]
    main(prog_name="icmjax")


def serve() -> None:
    """Fork a session for each line that is read."""
    import transformers

    import icmjax.cli.search

    # These are imported when they are first asked for, which each session would wait for.
    _ = transformers.AutoTokenizer, icmjax.runs, icmjax.persona_world, icmjax.lm, icmjax.scoring
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            run_session(*json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
