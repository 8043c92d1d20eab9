"""The benchmark runs at tiny size, checks scores before it gives times, and writes its results."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from icmjax.errors import ClaimsError
from icmjax.prompts import get_template, tokenize_claims

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# Says what it is asked to do, and makes an environment of itself.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> LOG
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""
# In every process that finds it, as if torch were not installed.
WITHOUT_TORCH = """from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
"""


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import scoring

        yield scoring
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def engines(benchmark):
    from measure import engines

    return engines


def invoke(command, *arguments: str):
    """Run the benchmark, which compiles everything anew, and leave other tests their cache."""
    was_enabled = jax.config.jax_enable_compilation_cache
    try:
        return CliRunner().invoke(command, arguments, catch_exceptions=False)
    finally:
        jax.config.update("jax_enable_compilation_cache", was_enabled)


@pytest.fixture(scope="module")
def content(benchmark, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    result = invoke(
        benchmark.main, "--quick", "--claims", "4", "--shapes", "tiny", "--out", str(out)
    )
    assert result.exit_code == 0, result.output
    assert (out / "scoring_cpu_quick.svg").stat().st_size > 1000
    return json.loads((out / "scoring_cpu_quick.json").read_text()) | {"table": result.output}


@pytest.mark.slow
def test_every_method_and_engine_is_measured(content):
    assert content["device"]
    assert {"jax", "torch", "transformers"} <= content["versions"].keys()
    measured = {(row["engine"], row["method"], row["num_claims"]) for row in content["rows"]}
    spread = f"tree on {jax.device_count()} devices"
    for method in ("sequential", "tree", spread, "blockwise", "chain_rule"):
        assert ("icmjax", method, 4) in measured
    for method in ("every prompt anew", "reused prefix, fixed order"):
        assert ("transformers", method, 4) in measured
    einsum, *kernels = (row for row in content["rows"] if row["engine"] == "icmjax tiny")
    assert einsum["pass_seconds"] > 0
    for row, name in zip(kernels, ("flash", "cudnn"), strict=True):
        assert row["pass_seconds"] is None
        assert f"{name} attention: the device is a cpu" in row["note"]
    ours = [row for row in content["rows"] if row["engine"] == "icmjax"]
    for row in ours:
        assert 0 < row["tokens"] <= row["padded_tokens"]
        assert row["pass_seconds"] > 0 < row["flops"]
        assert row["kappa"] > 0 < row["kappa_apart"]
    assert "roofline" in content["table"]


@pytest.mark.slow
def test_engines_agree_or_have_no_time(content, engines):
    checked = [row for row in content["rows"] if "score_error" in row]
    assert len(checked) >= 4
    for row in checked:
        assert row["score_error"] < engines.TOLERANCE
    absent = [row for row in content["rows"] if row["engine"] == "vLLM"]
    assert all("not measured" in row["note"] for row in absent)
    row = engines.checked({"pass_seconds": 1.0}, np.zeros((2, 2)), np.ones((2, 2)))
    assert row["pass_seconds"] is None
    assert "differ" in row["note"]


def test_operations_are_those_of_the_rows(benchmark):
    from measure.flops import Rows, pass_flops
    from measure.shapes import random_lm

    def count(before: int, *seen: int) -> float:
        return pass_flops(lm, Rows(np.array([3]), np.array([before]), np.array(seen, int))).total

    lm = random_lm("tiny")
    layers, heads = lm.config.num_layers, lm.config.num_heads * lm.config.head_dim
    assert count(10) - count(0) == (layers - 1) * 4 * heads * 30
    keys, rest = 2 * 64 * 2 * 32, 2 * 64 * (2 * 64 + 3 * 128)
    assert count(0) == (layers - 1) * ((keys + rest) * 3 + 4 * heads * 6) + keys * 3
    assert count(0, 3) - count(0) == rest + 4 * heads * 3


def test_queries_of_all_exact_methods_see_the_same(benchmark):
    from measure.flops import rows_of
    from measure.shapes import random_lm, random_tokens

    lm, labels = random_lm("tiny"), np.zeros(5, np.int8)
    tokens = random_tokens(5, 6, lm.config.vocab_size)
    scorers = {name: make(lm, tokens, 1 << 30) for name, make in benchmark.MAKERS.items()}
    rows = {name: rows_of(scorer, labels) for name, scorer in scorers.items()}
    shown = tokens.demonstration_lengths[:, 0]
    seen = len(tokens.preamble) + shown.sum() - shown + tokens.query_lengths
    for name in ("sequential", "tree", "blockwise"):
        np.testing.assert_array_equal(rows[name].seen, seen)
    (order,) = np.asarray(scorers["chain_rule"].orders)
    before = [shown[order[:place]].sum() for place in range(5)]
    expected = len(tokens.preamble) + np.array(before) + tokens.query_lengths[order]
    np.testing.assert_array_equal(rows["chain_rule"].seen, expected)


@pytest.mark.slow
def test_several_devices_alone_are_checked_by_whole_prompts(benchmark, tmp_path):
    result = invoke(
        benchmark.main, "--quick", "--methods", "spread", "--claims", "4", "--out", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "scoring_cpu_quick.json").read_text())["rows"]
    assert [row["num_claims"] for row in rows] == [4]
    for row in rows:
        assert row["score_error"] < 2e-5
        assert row["pass_seconds"] > 0
        assert f"checked by {row['num_claims']} prompts" in row["note"]


@pytest.mark.slow
def test_cores_that_are_devices_have_a_process_of_their_own(engines, tmp_path):
    from measure.checkpoint import make_checkpoint

    empty = tmp_path / "empty"
    empty.mkdir()
    folder = make_checkpoint(tmp_path / "model", ["claim"], num_layers=1, hidden_size=32)
    options = {"num_devices": 2, "repeats": 1, "budget": 1 << 30, "sample": 2, "quick": True}
    options["claim_files"] = ()
    row = engines.measure_cores(4, options | {"model": str(folder)})
    assert (row["method"], row["num_claims"]) == ("tree on 2 devices", 4)
    assert row["score_error"] < 2e-5
    assert row["pass_seconds"] > 0 < row["matmul_rate"]
    assert "checked by 2 prompts" in row["note"]
    row = engines.measure_cores(4, options | {"model": str(empty)})
    assert row["pass_seconds"] is None
    assert "not measured: " in row["note"]


def test_an_unknown_method_is_told(benchmark, tmp_path):
    result = invoke(benchmark.main, "--quick", "--methods", "tree,spred", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "spred; choose of sequential, tree, spread" in result.output


def test_a_budget_that_nothing_fits_is_told(benchmark, tmp_path):
    arguments = ("--quick", "--methods", "tree", "--budget", "1e-6", "--out", str(tmp_path))
    result = invoke(benchmark.main, *arguments)
    assert result.exit_code == 1
    for num_claims in (4, 8):
        assert f"{num_claims} claims left out. A scoring pass fits" in result.output
    assert "Error: no number of claims could be measured" in result.output

    from measure.shapes import random_lm, random_tokens

    lm = random_lm("tiny")
    inputs = (lm, random_tokens(4, 6, lm.config.vocab_size), np.zeros(4, np.int8))
    options = {"num_devices": 2, "budget": 1000, "repeats": 1}
    row = benchmark.measure_spread(*inputs, None, {}, 1.0, options)
    assert row["pass_seconds"] is None
    assert "more than the budget" in row["note"]


def test_a_failed_engine_is_reported_by_its_first_error(engines):
    log = "ERROR worker.py\nValueError: too little memory\nException: a worker died"
    assert engines._first_error(log) == "ValueError: too little memory"
    assert engines._first_error("killed\n") == "killed"
    assert engines._first_error("") == "no message"


@pytest.mark.slow
def test_claims_of_the_world_are_the_same_and_as_many_as_asked_for(benchmark):
    from measure.checkpoint import make_tokenizer
    from measure.claims import MAX_MADE, made_claims

    claims, gold = made_claims()
    again, _ = made_claims(MAX_MADE)
    assert claims == again
    assert len(claims) == len(gold) == len(set(claims.claims)) == 1024
    assert len({(claim.question, claim.choice) for claim in claims.claims}) == 1024
    assert len(claims.rules.pairs) == 0
    assert len(set(claims.personas)) == 8
    np.testing.assert_array_equal(gold[::2] + gold[1::2], 1)  # a claim and its opposite
    few, gold_of_few = made_claims(16)
    assert few == claims.select(range(16))
    assert few.personas == claims.personas
    np.testing.assert_array_equal(gold_of_few, gold[:16])
    with pytest.raises(ClaimsError, match="1025"):
        made_claims(1025)

    tokenizer = make_tokenizer(claim.question + claim.choice for claim in claims.claims)
    tokens = tokenize_claims(claims, get_template("persona"), tokenizer)
    assert tokens.label_forms.shape == (2, 1, 1)
    lengths = tokens.demonstration_lengths
    assert 40 <= lengths.min() <= lengths.max() <= 80
    assert 55 <= lengths.mean() <= 65


@pytest.mark.slow
def test_claims_are_read_from_files_and_folders(benchmark, tmp_path):
    from measure.claims import read_claims

    rows = [
        {"question": "Why?", "choice": f"It is {i}", "consistency_id": i, "label": i % 2}
        for i in range(6)
    ]
    for name, part in {"b": rows[:2], "a": rows[2:4], "c": rows[4:]}.items():
        lines = "".join(json.dumps(row | {"persona": name}) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    (tmp_path / "README.md").write_text("no claims")
    claims, gold = read_claims([tmp_path])
    assert [claim.choice[-1] for claim in claims.claims] == [*"230145"]
    np.testing.assert_array_equal(gold, [0, 1] * 3)
    claims, _ = read_claims([tmp_path / "c.jsonl", tmp_path / "b.jsonl"])
    assert [claim.choice[-1] for claim in claims.claims] == [*"4501"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ClaimsError, match="has claim files"):
        read_claims([tmp_path / "none"])

    out = tmp_path / "out"
    arguments = ("--quick", "--methods", "blockwise", "--claims", "4", "--out", str(out))
    result = invoke(benchmark.main, *arguments, "--claim-files", str(tmp_path))
    assert result.exit_code == 0, result.output
    text = (out / "scoring_cpu_quick.json").read_text()
    assert json.loads(text)["options"]["claims"] == ["/".join(tmp_path.parts[-2:])]
    assert f'"{tmp_path}' not in text
    result = invoke(benchmark.main, *arguments, "--claim-files", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "has claim files" in result.output


def test_a_checkpoint_is_read_by_transformers_and_by_us_alike(benchmark, tmp_path):
    import torch
    from measure.baselines import load_torch
    from measure.checkpoint import make_checkpoint

    import icmjax

    folder = make_checkpoint(tmp_path / "a", ["claim"], num_layers=1, hidden_size=32)
    lm = icmjax.load_lm(folder)
    assert lm.default_template == "persona"
    assert min(float(leaf.std()) for leaf in jax.tree.leaves(lm.params)) > 0.01
    tokens = np.arange(3, 15)[None]
    with torch.inference_mode():
        expected = load_torch(folder)(torch.tensor(tokens)).logits[0, -1].numpy()
    hidden = benchmark.plain_forward(lm, tokens.astype(np.int32), np.array([12], np.int32))
    found = lm.decoder().logits(hidden[0, -1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = make_checkpoint(tmp_path / "b", ["claim"], num_layers=1, hidden_size=32)
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.slow
def test_engines_on_torch_are_left_out_with_a_line_where_it_is_absent(
    benchmark, engines, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "has_torch", lambda: False)
    monkeypatch.setattr(engines, "load_torch", None)
    arguments = ("--quick", "--methods", "tree", "--claims", "4", "--out", str(tmp_path))
    result = invoke(benchmark.main, *arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "scoring_cpu_quick.json").read_text())["rows"]
    assert [row["engine"] for row in rows] == ["icmjax", "transformers", "vLLM"]
    assert "torch is absent" in result.stdout
    assert rows[1]["pass_seconds"] is None


@pytest.mark.slow
def test_the_command_runs_with_nothing_beside_it_and_without_torch(tmp_path):
    shutil.copytree(BENCHMARKS, tmp_path / "clone" / "benchmarks")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(WITHOUT_TORCH)
    paths = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "benchmarks/scoring.py", "--quick", "--claims", "4", "--methods", "tree"],
        cwd=tmp_path / "clone",
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "On cpu (cpu). Cost: about a minute" in done.stderr
    assert "torch is absent" in done.stdout
    assert (tmp_path / "clone" / "runs" / "bench" / "scoring_cpu_quick.json").exists()


@pytest.mark.slow
def test_a_kernel_is_held_to_the_einsum_and_to_the_memory(benchmark, monkeypatch):
    """As on an accelerator; here the kernel is interpreted."""
    options = {"shape_claims": 4, "shape_length": 6, "repeats": 1, "budget": 1 << 30}
    options["matmul_size"] = 64
    monkeypatch.setattr("measure.shapes.check_attention", lambda *_: None)
    row, expected = benchmark.measure_shape("tiny", "einsum", options, None)
    assert "kernel_error" not in row
    row, _ = benchmark.measure_shape("tiny", "flash", options, expected)
    assert row["attention"] == "flash"
    assert row["kernel_error"] < 0.05  # bfloat16
    assert "off the einsum's" in row["note"]
    monkeypatch.setattr(benchmark, "device_bytes", lambda: 16 << 30)
    row, scores = benchmark.measure_shape("tiny", "einsum", options | {"shape_claims": 64}, None)
    assert row["pass_seconds"] > 0
    few = 2 * benchmark.shape_bytes("tiny")
    monkeypatch.setattr(benchmark, "device_bytes", lambda: few)
    row, scores = benchmark.measure_shape("tiny", "einsum", options | {"shape_claims": 64}, None)
    assert row["pass_seconds"] is scores is None
    assert "more than the budget" in row["note"]
    monkeypatch.setattr(benchmark, "device_bytes", lambda: 16 << 30)
    row, scores = benchmark.measure_shape("8b", "einsum", options, None)
    assert row["pass_seconds"] is scores is None
    assert "15.0 GiB do not fit the device's 16.0" in row["note"]


def test_the_host_of_an_accelerator_is_no_device(benchmark, monkeypatch):
    for accelerator in ("cuda", "tpu"):
        monkeypatch.setattr(benchmark, "find_accelerator", lambda *_, found=accelerator: found)
        result = invoke(benchmark.main, "--quick")
        assert result.exit_code == 1
        assert f"make ACCELERATOR={accelerator}" in result.output
        assert "--on-cpu" in result.output
    benchmark.refuse_host("cpu")


@pytest.mark.slow
def test_the_page_on_many_chips_has_what_its_command_prints(benchmark):
    import scaling

    told = CliRunner().invoke(scaling.main, [])
    assert told.exit_code == 0
    page = (ROOT / "docs" / "scaling.md").read_text()
    rows = [line for line in told.output.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * 11
    assert not [row for row in rows if row not in page]
    # More chips are never slower, and a search of 30 000 claims is 118 of 255.
    search = scaling.search_of("8b", 255)
    seconds = [scaling.seconds_of(search, scaling.CHIPS["v5e"], number) for number in (1, 8, 64)]
    assert seconds == sorted(seconds, reverse=True)
    assert scaling.in_words(118 * seconds[1]) in page
    # Weights on a chip: shared by 32 parts, as there are 32 heads, of which 8 key-value heads are
    # there four times.
    _, hidden, mlp, _, kv_heads, head_dim = scaling.SHAPES["8b"]
    kernels = hidden * (2 * hidden + 3 * mlp + 2 * 4 * kv_heads * head_dim)
    norms = 2 * hidden
    whole = 32 * (kernels / 32 + norms) + 2 * 128_256 * hidden / 32 + hidden
    assert search.memory["tpu", 64].weights == 2 * whole


def test_the_cost_is_told_by_size(benchmark):
    line = benchmark.cost_line([10, 64], False, Path("runs"))
    minutes = benchmark.MINUTES[16] + benchmark.MINUTES[64]
    assert f"took {minutes} minutes" in line
    assert "not known" in benchmark.cost_line([2048], False, Path("runs"))
    assert "no accelerator was measured" in benchmark.cost_line([], False, Path("runs"))


@pytest.mark.parametrize(
    ("files", "environment", "has_smi", "expected"),
    [
        ([], {}, False, "cpu"),
        ([], {}, True, "cuda"),
        (["nvidia0"], {}, False, "cuda"),
        (["nvidia0", "accel0"], {}, False, "cuda"),
        (["accel0"], {}, False, "tpu"),
        (["accel/accel0"], {}, False, "cpu"),  # another maker's
        (["vfio/0"], {}, False, "cpu"),  # any device
        (["vfio/0"], {"TPU_WORKER_ID": "0"}, False, "tpu"),
        (["vfio/vfio"], {"TPU_WORKER_ID": "0"}, False, "cpu"),  # the module without a device
        ([], {"TPU_WORKER_ID": "0"}, False, "cpu"),
        ([], {"TPU_NAME": "local"}, False, "tpu"),
        ([], {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, False, "tpu"),
        ([], {"TPU_NAME": ""}, False, "cpu"),
    ],
)
def test_the_accelerator_is_found(benchmark, tmp_path, files, environment, has_smi, expected):
    from measure.accelerator import find_accelerator

    for name in files:
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_accelerator(tmp_path, environment, lambda: has_smi) == expected


@pytest.mark.parametrize(("kind", "expected"), [("0x0063", "tpu"), ("0x0042", "cpu")])
def test_a_tpu_is_told_from_other_devices_on_the_bus(benchmark, tmp_path, kind, expected):
    from measure.accelerator import find_accelerator

    device = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
    for path, text in {device / "vendor": "0x1ae0\n", device / "device": f"{kind}\n"}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert find_accelerator(tmp_path, {}, lambda: False) == "cpu"  # which no one may open
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/0").touch()
    assert find_accelerator(tmp_path, {}, lambda: False) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 'GPU 0: one'", True), ("echo 'GPU 0'; exit 9", False), ("echo none", False)],
)
def test_a_working_nvidia_smi_lists_a_gpu(benchmark, tmp_path, monkeypatch, script, expected):
    from measure.accelerator import smi_works

    monkeypatch.setenv("PATH", str(tmp_path))
    assert not smi_works()
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    assert smi_works() == expected


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_another_accelerator_installs_the_environment_again(tmp_path):
    log, python, venv = tmp_path / "log", tmp_path / "python", tmp_path / "venv"
    python.write_text(FAKE_PYTHON.replace("LOG", str(log)))
    python.chmod(0o755)

    def make(accelerator: str, name: str = "tested") -> tuple[int, str]:
        """The exit status, and what was run."""
        log.write_text("")
        command = ["make", f"{venv}/{name}", f"VENV={venv}", f"PYTHON={python}"]
        done = subprocess.run(
            [*command, f"ACCELERATOR={accelerator}"], cwd=ROOT, capture_output=True, check=False
        )
        return done.returncode, log.read_text()

    status, first = make("cpu")
    assert status == 0
    assert "--editable .[test,lint]\n" in first
    assert make("cpu") == (0, "")
    status, other = make("cuda")
    assert status == 0
    assert "--editable .[test,lint,cuda]\n" in other
    assert "uninstall --quiet --quiet --yes libtpu\n" in other
    assert make("cuda") == (0, "")
    status, back = make("cpu")
    assert status == 0
    assert "jax-cuda13-plugin" in back
    assert "--editable .[test,lint]\n" in back
    assert make("gpu") == (2, "")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_demo_installs_nothing_that_tests_alone_need(tmp_path):
    log, python, venv = tmp_path / "log", tmp_path / "python", tmp_path / "venv"
    python.write_text(FAKE_PYTHON.replace("LOG", str(log)))
    python.chmod(0o755)
    command = ["make", f"{venv}/installed", f"VENV={venv}", f"PYTHON={python}", "ACCELERATOR=cpu"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert "--editable .\n" in log.read_text()
    assert "test" not in log.read_text().replace(str(tmp_path), "")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_module_is_compiled_once_though_python_is_told_to_keep_none():
    code = "import sys; print(sys.dont_write_bytecode)"
    rule = f"told: ; @{sys.executable} -c '{code}'"
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", rule, "told", "ACCELERATOR=cpu"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("attention", ["einsum", "flash"])
def test_a_whole_pass_lowers_for_cuda(benchmark, attention):
    """Of 1B, without a GPU: as far as the kernel's own program."""
    from jax import export
    from measure.shapes import abstract_lm, random_tokens

    from icmjax.scoring import make_tree_scorer

    lm = abstract_lm("1b", None, attention, "gpu")
    claims = random_tokens(8, 10, lm.config.vocab_size)
    scorer = make_tree_scorer(lm, claims, np.arange(8), batch_size=1, memory_budget=1 << 40)
    exported = export.export(
        jax.jit(lambda scorer, labels: scorer(labels)),
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
    )(scorer, jax.ShapeDtypeStruct((1, 8), np.int8))
    assert ("__gpu$xla.gpu.triton" in exported.mlir_module()) == (attention == "flash")
    assert exported.out_avals[0].shape == (1, 8, 2)
