"""LoRA adapters are merged as PEFT merges them, and what is no plain addition is refused."""

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.numpy import load_file, save_file
from test_lm_parity import assert_parity

from icmjax.errors import CheckpointError
from icmjax.lm import load_lm

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "gpt_neox": ["query_key_value", "dense"],
}


def make_adapter(folder: Path, family: str, **settings) -> torch.nn.Module:
    """Write a base model and an adapter of it, none of its factors trivial; return the merged."""
    model = make_checkpoint(folder / "base", family, tie_word_embeddings=family == "gpt2")
    model.name_or_path = str(folder / "base")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[family], **settings)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(folder / "adapter")
    return adapted.merge_and_unload().eval()


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.filterwarnings("ignore")  # PEFT warns of Conv1D
def test_a_merged_adapter_is_peft_s(tmp_path: Path, family: str):
    merged = make_adapter(tmp_path, family, fan_in_fan_out=family == "gpt2")
    assert_parity(load_lm(tmp_path / "adapter"), merged)


@pytest.mark.filterwarnings("ignore")
def test_scales_by_rank_and_by_pattern(tmp_path: Path):
    merged = make_adapter(
        tmp_path,
        "llama",
        use_rslora=True,
        alpha_pattern={"v_proj": 11, "layers.1.self_attn.q_proj": 2},
        rank_pattern={"down_proj": 4},
    )
    assert_parity(load_lm(tmp_path / "adapter"), merged)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    make_adapter(folder, "llama")
    return folder / "adapter"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path = None"),
        ({"base_model_name_or_path": "no/such/model"}, "no such folder"),
        ({"lora_alpha": "16"}, "'16'"),
    ],
    ids=str,
)
def test_what_is_no_plain_addition_is_refused(made: Path, tmp_path: Path, fields: dict, found: str):
    settings = json.loads((made / CONFIG).read_text()) | fields
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    (tmp_path / WEIGHTS).write_bytes((made / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match=found):
        load_lm(tmp_path)


def test_factors_that_do_not_fit_are_all_named(made: Path, tmp_path: Path):
    tensors = load_file(made / WEIGHTS)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors[name.format(0, "A")] = np.zeros((3, 31), np.float32)  # of another width
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = np.zeros((3, 32))
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_B.weight"] = np.zeros((48, 3))
    (tmp_path / CONFIG).write_text((made / CONFIG).read_text())
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_lm(tmp_path)
    said = str(caught.value)
    assert "(48, 32) for (48, 31)" in said
    assert "none of shape (48, 32)" in said
    tensors[name.format(0, "B")] = np.zeros((48, 2), np.float32)  # of another rank
    tensors["base_model.model.model.embed_tokens.weight"] = np.zeros((3, 2), np.float32)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_lm(tmp_path)
    said = str(caught.value)
    assert "one rank" in said
    assert "embed_tokens" in said
