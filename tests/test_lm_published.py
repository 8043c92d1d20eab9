"""Published configurations load with every field they have, and compute what transformers does.

`published_configs.json` has a configuration a line, with the checkpoint's name and where it was
read. Nothing of it is changed there; the sizes shrink here.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
import transformers
from checkpoints import make_tokenizer
from flax import nnx
from test_lm_parity import assert_parity

from icmjax.lm import Decoder, DecoderConfig, load_lm
from icmjax.lm.hf_config import read_config
from icmjax.lm.weights import weight_map

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text())
# What differs between checkpoints without a difference to a forward pass.
NO_DIFFERENCE = (
    "bos_token_id eos_token_id pad_token_id initializer_range dtype use_cache pretraining_tp "
    "attention_dropout max_window_layers max_position_embeddings transformers_version "
    "resid_pdrop embd_pdrop attn_pdrop hidden_dropout classifier_dropout router_aux_loss_coef "
    # These are numbers of the computation; each is compared by itself.
    "rms_norm_eps layer_norm_eps layer_norm_epsilon rope_parameters"
).split()
# Fields that were refused once, and must stay in the file.
STUMBLED = (
    "is_llama_config transformers.js_config sliding_window_size unsloth_fixed unsloth_version "
    "unk_token_id activation max_sequence_length auto_map neftune_noise_alpha model_max_length "
    "finetuning_task pad_token hidden_act rope_interleaved use_mrope _sliding_window_pattern "
    "_model_name_or_path attention_bias mlp_bias lm_head_bias full_attn_mod interpolate_factor "
    "n_ctx n_special output_past predict_special_tokens task_specific_params _num_labels "
    "attention_probs_dropout_prob hidden_dropout_prob"
).split()


def shrunk(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return a configuration with small sizes and all of its fields."""
    if isinstance(config.get("text_config"), dict):
        text = config["text_config"] | {
            name: config["text_config"].get(name, heads)
            for name, heads in (("num_attention_heads", 8), ("num_key_value_heads", 4))
        }
        text |= {"head_dim": 12, "model_type": "gemma3_text"}
        return config | {"text_config": shrunk(text, vocab_size)}
    heads = config.get("num_attention_heads", config.get("n_head"))
    kv_heads = config.get("num_key_value_heads")
    # Gemma 3 has a layer without a window in every six, SmolLM3 one without positions in four.
    num_layers = {"gemma3_text": 6, "smollm3": 4, "olmo3": 4}.get(config["model_type"], 2)
    sizes = {
        "vocab_size": vocab_size,
        "num_hidden_layers": num_layers,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    if config["model_type"] == "gpt2":
        sizes = {"vocab_size": vocab_size, "n_layer": 2, "n_embd": 32, "n_head": 4}
    small = config | sizes
    if kv_heads is not None:
        small["num_key_value_heads"] = {heads: 4, 1: 1}.get(kv_heads, 2)
    for name, size in {
        "head_dim": 12,
        "sliding_window": 7,
        "original_max_position_embeddings": 64,
        "moe_intermediate_size": 24,
        "num_experts": 5,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    }.items():
        if config.get(name) is not None:
            small[name] = size
    for name in ("layer_types", "no_rope_layers"):
        if config.get(name) is not None:
            small[name] = config[name][:num_layers]
    rope = config.get("rope_scaling")
    if rope is not None:
        # So short that all ranges of positions occur.
        rotated = int(8 * config.get("partial_rotary_factor", 1.0)) // 2
        factors = {
            name: rope[name][:rotated] for name in ("short_factor", "long_factor") if name in rope
        }
        original = {"original_max_position_embeddings"} & rope.keys()
        small["rope_scaling"] = rope | factors | dict.fromkeys(original, 32)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if config.get(name) is not None:
            small[name] = [0, 1, 2] if isinstance(config[name], list) else 1
    return small


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return make_tokenizer(("People from Japan would answer: 'Yes', this claim is True",))


def write(folder: Path, config: dict[str, Any]) -> transformers.PretrainedConfig:
    """Write a configuration and a tokenizer; return what transformers reads."""
    folder.mkdir()
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(shrunk(config, len(tokenizer()))))
    return read_config(json.loads((folder / "config.json").read_text())).hf_config


def computation(hf_config: transformers.PretrainedConfig) -> str:
    """Say what transformers computes, by all that its class declares, up to epsilon and theta."""
    declared = type(hf_config)().to_dict().keys() - set(NO_DIFFERENCE)
    fields = hf_config.to_dict()
    said = {name: fields.get(name) for name in declared if not name.startswith("_")}
    return json.dumps([type(hf_config).__name__, said, without_thetas(hf_config)], sort_keys=True)


def without_thetas(hf_config: transformers.PretrainedConfig) -> dict[str, Any]:
    """Return the rotary parameters with 0 for every base of the wavelengths."""
    text = json.dumps(getattr(hf_config, "rope_parameters", None))
    return json.loads(text, object_hook=lambda found: found | {"rope_theta": 0.0})


def thetas(hf_config: transformers.PretrainedConfig) -> set[float]:
    rope = getattr(hf_config, "rope_parameters", None) or {"none": {"rope_theta": None}}
    return {one["rope_theta"] for one in ([rope] if "rope_theta" in rope else rope.values())}


def structure(config: DecoderConfig) -> dict[str, Any]:
    """Return a decoder's configuration up to epsilon and theta."""
    ropes = tuple(rope and replace(rope, theta=0.0) for rope in config.ropes)
    return vars(config) | {"bos_id": None, "norm_eps": 0.0, "ropes": ropes}


def make_weights(folder: Path, hf_config: transformers.PretrainedConfig) -> torch.nn.Module:
    """Write random weights, none of them trivial; return the torch model."""
    torch.manual_seed(0)
    hf_config.pad_token_id = None  # a family's own default is beyond so few tokens
    model = transformers.AutoModelForCausalLM.from_config(
        hf_config, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    config = (folder / "config.json").read_text()
    model.eval().save_pretrained(folder)
    (folder / "config.json").write_text(config)
    return model


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices this small cost torch the waiting of its threads for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore")  # transformers warns of some fields
def test_published_configurations_load_and_compute_what_transformers_computes(tmp_path: Path):
    assert len({entry["name"] for entry in PUBLISHED}) >= 57
    groups: dict[str, tuple[Path, dict[str, Any]]] = {}
    ignored: set[str] = set()
    for number, entry in enumerate(PUBLISHED):
        folder = tmp_path / f"{number}"
        hf_config = write(folder, entry["config"])
        # Every one is loaded; one of those that compute the same is compared.
        key = computation(hf_config)
        if key in groups:
            first, config = groups[key]
            (folder / "model.safetensors").symlink_to(first / "model.safetensors")
            lm = load_lm(folder)
            assert structure(lm.config) == config, entry["name"]
        else:
            model = make_weights(folder, hf_config)
            lm = load_lm(folder)
            assert_parity(lm, model)
            groups[key] = folder, structure(lm.config)
        epsilons = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
        stated = [getattr(hf_config, name) for name in epsilons if hasattr(hf_config, name)]
        assert [lm.config.norm_eps] == stated
        # Where no layer is rotated there is none; a layer of SmolLM3 in four is not.
        own = {rope and rope.theta for rope in lm.config.ropes}
        assert own - {None} == thetas(hf_config) - {None}
        assert set(lm.ignored_fields) <= entry["config"].keys()
        ignored.update(lm.ignored_fields)
    assert sorted(ignored) == sorted(STUMBLED)
    assert len(groups) > 15


@pytest.mark.slow
@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
@pytest.mark.filterwarnings("ignore")  # transformers warns of some fields
def test_every_published_size_has_the_tensors_of_transformers(entry: dict[str, Any]):
    """No weights are made: neither torch's nor ours."""
    read = read_config(entry["config"])
    config = read.config
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(read.hf_config)
    theirs = {read.layout.rename(name): each for name, each in model.state_dict().items()}
    theirs = {
        name: tuple(each.shape)
        for name, each in theirs.items()
        if not re.search(read.layout.ignored, name)
    }
    if config.tie_embeddings:
        theirs.pop(read.layout.head, None)
    abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0)))
    params = nnx.split(abstract)[1]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert num_params == sum(map(math.prod, theirs.values()))
    weights = weight_map(config, params, read.layout)
    ours = {str(name): weight.shape for weight in weights for name in weight.names.flat}
    if config.num_experts:  # in memory theirs are stacked; files hold them one by one
        ours, theirs = (
            {name: shape for name, shape in each.items() if "self_attn" in name}
            for each in (ours, theirs)
        )
    assert ours == theirs

    def read_row(decoder: Decoder, tokens: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return decoder.logits(decoder(tokens, positions, positions >= 0)[0])

    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    logits = nnx.eval_shape(read_row, abstract, tokens)
    assert logits.shape == (1, 8, config.vocab_size)


def test_each_entry_says_where_it_was_read():
    assert all(entry["source"] and entry["config"]["model_type"] for entry in PUBLISHED)
