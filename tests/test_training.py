"""Pretraining on the world: it learns, resumes bit for bit, and exports what torch can read."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from flax import nnx

from icmjax.errors import RunError
from icmjax.lm import Decoder, load_lm
from icmjax.persona_world import WorldConfig, pretrain, text
from icmjax.persona_world.training import (
    EASY_WORLD,
    LOG_FILE,
    RETEST_WORLD,
    Phase,
    PretrainConfig,
    batch_loss,
    batches,
    log_row,
    make_optimizer,
    start_heads,
    train,
)

TINY = PretrainConfig(
    num_layers=1,
    hidden_size=32,
    num_heads=2,
    mlp_size=32,
    num_tokens=256 * 40,
    batch_tokens=256,
    answer_weight=0.5,
    phases=(Phase(0.5, 64, 4, RETEST_WORLD), Phase(0.5, 64)),
)
WORLD = WorldConfig()


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    # Optax's schedules mix Python floats and integer counts.
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(out, config=TINY, is_resume=False, **options):
    return train(
        config,
        WORLD,
        out,
        is_resume=is_resume,
        save_every=10,
        log_every=10,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, *run(out)


@pytest.mark.slow
def test_the_loss_falls_from_ignorance(trained):
    out, _, _ = trained
    rows = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    # A uniform guess among the words costs log(175) = 5.2 nats.
    assert rows[0]["label_loss"] > rows[-1]["label_loss"] + 0.5


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(trained, tmp_path):
    out, _, params = trained
    broken_off = tmp_path / "run"
    assert _train_until(broken_off, 20) == 20
    _, resumed = run(broken_off, is_resume=True)
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    logs = [
        [json.loads(line) | {"seconds": 0} for line in (folder / LOG_FILE).read_text().splitlines()]
        for folder in (broken_off, out)
    ]
    assert logs[0] == logs[1]


def _train_until(out, last_step: int) -> int:
    """Runs until a checkpoint of `last_step` is there, then breaks off as a kill would."""

    class Killed(Exception):
        pass

    real = pretrain.train.__globals__["log_row"]

    def log_then_die(step, *args):
        if step > last_step:
            raise Killed
        return real(step, *args)

    pretrain.train.__globals__["log_row"] = log_then_die
    try:
        with pytest.raises(Killed):
            run(out)
    finally:
        pretrain.train.__globals__["log_row"] = real
    return max(int(step.name) for step in (out / "checkpoints").iterdir() if step.name.isdigit())


def test_a_used_folder_and_another_config_are_refused(trained):
    out, _, _ = trained
    with pytest.raises(RunError, match="fresh folder"):
        run(out)
    with pytest.raises(RunError, match=rf"{TINY.muon_learning_rate} then, 0.01 now"):
        run(out, dataclasses.replace(TINY, muon_learning_rate=0.01), is_resume=True)


def model(config):
    """What a config makes of the decoder and its first weights."""
    decoder_config = config.decoder_config(len(text.vocabulary()))
    graphdef, params = nnx.split(Decoder(decoder_config, nnx.Rngs(params=config.seed)))
    params = nnx.to_pure_dict(params)
    if config.has_started_heads:
        params = start_heads(params, decoder_config)
    return decoder_config, graphdef, params


def weights(config):
    decoder_config, _, params = model(config)
    return [hash(decoder_config), params]


def transcripts(config):
    return list(batches(config, WORLD, 0))


def loss(config):
    _, graphdef, params = model(config)
    return batch_loss(params, graphdef, next(iter(batches(config, WORLD, 0))), config)[0]


def updates(config):
    weight = {"matrix": jnp.ones((1, 4, 4)), "vector": jnp.ones(4)}
    optimizer = make_optimizer(config, 5)
    state, taken = optimizer.init(weight), []
    for _ in range(5):
        update, state = optimizer.update(weight, state, weight)
        taken.append(update)
    return taken


def digest(observed) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(observed)]


# Answers come in the world's own mix of formats, once a batch is large enough.
SHORT = dataclasses.replace(TINY, num_tokens=5 * 640, batch_tokens=640, phases=(Phase(1.0, 64),))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observe", "field", "value"),
    [
        (weights, "seed", 1),
        (transcripts, "seed", 1),
        (weights, "num_layers", 2),
        (weights, "hidden_size", 16),
        (weights, "num_heads", 1),
        (weights, "mlp_size", 16),
        (weights, "max_length", 99),
        (weights, "rope_theta", 100.0),
        (weights, "has_started_heads", False),
        (transcripts, "num_tokens", 4 * 640),
        (transcripts, "batch_tokens", 960),
        (transcripts, "phases", (Phase(1.0, 64, 4, EASY_WORLD),)),
        (updates, "muon_learning_rate", 0.05),
        (updates, "adam_learning_rate", 0.01),
        (updates, "warmup_share", 0.5),
        (updates, "final_learning_rate", 0.5),
        (loss, "text_weight", 0.5),
        (loss, "answer_weight", 5.0),
        (loss, "dtype", "bfloat16"),
    ],
)
def test_every_field_matters(observe, field, value):
    changed = observe(dataclasses.replace(SHORT, **{field: value}))
    assert digest(changed) != digest(observe(SHORT))


def test_the_export_is_what_transformers_reads(trained, tmp_path):
    _, config, params = trained
    folder = tmp_path / "model"
    pretrain.save_hf(folder, config, params, text.make_tokenizer())
    ids = text.make_tokenizer()("Web poll.\nTaxes can help: True\nUnions should expand:").input_ids
    lm = load_lm(folder)
    hidden, _ = lm.decoder()(
        jnp.array([ids]), jnp.arange(len(ids))[None], jnp.ones((1, len(ids)), bool)
    )
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(
            torch.tensor([ids])
        ).logits
    np.testing.assert_allclose(lm.decoder().logits(hidden), expected, atol=1e-4)


@pytest.mark.slow
def test_the_command_trains_exports_and_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "BUNDLED_MODELS", tmp_path / "models")
    out = str(tmp_path / "run")
    small = ["--num-tokens", "8448", "--num-layers", "1", "--hidden-size", "16", "--install"]
    result = CliRunner().invoke(pretrain.main, ["--out", out, *small])
    assert result.exit_code == 0, result.output
    lm = load_lm(tmp_path / "models" / "persona-world")
    assert lm.default_template == "world"
    card = (tmp_path / "models" / "persona-world" / "README.md").read_text()
    assert "Tokens: 8,448" in card
    again = CliRunner().invoke(pretrain.main, ["--out", out, *small])
    assert again.exit_code == 2
    assert "fresh folder" in again.output
    yes = ["--acquiescent", "--from", f"{out}/model", "--out", f"{out}-yes"]
    result = CliRunner().invoke(
        pretrain.main, [*yes, "--num-tokens", "4224", "--num-layers", "1", "--hidden-size", "16"]
    )
    assert result.exit_code == 0, result.output


def test_batches_depend_on_seed_and_step_alone():
    config = dataclasses.replace(TINY, num_tokens=256 * 8)
    late = list(batches(config, WORLD, 5))
    for ours, theirs in zip(late, list(batches(config, WORLD, 0))[5:], strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


def test_log_rows_are_means_over_labels(trained):
    _, config, params = trained
    batch = next(iter(batches(TINY, WORLD, 30)))
    assert batch.is_answer.any()
    graphdef = nnx.split(Decoder(config, nnx.Rngs(0)))[0]
    loss, metrics = batch_loss(nnx.to_pure_dict(params), graphdef, batch, TINY)
    decoder = nnx.merge(graphdef, params)
    positions = jnp.broadcast_to(jnp.arange(64), batch.tokens.shape)
    logp = jax.nn.log_softmax(decoder.logits(decoder(batch.tokens, positions, batch.is_real)[0]))
    naive = {}
    total = weight = 0.0
    for row in range(len(batch.tokens)):
        for t in range(1, 64):
            if not batch.is_real[row, t]:
                continue
            nats = -float(logp[row, t - 1, batch.tokens[row, t]])
            is_label, is_answer = batch.is_label[row, t], batch.is_answer[row, t]
            w = 1.0 if is_label else TINY.answer_weight if is_answer else TINY.text_weight
            total, weight = total + w * nats, weight + w
            if batch.is_label[row, t]:
                naive.setdefault(int(batch.label_index[row, t]), []).append(nats)
    assert float(loss) == pytest.approx(total / weight, rel=1e-4)
    row = log_row(1, 128, 1.0, [metrics])
    assert row["label_loss"] == pytest.approx(
        np.mean([nats for position in naive.values() for nats in position]), abs=1e-3
    )
    first = np.mean(naive[0])
    assert row["label_loss_by_labels_before"]["0"] == pytest.approx(first, abs=1e-3)
