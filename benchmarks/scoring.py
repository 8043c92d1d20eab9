"""What does a pass of leave-one-out scores cost, by method and number of claims, and by engine?

    python benchmarks/scoring.py --out benchmarks/results

Survey claims under a checkpoint of random weights (6 layers, width 256, made here) or any other
model. For every method and N: seconds to compile, median seconds of a pass, real and padded tokens,
peak memory, FLOP/s on real tokens as a share of the matmul rate measured in the same run, and κ,
the time of a pass over the time of one plain forward over the same claims' N·L tokens, as one text
(in the JSON also with each claim a row of its own). Beside them, on the same checkpoint and claims:
transformers on torch with every prompt anew and with a reused prefix, in the fixed order and in the
tree's, and vLLM with automatic prefix caching where --vllm-python names an environment that has it.
An engine's time is printed only where its scores equal ours.

Cost: --quick takes one minute on 2 cores; N = 16 and 64 beside vLLM took 14 minutes, and N = 256
without vLLM 14.
On a GPU, --shapes 1b,8b adds random weights in these shapes in bfloat16, with cuDNN's attention and
without.
"""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from baselines import load_torch, score_naive, score_with_prefix
from checkpoint import make_checkpoint, real_claims
from flops import matmul_rate, pass_flops, rows_of
from memory import watch_peak
from shapes import SHAPES, random_lm, random_tokens
from table import print_table, write_plot

import icmjax
from icmjax.errors import CheckpointError
from icmjax.lm.fused import IMPLEMENTATIONS, Implementation
from icmjax.scoring.blockwise import make_blockwise_scorer
from icmjax.scoring.chain_rule import make_chain_rule_scorer
from icmjax.scoring.passes import describe
from icmjax.scoring.sequential import make_sequential_scorer
from icmjax.scoring.tree import make_tree_scorer
from icmjax.templates import resolve_template
from icmjax.tokens import TokenizedClaims, check_prompt_lengths, tokenize_claims

METHODS = ("sequential", "tree", "blockwise", "chain_rule")
MAKERS = {
    "sequential": lambda lm, tokens, budget: make_sequential_scorer(
        lm, tokens, np.arange(len(tokens.queries)), memory_budget=budget
    ),
    "tree": lambda lm, tokens, budget: make_tree_scorer(
        lm, tokens, np.arange(len(tokens.queries)), 1, budget, is_shared=True
    ),
    "blockwise": lambda lm, tokens, budget: make_blockwise_scorer(
        lm, tokens, np.arange(len(tokens.queries))
    ),
    "chain_rule": lambda lm, tokens, budget: make_chain_rule_scorer(lm, tokens, jax.random.key(0)),
}
TOLERANCE = 2e-4  # nats between engines, both in float32
ENOUGH_SECONDS = 60.0  # of repeated calls; what takes so long varies little
MAX_SEQUENTIAL = 64  # claims; more take N² L tokens of our own, which the tree's test covers


def seconds(function, *arguments) -> float:
    """Wall time of one call, results awaited."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def median_seconds(repeats: int, function, *arguments) -> float:
    """Median wall time of calls: fewer than asked for once they have taken `ENOUGH_SECONDS`."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < ENOUGH_SECONDS:
        times.append(seconds(function, *arguments))
    return statistics.median(times)


@jax.jit
def plain_forward(lm, tokens, lengths):
    """Hidden states of texts: what no method can do without."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return lm.decoder()(tokens, positions, positions < lengths[:, None])[0]


def measure_plain(lm, tokens, labels: np.ndarray, repeats: int) -> dict[str, float]:
    """Median seconds of one forward over the labelled claims, as one text and each apart."""
    index = np.arange(len(labels)), labels.astype(int)
    lengths = tokens.demonstration_lengths[index]
    rows = [row[:length] for row, length in zip(tokens.demonstrations[index], lengths, strict=True)]
    text = np.concatenate([tokens.preamble, *rows])
    inputs = {
        "text": (text[None], np.array([len(text)], np.int32)),
        "apart": (tokens.demonstrations[index], lengths),
    }
    plain = {}
    for name, arguments in inputs.items():
        on_device = [jnp.asarray(each) for each in arguments]
        seconds(plain_forward, lm, *on_device)
        plain[name] = median_seconds(repeats, plain_forward, lm, *on_device)
    return plain


def measure(scorer, labels: np.ndarray, plain: dict, rate: float, repeats: int, budget: int):
    """One row of the table, and the scores."""
    start = time.perf_counter()
    if getattr(scorer, "num_spare", 0):
        compiled = scorer  # which pads labels on the host
        seconds(compiled, labels)
        planned = None
    else:
        lowered = jax.jit(lambda scorer, labels: scorer(labels)).lower(scorer, labels)
        program = lowered.compile()
        planned = program.memory_analysis()
        compiled = lambda labels: program(scorer, labels)  # noqa: E731
    compile_seconds = time.perf_counter() - start
    with watch_peak() as peak:
        logp = np.asarray(compiled(labels))
    steady = median_seconds(repeats, compiled, labels)
    plan = describe(scorer, budget)
    flops = pass_flops(scorer.lm, rows_of(scorer, labels))
    row = {
        "engine": "icmjax",
        "method": plan.method,
        "num_claims": len(labels),
        "compile_seconds": compile_seconds,
        "pass_seconds": steady,
        "tokens": scorer.tokens_per_pass(labels),
        "padded_tokens": plan.num_padded_tokens,
        "flops": flops,
        "flops_per_second": flops / steady,
        "roofline_share": flops / steady / rate,
        "kappa": steady / plain["text"],
        "kappa_apart": steady / plain["apart"],
        "peak_bytes": peak.num_bytes,
        "planned_peak_bytes": plan.peak_bytes,
        "compiler_peak_bytes": None if planned is None else planned.temp_size_in_bytes,
        "plan": str(plan),
        "note": "",
    }
    return row, logp


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
    """A row of another engine; what it does not measure is None."""
    return {"engine": engine, "method": method, "num_claims": num_claims, "note": "", **values}


def checked(row: dict, log_probs: np.ndarray, expected: np.ndarray) -> dict:
    """The row, without its time where the scores are not ours."""
    error = float(np.abs(log_probs - expected).max())
    if error <= TOLERANCE:
        return {**row, "score_error": error}
    note = f"scores differ by {error:.2g} nats, so no time is given"
    return {**row, "pass_seconds": None, "score_error": error, "note": note}


def measure_engines(
    folder: Path, scorer, labels: np.ndarray, expected: np.ndarray, options: dict
) -> list[dict]:
    """transformers and vLLM on the prompts of the tree scorer, and in the fixed order."""
    claims, num_claims = jax.tree.map(np.asarray, scorer.claims), len(labels)
    assert claims.label_forms.shape[1:] == (1, 1), "labels of one token and one form"
    label_tokens = claims.label_forms[:, 0, 0].tolist()
    in_tree_order = prompts_of(scorer, labels)
    walk = np.argsort(np.asarray(scorer.leaves)[:num_claims])
    fixed = prompts_of(MAKERS["sequential"](scorer.lm, _unfilled(scorer), 1 << 40), labels)
    model = load_torch(folder)
    rows = []

    naive = score_naive(model, in_tree_order, label_tokens, options["sample"])
    chosen = np.unique(np.linspace(0, num_claims - 1, naive.num_measured).astype(int))
    row = engine_row(
        "transformers", "every prompt anew", num_claims,
        pass_seconds=naive.seconds, tokens=naive.num_tokens,
    )  # fmt: skip
    if naive.num_measured < num_claims:
        row["note"] = f"scaled up from {naive.num_measured} prompts"
    rows.append(checked(row, naive.log_probs, expected[chosen]))

    expected_fixed = None
    if num_claims <= options["max_prefix"]:
        # In the fixed order the prompts are others, of which a sample read anew checks all.
        kept = score_with_prefix(model, fixed, label_tokens)
        anew = score_naive(model, fixed, label_tokens, options["sample"])
        chosen = np.unique(np.linspace(0, num_claims - 1, anew.num_measured).astype(int))
        row = engine_row(
            "transformers", "reused prefix, fixed order", num_claims,
            pass_seconds=kept.seconds, tokens=kept.num_tokens,
        )  # fmt: skip
        rows.append(checked(row, kept.log_probs[chosen], anew.log_probs))
        expected_fixed = kept.log_probs
    kept = score_with_prefix(model, [in_tree_order[k] for k in walk], label_tokens)
    row = engine_row(
        "transformers", "reused prefix, tree order", num_claims,
        pass_seconds=kept.seconds, tokens=kept.num_tokens,
    )  # fmt: skip
    rows.append(checked(row, kept.log_probs, expected[walk]))
    walked = [in_tree_order[query] for query in walk]
    for name, prompts, known in (
        ("fixed order", fixed, expected_fixed),
        ("tree order", walked, expected[walk]),
    ):
        if known is not None:
            rows.append(_measure_vllm(folder, name, prompts, label_tokens, known, options))
    return rows


def _unfilled(scorer):
    claims = jax.tree.map(np.asarray, scorer.claims)
    size = scorer.num_claims
    return claims._replace(
        queries=claims.queries[:size],
        query_lengths=claims.query_lengths[:size],
        demonstrations=claims.demonstrations[:size],
        demonstration_lengths=claims.demonstration_lengths[:size],
    )


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


def _first_error(log: str) -> str:
    """The message of the first error that a log shows: later ones tell only what it stopped."""
    messages = re.findall(r"\b\w*(?:Error|Exception): .*", log)
    return (messages or log.strip().splitlines()[-1:] or ["no message"])[0][:160]


def measure_shape(name: str, attention: Implementation, options: dict) -> dict:
    """The tree on random weights of a known shape, in the device's low precision."""
    engine = f"icmjax {name}"
    try:
        lm = random_lm(name, attention)
    except CheckpointError as error:
        row = engine_row(engine, "tree", options["shape_claims"], pass_seconds=None)
        return {**row, "note": f"{attention} attention: {error.faults[0].found}"}
    dtype = jax.tree.leaves(lm.params)[0].dtype
    num_claims, length = options["shape_claims"], options["shape_length"]
    tokens = random_tokens(num_claims, length, lm.config.vocab_size)
    labels = np.zeros(num_claims, np.int8)
    rate = matmul_rate(dtype, options["matmul_size"])
    scorer = make_tree_scorer(lm, tokens, np.arange(num_claims), 1, options["budget"])
    plain = measure_plain(lm, tokens, labels, options["repeats"])
    row, _ = measure(scorer, labels, plain, rate, options["repeats"], options["budget"])
    row |= {"engine": engine, "matmul_rate": rate}
    row["note"] = f"{dtype.name}, {attention} attention"
    return row


def measure_size(lm, folder, tokens, labels, rate: float, options: dict) -> list[dict]:
    """All methods and engines on N claims."""
    rows, by_method = [], {}
    plain = measure_plain(lm, tokens, labels, options["repeats"])
    for method in options["methods"]:
        if method == "sequential" and len(labels) > options["max_sequential"]:
            continue
        scorer = MAKERS[method](lm, tokens, options["budget"])
        row, logp = measure(scorer, labels, plain, rate, options["repeats"], options["budget"])
        click.echo(row["plan"], err=True)
        rows.append(row)
        by_method[method] = scorer, logp
    if folder is not None and "tree" in by_method:
        rows += measure_engines(folder, by_method["tree"][0], labels, by_method["tree"][1], options)
    tree = next((row["pass_seconds"] for row in rows if row["method"] == "tree"), None)
    for row in rows:
        if tree and row["pass_seconds"]:
            row["times_tree"] = row["pass_seconds"] / tree
    return rows


def tokens_of(lm, claims) -> TokenizedClaims:
    """The claims as the model's scorers would read them."""
    template = resolve_template(None, lm.default_template, claims)
    tokens = tokenize_claims(claims, template, lm.tokenizer)
    check_prompt_lengths(tokens, lm.max_length)
    return tokens


def environment() -> dict:
    """Versions and the device."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy")
    return {
        "device": f"{device.device_kind} ({device.platform})",
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names}
        | {"icmjax": icmjax.__version__},
    }


def write_results(
    out: Path | None, rows: list[dict], rate: float, options: dict, is_quick: bool
) -> None:
    """Write the rows so far and their plot to a folder, where there is one."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in options.items() if name != "vllm_python"}
    content = environment() | {"matmul_rate": rate, "options": kept, "rows": rows}
    name = f"scoring_{jax.default_backend()}{'_quick' if is_quick else ''}"
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    write_plot(rows, out / f"{name}.svg")


@click.command(help=__doc__)
@click.option("--model", help="Any model; by default a checkpoint of random weights.")
@click.option("--claims", "sizes", default="16,64,256", show_default=True, help="N, by commas.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--budget", default=4.0, show_default=True, help="Memory of a pass, GiB.")
@click.option("--sample", default=8, show_default=True, help="Prompts measured of 'anew'.")
@click.option("--vllm-python", help="The python of an environment that has vLLM.")
@click.option("--shapes", default="", help=f"Random weights, by commas: {', '.join(SHAPES)}.")
@click.option(
    "--attentions",
    default="cudnn,einsum",
    show_default=True,
    help=f"Of --shapes, by commas: {', '.join(IMPLEMENTATIONS)}.",
)
@click.option("--quick", is_flag=True, help="A tiny model and few claims: does it run?")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for JSON, table and plot.")
def main(
    model, sizes, methods, repeats, budget, sample, vllm_python, shapes, attentions, quick, out
) -> None:
    """The command of this file."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    options = {
        "methods": methods.split(","),
        "repeats": 1 if quick else repeats,
        "budget": int(budget * 2**30),
        "sample": sample,
        "vllm_python": vllm_python,
        "max_sequential": 8 if quick else MAX_SEQUENTIAL,
        "max_prefix": MAX_SEQUENTIAL,
        "shape_claims": 4 if quick else 256,
        "shape_length": 6 if quick else 60,
        "matmul_size": 256 if quick else 2048 if jax.default_backend() == "cpu" else 8192,
    }
    found = real_claims()
    if found is None:
        raise click.ClickException(
            "the benchmark scores survey claims of ../shared/data/goqa_personas, which is absent; "
            "get the data (see its README) beside this repository"
        )
    claims, gold = found
    sizes = [4, 8] if quick else [int(size) for size in sizes.split(",")]
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as place:
        folder = None
        if model is None:
            texts = [claim.question + claim.choice for claim in claims.claims]
            size = {"num_layers": 2, "hidden_size": 64} if quick else {}
            folder = make_checkpoint(Path(place), texts, **size)
        lm = icmjax.load_lm(folder or model)
        rate = matmul_rate(jax.tree.leaves(lm.params)[0].dtype, options["matmul_size"])
        for size in sizes:
            chosen = np.flatnonzero(gold >= 0)[:size]
            if len(chosen) < size:
                click.echo(f"{size} claims: only {len(chosen)} in the data, left out", err=True)
                continue
            tokens = tokens_of(lm, claims.select(chosen))
            rows += measure_size(lm, folder, tokens, gold[chosen], rate, options)
            # A large size takes longer than all before it.
            write_results(out, rows, rate, options, quick)
    for name in filter(None, shapes.split(",")):
        for attention in attentions.split(","):
            rows.append(measure_shape("tiny" if quick else name, attention, options))
            write_results(out, rows, rate, options, quick)
    print_table(rows)


if __name__ == "__main__":
    sys.exit(main())
