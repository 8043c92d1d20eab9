"""Weights in the Hugging Face format: which tensor is which parameter, reading and writing them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.adapters import Delta
from icmjax.lm.config import DecoderConfig
from icmjax.lm.decoder import Decoder
from icmjax.lm.files import FETCH_AGAIN, SHARD_INDEX, SINGLE_FILE, weights_files
from icmjax.lm.hf_config import config_to_hf
from icmjax.lm.layouts import LLAMA, Layout, Share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
# The last part of our path → theirs, and whether the matrix is transposed.
LEAVES = {"kernel": ("weight", True), "bias": ("bias", False), "scale": ("weight", False)}


class Weight(NamedTuple):
    """One parameter, and the Hugging Face tensors that make it."""

    path: tuple[str, ...]  # in the decoder's parameters
    names: np.ndarray  # of str, the tensors: [], [L], or [L, P] of experts or heads
    shape: tuple[int, ...]  # of each tensor
    is_transposed: bool
    share: Share | None  # of each tensor, where it is fused; None for the whole
    sizes: dict[str, int]  # rows of everything in a fused tensor, by name

    def take(self, tensor: np.ndarray, num_heads: int) -> np.ndarray:
        """What of a whole tensor is this parameter's, `[in, out]` or `[out]`."""
        if self.is_transposed:
            tensor = tensor.T
        if self.share is None:
            return tensor
        if not self.share.is_by_head:
            return tensor[..., self.share.where(self.sizes)]
        blocks = tensor.reshape(*tensor.shape[:-1], num_heads, len(self.share.names), -1)
        return blocks[..., self.share.index, :].reshape(*tensor.shape[:-1], -1)


def weight_map(config: DecoderConfig, params: nnx.State, layout: Layout = LLAMA) -> list[Weight]:
    """Return every parameter of a decoder with the tensors it is read from.

    Args:
        config: The decoder's.
        params: Its parameters, or their shapes alone.
        layout: Of the tensors.
    """
    flat = _flat(params)
    return [_weight(path, flat, config, layout) for path in flat]


def _weight(
    path: tuple[str, ...],
    flat: Mapping[tuple[str, ...], Any],
    config: DecoderConfig,
    layout: Layout,
) -> Weight:
    shape = flat[path].shape
    whole = {("embedding",): layout.embedding, ("positions",): layout.positions}
    if path in whole:
        return Weight(path, np.asarray(whole[path]), shape, False, None, {})
    module, (suffix, is_matrix) = path[:-1], LEAVES[path[-1]]
    name, num_axes = f"{layout.modules[module]}.{suffix}", 0
    names = np.asarray(name)
    if path[0] == "layers":
        names, num_axes = (
            np.asarray([name.format(layer=i, part="{part}") for i in range(config.num_layers)]),
            1,
        )
    if "{part}" in name:
        parts = range(shape[1])
        names = np.asarray([[one.format(part=i) for i in parts] for one in names])
        num_axes = 2
    own, share, sizes = shape[num_axes:], layout.shares.get(module), {}
    if share is not None:
        siblings = {each: (*module[:-1], each, path[-1]) for each in share.names}
        sizes = {each: flat[sibling].shape[-1] for each, sibling in siblings.items()}
        own = (*own[:-1], sum(sizes.values()))
    # An output head is torch's Linear in every family.
    is_transposed = is_matrix and (layout.is_transposed or module == ("head",))
    return Weight(path, names, own[::-1] if is_transposed else own, is_transposed, share, sizes)


def read_params(
    folder: Path,
    config: DecoderConfig,
    dtype: jnp.dtype,
    layout: Layout = LLAMA,
    deltas: Mapping[str, Delta] = MappingProxyType({}),
) -> nnx.State:
    """Read a decoder's parameters from a folder's safetensors files, one parameter at a time.

    Args:
        folder: Of the model.
        config: The decoder's.
        dtype: Of the parameters.
        layout: Of the tensors.
        deltas: What an adapter adds to tensors, by their names.

    Raises:
        CheckpointError: Files are absent or damaged; or tensors are missing, unexpected, of the
            wrong shape or of no float type, or an adapter's do not fit them, all of which are
            reported together.
    """
    params = _abstract_params(config)
    weights = weight_map(config, params, layout)
    with ExitStack() as stack:
        tensors = {layout.rename(name): each for name, each in _open(folder, stack).items()}
        deltas = {layout.rename(name): each for name, each in deltas.items()}
        faults = _tensor_faults(tensors, weights, config, layout) + _delta_faults(tensors, deltas)
        if not faults and config.tie_embeddings and layout.head in tensors:
            faults = _tie_faults(tensors, layout)
        if faults:
            raise CheckpointError(faults)
        tensors |= {name: tensors[name]._replace(delta=delta) for name, delta in deltas.items()}
        read = {weight.path: _read(tensors, weight, config, dtype) for weight in weights}
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
        for place, name in np.ndenumerate(weight.names):
            tensor = array[place]
            tensors[str(name)] = np.ascontiguousarray(tensor.T if weight.is_transposed else tensor)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


class Tensor(NamedTuple):
    """A tensor in an open safetensors file, not yet read."""

    name: str
    file: Any
    where: str  # the file's name
    delta: Delta | None = None  # of an adapter

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, known without reading the tensor."""
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        """The type by its safetensors name, known without reading the tensor."""
        return self.file.get_slice(self.name).get_dtype()

    def read(self) -> np.ndarray:
        """Read the tensor onto the host, with what an adapter adds."""
        tensor = self.file.get_tensor(self.name)
        return tensor if self.delta is None else self.delta.add_to(tensor)


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
    tensors: Mapping[str, Tensor], weights: list[Weight], config: DecoderConfig, layout: Layout
) -> list[Fault]:
    """Return a fault for every tensor that is missing, unexpected or not what it should be."""
    expected = {str(name): weight.shape for weight in weights for name in weight.names.flat}
    remedy = "Use the config.json and the safetensors files of one and the same model."

    def faults() -> Iterator[Fault]:
        for name in expected.keys() - tensors.keys():
            yield Fault("Every parameter must have its tensor.", "none", name, remedy)
        for name in tensors.keys() - expected.keys():
            is_tied_head = config.tie_embeddings and name == layout.head
            if not is_tied_head and not re.search(layout.ignored, name):
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


def _delta_faults(tensors: Mapping[str, Tensor], deltas: Mapping[str, Delta]) -> list[Fault]:
    """Return a fault for every addition of an adapter that fits no tensor."""
    rule, remedy = "What an adapter adds fits a tensor.", "Use the base model that it was made for."
    faults = []
    for name, delta in sorted(deltas.items()):
        found = f"none of shape {delta.shape}"
        if name in tensors:
            found = f"{tensors[name].shape} for {delta.shape}"
        if name not in tensors or tensors[name].shape != delta.shape:
            faults.append(Fault(rule, found, name, remedy))
    return faults


def _tie_faults(tensors: Mapping[str, Tensor], layout: Layout) -> list[Fault]:
    head = tensors[layout.head]
    if np.array_equal(head.read(), tensors[layout.embedding].read()):
        return []
    return [
        Fault(
            rule="With tied embeddings the output head is the embedding.",
            found="a head of its own that differs from the embedding",
            where=f"{head.where}: {head.name}",
            remedy="Set tie_word_embeddings to false in config.json if the head is meant.",
        )
    ]


def _read(
    tensors: Mapping[str, Tensor], weight: Weight, config: DecoderConfig, dtype: jnp.dtype
) -> jax.Array:
    def one(name: str) -> np.ndarray:
        return weight.take(tensors[name].read(), config.num_heads).astype(dtype)

    if not weight.names.ndim:
        return jnp.asarray(one(str(weight.names)))
    read = np.stack([one(name) for name in weight.names.flat])
    return jnp.asarray(read.reshape(*weight.names.shape, *read.shape[1:]))


def _abstract_params(config: DecoderConfig) -> nnx.State:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[1]


def _flat(params: nnx.State) -> dict[tuple[str, ...], Any]:
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
