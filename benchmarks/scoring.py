"""What does a pass of leave-one-out scores cost, by method and number of claims, and by engine?

    python benchmarks/scoring.py

Claims in the words of a survey under a checkpoint of random weights (6 layers, width 256), both
made here, or any other claims and model. For every method and N: seconds to compile, median seconds
of a pass, real and padded tokens, peak memory, FLOP/s on real tokens as a share of the matmul rate
measured in the same run, and κ, the time of a pass over the time of one plain forward over the same
claims' N·L tokens, as one text (in the JSON also with each claim a row of its own). Beside them, on
the same checkpoint and claims: transformers on torch with every prompt anew and with a reused
prefix, in the fixed order and in the tree's, and vLLM with automatic prefix caching where
--vllm-python names an environment that has it. An engine's time is printed only where its scores
equal ours. Where torch is absent, a line says so. The tree is measured on one device and on all of
them (spread), whose scores must be those of the one device or, where that is left out, of a sample
of prompts that are read whole. On a CPU spread has a process of its own, in which each core is a
device.

The published results are of real survey claims, which are not in this repository:
`--claim-files .../opinionqa_personas/train --claim-files .../goqa_personas/train`. --model takes a
folder of a real model, beside transformers on the same folder; --dtype bfloat16 is ours alone.

Cost: N = 16 and 64, the default, took 13 minutes of CPU time with installation, and 17 minutes on 2
cores that other jobs shared. --long adds N = 256, some 15 minutes, and N = 1,024, an hour without
spread and 50 minutes with spread alone. What is measured is written row by row.
On a TPU or GPU, what is measured by default are random weights in the shapes 1b and 8b in bfloat16,
N = 256 claims of 60 tokens, by einsum and by each kernel that runs there, whose scores are held to
the einsum's; --claims N adds the checkpoint, and --shapes names other shapes. A machine that has an
accelerator which JAX does not see is refused, unless --on-cpu says that its CPU is meant.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from measure.accelerator import find_accelerator, smi_works
from measure.baselines import sample_of
from measure.checkpoint import make_checkpoint
from measure.claims import made_claims, read_claims
from measure.engines import (
    ENOUGH_SECONDS,
    checked,
    engine_row,
    measure_cores,
    measure_engines,
    prompts_of,
)
from measure.flops import matmul_rate, pass_flops, rows_of
from measure.memory import watch_peak
from measure.shapes import SHAPES, random_lm, random_tokens, shape_bytes
from measure.table import print_table, write_plot

import icmjax
from icmjax.errors import CheckpointError, ClaimsError, InputError
from icmjax.lm import IMPLEMENTATIONS, Implementation
from icmjax.prompts import TokenizedClaims, check_prompt_lengths, resolve_template, tokenize_claims
from icmjax.scoring import (
    describe,
    make_blockwise_scorer,
    make_chain_rule_scorer,
    make_sequential_scorer,
    make_tree_scorer,
)

SIZES, LONG_SIZES, QUICK_SIZES = "16,64", "16,64,256,1024", "4,8"
OUT = Path("runs") / "bench"
METHODS = ("sequential", "tree", "spread", "blockwise", "chain_rule")
MAKERS = {
    "sequential": lambda lm, tokens, budget: make_sequential_scorer(
        lm, tokens, np.arange(len(tokens.queries)), memory_budget=budget
    ),
    "tree": lambda lm, tokens, budget: make_tree_scorer(
        lm, tokens, np.arange(len(tokens.queries)), 1, budget, is_shared=True
    ),
    "blockwise": lambda lm, tokens, budget: make_blockwise_scorer(
        lm, tokens, np.arange(len(tokens.queries)), memory_budget=budget
    ),
    "chain_rule": lambda lm, tokens, budget: make_chain_rule_scorer(
        lm, tokens, jax.random.key(0), memory_budget=budget
    ),
}
# N → minutes that all methods took on 2 CPU cores, those of the default sizes beside other jobs.
DEVICE_SHARE = 0.9  # of a device's memory; the rest is the compiler's and the runtime's
MINUTES = {16: 2, 64: 14, 256: 15, 1024: 110}
MAX_ENGINES = 256  # claims; transformers reads so many on the CPU, wherever we run
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
        program = plain_forward.lower(lm, *on_device).compile()
        plain[name] = median_seconds(repeats, program, lm, *on_device)
    return plain


def read_whole(lm, claims: TokenizedClaims, prompts: list[list[int]]) -> np.ndarray:
    """Label log-probs of prompts, each read alone from its first token: float32 `[B, Y]`."""
    assert claims.label_forms.shape[1:] == (1, 1), "labels of one token and one form"
    width, logits = max(map(len, prompts)), []
    for prompt in prompts:
        tokens = np.zeros((1, width), np.int32)
        tokens[0, : len(prompt)] = prompt
        hidden = plain_forward(lm, jnp.asarray(tokens), jnp.array([len(prompt)], jnp.int32))
        logits.append(lm.decoder().logits(hidden[0, len(prompt) - 1]))
    labels = np.asarray(claims.label_forms)[:, 0, 0]
    return np.asarray(jax.nn.log_softmax(jnp.stack(logits)[:, labels], axis=-1))


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
        start = time.perf_counter()
        logp = np.asarray(compiled(labels))
        steady = time.perf_counter() - start
    if steady < ENOUGH_SECONDS / 2:
        steady = median_seconds(repeats, compiled, labels)
    plan = describe(scorer, budget)
    flops = pass_flops(scorer.lm, rows_of(scorer, labels)).total
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


def measure_shape(
    name: str, attention: Implementation, options: dict, expected: np.ndarray | None
) -> tuple[dict, np.ndarray | None]:
    """The tree on random weights of a known shape, in the device's low precision; and its scores.

    Args:
        expected: Scores by einsum, to which a kernel's are compared; None where there are none.
    """
    engine = f"icmjax {name}"
    left_out = engine_row(engine, "tree", options["shape_claims"], pass_seconds=None)
    room = device_bytes()
    if room is not None and shape_bytes(name) > DEVICE_SHARE * room:
        weights, memory = (each / 2**30 for each in (shape_bytes(name), room))
        note = f"weights of {weights:.1f} GiB do not fit the device's {memory:.1f}"
        return {**left_out, "note": note}, None
    try:
        lm = random_lm(name, attention)
    except CheckpointError as error:
        return {**left_out, "note": f"{attention} attention: {error.faults[0].found}"}, None
    budget = options["budget"]
    if room is not None:
        budget = int(DEVICE_SHARE * room) - shape_bytes(name)
    dtype = jax.tree.leaves(lm.params)[0].dtype
    num_claims, length = options["shape_claims"], options["shape_length"]
    tokens = random_tokens(num_claims, length, lm.config.vocab_size)
    labels = np.zeros(num_claims, np.int8)
    rate = matmul_rate(dtype, options["matmul_size"])
    try:
        scorer = make_tree_scorer(lm, tokens, np.arange(num_claims), 1, budget)
    except InputError as error:
        return {**left_out, "note": f"{attention} attention: {error.faults[0].found}"}, None
    plain = measure_plain(lm, tokens, labels, options["repeats"])
    row, logp = measure(scorer, labels, plain, rate, options["repeats"], budget)
    row |= {"engine": engine, "matmul_rate": rate, "attention": attention}
    row["note"] = f"{dtype.name}, {attention} attention"
    if expected is not None:
        row["kernel_error"] = float(np.max(np.abs(logp - expected)))
        row["note"] += f", off the einsum's by {row['kernel_error']:.2g} nats at most"
    return row, logp


def device_bytes() -> int | None:
    """Memory of the first device; None where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def measure_size(
    lm, folder, tokens, labels, rate: float, options: dict, keep: Callable[[dict], None]
) -> None:
    """All methods and engines on N claims; every row is also kept as soon as it is there."""
    rows, by_method = [], {}

    def add(row: dict) -> None:
        rows.append(row)
        keep(row)

    # What does not fit is refused here, before anything is measured.
    scorers = {
        method: MAKERS[method](lm, tokens, options["budget"])
        for method in options["methods"]
        if method in MAKERS
        if method != "sequential" or len(labels) <= options["max_sequential"]
    }
    plain = measure_plain(lm, tokens, labels, options["repeats"])
    for method, scorer in scorers.items():
        row, logp = measure(scorer, labels, plain, rate, options["repeats"], options["budget"])
        click.echo(f"{row['plan']}: {row['pass_seconds']:.1f} s", err=True)
        add(row)
        by_method[method] = scorer, logp
    if "spread" in options["methods"] and options["num_devices"] > 1:
        if len(jax.devices()) < options["num_devices"]:
            row = measure_cores(len(labels), options)
        else:
            _, logp = by_method.get("tree", (None, None))
            row = measure_spread(lm, tokens, labels, logp, plain, rate, options)
        if row["pass_seconds"]:
            click.echo(f"{row['plan']}: {row['pass_seconds']:.1f} s", err=True)
        add(row)
    if folder is not None and "tree" in by_method and len(labels) <= MAX_ENGINES:
        scorer, logp = by_method["tree"]
        for row in measure_engines(folder, scorer, labels, logp, options):
            add(row)
    trees = [row["pass_seconds"] for row in rows if row["method"].startswith("tree")]
    tree = next((time for time in reversed(trees) if time), None)
    for row in rows:
        if tree and row["pass_seconds"]:
            row["times_tree"] = row["pass_seconds"] / tree


def measure_spread(lm, tokens, labels, expected, plain: dict, rate: float, options: dict) -> dict:
    """The tree on several devices; cores of one machine share its memory.

    Args:
      expected: the scores of one device; None to read a sample of the prompts whole.
    """
    num_devices, budget = options["num_devices"], options["budget"]
    if jax.default_backend() == "cpu":
        budget //= num_devices
    units, devices = np.arange(len(labels)), jax.devices()[:num_devices]
    method = f"tree on {num_devices} devices"
    try:
        scorer = make_tree_scorer(lm, tokens, units, 1, budget, is_shared=True, devices=devices)
    except InputError as error:
        note = f"not measured: {error.faults[0].found}"
        return engine_row("icmjax", method, len(labels), pass_seconds=None, note=note)
    row, logp = measure(scorer, labels, plain, rate, options["repeats"], budget)
    row |= {"method": method}
    if expected is not None:
        return checked(row, logp, expected)
    chosen = sample_of(len(labels), options["sample"])
    prompts = prompts_of(scorer, labels)
    expected = read_whole(lm, tokens, [prompts[query] for query in chosen])
    row["note"] = f"scores checked by {len(chosen)} prompts that were read whole"
    return checked(row, logp[chosen], expected)


def tokens_of(lm, claims) -> TokenizedClaims:
    """The claims as the model's scorers would read them."""
    template = resolve_template(None, lm.default_template, claims)
    tokens = tokenize_claims(claims, template, lm.tokenizer)
    check_prompt_lengths(tokens, lm.max_length)
    return tokens


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_sharing() -> int:
    """Devices that share a tree: all, or all cores; of a binary tree a power of two."""
    found = len(jax.devices())
    if found == 1 and jax.default_backend() == "cpu":
        found = num_cores()
    return 1 << (found.bit_length() - 1)


def environment() -> dict:
    """Versions and the device."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy")
    installed = {each.name.lower() for each in importlib.metadata.distributions() if each.name}
    return {
        "device": f"{device.device_kind} ({device.platform})",
        "num_cores": num_cores(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names if name in installed}
        | {"icmjax": icmjax.__version__},
    }


def cost_line(sizes: list[int], quick: bool, out: Path) -> str:
    """What a run of all methods is known to take, and where its rows are kept."""
    if not sizes and not quick:
        known = "not known: no accelerator was measured; a shape compiles in a minute or two"
    elif quick:
        known = "about a minute on 2 CPU cores"
    elif max(sizes) > max(MINUTES):
        known = f"not known: N = {max(MINUTES)} is the most that was measured"
    else:
        next_sizes = [min(each for each in MINUTES if each >= size) for size in sizes]
        minutes = sum(MINUTES[each] for each in next_sizes)
        known = f"took {minutes} minutes on 2 CPU cores, vLLM apart; fewer methods take less"
    device = jax.devices()[0]
    where = f"On {device.device_kind} ({device.platform})"
    return f"{where}. Cost: {known}. Every row is written to {out} as soon as it is measured."


def refuse_host(accelerator: str) -> None:
    """Refuse to measure the CPU of a machine that has an accelerator.

    Raises:
        ClickException: It has one.
    """
    if accelerator != "cpu":
        raise click.ClickException(
            f"this machine has an accelerator ({accelerator}) that JAX does not see: install it by "
            f"`make ACCELERATOR={accelerator}`, or say --on-cpu"
        )


def write_results(out: Path, rows: list[dict], rate: float, options: dict) -> None:
    """Write the rows so far and their plot to a folder; nothing where there is no row."""
    if not rows:
        return
    out.mkdir(parents=True, exist_ok=True)
    own = ("vllm_python", "model", "claim_files")  # which have this machine's paths
    kept = {name: value for name, value in options.items() if name not in own}
    content = environment() | {"matmul_rate": rate, "options": kept, "rows": rows}
    name = f"scoring_{jax.default_backend()}{'_quick' if options['quick'] else ''}"
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    write_plot(rows, out / f"{name}.svg")


@click.command(help=__doc__)
@click.option("--model", help="Any model; by default a checkpoint of random weights.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="Of weights and activations; engines, which read float32, are compared in float32 alone.",
)
@click.option("--claims", "sizes", help=f"N, by commas; by default {SIZES}.")
@click.option("--long", "is_long", is_flag=True, help=f"By default N = {LONG_SIZES}.")
@click.option(
    "--claim-files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Claims of a file or folder rather than those made here; may be given several times.",
)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--budget", default=4.0, show_default=True, help="Memory of a pass, GiB.")
@click.option("--sample", default=8, show_default=True, help="Prompts measured of 'anew'.")
@click.option("--devices", "num_devices", type=int, help="That share a tree; by default all.")
@click.option("--vllm-python", help="The python of an environment that has vLLM.")
@click.option(
    "--shapes",
    help=f"Random weights, by commas: {', '.join(SHAPES)}; by default 1b,8b but on a CPU.",
)
@click.option(
    "--attentions",
    default="einsum,flash,cudnn",
    show_default=True,
    help=f"Of --shapes, by commas: {', '.join(IMPLEMENTATIONS)}.",
)
@click.option("--on-cpu", is_flag=True, help="Though the machine has an accelerator.")
@click.option(
    "--quick", is_flag=True, help=f"A tiny model and by default N = {QUICK_SIZES}: does it run?"
)
@click.option(
    "--out",
    default=OUT,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for JSON and plot.",
)
def main(
    model,
    dtype,
    sizes,
    is_long,
    claim_files,
    methods,
    repeats,
    budget,
    sample,
    num_devices,
    vllm_python,
    shapes,
    attentions,
    on_cpu,
    quick,
    out,
) -> None:
    """The command of this file."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    if jax.default_backend() == "cpu" and not on_cpu:
        refuse_host(find_accelerator(Path("/"), os.environ, smi_works))
    is_device = jax.default_backend() != "cpu" and not quick
    shapes = shapes if shapes is not None else "1b,8b" if is_device else ""
    options = {
        "methods": methods.split(","),
        "repeats": 1 if quick else repeats,
        "budget": int(budget * 2**30),
        "sample": sample,
        "num_devices": num_devices or num_sharing(),
        "vllm_python": vllm_python,
        "model": model,
        "dtype": dtype,
        "claim_files": claim_files,
        "claims": ["/".join(path.absolute().parts[-2:]) for path in claim_files] or "made",
        "quick": quick,
        "max_sequential": 8 if quick else MAX_SEQUENTIAL,
        "max_prefix": MAX_SEQUENTIAL,
        "shape_claims": 4 if quick else 256,
        "shape_length": 6 if quick else 60,
        "matmul_size": 256 if quick else 2048 if jax.default_backend() == "cpu" else 8192,
    }
    unknown = sorted(set(options["methods"]) - set(METHODS))
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; choose of {', '.join(METHODS)}")
    if num_devices and num_devices > len(jax.devices()) and jax.default_backend() != "cpu":
        found = f"{num_devices} of {len(jax.devices())}"
        raise click.BadParameter(f"{found} devices; on a CPU alone more can be made of cores")
    by_default = QUICK_SIZES if quick else LONG_SIZES if is_long else "" if is_device else SIZES
    sizes = [int(size) for size in filter(None, (sizes or by_default).split(","))]
    click.echo(cost_line(sizes, quick, out), err=True)
    try:
        claims, gold = read_claims(claim_files) if claim_files else made_claims()
    except ClaimsError as error:
        raise click.ClickException(str(error)) from error
    rows: list[dict] = []
    rate = 0.0  # of the checkpoint's dtype, where there is one

    def keep(row: dict) -> None:
        """Write what there is: a row of a large size takes longer than all before it."""
        rows.append(row)
        write_results(out, rows, rate, options)

    if sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = None
            if model is None:
                texts = [claim.question + claim.choice for claim in claims.claims]
                size = {"num_layers": 2, "hidden_size": 64} if quick else {}
                folder = make_checkpoint(Path(place), texts, **size)
                options["model"] = str(folder)
            elif Path(model).is_dir():
                folder = Path(model)
            lm = icmjax.load_lm(folder or model, dtype=dtype)
            folder = folder if dtype == "float32" else None  # engines read float32
            rate = matmul_rate(jax.tree.leaves(lm.params)[0].dtype, options["matmul_size"])
            for size in sizes:
                chosen = np.flatnonzero(gold >= 0)[:size]
                if len(chosen) < size:
                    click.echo(f"{size} claims: only {len(chosen)} in the data, left out", err=True)
                    continue
                try:
                    tokens = tokens_of(lm, claims.select(chosen))
                    measure_size(lm, folder, tokens, gold[chosen], rate, options, keep)
                except InputError as error:
                    fault = error.faults[0]
                    click.echo(f"{size} claims left out. {fault.rule} {fault.found}", err=True)
                write_results(out, rows, rate, options)
    if sizes and not rows:
        raise click.ClickException("no number of claims could be measured")
    for name in filter(None, shapes.split(",")):
        expected = None
        # The einsum first: the kernels are held to it.
        for attention in sorted(attentions.split(","), key=lambda each: each != "einsum"):
            row, logp = measure_shape("tiny" if quick else name, attention, options, expected)
            expected = logp if attention == "einsum" else expected
            keep(row)
    print_table(rows)


if __name__ == "__main__":
    sys.exit(main())
