"""The command of an experiment: its folder, its cost, its faults as messages."""

import functools
import inspect
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from harness.costs import Cost, Published
from icmjax.errors import Fault, InputError

RUNS = pathlib.Path("runs")


def experiment(
    *published: Published,
    part: str | None = None,
    kinds: Mapping[str, float] | None = None,
    is_sized: bool = True,
) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command of a function of `out`, `cost` and the options; its file's docstring is help.

    Args:
      *published: the runs of it that were timed.
      part: an option whose values are experiments of their own, with folders of their own.
      kinds: seconds of a unit by the last word of its key, where these were timed one by one.
      is_sized: whether it takes --groups and --quick.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        module = inspect.unwrap(function).__globals__
        name = pathlib.Path(module["__file__"]).stem

        @show_faults
        @functools.wraps(function)
        def command(*, out: pathlib.Path | None, **options: Any) -> None:
            start, context = time.monotonic(), click.get_current_context()
            out = out or default_folder(name, context, part)
            function(out=out, cost=Cost(context, published, part, kinds, is_sized), **options)
            click.echo(f"{time.monotonic() - start:.0f} s; results in {out}")

        by_part = "" if part is None else f"_{part.upper()} for another --{part}, "
        by_quick = f", with {by_part}_quick for --quick" if is_sized else ""
        decorated = out_option(name, by_quick)(command)
        if is_sized:
            quick = click.option("--quick", is_flag=True, help="A look in under three minutes.")
            groups = click.option("--groups", help="Names, separated by commas; by default all.")
            decorated = quick(groups(decorated))
        return click.command(name, help=module["__doc__"])(decorated)

    return decorate


def out_option(name: str, more: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --out, None where it is not given; its help names the default."""
    text = f"Folder of the results; default {RUNS / name}{more}."
    return click.option("--out", type=click.Path(path_type=pathlib.Path), help=text)


def default_folder(name: str, context: click.Context, part: str | None = None) -> pathlib.Path:
    """`runs/NAME`, and a folder of its own for another part and for a quick look."""
    words, options = [name], context.params
    defaults = {option.name: option.default for option in context.command.params}
    if part is not None and options[part] != defaults[part]:
        words.append(options[part])
    if options.get("quick"):
        words.append("quick")
    return RUNS / "_".join(words)


def show_faults(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose faults of input are messages, with status 2, and Ctrl-C with 130."""

    @functools.wraps(function)
    def command(**options: Any) -> None:
        try:
            function(**options)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from error
        except KeyboardInterrupt as interrupt:
            line = "interrupted; what is finished is kept, and the same command goes on from there"
            click.echo(f"\n{line}", err=True)
            raise SystemExit(130) from interrupt

    return command


def chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    """The names of a comma-separated option.

    Raises:
      InputError: one of them is not known.
    """
    names = text.split(",")
    faults = [
        Fault("An option names what there is.", repr(name), option, f"choose of {', '.join(known)}")
        for name in names
        if name not in known
    ]
    if faults:
        raise InputError(faults)
    return names
