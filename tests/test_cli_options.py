"""Numbers that no command can use, and how commands end."""

import math
import os
import pathlib
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from commands import invoke
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.cli import options
from icmjax.cli.commands import COMMANDS, main
from icmjax.cli.spelling import OPTION_OF

ROOT = pathlib.Path(__file__).parents[1]
ABSENT = "nowhere/nothing.jsonl"
# Numbers around the ends of every range, of 32 and of 64 bits.
ENDS = [0, 1, 64, 1000, 1024, 10**6, 2**31, 2**32, 2**53, 2**63, 2**64, 2**200]
INTEGERS = st.one_of(
    st.integers(-3, 3),
    st.builds(lambda end, step, sign: sign * (end + step), st.sampled_from(ENDS),
              st.integers(-1, 1), st.sampled_from([-1, 1])),
    st.integers(),
)  # fmt: skip
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e-6, 1e300, math.inf, math.nan]))
# What a shell can hand over: no NUL, and bytes that are no UTF-8 as surrogates.
TEXTS = st.text(
    st.one_of(st.characters(exclude_characters="\0", codec="utf-8"), st.just("\udcff")), max_size=12
)


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def values_of(option: click.Parameter) -> st.SearchStrategy:
    """Values of an option's type, and some of another one."""
    kinds = {click.INT: INTEGERS, click.FLOAT: FLOATS, click.BOOL: st.booleans()}
    if isinstance(option.type, click.Choice):
        own = st.sampled_from(list(option.type.choices))
    else:
        own = kinds.get(option.type, TEXTS)
    return st.one_of(own, own, own, TEXTS)


def given_of(name: str) -> st.SearchStrategy[list[str]]:
    """Arguments of a command: any options, any values. What is read is not there."""
    parts = []
    for option in command_of(name).params:
        if isinstance(option, click.Argument) or option.name == "source":
            first = [] if isinstance(option, click.Argument) else [option.opts[0]]
            parts.append(st.just([*first, ABSENT]))
        elif option.is_flag:
            parts.append(st.sampled_from([[], [option.opts[0]]]))
        else:
            value = values_of(option).map(lambda value, o=option: [f"{o.opts[0]}={value}"])
            parts.append(value if option.required else st.one_of(st.just([]), value))
    return st.tuples(*parts).map(lambda found: [name, *(word for part in found for word in part)])


# `demo` reads nothing: it runs two of the others.
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"demo"}))
def test_any_values_end_with_a_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Of the devices alone the number is asked for before anything is read.
    monkeypatch.setenv("NPROC", "2")

    @settings(max_examples=60, deadline=None)
    @given(given_of(name))
    def check(arguments):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert "Traceback" not in result.output
        assert "to do:" in result.output or "Error:" in result.output

    check()


OUT_OF_RANGE = {
    "--seed": ["-1", str(2**32), str(2**64), str(10**30)],
    "--draws": ["0", "-1", "1001"],
    "--limit": ["0", "-1"],
    "--orders": ["0", "-1", "65", "100000"],
    "--context-size": ["0", "-1"],
    "--batch-size": ["0", "-1"],
    "--devices": ["0", "-1", "1025"],
    "--alpha": ["0", "-1", "inf", "nan", "1e300"],
    "--memory-budget": ["0", "-1", "inf", "nan", "1e300"],
    "--iterations": ["-1", str(2**31)],
    "--chains": ["0", "1025"],
    "--replicas": ["0", "1025"],
    "--hot-temperature": ["inf", "nan"],
    "--burn-in": ["inf", "nan"],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(name, value) for name, values in OUT_OF_RANGE.items() for value in values],
)
def test_numbers_out_of_range_are_refused_wherever_they_are_taken(option, value):
    """By every command that has the option; the message names it and says what it takes."""
    takers = 0
    for name in COMMANDS:
        command = command_of(name)
        if not any(option in each.opts for each in command.params):
            continue
        takers += 1
        required = [
            word
            for each in command.params
            if each.required
            for word in ([] if isinstance(each, click.Argument) else [each.opts[0]])
            + (["prompt" if isinstance(each.type, click.Choice) else "1"])
        ]
        result = invoke(name, *required, f"{option}={value}")
        assert result.exit_code == 2, result.output
        assert f"where: {option}" in result.output, result.output
        assert "to do: give" in result.output
    assert takers


def test_all_faults_are_told_at_once():
    files = "--model", "m", "--claims", ABSENT, "--labels", ABSENT
    result = invoke("score", *files, "--orders", 0, "--alpha", "nan", "--limit", -1)
    assert result.exit_code == 2
    for option in ("--orders", "--alpha", "--limit"):
        assert f"where: {option}" in result.output
    assert ABSENT not in result.output  # nothing was read


@pytest.mark.parametrize("name", ["alpha", "num_orders", "seed", "draws", "memory_gib"])
def test_the_ends_of_a_range_belong_to_it(name):
    command = click.Command("any", params=[click.Option(["--number", name], type=float)])
    allowed = options.RANGES[name]
    for value in (allowed.least, allowed.most):
        options.check_numbers(click.Context(command, ignore_unknown_options=True))
        context = click.Context(command)
        context.params = {name: value}
        options.check_numbers(context)
    for value in (allowed.least - 1, allowed.most * 2, math.nan):
        context = click.Context(command)
        context.params = {name: value}
        with pytest.raises(options.InputError, match="--number"):
            options.check_numbers(context)


def test_every_range_is_of_an_option():
    known = {option.name for name in COMMANDS for option in command_of(name).params}
    assert options.RANGES.keys() <= known


def test_what_arguments_are_spelt_as_are_options():
    known = {opt for name in COMMANDS for option in command_of(name).params for opt in option.opts}
    assert set(OPTION_OF.values()) <= known
    assert options.OWN_DEFAULTS.keys() <= OPTION_OF.keys()


def test_seeds_within_the_range_are_keys_of_their_own():
    """Two seeds that are equal modulo 2^32 give one key, so that the range ends there."""
    jax = pytest.importorskip("jax")
    most = int(options.RANGES["seed"].most)

    def data(seed):
        return tuple(jax.random.key_data(jax.random.key(seed)).tolist())

    assert len({data(seed) for seed in (0, 1, most - 1, most)}) == 4
    assert data(most + 1) == data(0)


@pytest.mark.parametrize("dtype", ["fp16", "float64", "int8"])
def test_a_dtype_is_one_that_a_model_is_read_in(dtype):
    files = "--model", "m", "--claims", ABSENT, "--labels", ABSENT
    result = invoke("score", *files, "--dtype", dtype)
    assert result.exit_code == 2
    assert "'float32', 'bfloat16', 'float16'" in result.output


@pytest.mark.parametrize("place", ["import", "run"])
def test_an_interrupt_ends_with_130(place, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    if place == "import":
        monkeypatch.setattr("importlib.import_module", interrupt)
    else:
        monkeypatch.setattr(command_of("report"), "callback", interrupt)
    result = invoke("report", ABSENT)
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"
    assert "Aborted" not in result.output


def test_an_interrupted_process_ends_at_once():
    """Nothing that hangs on the interpreter's end can crash it; what was printed is printed."""
    code = """
import atexit, sys
from icmjax.cli import main

def interrupt(**options):
    print("half a table")
    raise KeyboardInterrupt

atexit.register(print, "the interpreter's end")
main.get_command(None, "report").callback = interrupt
sys.argv = ["icmjax", "report", "folder"]
main()
"""
    done = run_python("-c", code, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "half a table\n", "interrupted\n")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE_TEXTS = {path.name: re.sub(r"\\\\\n\s*", " ", path.read_text()) for path in PAGES}


@pytest.mark.parametrize("page", PAGE_TEXTS)
def test_every_command_of_a_page_is_there(page):
    for line in PAGE_TEXTS[page].splitlines():
        match line.split("#")[0].split():
            case ["icmjax", name, *words] if name in COMMANDS:
                known = {opt for each in command_of(name).params for opt in each.opts}
                assert {word for word in words if word.startswith("--")} <= known, line
            case ["make", target] if "=" not in target:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(), line
            case ["python", "-m", module, *_] if module.startswith("icmjax"):
                assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), line


def test_every_command_is_on_some_page():
    said = set(re.findall(r"icmjax ([a-z]+)", "\n".join(PAGE_TEXTS.values())))
    assert set(COMMANDS) <= said


def test_the_pages_options_are_some_command_s():
    said = set(re.findall(r"`(?:icmjax \w+ )?(--[\w-]+)", PAGE_TEXTS["labelling.md"]))
    assert len(said) > 4
    assert said <= {
        opt for name in COMMANDS for each in command_of(name).params for opt in each.opts
    }


def run_python(*arguments: str, **kwargs):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, cwd=ROOT, **kwargs
    )


def test_help_says_nothing_on_stderr():
    for arguments in (["--help"], ["search", "--help"], ["--version"]):
        done = run_python("-m", "icmjax", *arguments)
        assert done.returncode == 0
        assert done.stdout
        assert done.stderr == b""


def test_a_pipe_that_nobody_reads_is_no_error_to_tell_of():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "icmjax", "--help"], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1
