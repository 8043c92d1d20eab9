"""The group of all commands, each of which is imported when it is asked for."""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from icmjax._version import __version__

INTERRUPTED = 130  # as shells count it: 128 and the number of the signal

COMMANDS = {
    "demo": "Search and evaluate with the bundled model, in a minute or two.",
    "check": "Say what was understood of claims, and what labelling them will take.",
    "search": "Label claims without labels.",
    "score": "Print the utility of given labels.",
    "evaluate": "Steer with a run's labels on held-out claims.",
    "predict": "Label more claims by a run's labels, without gold labels.",
    "ask": "Ask a human about the claims of a run that matter most.",
    "answer": "Search again with a human's answers held fast.",
    "export": "Write a run's labelled claims for other tools.",
    "report": "Write the page of a run.",
    "completion": "Print what makes a shell complete commands and options.",
}
EXAMPLES = {
    "demo": ["icmjax demo"],
    "check": [
        "icmjax check --claims japan.csv",
        "icmjax check --claims japan.csv --model Qwen/Qwen3-0.6B-Base",
    ],
    "search": [
        "icmjax search --model persona-world --claims persona-world:norvania:0 --out runs/norvania",
        "icmjax search --model Qwen/Qwen3-0.6B-Base --claims japan.csv --out runs/japan",
        "icmjax search --config runs/japan/config.yaml --seed 1 --out runs/japan-1",
    ],
    "score": [
        "icmjax score --model Qwen/Qwen3-0.6B-Base --claims japan.csv "
        "--labels runs/japan/labels.jsonl"
    ],
    "evaluate": [
        "icmjax evaluate --model Qwen/Qwen3-0.6B-Base --demos runs/japan --claims japan_test.csv"
    ],
    "predict": [
        "icmjax predict --model Qwen/Qwen3-0.6B-Base --demos runs/japan --claims japan_new.csv"
    ],
    "ask": ["icmjax ask runs/japan --budget 4"],
    "answer": ["icmjax answer runs/japan --labels runs/japan/questions.jsonl"],
    "export": ["icmjax export runs/japan --format prompt"],
    "report": ["icmjax report runs/japan"],
    "completion": ['eval "$(icmjax completion bash)"'],
}
STATUSES = {
    "0": "Done.",
    "2": "Input or options are refused, and what is wrong is said.",
    "130": "Ctrl-C; a search says how it goes on.",
    "143": "SIGTERM: a search has saved itself, and says how it goes on.",
}


class Commands(click.Group):
    """Commands by the names of their files, so that help and mistakes cost no imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"icmjax.cli.{cmd_name}").command
        # A line with \\b is left as it is written.
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; of a slip the nearest one is offered."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Runs the command line; of a process of its own, where no arguments are handed over."""
        if args is None:
            os.environ.setdefault("ICMJAX_WITHOUT_TORCH", "1")  # of lm/quiet.py, which imports JAX
        try:
            return super().main(args, *rest, **options)
        except SystemExit as ended:
            if ended.code == INTERRUPTED and args is None:
                _leave_at_once()
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; Ctrl-C ends it with the status that shells give to it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The names and what each does."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Exit statuses"):
            formatter.write_dl(list(STATUSES.items()))


def _leave_at_once() -> NoReturn:
    """End the process without taking the interpreter down, which XLA may not survive.

    Interrupted while it compiled, a process died of a segmentation fault after its last line of
    Python. Files are written whole, and locks end with the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def main() -> None:
    """Find the labels that make survey claims most predictable from one another."""
