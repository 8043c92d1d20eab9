"""Training on transcripts of the persona world, resumably, on any device.

Muon (Jordan 2024) for the matrices of the layers and Adam for the rest; float32 state whatever the
activations' dtype. Every step's transcripts are new, so the training loss is a held-out loss and
the in-context curve (label loss by the number of labels before) is read off the same pass.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tqdm import tqdm

from icmjax.errors import Fault, RunError
from icmjax.lm import Decoder, DecoderConfig, RopeConfig, inverse_frequencies, platform_of
from icmjax.persona_world import text
from icmjax.persona_world.config import WorldConfig
from icmjax.persona_world.transcripts import Batch, make_tables, sample_batch
from icmjax.persona_world.world import make_world

SHIFT_SHARPNESS = 2.0  # what each rotary pair adds to a shift head's score at its peak
BAG_SCALE = 3.0  # of the shift heads' output projection, relative to a random start
SIMILARITY_SCALE = 4.0  # of a similarity head's projections, relative to a random start
CONFIG_FILE, LOG_FILE = "config.json", "log.jsonl"
CURVE_EDGES = (0, 1, 2, 4, 8, 16, 32, 64)  # in-context curve: labels before, lower edges of bins


class Phase(NamedTuple):
    """A stretch of pretraining with its own shape of batch and mix of styles."""

    share: float  # of all tokens
    width: int  # tokens a transcript
    num_topics: int | None = None  # topics a transcript; None: all
    changes: tuple[tuple[str, Any], ...] = ()  # fields of the world's config, with other values


# Reading a respondent's values from context is learned first where answers say most about them:
# from national polls without an unreliable respondent; before that mostly unnamed, asked plain
# claims on few topics; and first of all asked the same thing again. Opposite wordings come before
# all topics, and all topics before the formats that say less in a token: each step builds on what
# the one before has taught, where two at once undo it.
RELIABLE_WORLD = (
    ("style_shares", (1.0, 0.0, 0.0, 0.0, 0.0)),
    ("source_shares", (1.0, 0.0, 0.0, 0.0)),
)
CLAIMS_WORLD = (
    *RELIABLE_WORLD,
    ("header_shares", (0.2, 0.4, 0.4)),
    ("format_shares", (1.0, 0.0, 0.0)),
)
EASY_WORLD = (*CLAIMS_WORLD, ("reversed_share", 0.0), ("paired_share", 0.0))
RETEST_WORLD = (*EASY_WORLD, ("retest_share", 1.0))
# More of the formats that say less in a token, as long as what they say is reliable; at first about
# few topics, so that a preference or an answer can be read off claims about the same topic.
FORMATS_WORLD = (
    *RELIABLE_WORLD,
    ("header_shares", (0.30, 0.35, 0.35)),
    ("format_shares", (0.40, 0.30, 0.30)),
)
FEW_TOPICS_WORLD = (*FORMATS_WORLD, ("mixed_share", 0.8))


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What is trained, and how; the same config on the same machine gives the same weights."""

    seed: int = 0
    num_layers: int = 4
    hidden_size: int = 128
    num_heads: int = 4
    mlp_size: int = 256
    max_length: int = 512
    rope_theta: float = 10_000.0
    num_tokens: int = 20_000_000
    batch_tokens: int = 2_112
    phases: tuple[Phase, ...] = (
        Phase(0.03, 96, 4, RETEST_WORLD),
        Phase(0.03, 176, 8, EASY_WORLD),
        Phase(0.05, 176, 12, CLAIMS_WORLD),
        Phase(0.09, 176, None, CLAIMS_WORLD),
        Phase(0.08, 176, 8, FEW_TOPICS_WORLD),
        Phase(0.24, 176, None, FORMATS_WORLD),
        Phase(0.14, 176),
        Phase(0.34, 352),
    )
    muon_learning_rate: float = 0.005
    adam_learning_rate: float = 1e-3
    warmup_share: float = 0.02
    final_learning_rate: float = 0.02  # as a share of the peak
    text_weight: float = 0.05  # of tokens that no one could predict well
    answer_weight: float = 1.0  # of words that say a stance
    has_started_heads: bool = True  # see `start_heads`
    dtype: str = "float32"  # of activations and of the forward pass's weights

    def decoder_config(self, vocab_size: int) -> DecoderConfig:
        """The decoder's shape, a plain Llama with biased attention projections."""
        return DecoderConfig(
            vocab_size=vocab_size,
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            mlp_size=self.mlp_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            max_length=self.max_length,
            ropes=(RopeConfig(theta=self.rope_theta),) * self.num_layers,
            windows=(None,) * self.num_layers,
            attention_bias=True,
            attention_out_bias=True,
            tie_embeddings=True,
            platform=platform_of(),
        )


class Metrics(NamedTuple):
    """Sums over one batch, from which means are made on the host."""

    label_loss: jax.Array  # float32 [], nats, sum over labels
    num_labels: jax.Array  # float32 []
    num_correct: jax.Array  # float32 []
    curve_loss: jax.Array  # float32 [len(CURVE_EDGES)], nats, sums by labels before
    curve_count: jax.Array  # float32 [len(CURVE_EDGES)]
    answer_loss: jax.Array  # float32 [], nats, sum over words that say a stance
    num_answer_tokens: jax.Array  # float32 []


def start_heads(params: dict[str, Any], config: DecoderConfig) -> dict[str, Any]:
    """Starts heads as what reading a transcript needs, and what random ones take long to become.

    Shift heads: the first layer's head h looks h + 1 tokens back. A short convolution before
    attention made small models learn this world quickly; a plain Llama can hold one in the biases
    of its rotary queries and keys, since with unit vectors for all pairs, rotated by h + 1
    positions, the score peaks h + 1 tokens back whatever the content.

    They share their value and output projections, so that a token holds the bag of the last H + 1
    words in one subspace, whichever way back they lie.

    Similarity heads: in all later layers the key projection starts as the query projection, so
    that a claim begins by attending to claims like it.
    """
    attention = params["layers"]["attention"]
    query, key = attention["query"], attention["key"]
    rope = config.ropes[0]
    assert rope is not None, "the bundled model is a Llama"
    frequencies = inverse_frequencies(rope, config.head_dim)
    angles = (1 + np.arange(config.num_heads))[:, None] * frequencies
    size = np.sqrt(SHIFT_SHARPNESS * np.sqrt(config.head_dim))
    ahead = size * np.concatenate([np.ones_like(angles), np.zeros_like(angles)], axis=1)
    behind = size * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)

    value, out = attention["value"]["kernel"], attention["out"]["kernel"]
    first_value = jnp.tile(value[0, :, : config.head_dim], (1, config.num_heads))
    first_out = BAG_SCALE * jnp.tile(out[0, : config.head_dim], (config.num_heads, 1))
    later = SIMILARITY_SCALE * query["kernel"][1:]
    started = attention | {
        "query": {
            "bias": query["bias"].at[0].set(ahead.reshape(-1)),
            "kernel": query["kernel"].at[1:].set(later),
        },
        "key": {
            "bias": key["bias"].at[0].set(behind.reshape(-1)),
            "kernel": key["kernel"].at[1:].set(later),
        },
        "value": attention["value"] | {"kernel": value.at[0].set(first_value)},
        "out": attention["out"] | {"kernel": out.at[0].set(first_out)},
    }
    return params | {"layers": params["layers"] | {"attention": started}}


def make_optimizer(config: PretrainConfig, num_steps: int) -> optax.GradientTransformation:
    """Muon for the layers' matrices `[L, in, out]`, Adam for everything else."""

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            0.0,
            peak,
            max(1, round(config.warmup_share * num_steps)),
            num_steps,
            config.final_learning_rate * peak,
        )

    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def dimension_numbers(params: Any) -> Any:
        return jax.tree.map(lambda param: matrix if param.ndim == 3 else None, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            schedule(config.muon_learning_rate),
            adam_learning_rate=schedule(config.adam_learning_rate),
            muon_weight_dimension_numbers=dimension_numbers,
        ),
    )


def batch_loss(
    params: Any, graphdef: nnx.GraphDef, batch: Batch, config: PretrainConfig
) -> tuple[jax.Array, Metrics]:
    """The weighted next-token loss in nats, and what to log about it."""
    dtype = jnp.dtype(config.dtype)
    decoder = nnx.merge(graphdef, jax.tree.map(lambda param: param.astype(dtype), params))
    positions = jnp.broadcast_to(
        jnp.arange(batch.tokens.shape[1], dtype=jnp.int32), batch.tokens.shape
    )
    hidden, _ = decoder(batch.tokens, positions, batch.is_real, is_checkpointed=True)
    logits = decoder.logits(hidden[:, :-1])
    targets = batch.tokens[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    is_label, is_answer = batch.is_label[:, 1:], batch.is_answer[:, 1:]
    weights = jnp.where(
        is_label, 1.0, jnp.where(is_answer, config.answer_weight, config.text_weight)
    )
    weights = jnp.where(batch.is_real[:, 1:], weights, 0.0)
    label_losses = jnp.where(is_label, losses, 0.0)
    edges = jnp.asarray(CURVE_EDGES)
    bins = jnp.searchsorted(edges, batch.label_index[:, 1:], side="right") - 1
    in_bin = (bins[..., None] == jnp.arange(len(CURVE_EDGES))) & is_label[..., None]
    metrics = Metrics(
        label_loss=label_losses.sum(),
        num_labels=is_label.sum().astype(jnp.float32),
        num_correct=(is_label & (logits.argmax(-1) == targets)).sum().astype(jnp.float32),
        curve_loss=jnp.where(in_bin, losses[..., None], 0.0).sum((0, 1)),
        curve_count=in_bin.sum((0, 1)).astype(jnp.float32),
        answer_loss=jnp.where(is_answer, losses, 0.0).sum(),
        num_answer_tokens=is_answer.sum().astype(jnp.float32),
    )
    return (weights * losses).sum() / weights.sum(), metrics


@functools.partial(
    jax.jit, static_argnames=("graphdef", "optimizer", "config"), donate_argnums=(0, 1)
)
def train_step(
    params: Any,
    optimizer_state: Any,
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: PretrainConfig,
) -> tuple[Any, Any, Metrics]:
    """One update of the float32 weights."""
    grads, metrics = jax.grad(batch_loss, has_aux=True)(params, graphdef, batch, config)
    updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, metrics


def steps_of(config: PretrainConfig) -> list[Phase]:
    """The phase of every step, in order."""
    num_steps = config.num_tokens // config.batch_tokens
    ends = np.round(np.cumsum([phase.share for phase in config.phases]) * num_steps).astype(int)
    return [
        config.phases[int(np.searchsorted(ends, step, side="right"))] for step in range(num_steps)
    ]


def batches(config: PretrainConfig, world_config: WorldConfig, first_step: int) -> Iterator[Batch]:
    """The batches of a run from a step on; batch `step` depends on the seed and the step alone."""
    world = make_world(world_config)
    tables = make_tables(world, text.make_tokenizer())
    worlds = {
        phase: dataclasses.replace(
            world, config=dataclasses.replace(world_config, **dict(phase.changes))
        )
        for phase in config.phases
    }
    for step, phase in list(enumerate(steps_of(config)))[first_step:]:
        num = config.batch_tokens // phase.width
        yield sample_batch(
            config.seed, step, worlds[phase], tables, num, phase.width, phase.num_topics
        )


def log_row(step: int, tokens: int, seconds: float, metrics: list[Metrics]) -> dict[str, Any]:
    """Means over some steps, as one JSON row; losses in nats a label or token."""
    total = Metrics(
        *(np.sum(field, axis=0) for field in zip(*jax.device_get(metrics), strict=True))
    )
    curve = [
        round(float(loss / count), 4) if count else None
        for loss, count in zip(total.curve_loss, total.curve_count, strict=True)
    ]
    return {
        "step": step,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "label_loss": round(float(total.label_loss / total.num_labels), 4),
        "label_accuracy": round(float(total.num_correct / total.num_labels), 4),
        "answer_loss": round(float(total.answer_loss / np.maximum(total.num_answer_tokens, 1)), 4),
        "label_loss_by_labels_before": dict(zip(map(str, CURVE_EDGES), curve, strict=True)),
    }


def train(
    config: PretrainConfig,
    world_config: WorldConfig,
    out: pathlib.Path,
    initial_params: nnx.State | None = None,
    is_resume: bool = False,
    save_every: int = 500,
    log_every: int = 50,
    progress: bool = True,
) -> tuple[DecoderConfig, nnx.State]:
    """Trains on the world; logs to `out/log.jsonl`, checkpoints to `out/checkpoints`.

    Args:
      initial_params: weights to start from instead of random ones.
      is_resume: whether to go on from the newest checkpoint; the weights at the end are bit for
        bit those of an uninterrupted run.

    Raises:
      RunError: where `out` holds a run already and `is_resume` is not set, or another config.
    """
    out = out.absolute()
    _enter(out, config, world_config, is_resume)
    log_path = out / LOG_FILE
    phases = steps_of(config)
    decoder_config = config.decoder_config(len(text.vocabulary()))
    graphdef, params = nnx.split(Decoder(decoder_config, nnx.Rngs(params=config.seed)))
    optimizer = make_optimizer(config, len(phases))
    pure = nnx.to_pure_dict(params if initial_params is None else initial_params)
    if initial_params is None and config.has_started_heads:
        pure = start_heads(pure, decoder_config)
    pure = jax.tree.map(jnp.array, pure)  # copies, because the steps donate them
    optimizer_state = optimizer.init(pure)

    options = ocp.CheckpointManagerOptions(max_to_keep=1, save_interval_steps=save_every)
    with ocp.CheckpointManager(out / "checkpoints", options=options) as manager:
        first_step, earlier_seconds = manager.latest_step() or 0, 0.0
        if is_resume and first_step:
            restored = manager.restore(
                first_step,
                args=ocp.args.StandardRestore({"params": pure, "optimizer": optimizer_state}),
            )
            pure, optimizer_state = restored["params"], restored["optimizer"]
            rows = [json.loads(line) for line in log_path.read_text().splitlines()]
            kept = [row for row in rows if row["step"] <= first_step]
            log_path.write_text("".join(json.dumps(row) + "\n" for row in kept))
            earlier_seconds = kept[-1]["seconds"] if kept else 0.0
        metrics: list[Metrics] = []
        start = time.monotonic()
        steps = tqdm(
            enumerate(batches(config, world_config, first_step), start=first_step + 1),
            initial=first_step,
            total=len(phases),
            unit="step",
            mininterval=5,
            disable=not progress,
        )
        with log_path.open("a") as log:
            for step, batch in steps:
                pure, optimizer_state, new = train_step(
                    pure,
                    optimizer_state,
                    batch,
                    graphdef=graphdef,
                    optimizer=optimizer,
                    config=config,
                )
                jax.block_until_ready(new)  # else batches pile up ahead of the device
                metrics.append(new)
                if step % log_every == 0 or step == len(phases):
                    seconds = time.monotonic() - start
                    tokens = step * config.batch_tokens
                    row = log_row(step, tokens, earlier_seconds + seconds, metrics)
                    rate = (step - first_step) * config.batch_tokens / seconds
                    steps.set_postfix(label_loss=row["label_loss"], tokens_per_second=round(rate))
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    metrics = []
                manager.save(
                    step, args=ocp.args.StandardSave({"params": pure, "optimizer": optimizer_state})
                )
    nnx.replace_by_pure_dict(params, pure)
    return decoder_config, params


def _enter(
    out: pathlib.Path, config: PretrainConfig, world_config: WorldConfig, is_resume: bool
) -> None:
    """Checks that `out` is fresh, or holds a run of this very configuration to go on with."""
    path = out / CONFIG_FILE
    asked = {"pretrain": dataclasses.asdict(config), "world": dataclasses.asdict(world_config)}
    asked = json.loads(json.dumps(asked))
    if path.exists() != is_resume:
        found = "a run is there already" if path.exists() else "no run is there"
        remedy = "start it without --resume" if is_resume else "pass --resume or another folder"
        raise RunError(Fault("A run starts in a fresh folder.", found, str(out), remedy))
    if is_resume:
        there = json.loads(path.read_text())
        faults = [
            Fault(
                "A run resumes under its own configuration.",
                f"{there[part].get(name)!r} then, {value!r} now",
                f"{path}: {part}.{name}",
                "pass the options that it was started with",
            )
            for part, fields in asked.items()
            for name, value in fields.items()
            if there[part].get(name) != value
        ]
        if faults:
            raise RunError(faults)
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asked, indent=1))
