"""The house is as `docs/design.md` draws it, and nothing in it is written twice."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import get_args

import pytest
from importlinter.api import use_cases

import icmjax
from icmjax.claims import RULES
from icmjax.cli import machine, options
from icmjax.cli.commands import COMMANDS, main
from icmjax.cli.export import EXPORT_FORMATS
from icmjax.feedback import SELECTORS
from icmjax.lm import IMPLEMENTATIONS, QUANTIZATIONS
from icmjax.runs import FORMATS
from icmjax.scoring import BIASES, MEMORY_BUDGET, OBJECTIVES, Leave, Method, make_scorer

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "icmjax"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
DESIGN = (ROOT / "docs" / "design.md").read_text()
OUTSIDE = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
# Pretraining alone needs optax and orbax, so that its room does not import it.
APART = {"icmjax.persona_world.training", "icmjax.persona_world.pretrain"}
MAX_REPEATED = 7  # lines


def imports_of(path: pathlib.Path) -> Iterator[str]:
    """The modules that a file imports, or imports names from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_room_imports_upward(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert use_cases.lint_imports(config_filename="setup.cfg", cache_dir=None, no_logo=True)


def test_an_import_upward_would_be_seen(tmp_path, monkeypatch):
    """The contract has teeth: under the layers turned round it is broken."""
    text = (ROOT / "setup.cfg").read_text()
    before, layers, after = re.split(r"(?<=layers =\n)((?: {4}.+\n)+)", text)
    turned = "".join(reversed(layers.splitlines(keepends=True)))
    (tmp_path / "turned.cfg").write_text(before + turned + after)
    monkeypatch.chdir(ROOT)
    config = str(tmp_path / "turned.cfg")
    assert not use_cases.lint_imports(config_filename=config, cache_dir=None, no_logo=True)


def test_rooms_are_entered_through_their_packages():
    entered_otherwise = []
    for path in [*PACKAGE.rglob("*.py"), *OUTSIDE]:
        own = path.relative_to(ROOT).parts[1] if PACKAGE in path.parents else None
        for module in imports_of(path):
            parts = module.split(".")
            is_deep = len(parts) > 2 and parts[0] == "icmjax" and parts[1] != own
            if is_deep and module not in APART:
                entered_otherwise.append(f"{path.relative_to(ROOT)}: {module}")
    assert not entered_otherwise


def test_the_library_knows_no_experiment():
    outside = {"experiments", "benchmarks", "tests", "torch", "harness", "measure"}
    for path in PACKAGE.rglob("*.py"):
        assert outside.isdisjoint(module.split(".")[0] for module in imports_of(path)), path


def test_no_name_of_a_package_hides_one_of_its_modules():
    packages = ["icmjax", *(f"icmjax.{room}" for room in ROOMS)]
    hidden = []
    for name in packages:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            value = getattr(package, module.name, None)
            if value is not None and not isinstance(value, types.ModuleType):
                hidden.append(f"{name}.{module.name}")
    assert not hidden


def test_every_public_name_can_be_had():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    names = {a.asname for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert names == set(icmjax.__all__)
    for name in names:
        assert getattr(icmjax, name) is not None
    assert set(ROOMS) - {"cli"} <= names
    for room in ROOMS:
        package = importlib.import_module(f"icmjax.{room}")
        assert sorted(package.__all__, key=str) == sorted(set(package.__all__), key=str)
        for name in package.__all__:
            assert hasattr(package, name)


def test_the_page_draws_the_house():
    """Every room and file of the drawing is there, and every one that is there is drawn."""
    drawing = DESIGN.split("## The house")[1].split("```")[1]
    for room in ROOMS:
        assert f"{room}/" in drawing, room
    layers = re.search(r"layers =\n((?: {4}.+\n)+)", (ROOT / "setup.cfg").read_text())
    assert layers is not None
    for layer in layers[1].split():
        name = layer.strip("| ")
        assert not name or f"{name}/" in drawing or f"{name}.py" in drawing, name
    assert set(re.findall(r"\w+\.py\b", drawing)) - {"__init__.py"} == {
        path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
    }
    drawn = set(re.findall(r"`((?:icmjax|experiments|benchmarks|tests|docs)/[\w/.]+)`", DESIGN))
    assert len(drawn) > 10
    assert not [path for path in drawn if not (ROOT / path).exists()]


TABLE = DESIGN.split("## Where a change goes")[1].split("\n## ")[0]
CHANGES = re.findall(r"^\| a new ([\w ]+?) \|", TABLE, re.MULTILINE)


@pytest.mark.parametrize("change", CHANGES)
def test_the_page_says_where_a_change_goes(change):
    assert len(CHANGES) >= 10
    (row,) = [line for line in TABLE.splitlines() if line.startswith(f"| a new {change} |")]
    paths = re.findall(r"`([\w/.]+\.(?:py|cfg|md))`", row)
    assert paths
    assert all((ROOT / path).is_file() for path in paths), row


def statements_of(path: pathlib.Path) -> list[tuple[int, str]]:
    """Lines of code and their numbers: no imports, signatures, docstrings, comments or brackets."""
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.FunctionDef):
            left_out |= set(range(node.lineno, node.body[0].lineno))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return [
        (number, line)
        for number, line in lines
        if number not in left_out and not line.startswith("#") and re.search(r"\w", line)
    ]


def test_no_long_run_of_lines_stands_twice():
    seen: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        lines = statements_of(path)
        for start in range(len(lines) - MAX_REPEATED):
            run = tuple(line for _, line in lines[start : start + MAX_REPEATED + 1])
            seen[run].add(f"{path.relative_to(ROOT)}:{lines[start][0]}")
    assert not [sorted(places) for places in seen.values() if len(places) > 1]


def test_the_command_line_names_what_the_library_has():
    assert set(options.METHODS) == set(get_args(Method))
    assert options.IMPLEMENTATIONS == IMPLEMENTATIONS
    assert options.QUANTIZATIONS == QUANTIZATIONS
    assert options.SELECTORS == SELECTORS
    assert ("auto", *RULES) == options.PAIR_RULES
    assert get_args(Leave) == options.LEAVES
    assert options.OBJECTIVES == OBJECTIVES
    assert options.BIASES == BIASES
    assert machine.MEMORY_GIB * 2**30 == MEMORY_BUDGET
    assert list(FORMATS) == list(EXPORT_FORMATS)
    for name, algorithm in options.ALGORITHMS.items():
        assert getattr(icmjax, algorithm)().num_steps(8) > 0, name
    for name in COMMANDS:
        assert main.get_command(None, name).name == name


def test_faults_of_the_library_spell_no_option():
    """The command line spells its own (`icmjax/cli/spelling.py`)."""
    for path in PACKAGE.rglob("*.py"):
        if "cli" in path.parts or f"icmjax.persona_world.{path.stem}" in APART:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", None) for node in ast.walk(function)}
            if not isinstance(function, ast.FunctionDef) or "Fault" not in names:
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value))
                    assert options <= {"--upgrade"}, f"{path}:{node.lineno}"  # of pip


def test_one_default_method():
    default = inspect.signature(make_scorer).parameters["method"].default
    command = main.get_command(None, "search")
    (option,) = [option for option in command.params if option.name == "method"]
    assert (default, option.default) == ("tree", "tree")


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import icmjax"], ["-m", "icmjax", "--help"], ["-m", "icmjax", "search", "--modle"]],
    ids=["import", "help", "a typo"],
)
def test_what_needs_no_numbers_imports_no_numbers(arguments):
    """Of the .3 seconds of CPU that an import may take, numpy alone took .2, and JAX .6 more."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "lazy_loader" in imported
    assert imported.isdisjoint({"numpy", "jax", "flax", "transformers", "torch", "matplotlib"})
