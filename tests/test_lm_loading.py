"""Loading refuses what does not fit, says all of it at once, and needs no torch."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from checkpoints import make_checkpoint
from flax import nnx
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file

from icmjax.errors import CheckpointError
from icmjax.lm import Decoder, DecoderConfig, RopeConfig, config_from_hf, load_lm, save_hf

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_checkpoint(folder, "llama")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a copy of a good checkpoint, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def faults_of(folder: Path | str) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        load_lm(folder)
    return [str(fault) for fault in caught.value.faults]


def set_fields(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def params_equal(first: Path, second: Path) -> bool:
    one, two = load_lm(first).params, load_lm(second).params
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), one, two))


def test_all_faults_of_the_weights_come_at_once(folder: Path):
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((48, 31), np.float32)
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(48, np.float32)
    tensors["model.layers.0.mlp.down_proj.weight"] = np.zeros((32, 48), np.int8)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(6, np.float32)  # no fault
    save_file(tensors, folder / WEIGHTS)
    faults = faults_of(folder)
    assert len(faults) == 4
    for name, found in {
        "model.norm.weight": "none",
        "model.layers.1.mlp.up_proj.weight": "(48, 31)",
        "model.layers.0.self_attn.q_proj.bias": "no parameter reads",
        "model.layers.0.mlp.down_proj.weight": "I8",
    }.items():
        assert sum(name in fault and found in fault for fault in faults) == 1


def test_a_tied_model_takes_an_equal_head_and_no_other(folder: Path):
    set_fields(folder, tie_word_embeddings=True)
    tensors = load_file(folder / WEIGHTS)
    assert "differs from the embedding" in faults_of(folder)[0]
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / WEIGHTS)
    assert load_lm(folder).config.tie_embeddings


def test_shards_are_read_as_one(made: Path, folder: Path):
    (folder / WEIGHTS).unlink()
    tensors = load_file(made / WEIGHTS)
    names = sorted(tensors)
    shards = {name: f"model-{place % 2 + 1}-of-2.safetensors" for place, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert params_equal(folder, made)

    (folder / "model-2-of-2.safetensors").unlink()
    assert "model-2-of-2.safetensors" in faults_of(folder)[0]


def test_absent_files_are_named(folder: Path):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "only pytorch_model.bin" in faults_of(folder)[0]
    assert "save_pretrained" in faults_of(folder)[0]
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    config_fault, tokenizer_fault = faults_of(folder)
    assert "no config.json" in config_fault
    assert "tokenizer.json" in tokenizer_fault


@pytest.mark.parametrize(
    ("file", "found", "remedy"),
    [
        ("consolidated.safetensors", "Mistral's own names", WEIGHTS),
        ("consolidated.00.pth", "Meta's own format", "-hf"),
        ("pytorch_model-00001-of-00002.bin", "pickled weights of torch", "save_pretrained"),
        ("model-q4_k_m.gguf", "GGUF", "Hugging Face format"),
        ("model-00001-of-00002.safetensors", "without their index", INDEX),
        ("adapter_model.safetensors", "an adapter", "merge_and_unload"),
    ],
)
def test_weights_of_another_format_are_named(folder: Path, file: str, found: str, remedy: str):
    (folder / WEIGHTS).rename(folder / file)
    fault = faults_of(folder)[0]
    assert f"only {file}" in fault
    assert found in fault
    assert remedy in fault
    # Where there is nothing else, the missing configuration is not the whole story.
    (folder / "config.json").unlink()
    assert any(found in fault for fault in faults_of(folder))


def test_a_file_is_no_model(folder: Path):
    gguf = folder / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert "a GGUF file" in faults_of(gguf)[0]
    assert "Give the folder" in faults_of(folder / WEIGHTS)[0]


@pytest.mark.parametrize("name", ["./nomodel", "nomodel", "../no/model", "a--b/c", "a/b.", "é/b"])
def test_names_that_are_no_models_are_errors(monkeypatch, name: str, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert name.removeprefix("./") in faults_of(name)[0]


@pytest.mark.parametrize("dtype", ["fp16", "int8", "float64", "float8_e4m3fn", ""])
def test_there_are_three_dtypes(folder: Path, dtype: str):
    with pytest.raises(CheckpointError, match="float32, bfloat16, float16"):
        load_lm(folder, dtype=dtype)
    with pytest.raises(CheckpointError, match="float32, bfloat16, float16"):
        load_lm("no/model", dtype=dtype)  # before anything is fetched


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [2, 1, 2]}, {"eos_token_id": 0}, (2, 1)),
        ({"eos_token_id": 2}, {"eos_token_id": 0}, (2,)),
        ({"temperature": 0.6}, {"eos_token_id": [0, 2]}, (0, 2)),
        (None, {"eos_token_id": 0}, (0,)),
        (None, {"eos_token_id": None}, (1,)),  # the tokenizer's
    ],
    ids=str,
)
def test_what_ends_a_text_is_read(folder: Path, generation, config: dict, expected: tuple):
    set_fields(folder, **config)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    assert load_lm(folder).eos_token_ids == expected
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    assert "generation_config.json: eos_token_id" in faults_of(folder)[0]


@pytest.mark.parametrize(
    ("name", "found"),
    [("tokenizer.model", "pip install|Install sentencepiece"), ("tekken.json", "Mistral's own")],
)
def test_tokenizers_of_other_formats_are_refused(folder: Path, name: str, found: str):
    (folder / "tokenizer.json").rename(folder / name)
    fault = faults_of(folder)[0]
    assert f"{name} alone" in fault
    assert re.search(found, fault)


def test_a_vocabulary_and_its_merges_are_a_tokenizer(tmp_path: Path):
    make_checkpoint(tmp_path, "qwen2")
    expected = load_lm(tmp_path).tokenizer.get_vocab()
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    assert "tokenizer.json" in faults_of(tmp_path)[0]
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(merges)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    tokenizer = load_lm(tmp_path).tokenizer
    assert tokenizer.is_fast
    assert tokenizer.get_vocab().items() >= expected.items()


def test_bytes_are_said_before_the_first_is_read(folder: Path):
    said: list[tuple[int, int]] = []
    lm = load_lm(folder, dtype="bfloat16", on_read=lambda *each: said.append(each))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
    assert said[0] == (0, total)
    assert said[-1] == (total, total)
    assert said == sorted(said)
    assert len(said) > 5


def test_weights_of_no_mesh_may_go_to_any_device(monkeypatch, folder: Path):
    """As an array that was never placed does: several processes put it on a mesh of all."""
    for num_bytes in (1000, 1 << 26):
        monkeypatch.setattr("icmjax.lm.reading.PIECE_BYTES", num_bytes)
        leaves = jax.tree.leaves(load_lm(folder).params)
        assert not any(leaf.committed for leaf in leaves)


def test_large_parameters_come_piece_by_piece(monkeypatch, folder: Path):
    whole = load_lm(folder).params
    monkeypatch.setattr("icmjax.lm.reading.PIECE_BYTES", 1000)
    monkeypatch.setattr("icmjax.lm.tensors.RELEASED_BYTES", 3000)
    pieces = load_lm(folder).params
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), whole, pieces))


def test_the_hub_lends_what_is_read_and_nothing_twice(monkeypatch, folder: Path):
    asked = {}

    def snapshot(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked[hub_id] = allow_patterns
        asked["revision"] = revision
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_lm("someone/model").name == "someone/model"
    assert asked["revision"] is None
    load_lm("someone/model", revision="v1.0")
    assert asked["revision"] == "v1.0"
    with pytest.raises(CheckpointError, match="A model on the hub has revisions"):
        load_lm(folder, revision="v1.0")

    def fetched(names: str) -> list[str]:
        return list(filter_repo_objects(names.split(), allow_patterns=asked["someone/model"]))

    wanted = (
        "config.json generation_config.json model.safetensors model-00001-of-00002.safetensors "
        "model.safetensors.index.json tokenizer.json tokenizer_config.json chat_template.jinja "
        "chat_template.json vocab.json merges.txt tokenizer.model adapter_config.json "
        "adapter_model.safetensors"
    )
    assert fetched(wanted) == wanted.split()
    unwanted = "consolidated.safetensors pytorch_model.bin a.gguf modeling_x.py original/a.pth"
    assert fetched(unwanted) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            "README.md model-Q4_K_M.gguf model-Q8_0.gguf",
            "only model-Q4_K_M.gguf and 1 more: a GGUF",
        ),
        ("config.json tokenizer.json pytorch_model.bin", "only pytorch_model.bin: pickled weights"),
        ("params.json original/consolidated.00.pth", "consolidated.00.pth: Meta's own format"),
        ("config.json consolidated.safetensors", "weights by Mistral's own names"),
    ],
)
def test_the_hub_says_what_it_has_in_place_of_safetensors(
    monkeypatch, tmp_path: Path, names: str, said: str
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: names.split())
    (fault,) = faults_of("someone/model")
    assert said in fault
    assert "someone/model" in fault


def test_a_repository_without_any_weights_is_a_folder_without_any(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: ["README.md"])
    assert "no config.json" in faults_of("someone/model")[0]


def test_what_is_printed_of_a_model_is_short(folder: Path):
    lm = load_lm(folder)
    long = replace(lm, name="/a/long/path" * 50)
    config = replace(lm.config, num_layers=80, ropes=lm.config.ropes * 40, windows=(None,) * 80)
    for value in (lm, long, replace(long, config=config), lm.config, config, lm.config.ropes[0]):
        assert type(value).__name__ in repr(value)
        assert len(repr(value)) < 200
    assert "80 layers" in repr(config)


def test_absent_models_come_with_a_remedy(monkeypatch, tmp_path: Path):
    assert "no such folder" in faults_of(tmp_path / "nowhere")[0]
    monkeypatch.setattr("icmjax.lm.loading.BUNDLED_MODELS", tmp_path)
    for name in ("persona-world", "persona-world-acquiescent"):
        assert "python -m icmjax.persona_world.pretrain" in faults_of(name)[0]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (said,) = faults_of("nobody/no-such-model")
    assert "nobody/no-such-model" in said
    assert "no network, and no copy" in said
    assert "Did you mean persona-world?" in faults_of("persona-wrld")[0]


def test_a_bundled_model_is_found_by_its_name(monkeypatch, folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "persona-world")
    monkeypatch.setattr("icmjax.lm.loading.BUNDLED_MODELS", tmp_path)
    assert load_lm("persona-world").name == "persona-world"


def test_the_folder_names_its_template(folder: Path):
    assert load_lm(folder).default_template is None
    (folder / "icmjax.json").write_text('{"template": "survey"}')
    assert load_lm(folder).default_template == "survey"
    (folder / "icmjax.json").write_text('{"templates": "survey"}')
    assert "templates" in faults_of(folder)[0]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantised"),  # by MLX
        ({"sliding_window": 8}, "sliding_window"),  # Llama has none; a cache of transformers does
        ({"per_layer_config": {"1": {"head_dim": 8}}}, "per_layer_config"),
        ({"is_causal": False}, "is_causal"),
        ({"hidden_act": "relu"}, "relu"),
        ({"num_key_value_heads": 3}, "3 key-value heads for 4 heads"),
        ({"head_dim": 11}, "even rotary dimension"),
        ({"model_type": "bloom"}, "qwen3"),  # the supported ones are listed
        ({"model_type": "no-such-type"}, "no-such-type"),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}},
            "default, dynamic, linear, llama3, longrope, yarn",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.filterwarnings("ignore")  # transformers warns of some of them too
def test_what_would_change_the_computation_is_refused(folder: Path, fields: dict, found: str):
    set_fields(folder, **fields)
    assert any(found in fault for fault in faults_of(folder))


def test_fields_that_transformers_ignores_are_ignored_whatever_they_hold(folder: Path):
    """A field is judged by its name: 0 is no better than 3."""
    assert load_lm(folder).ignored_fields == ()
    for value in (0, 3, 0.5, {"a": [1]}, None):
        set_fields(folder, some_new_scale=value, unk_token_id=value)
        assert load_lm(folder).ignored_fields == ("some_new_scale", "unk_token_id")


def test_gemma_reads_hidden_activation_alone(tmp_path: Path):
    make_checkpoint(tmp_path, "gemma2")
    set_fields(tmp_path, hidden_act="gelu", hidden_activation="silu")
    lm = load_lm(tmp_path)
    assert lm.config.activation == "silu"
    assert lm.ignored_fields == ("hidden_act",)


def test_quantised_models_are_told_so(folder: Path):
    set_fields(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    fault = faults_of(folder)[0]
    assert "quantised by gptq" in fault
    assert "remove" not in fault
    set_fields(folder, quantization_config=None)
    load_lm(folder)
    (folder / "hf_quant_config.json").write_text("{}")
    assert "quantised" in faults_of(folder)[0]


def test_harmless_fields_are_accepted():
    hf_config = transformers.LlamaConfig(
        **{"hidden_size": 32, "num_attention_heads": 4, "pretraining_tp": 2, "use_cache": False}
    )
    assert config_from_hf(hf_config).head_dim == 8


def test_configs_of_older_transformers_are_read(tmp_path: Path):
    """Most checkpoints were written with rope_theta and rope_scaling at the top level."""
    llama3 = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = {"rope_theta": 500_000.0, "torch_dtype": "bfloat16", "transformers_version": "4.45.0"}

    def config_of(fields: dict) -> DecoderConfig:
        (tmp_path / "config.json").write_text(json.dumps(old | fields))
        return config_from_hf(transformers.AutoConfig.from_pretrained(tmp_path))

    llama = config_of({"model_type": "llama", "num_hidden_layers": 1, "rope_scaling": llama3})
    assert llama.ropes == (RopeConfig(500_000.0, "llama3", 32.0, 1.0, 4.0, 8192),)
    gemma = config_of(
        {
            "model_type": "gemma3_text",
            "num_hidden_layers": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 10_000,
            "sliding_window": 512,
            "sliding_window_pattern": 3,
        }
    )
    assert gemma.ropes == (RopeConfig(),) * 2 + (RopeConfig(500_000.0, "linear", 8.0),)
    assert gemma.windows == (512, 512, None)


def test_bidirectional_gemma_is_refused():
    with pytest.raises(CheckpointError, match="use_bidirectional_attention"):
        config_from_hf(transformers.Gemma3TextConfig(use_bidirectional_attention=True))


def test_layers_of_an_unknown_type_are_refused():
    hf_config = transformers.Qwen3Config(num_hidden_layers=2)
    hf_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(CheckpointError, match="linear_attention"):
        config_from_hf(hf_config)


def test_export_refuses_what_the_families_cannot_say(folder: Path, tmp_path: Path):
    lm = load_lm(folder)
    for change in ({"windows": (3, 3)}, {"norm_offset": 1.0}, {"attention_out_bias": True}):
        config = DecoderConfig(**(vars(lm.config) | change))
        with pytest.raises(CheckpointError, match="cannot express"):
            save_hf(tmp_path / "out", config, lm.params, lm.tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_model_is_a_pytree_of_its_weights_and_compiles_once(folder: Path):
    lm = load_lm(folder, dtype="bfloat16")
    assert lm.max_length == 512
    assert len(jax.tree.leaves(lm)) == len(jax.tree.leaves(lm.params)) == 12
    num_traces = 0

    @jax.jit
    def total(lm) -> jax.Array:
        nonlocal num_traces
        num_traces += 1
        return jnp.sum(lm.decoder().embedding[...])

    doubled = jax.tree.map(lambda weight: 2 * weight, lm)
    np.testing.assert_allclose(total(doubled), 2 * total(lm), rtol=1e-2)
    assert num_traces == 1


def test_initial_weights_have_the_documented_scales():
    config = DecoderConfig(
        vocab_size=500,
        num_layers=8,
        hidden_size=64,
        mlp_size=128,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        max_length=64,
        ropes=(RopeConfig(),) * 8,
        windows=(None,) * 8,
    )
    decoder = Decoder(config, nnx.Rngs(0))
    layers = decoder.layers
    for kernel in (decoder.embedding, layers.attention.query.kernel, layers.mlp.up.kernel):
        np.testing.assert_allclose(kernel[...].std(), 0.02, rtol=0.05)
    for kernel in (layers.attention.out.kernel, layers.mlp.down.kernel):
        np.testing.assert_allclose(kernel[...].std(), 0.02 / 4, rtol=0.05)
    first, second = layers.mlp.up.kernel[...][:2]
    assert not jnp.any(first == second)  # each layer has its own draw


HIDE_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    # Finds what is installed, as where torch is not.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_torch = name.split(".")[0] == "torch"
        return None if is_torch else super().find_spec(name, path, target)

sys.meta_path = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
"""
WITHOUT_TORCH = f"""{HIDE_TORCH}
import jax.numpy as jnp
from icmjax.lm import load_lm, save_hf
lm = load_lm(sys.argv[1])
tokens = jnp.asarray([lm.tokenizer.encode("this claim is True")])
positions = jnp.arange(tokens.shape[1])[None]
decoder = lm.decoder()
hidden, _ = decoder(tokens, positions, jnp.ones(tokens.shape, bool))
print(float(decoder.logits(hidden).std()))
from pathlib import Path
save_hf(Path(sys.argv[2]), lm.config, lm.params, lm.tokenizer)
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_torch_is_not_needed(folder: Path, tmp_path: Path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(tmp_path / "out")]
    repository = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    # transformers advises to install torch, and does so to whoever does not ask it not to.
    assert done.stderr == ""
    loud = environment | {"TRANSFORMERS_NO_ADVISORY_WARNINGS": ""}
    program = HIDE_TORCH + "import icmjax.lm.quiet\nwith icmjax.lm.quiet.quiet_transformers(): pass"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        env=loud,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PyTorch was not found" in done.stderr
    assert params_equal(folder, tmp_path / "out")


OF_A_COMMAND = """
import sys
from icmjax.cli import main
sys.argv = "icmjax check --claims persona-world:ilvania:0 --model persona-world".split()
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert "transformers" in sys.modules
print(sorted({"torch"} & set(sys.modules)))
import torch
"""
OF_THE_LIBRARY = """
from icmjax.lm import load_lm
load_lm("persona-world")
from transformers.utils import is_torch_available
print(is_torch_available())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("program", "said"), [(OF_A_COMMAND, "[]"), (OF_THE_LIBRARY, "True")])
def test_a_command_leaves_torch_alone_and_the_library_hides_it_from_nobody(program, said):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name != "ICMJAX_WITHOUT_TORCH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == said


EVIL = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from transformers import PretrainedConfig, PreTrainedTokenizerFast
class Config(PretrainedConfig):
    model_type = "own"
class Model: ...
class OwnTokenizer(PreTrainedTokenizerFast): ...
"""


LOAD_ALL = """
import sys
from icmjax.errors import CheckpointError
from icmjax.lm import load_lm
for folder in sys.argv[1:]:
    try:
        print("loaded", load_lm(folder).name)
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.slow
def test_python_that_comes_with_a_model_never_runs(made: Path, tmp_path: Path):
    """A folder whose configuration or tokenizer is Python of its own, and "y" to every question."""
    auto_map = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": [None, "evil.OwnTokenizer"],
    }
    folders = []
    for model_type in ("own", None, "llama"):
        for tokenizer_class in ("OwnTokenizer", None):
            folder = Path(shutil.copytree(made, tmp_path / f"{model_type} {tokenizer_class}"))
            (folder / "evil.py").write_text(EVIL.replace("__file__", repr(f"{folder}/evil.py")))
            set_fields(folder, model_type=model_type, auto_map=auto_map)
            path = folder / "tokenizer_config.json"
            settings = json.loads(path.read_text()) | {"auto_map": auto_map}
            path.write_text(json.dumps(settings | {"tokenizer_class": tokenizer_class}))
            folders.append(folder)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *map(str, folders)],
        cwd=Path(__file__).parents[1],
        input="y\n" * 99,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not [folder for folder in folders if (folder / "ran").exists()]
    assert "[y/N]" not in done.stdout + done.stderr  # nobody is asked
    assert done.stdout.count("found: model_type 'own'") == 2
    assert done.stdout.count("found: no model_type") == 2


def test_transformers_is_imported_by_loading_alone():
    program = (
        "import sys, icmjax.lm; assert not {'transformers', 'huggingface_hub'} & sys.modules.keys()"
    )
    repository = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True)


def test_a_folder_that_is_read_again_compiles_nothing(folder: Path):
    """Its tokenizer is another object of the same files; programs know it by their bytes."""
    traced = []

    @jax.jit
    def embedded(lm):
        traced.append(lm.name)
        return jax.tree.leaves(lm.params)[0].sum()

    one, two = load_lm(folder), load_lm(folder)
    assert one.tokenizer is not two.tokenizer
    assert jax.tree.map(lambda leaf: leaf, two).tokenizer is two.tokenizer
    assert embedded(one) == embedded(two)
    assert len(traced) == 1
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text() + "\n")
    embedded(load_lm(folder))
    embedded(replace(one, tokenizer=copy.deepcopy(one.tokenizer)))  # of no known files
    assert len(traced) == 3
