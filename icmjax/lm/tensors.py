"""Tensors of safetensors files, read in parts."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.adapters import Delta
from icmjax.lm.files import FETCH_AGAIN, SHARD_INDEX, weights_files

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
# A file is mapped anew after so many bytes: pages that were read count as memory until then.
RELEASED_BYTES = 1 << 26

Index = tuple[slice, ...]  # every one with its start and stop


class File:
    """A safetensors file; what was read of it does not stay in memory."""

    def __init__(self, path: Path):
        self.path = path
        self.num_read = 0  # bytes since it was mapped
        self.mapped: Any = safe_open(path, "np")

    def read(self, name: str, index: Index) -> np.ndarray:
        """Return a copy of a part of a tensor."""
        if self.num_read > RELEASED_BYTES:
            self.close()
            self.mapped, self.num_read = safe_open(self.path, "np"), 0
        part = self.mapped.get_slice(name)[index]
        self.num_read += part.nbytes
        return part

    def close(self) -> None:
        """Let the file go."""
        self.mapped.__exit__(None, None, None)


class Tensor(NamedTuple):
    """A tensor in an open safetensors file, not yet read."""

    name: str
    file: File
    shape: tuple[int, ...]
    dtype: str  # by its safetensors name
    delta: Delta | None = None  # of an adapter

    @property
    def where(self) -> str:
        """The file's name."""
        return self.file.path.name

    def read(self, index: Index) -> np.ndarray:
        """Read a part onto the host, with what an adapter adds."""
        part = self.file.read(self.name, index)
        return part if self.delta is None else self.delta.add_to(part, index)


def open_tensors(folder: Path, stack: ExitStack) -> dict[str, Tensor]:
    """Return a folder's tensors by their names; the stack closes the files.

    Raises:
        CheckpointError: Files are absent or damaged, or not what the index says.
    """
    paths, index = weights_files(folder)
    tensors: dict[str, Tensor] = {}
    faults = []
    for path in paths:
        try:
            file = File(path)
        except (SafetensorError, OSError) as error:
            rule = "A file of weights must be a whole safetensors file."
            faults.append(Fault(rule, str(error), str(path), FETCH_AGAIN))
            continue
        stack.callback(file.close)
        for name in file.mapped.keys():  # noqa: SIM118
            part = file.mapped.get_slice(name)
            tensors[name] = Tensor(name, file, tuple(part.get_shape()), part.get_dtype())
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


def delta_faults(tensors: Mapping[str, Tensor], deltas: Mapping[str, Delta]) -> list[Fault]:
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
