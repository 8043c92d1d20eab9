"""Weights in the Hugging Face format: which tensor is which parameter, reading and writing them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.config import DecoderConfig, config_to_hf
from icmjax.lm.decoder import Decoder
from icmjax.lm.files import FETCH_AGAIN, SHARD_INDEX, SINGLE_FILE, weights_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Buffers that older versions of transformers wrote; the config says the same.
IGNORED_SUFFIX = "rotary_emb.inv_freq"

# Our path → the Hugging Face name; "{layer}" stands for the index along our leading [L].
MODULES = {
    ("final_norm",): "model.norm",
    ("head",): "lm_head",
    ("layers", "attention", "query"): "model.layers.{layer}.self_attn.q_proj",
    ("layers", "attention", "key"): "model.layers.{layer}.self_attn.k_proj",
    ("layers", "attention", "value"): "model.layers.{layer}.self_attn.v_proj",
    ("layers", "attention", "out"): "model.layers.{layer}.self_attn.o_proj",
    ("layers", "attention", "query_norm"): "model.layers.{layer}.self_attn.q_norm",
    ("layers", "attention", "key_norm"): "model.layers.{layer}.self_attn.k_norm",
    ("layers", "mlp", "gate"): "model.layers.{layer}.mlp.gate_proj",
    ("layers", "mlp", "up"): "model.layers.{layer}.mlp.up_proj",
    ("layers", "mlp", "down"): "model.layers.{layer}.mlp.down_proj",
}
# "post_attention_layernorm" is the norm before the MLP where there is none after the attention.
PRE_NORM_MODULES = {
    ("layers", "attention_norm"): "model.layers.{layer}.input_layernorm",
    ("layers", "mlp_norm"): "model.layers.{layer}.post_attention_layernorm",
}
POST_NORM_MODULES = {
    ("layers", "attention_norm"): "model.layers.{layer}.input_layernorm",
    ("layers", "attention_post_norm"): "model.layers.{layer}.post_attention_layernorm",
    ("layers", "mlp_norm"): "model.layers.{layer}.pre_feedforward_layernorm",
    ("layers", "mlp_post_norm"): "model.layers.{layer}.post_feedforward_layernorm",
}
# The last part of our path → theirs, and whether the matrix is transposed.
LEAVES = {"kernel": ("weight", True), "bias": ("bias", False), "scale": ("weight", False)}


class Weight(NamedTuple):
    """One parameter, and the Hugging Face tensors that make it."""

    path: tuple[str, ...]  # in the decoder's parameters
    names: tuple[str, ...]  # the tensors; one per layer where `is_stacked`
    shape: tuple[int, ...]  # of each tensor
    is_stacked: bool
    is_transposed: bool


def weight_map(config: DecoderConfig, params: nnx.State) -> list[Weight]:
    """Return every parameter of a decoder with the tensors it is read from.

    Args:
        config: The decoder's.
        params: Its parameters, or their shapes alone.
    """
    modules = MODULES | (POST_NORM_MODULES if config.has_post_norms else PRE_NORM_MODULES)
    weights = []
    for path, parameter in _flat(params).items():
        if path == ("embedding",):
            weights.append(Weight(path, (EMBEDDING,), parameter.shape, False, False))
            continue
        suffix, is_transposed = LEAVES[path[-1]]
        name, is_stacked = f"{modules[path[:-1]]}.{suffix}", path[0] == "layers"
        shape = parameter.shape[1:] if is_stacked else parameter.shape
        weights.append(
            Weight(
                path=path,
                names=tuple(name.format(layer=i) for i in range(config.num_layers))
                if is_stacked
                else (name,),
                shape=shape[::-1] if is_transposed else shape,
                is_stacked=is_stacked,
                is_transposed=is_transposed,
            )
        )
    return weights


def read_params(folder: Path, config: DecoderConfig, dtype: jnp.dtype) -> nnx.State:
    """Read a decoder's parameters from a folder's safetensors files, one parameter at a time.

    Raises:
        CheckpointError: Files are absent or damaged; or tensors are missing, unexpected, of the
            wrong shape or of no float type, all of which are reported together.
    """
    params = _abstract_params(config)
    weights = weight_map(config, params)
    with ExitStack() as stack:
        tensors = _open(folder, stack)
        faults = _tensor_faults(tensors, weights, config)
        if not faults and config.tie_embeddings and HEAD in tensors:
            faults = _tie_faults(tensors)
        if faults:
            raise CheckpointError(faults)
        read = {weight.path: _read(tensors, weight, dtype) for weight in weights}
    nnx.replace_by_pure_dict(params, nnx.traversals.unflatten_mapping(read))
    return params


def save_hf(
    folder: Path, config: DecoderConfig, params: nnx.State, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Write a model folder that `transformers` and `load_lm` read, in the parameters' dtype.

    Raises:
        CheckpointError: Neither Llama nor Qwen3 computes what the config says.
    """
    hf_config = config_to_hf(
        config,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=str(params["embedding"][...].dtype),
    )
    folder.mkdir(parents=True, exist_ok=True)
    hf_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_params(folder, config, params)


def _write_params(folder: Path, config: DecoderConfig, params: nnx.State) -> None:
    arrays = _flat(params)
    tensors = {}
    for weight in weight_map(config, params):
        array = np.asarray(arrays[weight.path])
        for name, tensor in zip(weight.names, array if weight.is_stacked else [array], strict=True):
            tensors[name] = np.ascontiguousarray(tensor.T if weight.is_transposed else tensor)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


class Tensor(NamedTuple):
    """A tensor in an open safetensors file, not yet read."""

    name: str
    file: Any
    where: str  # the file's name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, known without reading the tensor."""
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        """The type by its safetensors name, known without reading the tensor."""
        return self.file.get_slice(self.name).get_dtype()

    def read(self) -> np.ndarray:
        """Read the tensor onto the host."""
        return self.file.get_tensor(self.name)


def _open(folder: Path, stack: ExitStack) -> dict[str, Tensor]:
    paths, index = weights_files(folder)
    tensors: dict[str, Tensor] = {}
    faults = []
    for path in paths:
        try:
            file = stack.enter_context(safe_open(path, "np"))
        except (SafetensorError, OSError) as error:
            rule = "A file of weights must be a whole safetensors file."
            faults.append(Fault(rule, str(error), str(path), FETCH_AGAIN))
            continue
        tensors |= {name: Tensor(name, file, path.name) for name in file.keys()}  # noqa: SIM118
    if not faults:
        rule = "A tensor must be in the file that the index names for it."
        faults = [
            Fault(rule, f"none in {name}", f"{folder / SHARD_INDEX}: {tensor}", FETCH_AGAIN)
            for tensor, name in sorted(index.items())
            if tensor not in tensors or tensors[tensor].where != name
        ]
    if faults:
        raise CheckpointError(faults)
    return tensors


def _tensor_faults(
    tensors: Mapping[str, Tensor], weights: list[Weight], config: DecoderConfig
) -> list[Fault]:
    """Return a fault for every tensor that is missing, unexpected or not what it should be."""
    expected = {name: weight.shape for weight in weights for name in weight.names}
    remedy = "Use the config.json and the safetensors files of one and the same model."

    def faults() -> Iterator[Fault]:
        for name in expected.keys() - tensors.keys():
            yield Fault("Every parameter must have its tensor.", "none", name, remedy)
        for name in tensors.keys() - expected.keys():
            is_tied_head = config.tie_embeddings and name == HEAD
            if not is_tied_head and not name.endswith(IGNORED_SUFFIX):
                rule = "Every tensor must belong to a parameter that the config asks for."
                found = f"a tensor of shape {tensors[name].shape} that no parameter reads"
                yield Fault(rule, found, f"{tensors[name].where}: {name}", remedy)
        for name in expected.keys() & tensors.keys():
            tensor = tensors[name]
            where = f"{tensor.where}: {name}"
            if tensor.shape != expected[name]:
                rule = f"The tensor must have the shape {expected[name]} that the config asks for."
                yield Fault(rule, str(tensor.shape), where, remedy)
            if tensor.dtype not in FLOAT_DTYPES:
                rule = f"A weight must be stored as one of {', '.join(FLOAT_DTYPES)}."
                yield Fault(rule, tensor.dtype, where, "Use a model that is not quantised.")

    return sorted(faults(), key=lambda fault: fault.where)


def _tie_faults(tensors: Mapping[str, Tensor]) -> list[Fault]:
    if np.array_equal(tensors[HEAD].read(), tensors[EMBEDDING].read()):
        return []
    return [
        Fault(
            rule="With tied embeddings the output head is the embedding.",
            found="a head of its own that differs from the embedding",
            where=f"{tensors[HEAD].where}: {HEAD}",
            remedy="Set tie_word_embeddings to false in config.json if the head is meant.",
        )
    ]


def _read(tensors: Mapping[str, Tensor], weight: Weight, dtype: jnp.dtype) -> jax.Array:
    def one(name: str) -> np.ndarray:
        tensor = tensors[name].read().astype(dtype)
        return tensor.T if weight.is_transposed else tensor

    if not weight.is_stacked:
        return jnp.asarray(one(weight.names[0]))
    return jnp.asarray(np.stack([one(name) for name in weight.names]))


def _abstract_params(config: DecoderConfig) -> nnx.State:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[1]


def _flat(params: nnx.State) -> dict[tuple[str, ...], Any]:
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
