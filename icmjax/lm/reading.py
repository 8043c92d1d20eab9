"""Parameters onto devices, each device its own part, one piece at a time."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding

from icmjax.errors import CheckpointError, Fault
from icmjax.lm import quantized
from icmjax.lm.adapters import Delta
from icmjax.lm.config import DecoderConfig
from icmjax.lm.layouts import LLAMA, Layout
from icmjax.lm.quantized import GROUP, Quantization, Quantized, is_quantized
from icmjax.lm.tensors import FLOAT_DTYPES, Index, Tensor, delta_faults, open_tensors
from icmjax.lm.weights import Weight, abstract_params, weight_map

# Larger parameters are written piece by piece into what the device holds, so that the host never
# has more of them than a piece.
PIECE_BYTES = 1 << 26

# A parameter's path and shape → where it lies.
ShardingFn = Callable[[tuple[str, ...], tuple[int, ...]], Sharding]


def read_params(
    folder: Path,
    config: DecoderConfig,
    dtype: jnp.dtype,
    layout: Layout = LLAMA,
    deltas: Mapping[str, Delta] = MappingProxyType({}),
    sharding_fn: ShardingFn | None = None,
    spread: DecoderConfig | None = None,
    on_read: Callable[[int, int], None] | None = None,
    quantize: Quantization | None = None,
) -> nnx.State:
    """Read a decoder's parameters from a folder's safetensors files.

    Each device of this process gets its own part; what of the files no device here needs is not
    read.

    Args:
        folder: Of the model.
        config: Of the decoder as its files have it.
        dtype: Of the parameters.
        layout: Of the tensors.
        deltas: What an adapter adds to tensors, by their names.
        sharding_fn: Where parameters lie; None for the default device, uncommitted, so that they
            may go on to others.
        spread: The decoder's own configuration, where key-value heads are repeated.
        on_read: Is told, before the first piece and after each parameter, how many bytes lie on
            the devices of this process and how many will.
        quantize: In how few bits kernels of layers are kept, see `icmjax.lm.quantized`.

    Raises:
        CheckpointError: Files are absent or damaged; or tensors are missing, unexpected, of the
            wrong shape or of no float type, or an adapter's do not fit them, all of which are
            reported together.
    """
    params = abstract_params(config if spread is None else spread)
    repeats = 1 if spread is None else spread.kv_repeats
    weights = weight_map(config, abstract_params(config), layout, repeats)
    with ExitStack() as stack:
        tensors = {layout.rename(name): each for name, each in open_tensors(folder, stack).items()}
        deltas = {layout.rename(name): each for name, each in deltas.items()}
        faults = _tensor_faults(tensors, weights, config, layout) + delta_faults(tensors, deltas)
        if not faults and config.tie_embeddings and layout.head in tensors:
            faults = _tie_faults(tensors, layout)
        if faults:
            raise CheckpointError(faults)
        tensors |= {name: tensors[name]._replace(delta=delta) for name, delta in deltas.items()}
        readers = [
            Reader(
                weight,
                tensors,
                config.num_heads,
                shape,
                dtype,
                sharding_fn(weight.path, shape) if sharding_fn else None,
                quantize if is_quantized(weight.path) else None,
            )
            for weight, shape in zip(weights, _shapes(params), strict=True)
        ]
        if faults := _group_faults(readers):
            raise CheckpointError(faults)
        total, read = sum(reader.num_bytes for reader in readers), 0
        arrays: dict[tuple[str, ...], jax.Array | Quantized] = {}
        for reader in readers:
            if on_read is not None:
                on_read(read, total)
            arrays[reader.weight.path] = reader.read()
            read += reader.num_bytes
        if on_read is not None:
            on_read(read, total)
    nnx.replace_by_pure_dict(params, nnx.traversals.unflatten_mapping(arrays))
    return params


def _shapes(params: nnx.State) -> list[tuple[int, ...]]:
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
    return [parameter.shape for parameter in flat.values()]


class Reader(NamedTuple):
    """One parameter, and how it comes onto devices."""

    weight: Weight
    tensors: Mapping[str, Tensor]
    num_heads: int
    shape: tuple[int, ...]  # of the whole parameter, with [L] and experts
    dtype: jnp.dtype
    sharding: Sharding | None
    quantize: Quantization | None = None

    @property
    def num_bytes(self) -> int:
        """On the devices of this process, together."""
        places = 1 if self.sharding is None else len(self.sharding.addressable_devices)
        size = math.prod(self.shard_shape)
        if self.quantize is None:
            return places * size * self.dtype.itemsize
        device = next(iter(self.sharding.device_set)) if self.sharding else None
        bits = quantized.kept_bits(self.quantize, device)
        return places * (size * bits // 8 + size // GROUP * self.dtype.itemsize)

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Of what one device holds."""
        return self.shape if self.sharding is None else self.sharding.shard_shape(self.shape)

    def read(self) -> jax.Array | Quantized:
        """Return the parameter, each device's part read once."""
        sharding = self.sharding
        if sharding is None:
            return self._read_part(_whole_slices(None, self.shape), None)
        parts: dict[tuple[tuple[int, int], ...], jax.Array | Quantized] = {}
        arrays = []
        indices = sharding.addressable_devices_indices_map(self.shape)
        for device, index in indices.items():
            own = _whole_slices(index, self.shape)
            key = tuple((each.start, each.stop) for each in own)
            if key not in parts:
                parts[key] = self._read_part(own, device)
            arrays.append(jax.device_put(parts[key], device))

        def assemble(*arrays: jax.Array) -> jax.Array:
            ratio = [n // m for n, m in zip(self.shape, self.shard_shape, strict=True)]
            shape = tuple(n * m for n, m in zip(arrays[0].shape, ratio, strict=True))
            return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays))

        return jax.tree.map(assemble, *arrays)

    def _read_part(self, index: Index, device: jax.Device | None) -> jax.Array | Quantized:
        shape = tuple(each.stop - each.start for each in index)
        if self.quantize is not None:
            return self._read_quantized(self.quantize, index, shape, device)
        if math.prod(shape) * self.dtype.itemsize <= PIECE_BYTES:
            part = np.empty(shape, self.dtype)
            for place, piece in self._pieces(index, self.dtype):
                part[place] = piece
            return jax.device_put(part, device)
        buffer = jnp.zeros(shape, self.dtype, device=device)
        for place, piece in self._pieces(index, self.dtype):
            buffer = _write(buffer, piece, _starts(place)).block_until_ready()
        return buffer

    def _read_quantized(
        self,
        kind: Quantization,
        index: Index,
        shape: tuple[int, ...],
        device: jax.Device | None,
    ) -> Quantized:
        *outer, num_in, num_out = shape
        values = jnp.zeros(shape, jnp.dtype(kind), device=device)
        steps = jnp.zeros((*outer, num_in // GROUP, num_out), self.dtype, device=device)
        for place, piece in self._pieces(index, jnp.dtype(jnp.float32)):
            found = quantized.quantize(piece, kind, self.dtype)
            *where, rows, columns = _starts(place)
            values = _write(values, found.values, (*where, rows, columns))
            steps = _write(steps, found.steps, (*where, rows // GROUP, columns))
            steps.block_until_ready()
        return Quantized(values, steps)

    def _pieces(
        self, index: Index, dtype: jnp.dtype
    ) -> Iterator[tuple[tuple[int | slice, ...], np.ndarray]]:
        """Parts of a part: where each stands in it, and its values in the dtype."""
        num_stacked = self.weight.names.ndim
        stacked, own = index[:num_stacked], index[num_stacked:]
        for place in np.ndindex(*(each.stop - each.start for each in stacked)):
            at = tuple(each.start + offset for each, offset in zip(stacked, place, strict=True))
            tensor = self.tensors[str(self.weight.names[at])]
            for block in self._blocks(own):
                piece = self.weight.read(tensor, block, self.num_heads).astype(dtype)
                within = tuple(
                    slice(each.start - first.start, each.stop - first.start)
                    for each, first in zip(block, own, strict=True)
                )
                yield (*place, *within), piece

    def _blocks(self, index: Index) -> Iterator[Index]:
        """Parts of at most about `PIECE_BYTES`, along the axis that is outermost in the file."""
        axis = len(index) - 1 if self.weight.is_transposed else 0
        span = index[axis]
        row = math.prod(each.stop - each.start for each in index) // (span.stop - span.start)
        step = max(1, PIECE_BYTES // (row * self.dtype.itemsize))
        if self.quantize is not None and axis == 0:
            step = -(-step // GROUP) * GROUP  # inputs that share a step come together
        for start in range(span.start, span.stop, step):
            block = slice(start, min(start + step, span.stop))
            yield (*index[:axis], block, *index[axis + 1 :])


def _starts(place: tuple[int | slice, ...]) -> list[int]:
    return [each if isinstance(each, int) else each.start for each in place]


def _write(buffer: jax.Array, piece: np.ndarray | jax.Array, starts: Sequence[int]) -> jax.Array:
    """Write a piece into a buffer in place; it may have fewer axes, the last ones."""
    block = piece.reshape((1,) * (buffer.ndim - piece.ndim) + piece.shape)
    return _update(buffer, block, np.asarray(starts, np.int32))


@partial(jax.jit, donate_argnums=0)
def _update(buffer: jax.Array, block: jax.Array, starts: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, block, list(starts))


def _whole_slices(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Index:
    """The same with every start and stop said."""
    given = index or ()
    every = (*given, *(slice(None),) * (len(shape) - len(given)))
    return tuple(slice(*each.indices(size)[:2]) for each, size in zip(every, shape, strict=True))


def _group_faults(readers: list[Reader]) -> list[Fault]:
    """Return a fault for every kernel whose part on a device has no whole groups of inputs."""
    rule = f"Inputs of kernels in few bits come in groups of {GROUP}, on each device."
    return [
        Fault(
            rule,
            f"{reader.shard_shape[-2]}",
            ".".join(reader.weight.path),
            "Leave `quantize` out."
            if reader.shape[-2] % GROUP
            else "Let fewer devices share the weights, or leave `quantize` out.",
        )
        for reader in readers
        if reader.quantize is not None and reader.shard_shape[-2] % GROUP
    ]


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


def _tie_faults(tensors: Mapping[str, Tensor], layout: Layout) -> list[Fault]:
    head, embedding = tensors[layout.head], tensors[layout.embedding]
    if head.shape == embedding.shape and _are_equal(head, embedding):
        return []
    return [
        Fault(
            rule="With tied embeddings the output head is the embedding.",
            found="a head of its own that differs from the embedding",
            where=f"{head.where}: {head.name}",
            remedy="Set tie_word_embeddings to false in config.json if the head is meant.",
        )
    ]


def _are_equal(first: Tensor, second: Tensor) -> bool:
    """Whether two matrices are equal, compared block by block."""
    num_rows, width = first.shape
    step = max(1, PIECE_BYTES // (4 * width))
    blocks = (
        (slice(start, min(start + step, num_rows)), slice(0, width))
        for start in range(0, num_rows, step)
    )
    return all(np.array_equal(first.read(block), second.read(block)) for block in blocks)
