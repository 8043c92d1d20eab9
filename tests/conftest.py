"""Shared fixtures: where the public data lies, and strict settings of JAX."""

import gc
import importlib.metadata
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

# The suite's programs are small and many: most of what they cost is their compilation, of which
# fusion emitters triple the time. Two workers share two cores, so that a program in parts is 7 %
# slower than whole. XLA refuses flags that it does not know, and these two may go.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=1",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
    ]
)
# The children of tests compile in haste too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Workers and children inherit the folder: a program which several tests build is compiled once.
os.environ.setdefault("ICMJAX_TEST_CACHE", tempfile.mkdtemp(prefix="icmjax-test-cache-"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["ICMJAX_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

# A worker finds few of its own programs there: writing the short ones costs more than it saves.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 4)  # all but tests of several devices use the first

# Tracing makes many objects that live, beside a million of the imports: looking for cycles among
# them time and again took 6 % of the time of test_icm.py.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

# Two workers end together where the longest files begin first.
LONGEST_FILES = (
    "tempering",
    "exports",
    "mesh",
    "lm_parity",
    "experiments",
    "tutorial",
    "docs",
    "sequential",
    "lm_segments",
    "page_commands",
    "icm",
    "tree",
    "fixed_accuracy",
)

MAX_MAPS = 8_000

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"
EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, in their order, and leaves the others in theirs."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="module")
def experiments_on_path() -> Iterator[None]:
    """The experiments are scripts, which import their parts from the package beside them."""
    sys.path.insert(0, str(EXPERIMENTS))
    yield
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
    """The folder of public survey data; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"the public data is not at {DATA}")
    return DATA


@pytest.fixture(scope="module", autouse=True)
def programs_of_files() -> Iterator[None]:
    """Small programs serve the next file too. Those of 12 000 memory maps were 5 GB.

    Where nobody counts the maps, programs are dropped after every file.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_text().count("\n") > MAX_MAPS:
        jax.clear_caches()
