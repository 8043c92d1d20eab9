"""The same claims in other processes and libraries, whose scores must be ours.

transformers on torch, vLLM, and our own tree where each core is a device.
"""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from icmjax.devices import num_pool_threads
from icmjax.scoring import make_sequential_scorer
from measure.baselines import Baseline, load_torch, sample_of, score_naive, score_with_prefix

SCRIPT = Path(__file__).parents[1] / "scoring.py"
TOLERANCE = 2e-4  # nats between engines, both in float32
ENOUGH_SECONDS = 60.0  # of repeated calls; what takes so long varies little


def prompts_of(scorer, labels: np.ndarray) -> list[list[int]]:
    """One full prompt a query, in the order that the scorer reports."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    prompts = []
    for query, order in enumerate(scorer.demonstration_orders()):
        prompt = claims.preamble.tolist()
        for claim in order[order >= 0]:
            length = claims.demonstration_lengths[claim, labels[claim]]
            prompt += claims.demonstrations[claim, labels[claim], :length].tolist()
        prompts.append(prompt + claims.queries[query, : claims.query_lengths[query]].tolist())
    return prompts


def engine_row(engine: str, method: str, num_claims: int, **values) -> dict:
    """A row; what it does not measure is None, or left out."""
    return {"engine": engine, "method": method, "num_claims": num_claims, "note": "", **values}


def checked(row: dict, log_probs: np.ndarray, expected: np.ndarray) -> dict:
    """The row, without its time where the scores are not ours."""
    error = float(np.abs(log_probs - expected).max())
    if error <= TOLERANCE:
        return {**row, "score_error": error}
    note = f"scores differ by {error:.2g} nats, so no time is given"
    return {**row, "pass_seconds": None, "score_error": error, "note": note}


def measure_naive(
    model, prompts: list[list[int]], label_tokens: list[int], options: dict
) -> Baseline:
    """Every prompt anew, with the median seconds of repeated passes over a sample."""
    passes: list[Baseline] = []
    start = time.perf_counter()
    while len(passes) < options["repeats"] and time.perf_counter() - start < ENOUGH_SECONDS:
        passes.append(score_naive(model, prompts, label_tokens, options["sample"]))
    return passes[-1]._replace(seconds=statistics.median(each.seconds for each in passes))


def has_torch() -> bool:
    """Whether torch can be imported: the test extra has it, and a TPU VM does without it."""
    return importlib.util.find_spec("torch") is not None


def measure_engines(
    folder: Path, scorer, labels: np.ndarray, expected: np.ndarray, options: dict
) -> Iterator[dict]:
    """transformers and vLLM on the prompts of the tree scorer, and in the fixed order.

    Without torch one row says so, and vLLM alone reads the tree's order.
    """
    claims, num_claims = jax.tree.map(np.asarray, scorer.claims), len(labels)
    assert claims.label_forms.shape[1:] == (1, 1), "labels of one token and one form"
    label_tokens = claims.label_forms[:, 0, 0].tolist()
    in_tree_order = prompts_of(scorer, labels)
    walk = np.argsort(np.asarray(scorer.leaves)[:num_claims])
    walked = [in_tree_order[query] for query in walk]
    if not has_torch():
        note = "not measured: torch is absent; pip install '.[test]' has it"
        yield engine_row("transformers", "all", num_claims, pass_seconds=None, note=note)
        yield _measure_vllm(folder, "tree order", walked, label_tokens, expected[walk], options)
        return
    fixed = prompts_of(_in_fixed_order(scorer), labels)
    model = load_torch(folder)

    naive = measure_naive(model, in_tree_order, label_tokens, options)
    chosen = sample_of(num_claims, naive.num_measured)
    row = engine_row(
        "transformers", "every prompt anew", num_claims,
        pass_seconds=naive.seconds, tokens=naive.num_tokens,
    )  # fmt: skip
    if naive.num_measured < num_claims:
        row["note"] = f"scaled up from {naive.num_measured} prompts"
    yield checked(row, naive.log_probs, expected[chosen])

    expected_fixed = None
    if num_claims <= options["max_prefix"]:
        # In the fixed order the prompts are others, of which a sample read anew checks all.
        kept = score_with_prefix(model, fixed, label_tokens)
        anew = score_naive(model, fixed, label_tokens, options["sample"])
        chosen = sample_of(num_claims, anew.num_measured)
        row = engine_row(
            "transformers", "reused prefix, fixed order", num_claims,
            pass_seconds=kept.seconds, tokens=kept.num_tokens,
        )  # fmt: skip
        yield checked(row, kept.log_probs[chosen], anew.log_probs)
        expected_fixed = kept.log_probs
    kept = score_with_prefix(model, walked, label_tokens)
    row = engine_row(
        "transformers", "reused prefix, tree order", num_claims,
        pass_seconds=kept.seconds, tokens=kept.num_tokens,
    )  # fmt: skip
    yield checked(row, kept.log_probs, expected[walk])
    for name, prompts, known in (
        ("fixed order", fixed, expected_fixed),
        ("tree order", walked, expected[walk]),
    ):
        if known is not None:
            yield _measure_vllm(folder, name, prompts, label_tokens, known, options)


def _in_fixed_order(scorer):
    """The sequential scorer of a tree's claims, without the rows that fill up its bucket."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    size = scorer.num_claims
    claims = claims._replace(
        queries=claims.queries[:size],
        query_lengths=claims.query_lengths[:size],
        demonstrations=claims.demonstrations[:size],
        demonstration_lengths=claims.demonstration_lengths[:size],
    )
    return make_sequential_scorer(scorer.lm, claims, np.arange(size), memory_budget=1 << 40)


def _measure_vllm(folder, name, prompts, labels, expected, options) -> dict:
    row = engine_row("vLLM", f"prefix caching, {name}", len(prompts), pass_seconds=None)
    if options["vllm_python"] is None:
        return {**row, "note": "not measured: no environment given by --vllm-python"}
    job = {
        "model": str(folder),
        "prompts": prompts,
        "labels": labels,
        "repeats": options["repeats"],
        "enough_seconds": ENOUGH_SECONDS,
    }
    with tempfile.TemporaryDirectory() as place:
        paths = [str(Path(place) / file) for file in ("job.json", "result.json")]
        Path(paths[0]).write_text(json.dumps(job))
        worker = str(Path(__file__).with_name("vllm_worker.py"))
        done = subprocess.run(
            [options["vllm_python"], worker, *paths], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {**row, "note": f"not measured: {_first_error(done.stdout + done.stderr)}"}
        result = json.loads(Path(paths[1]).read_text())
    row["pass_seconds"] = statistics.median(result["seconds"])
    row["version"] = result["version"]
    log_probs = np.array(result["log_probs"])
    log_probs -= np.logaddexp.reduce(log_probs, axis=-1, keepdims=True)
    return checked(row, log_probs, expected)


def measure_cores(num_claims: int, options: dict) -> dict:
    """The tree where each core is a device, by the benchmark in a process of its own.

    In one process the rows of a single device would be slower: a thread is kept spare for those of
    several (`icmjax.devices`), and matmuls that all threads share then have one more than cores.
    """
    num_devices = options["num_devices"]
    arguments = {
        "--model": options["model"],
        "--claims": num_claims,
        "--methods": "spread",
        "--repeats": options["repeats"],
        "--budget": options["budget"] / 2**30,
        "--sample": options["sample"],
        "--devices": num_devices,
    }
    command = [sys.executable, str(SCRIPT)]
    command += [str(each) for pair in arguments.items() for each in pair]
    for path in options["claim_files"]:
        command += ["--claim-files", str(path)]
    command += ["--quick"] if options["quick"] else []
    setting = {
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "NPROC": str(num_pool_threads(num_devices)),
    }
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [*command, "--out", out],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | setting,
        )
        if done.returncode:
            note = f"not measured: {_first_error(done.stdout + done.stderr)}"
            method = f"tree on {num_devices} devices"
            return engine_row("icmjax", method, num_claims, pass_seconds=None, note=note)
        (path,) = Path(out).glob("*.json")
        result = json.loads(path.read_text())
    return result["rows"][0] | {"matmul_rate": result["matmul_rate"]}


def _first_error(log: str) -> str:
    """The message of the first error that a log shows: later ones tell only what it stopped."""
    messages = re.findall(r"\b\w*(?:Error|Exception): .*", log)
    return (messages or log.strip().splitlines()[-1:] or ["no message"])[0][:160]
