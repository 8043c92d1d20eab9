"""Which tensors are which parameter of the decoder, and writing them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.config import DecoderConfig
from icmjax.lm.decoder import Decoder
from icmjax.lm.files import SINGLE_FILE
from icmjax.lm.hf_config import config_to_hf
from icmjax.lm.layouts import LLAMA, Layout, Share
from icmjax.lm.quantized import Quantized
from icmjax.lm.sharding import without_mesh
from icmjax.lm.tensors import Index, Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    repeats: int = 1  # of each key-value head, where devices outnumber them
    head_dim: int = 0

    def read(self, tensor: Tensor, index: Index, num_heads: int) -> np.ndarray:
        """Return a part of this parameter, of one tensor, as the decoder has it.

        Args:
            tensor: One of `names`.
            index: Which part, by the axes `[in, out]`, `[out]` or, of embeddings, `[V, D]`.
            num_heads: Of the model.
        """
        if self.repeats > 1:
            num_rows = self.sizes[self.share.names[self.share.place]] if self.share else None
            every = slice(0, num_rows or tensor.shape[0 if self.is_transposed else -1])
            once = self._replace(repeats=1).read(tensor, (*index[:-1], every), num_heads)
            heads = once.reshape(*once.shape[:-1], -1, self.head_dim)
            repeated = np.repeat(heads, self.repeats, axis=-2).reshape(*once.shape[:-1], -1)
            return repeated[..., index[-1]]
        if self.share is None:
            return self._read(tensor, index)
        if not self.share.is_by_head:
            start = self.share.where(self.sizes).start
            own = slice(start + index[-1].start, start + index[-1].stop)
            return self._read(tensor, (*index[:-1], own))
        num_rows = sum(self.sizes.values())
        whole = self._read(tensor, (*index[:-1], slice(0, num_rows)))
        blocks = whole.reshape(*whole.shape[:-1], num_heads, len(self.share.names), -1)
        rows = blocks[..., self.share.place, :].reshape(*whole.shape[:-1], -1)
        return rows[..., index[-1]]

    def _read(self, tensor: Tensor, index: Index) -> np.ndarray:
        return tensor.read(index[::-1]).T if self.is_transposed else tensor.read(index)


def weight_map(
    config: DecoderConfig, params: nnx.State, layout: Layout = LLAMA, repeats: int = 1
) -> list[Weight]:
    """Return every parameter of a decoder with the tensors it is read from.

    Args:
        config: Of the decoder as its files have it.
        params: Its parameters, or their shapes alone.
        layout: Of the tensors.
        repeats: How often each key-value head is to stand in the parameters.
    """
    flat = _flat(params)
    weights = [_weight(path, flat, config, layout) for path in flat]
    return [_repeated(weight, repeats, config.head_dim) for weight in weights]


def _repeated(weight: Weight, repeats: int, head_dim: int) -> Weight:
    if repeats == 1 or not set(weight.path[-2:-1]) & {"key", "value", "key_norm"}:
        return weight
    if weight.path[-2] == "key_norm" and weight.names.ndim == 2:  # a scale for each head
        return weight._replace(names=np.repeat(weight.names, repeats, axis=1))
    is_flat = weight.path[-2] != "key_norm" or weight.shape[0] != head_dim
    return weight._replace(repeats=repeats, head_dim=head_dim) if is_flat else weight


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


def save_hf(
    folder: Path, config: DecoderConfig, params: nnx.State, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Write a model folder that `transformers` and `load_lm` read, in the parameters' dtype.

    Raises:
        CheckpointError: Neither Llama nor Qwen3 computes what the config says, or kernels are kept
            in few bits.
    """
    if any(isinstance(each, Quantized) for each in _flat(params).values()):
        rule = "A model is written with the weights that it was read with."
        remedy = "Load it without quantize."
        raise CheckpointError(Fault(rule, "kernels of few bits", str(folder), remedy))
    config, params = without_mesh(config, params)
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


def abstract_params(config: DecoderConfig) -> nnx.State:
    """Return the shapes of a decoder's parameters."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[1]


def _flat(params: nnx.State) -> dict[tuple[str, ...], Any]:
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
