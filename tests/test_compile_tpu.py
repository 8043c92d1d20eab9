"""A pass compiles for TPUs that are not here, shared over chips, without gathering weights."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, the TPU's compiler, is not installed: pip install '.[tpu-compile]'",
    ),
]


@pytest.mark.parametrize("name", ["tiny", "tiny-flash", "tiny-tempering"])
def test_a_pass_compiles_for_four_chips(tmp_path, name: str):
    out = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "compile_tpu.py")]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    subprocess.run(
        [*command, "--rows", name, "--out", str(out)], check=True, env=environment, timeout=600
    )
    row = json.loads(out.read_text())[name]
    assert row["chips"] == 4
    assert row["fits"]
    assert row["peak"] > 0
    # Heads and columns of the MLP are summed over chips; weights stay where they are.
    if row["collectives"] is None:
        pytest.skip("this jaxlib does not read what this libtpu writes")
    assert row["collectives"]["all-reduce"]["count"] > 0
    assert row["collectives"]["weights"] == []
