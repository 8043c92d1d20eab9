"""LoRA adapters (Hu et al., arXiv:2106.09685) in PEFT's format, merged as weights are read."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.files import (
    ADAPTER_FILE,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    FETCH_AGAIN,
    MERGE_ADAPTER,
    check_file,
    read_object,
)

TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# What changes the computation by other means than two low-rank factors.
OTHER_MEANS = ("use_dora", "modules_to_save", "layer_replication", "trainable_token_indices")


class Delta(NamedTuple):
    """What an adapter adds to one matrix: the product of two factors, times a scale."""

    down: np.ndarray  # float32 [r, in]
    up: np.ndarray  # float32 [out, r]
    scale: float
    is_transposed: bool  # whether the matrix that it is added to is [in, out]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it is added to."""
        shape = (self.up.shape[0], self.down.shape[1])
        return shape[::-1] if self.is_transposed else shape

    def add_to(self, part: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """Return the merged matrix, float32, of a part of it by its index."""
        rows, columns = index[::-1] if self.is_transposed else index
        product = self.scale * (self.up[rows] @ self.down[:, columns])
        return part.astype(np.float32) + (product.T if self.is_transposed else product)


class Adapter(NamedTuple):
    """An adapter, and the model that it changes."""

    base: str  # a folder or a hub id
    deltas: Mapping[str, Delta]  # by the names of the base's tensors


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone, and no model."""
    return (folder / ADAPTER_FILE).exists() and not (folder / CONFIG_FILE).exists()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter whole; it is small.

    Raises:
        CheckpointError: Its files are absent or damaged, or it changes the model by other means
            than low-rank additions to matrices; all of which are reported together.
    """
    settings, where = read_object(folder / ADAPTER_FILE), str(folder / ADAPTER_FILE)
    faults = [*_setting_faults(settings, where)]
    fault = check_file(folder / ADAPTER_WEIGHTS)
    if fault is not None or faults:
        raise CheckpointError([*faults, *([] if fault is None else [fault])])
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS)
    factors: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = TENSOR.fullmatch(name)
        if match is None:
            rule = "An adapter's tensors are the two factors of what is added to a matrix."
            faults.append(Fault(rule, name, str(folder / ADAPTER_WEIGHTS), MERGE_ADAPTER))
        else:
            factors.setdefault(match["module"], {})[match["factor"]] = tensor
    for module, pair in factors.items():
        shapes = {factor: tensor.shape for factor, tensor in sorted(pair.items())}
        is_pair = len(shapes) == 2 and all(len(shape) == 2 for shape in shapes.values())
        if not is_pair or shapes["A"][0] != shapes["B"][1]:
            rule = "The two factors of an addition have one rank."
            found = f"{shapes} of {module}"
            faults.append(Fault(rule, found, str(folder / ADAPTER_WEIGHTS), FETCH_AGAIN))
    if faults:
        raise CheckpointError(faults)
    deltas = {
        f"{module}.weight": Delta(
            down=pair["A"],
            up=pair["B"],
            scale=_scale(settings, module, len(pair["A"])),
            is_transposed=bool(settings.get("fan_in_fan_out")),
        )
        for module, pair in factors.items()
    }
    return Adapter(settings["base_model_name_or_path"], deltas)


def _setting_faults(settings: Mapping[str, Any], where: str) -> Iterator[Fault]:
    if settings.get("peft_type") != "LORA":
        rule, found = "An adapter is one of LoRA.", repr(settings.get("peft_type"))
        yield Fault(rule, found, where, MERGE_ADAPTER)
    for name in OTHER_MEANS:
        if settings.get(name):
            rule = "An adapter adds low-rank products to matrices, and changes nothing else."
            yield Fault(rule, f"{name} = {settings[name]!r}", where, MERGE_ADAPTER)
    if settings.get("bias", "none") != "none":
        rule = "An adapter leaves biases as they are."
        yield Fault(rule, f"bias = {settings['bias']!r}", where, MERGE_ADAPTER)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        rule, remedy = "An adapter names the model that it changes.", "Write its folder or hub id."
        yield Fault(rule, f"base_model_name_or_path = {base!r}", where, remedy)
    for name in ("lora_alpha", "alpha_pattern"):
        alphas = settings.get(name, {})
        values = alphas.values() if isinstance(alphas, Mapping) else [alphas]
        if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values):
            yield Fault(f"{name} is a number, or numbers.", repr(alphas), where, FETCH_AGAIN)


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """α / r, or α / √r of rank-stabilised adapters (arXiv:2312.03732)."""
    patterns = settings.get("alpha_pattern") or {}
    own = [alpha for name, alpha in patterns.items() if re.search(rf"(^|\.){name}$", module)]
    alpha = own[0] if own else settings["lora_alpha"]
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        rule = "A file of weights must be a whole safetensors file."
        raise CheckpointError(Fault(rule, str(error), str(path), FETCH_AGAIN)) from error
