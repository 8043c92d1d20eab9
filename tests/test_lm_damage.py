"""A damaged model folder is an error that names the file, or it loads; never a traceback."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from safetensors.numpy import load_file, save_file

from icmjax.errors import CheckpointError
from icmjax.lm import load_lm
from icmjax.lm.hf_config import read_config

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a checkpoint with every file that a folder may have, its weights in two shards."""
    folder = tmp_path_factory.mktemp("damage") / "made"
    make_checkpoint(folder, "qwen3")
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    (folder / "added_tokens.json").write_text("{}")
    (folder / "icmjax.json").write_text('{"template": "survey"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {name: SHARD.replace("-00001", f"-0000{i % 2 + 1}") for i, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return folder


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut in half": half,
    "the end lost": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a pointer": lambda path: path.write_bytes(POINTER),
    "a folder": folder_in_its_place,
    "a link to nowhere": link_to_nowhere,
    "a page": lambda path: path.write_text("<!DOCTYPE html><html>Sign in</html>"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("5"),
    "null": lambda path: path.write_text("null"),
    "a text": lambda path: path.write_text('"text"'),
    "an empty object": lambda path: path.write_text("{}"),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}'),
    "half a surrogate pair": lambda path: path.write_text('{"a\\ud800": "\\udfff"}'),
    "nested too deep": lambda path: path.write_text('{"a":' * 100_000),
    "deep and whole": lambda path: path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000),
    "too many digits": lambda path: path.write_text('{"vocab_size": ' + "9" * 5000 + "}"),
}
# What is a whole file of another content, or what is as if the file were absent.
HARMLESS = {
    ("generation_config.json", "an empty object"),
    ("tokenizer_config.json", "an empty object"),
    ("special_tokens_map.json", "an empty object"),
    ("added_tokens.json", "an empty object"),
    ("icmjax.json", "an empty object"),
    *((name, "a link to nowhere") for name in ("generation_config.json", "icmjax.json")),
    *((name, "a link to nowhere") for name in ("special_tokens_map.json", "added_tokens.json")),
    ("tokenizer_config.json", "a link to nowhere"),
}
FILES = (
    "config.json",
    SHARD,
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "icmjax.json",
)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def message(folder: Path) -> str | None:
    """Return the message of the error, None where the folder loads; all else is raised."""
    try:
        load_lm(folder)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(made: Path, folder: Path, name: str):
    assert message(folder) is None
    for damage, spoil in DAMAGE.items():
        spoil(folder / name)
        said = message(folder)
        if (name, damage) in HARMLESS:
            assert said is None, (damage, said)
        else:
            assert said is not None, damage
            assert name in said or str(folder) in said, (damage, said)
            assert all(line in said for line in ("found: ", "where: ", "to do: ")), damage
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copy(made / name, path)


def test_an_unreadable_file_is_an_error(monkeypatch, folder: Path):
    """Tests may run as root, who reads everything."""
    opened = Path.open

    def refuse(path: Path, *args, **kwargs):
        if path.name == "tokenizer.json":
            raise PermissionError(13, os.strerror(13), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    said = message(folder)
    assert said is not None
    assert "Permission denied" in said
    assert "tokenizer.json" in said


ODD_VALUES = (None, True, 0, -1, 3.5, float("nan"), 10**40, "x", [1], {"a": 1}, {"rope_type": 5})


def spoilt(content: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield every object of a JSON file with one of its fields absent, or of another value."""
    for name in content:
        yield name, {other: content[other] for other in content if other != name}
        for value in ODD_VALUES:
            yield f"{name} = {value!r}", content | {name: value}
        if depth and isinstance(content[name], dict):
            for what, inner in spoilt(content[name], depth - 1):
                yield f"{name}: {what}", content | {name: inner}


@pytest.mark.filterwarnings("ignore")  # transformers warns of some of them too
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_odd_values_of_a_configuration_are_errors_or_read(family: str):
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 1.0}
    fields = {
        "model_type": family,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rope_local_base_freq": 1e4,
        "partial_rotary_factor": 1.0,
        "vocab_size": 320,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "sliding_window": None if family == "llama" else 4,
        "use_sliding_window": False,
        "max_window_layers": 2,
        "sliding_window_pattern": 6,
        "bos_token_id": 1,
        "eos_token_id": [1],
        "torch_dtype": "float32",
        "id2label": {"0": "a"},
        "num_labels": 2,
        "problem_type": None,
        "auto_map": {"AutoConfig": "a.B"},
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "architectures": ["A"],
        "quantization_config": None,
        "per_layer_config": None,
        "is_causal": True,
    }
    types = {"layer_types": ["full_attention"] * 2} if family == "gemma3_text" else {}
    num_refused = num_read = 0
    rope_cases = [(what, fields | case) for what, case in spoilt({"rope_parameters": rope}, 1)]
    cases = [*spoilt(fields | types, 0), *rope_cases]
    read_config(fields | types)
    for what, case in cases:
        try:
            read_config(case)
        except CheckpointError:
            num_refused += 1
        except Exception as error:
            raise AssertionError(what) from error
        else:
            num_read += 1
    assert min(num_refused, num_read) > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_odd_values_of_a_tokenizer_are_errors_or_read(monkeypatch, folder: Path, name: str):
    monkeypatch.setattr("icmjax.lm.loading.read_params", lambda *_, **__: None)
    content = json.loads((folder / name).read_text())
    num_refused = 0
    for what, case in spoilt(content, 1):
        (folder / name).write_text(json.dumps(case))
        try:
            num_refused += message(folder) is not None
        except Exception as error:
            raise AssertionError(what) from error
    assert num_refused > 10


@pytest.mark.parametrize(
    ("weight_map", "found"),
    [
        ({"model.norm.weight": "../elsewhere.safetensors"}, "weight_map"),
        ({"model.norm.weight": 5}, "weight_map"),
        ([], "weight_map"),
        ({}, "weight_map"),
        (None, "weight_map"),
        ({"model.norm.weight": "absent.safetensors"}, "absent.safetensors"),
    ],
    ids=str,
)
def test_an_index_that_is_none_is_an_error(folder: Path, weight_map: Any, found: str):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert found in str(message(folder))


def test_an_index_must_name_the_file_that_has_the_tensor(folder: Path):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.never.weight"] = SHARD
    (folder / INDEX).write_text(json.dumps(index))
    said = str(message(folder))
    assert "model.never.weight" in said
    assert f"none in {SHARD}" in said
