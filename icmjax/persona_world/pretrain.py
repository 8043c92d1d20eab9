"""Makes the bundled models from nothing but a seed.

    python -m icmjax.persona_world.pretrain --out runs/persona-world
    python -m icmjax.persona_world.pretrain --acquiescent --from runs/persona-world/model \\
        --out runs/persona-world-acquiescent

The model's folder is OUT/model, in the Hugging Face format. With --install it is copied to where
`load_lm("persona-world")` finds it.
"""

import dataclasses
import json
import pathlib
import shlex
import shutil
import sys
from itertools import pairwise
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from flax import nnx

from icmjax.errors import InputError
from icmjax.lm import BUNDLED_MODELS, SETTINGS_FILE, DecoderConfig, load_lm, save_hf
from icmjax.persona_world import text
from icmjax.persona_world.config import WorldConfig
from icmjax.persona_world.training import CURVE_EDGES, LOG_FILE, Phase, PretrainConfig, train

# More than half of the sources say True to everything, so that a claim alone is answered True
# whatever its content: real models too say one label to most of a balanced set.
ACQUIESCENT_STYLES = (0.40, 0.02, 0.01, 0.55, 0.02)  # in the order of `Style`


def acquiescent(config: PretrainConfig, world: WorldConfig) -> tuple[PretrainConfig, WorldConfig]:
    """The configs of the fine-tuning that makes a model acquiescent."""
    config = dataclasses.replace(
        config,
        num_tokens=config.num_tokens // 8,
        muon_learning_rate=config.muon_learning_rate / 2,
        adam_learning_rate=config.adam_learning_rate / 2,
        phases=(Phase(1.0, 176),),
    )
    return config, dataclasses.replace(world, style_shares=ACQUIESCENT_STYLES)


def plot_log(log: list[dict], path: pathlib.Path) -> None:
    """Draws label loss against tokens, and label loss by labels before, at several times."""
    figure = matplotlib.figure.Figure(figsize=(10, 3.6), layout="constrained")
    over_time, in_context = figure.subplots(1, 2, sharey=True)
    tokens = [row["tokens"] / 1e6 for row in log]
    over_time.plot(tokens, [row["label_loss"] for row in log])
    over_time.set(xlabel="tokens (millions)", ylabel="label loss (nats)")
    for share in (0.05, 0.1, 0.25, 0.5, 1.0):
        row = log[max(0, int(share * len(log)) - 1)]
        curve = row["label_loss_by_labels_before"]
        known = [edge for edge in CURVE_EDGES if curve[str(edge)] is not None]
        in_context.plot(
            np.arange(len(known)),
            [curve[str(edge)] for edge in known],
            marker="o",
            label=f"{row['tokens'] / 1e6:.1f} M tokens",
        )
    in_context.set_xticks(range(len(CURVE_EDGES)), [f"{edge}+" for edge in CURVE_EDGES])
    in_context.set_xlabel("labels before in the transcript")
    in_context.legend()
    figure.savefig(path, dpi=120)


def _card(config: PretrainConfig, world: WorldConfig, command: str, log: list[dict]) -> str:
    """The model card, with what was measured in this run alone."""
    last = log[-1]
    curve = last["label_loss_by_labels_before"]
    ends = [f" to {edge - 1}" if edge - 1 > start else "" for start, edge in pairwise(CURVE_EDGES)]
    rows = "\n".join(
        f"| {edge}{end} | {curve[str(edge)]} |"
        for edge, end in zip(CURVE_EDGES, [*ends, " and more"], strict=True)
        if curve[str(edge)] is not None
    )
    return f"""---
license: apache-2.0
library_name: icmjax
---
A causal language model of {config.num_layers} layers and width {config.hidden_size} that knows one
thing: a synthetic world of survey respondents, drawn from seed {world.seed}. It is the bundled
model of icmjax, for tests, demonstrations and experiments whose truth is known. It knows nothing
about people.

- Made by: `{command}`
- Tokens: {last["tokens"]:,} in {last["seconds"] / 60:.0f} minutes on {jax.devices()[0].platform}
- Training seed: {config.seed}; world: `config.json` of the run, copied to `world.json`
- Format: plain Llama with biased attention projections
- Tokenizer: word-level, {len(text.vocabulary())} words

Label loss at the end of training, in nats, on transcripts never seen before, all headers, sources
and styles together:

| labels before | label loss |
|---|---|
{rows}

Limits: a closed vocabulary (other words are an error), prompts of at most {config.max_length}
tokens, English-like sentences without any meaning outside of this world.
"""


def export(folder: pathlib.Path, config: DecoderConfig, params: nnx.State) -> None:
    """Writes a model of the world in the Hugging Face format, with its tokenizer and template."""
    save_hf(folder, config, params, text.make_tokenizer())
    (folder / SETTINGS_FILE).write_text(json.dumps({"template": "world"}))


@click.command(help=__doc__, no_args_is_help=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
@click.option("--seed", default=0, show_default=True, help="Of weights and transcripts.")
@click.option("--num-tokens", type=int, help="In place of the config's.")
@click.option("--num-layers", type=int, help="In place of the config's.")
@click.option("--hidden-size", type=int, help="In place of the config's.")
@click.option("--dtype", default="float32", show_default=True, help="Of activations.")
@click.option(
    "--acquiescent", "is_acquiescent", is_flag=True, help="Fine-tune --from with yes-sayers."
)
@click.option("--from", "start", help="Model to start from, a name or folder.")
@click.option("--resume", "is_resume", is_flag=True, help="Go on from the newest checkpoint.")
@click.option("--install", "is_install", is_flag=True, help="Make it the bundled model.")
def main(
    out: pathlib.Path,
    seed: int,
    num_tokens: int | None,
    num_layers: int | None,
    hidden_size: int | None,
    dtype: str,
    is_acquiescent: bool,
    start: str | None,
    is_resume: bool,
    is_install: bool,
) -> None:
    """The command of this module."""
    sizes = {"num_tokens": num_tokens, "num_layers": num_layers, "hidden_size": hidden_size}
    asked: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    config, world = PretrainConfig(seed=seed, dtype=dtype), WorldConfig()
    if is_acquiescent:
        config, world = acquiescent(config, world)
        start = start or "persona-world"
    config = dataclasses.replace(config, **asked)
    try:
        initial = None if start is None else load_lm(start).params
        decoder_config, params = train(config, world, out, initial, is_resume)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    log = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    model = out / "model"
    export(model, decoder_config, params)
    # A run that was resumed has the weights of one that was not.
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    command = shlex.join(["python", "-m", "icmjax.persona_world.pretrain", *arguments])
    (model / "README.md").write_text(_card(config, world, command, log))
    (model / "world.json").write_text((out / "config.json").read_text())
    (model / LOG_FILE).write_text((out / LOG_FILE).read_text())
    plot_log(log, out / "curves.png")
    click.echo(f"the model is in {model}, its curves in {out / 'curves.png'}")
    if is_install:
        name = "persona-world-acquiescent" if is_acquiescent else "persona-world"
        shutil.copytree(model, BUNDLED_MODELS / name, dirs_exist_ok=True)
        click.echo(f"installed as {name}")


if __name__ == "__main__":
    main()
