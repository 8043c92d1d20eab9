"""Loading a language model: its configuration, weights and tokenizer in one immutable value."""

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.config import DecoderConfig, Implementation, config_from_hf
from icmjax.lm.decoder import Decoder
from icmjax.lm.fused import check_attention
from icmjax.lm.weights import read_params

BUNDLED = ("persona-world", "persona-world-acquiescent")
BUNDLED_MODELS = Path(__file__).parents[1] / "persona_world" / "models"
CONFIG_FILE, SETTINGS_FILE = "config.json", "icmjax.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "merges.txt"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["config", "graphdef", "tokenizer", "name", "default_template"],
)
@dataclass(frozen=True)
class LanguageModel:
    """A decoder with its weights and its tokenizer; a pytree whose leaves are the weights.

    Two models share a compiled program only where they share the very same tokenizer object.
    """

    config: DecoderConfig
    params: nnx.State  # of the decoder
    graphdef: nnx.GraphDef[Decoder]
    tokenizer: PreTrainedTokenizerBase
    name: str
    default_template: str | None = None  # the template its folder asks for

    @property
    def max_length(self) -> int:
        """The number of tokens that the model was made for."""
        return self.config.max_length

    def decoder(self) -> Decoder:
        """Return the decoder with these weights."""
        return nnx.merge(self.graphdef, self.params)


def load_lm(
    name_or_path: str | Path, dtype: str = "float32", attention: Implementation = "einsum"
) -> LanguageModel:
    """Load a language model in the Hugging Face format, without torch.

    Args:
        name_or_path: A folder; or a bundled model, "persona-world" or "persona-world-acquiescent";
            or the id of a model on the Hugging Face hub, "owner/name", which is fetched into its
            cache.
        dtype: Of the weights and of the activations: "float32", "bfloat16" or "float16".
        attention: "einsum" runs everywhere and for every model; "cudnn" is NVIDIA's fused kernel,
            in 16 bits and for models that do not cap their scores; "xla" is the same way of
            calling it without the kernel, to compare with.

    Raises:
        CheckpointError: The folder or one of its files is absent, or holds what does not fit; or
            the attention asked for cannot run here.
    """
    folder = _find_folder(str(name_or_path))
    _check_files(folder)
    config = replace(config_from_hf(_read_hf_config(folder)), attention=attention)
    check_attention(config, dtype)
    params = read_params(folder, config, jnp.dtype(dtype))
    abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), jnp.dtype(dtype)))
    return LanguageModel(
        config=config,
        params=params,
        graphdef=nnx.split(abstract)[0],
        tokenizer=AutoTokenizer.from_pretrained(folder),
        name=str(name_or_path),
        default_template=_read_settings(folder).get("template"),
    )


def _find_folder(name: str) -> Path:
    if name in BUNDLED:
        folder = BUNDLED_MODELS / name
        remedy = "Make it: python -m icmjax.persona_world.pretrain"
        rule = "A bundled model must have been trained."
    else:
        folder = Path(name)
        remedy = f"Give a folder, a hub id such as Qwen/Qwen3-0.6B, or one of {', '.join(BUNDLED)}."
        rule = "A model is a folder, a bundled model or a model on the Hugging Face hub."
    if folder.is_dir():
        return folder
    if name not in BUNDLED and HUB_ID.fullmatch(name):
        return _download(name)
    raise CheckpointError(Fault(rule, "no such folder", str(folder), remedy))


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            Fault(
                rule="A name that is no folder must be a model on the Hugging Face hub.",
                found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                where=hub_id,
                remedy="Check the name and the connection, or give the folder of a copy; a gated "
                "model needs a login: hf auth login",
            )
        ) from error


def _check_files(folder: Path) -> None:
    """Raise one error for every file that transformers would look for elsewhere or guess."""
    faults = []
    if not (folder / CONFIG_FILE).is_file():
        faults.append(
            Fault(
                rule="A model folder holds the model's configuration.",
                found=f"no {CONFIG_FILE}",
                where=str(folder),
                remedy="Save it again with transformers: model.save_pretrained(folder).",
            )
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        faults.append(
            Fault(
                rule="A model folder holds the model's tokenizer.",
                found=f"none of {', '.join(TOKENIZER_FILES)}",
                where=str(folder),
                remedy="Save it too with transformers: tokenizer.save_pretrained(folder).",
            )
        )
    if faults:
        raise CheckpointError(faults)


def _read_hf_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    # An unknown model_type; no JSON; fields that contradict each other.
    except (ValueError, OSError, StrictDataclassError) as error:
        raise CheckpointError(
            Fault(
                rule="The configuration must be one that transformers can read.",
                found=" ".join(str(error).split()),
                where=str(folder / CONFIG_FILE),
                remedy="Use a model of a supported family, with the config.json it came with.",
            )
        ) from error


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read what icmjax itself keeps beside a model."""
    path = folder / SETTINGS_FILE
    settings = json.loads(path.read_text()) if path.is_file() else {}
    unknown = sorted(settings.keys() - {"template"})
    if unknown:
        raise CheckpointError(
            Fault(
                rule=f"{SETTINGS_FILE} names the model's template and nothing else.",
                found=", ".join(unknown),
                where=str(path),
                remedy="Remove the other fields.",
            )
        )
    return settings
