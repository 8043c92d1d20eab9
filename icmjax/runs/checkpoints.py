"""Checkpoints of a search: the last two states, and the trace of every block that led to them.

```
checkpoints/trace-000000064.npz             Info of the block of steps that ends with step 64
checkpoints/state-000000064-DIGEST.npz      the state after step 64, and the digests of its blocks
```

A state's name holds the digest of its bytes, and its bytes hold those of its blocks and of the
search's configuration: so that one rename makes a checkpoint, and no file that was damaged, taken
away or brought from elsewhere is believed. What is broken sends the search one checkpoint back.

Checkpoints are `.npz` files and not orbax ones. A state is some kilobytes and a block may take no
more than a tenth of a second: at N = 256 a save took 2 ms, and 45 ms through
`orbax.checkpoint.CheckpointManager` (idle CPU, local disk; the factor of 20 held under load), whose
strength, sharded and asynchronous saving of large arrays, has nothing to work on here.
"""

import contextlib
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from icmjax.errors import Fault, RunError, RunWarning
from icmjax.runs.files import (
    arrays_as_bytes,
    bytes_as_arrays,
    damage,
    digest_of,
    read_file,
    read_known,
    seal_of,
    write_content,
    writing,
)
from icmjax.search import Account

STATE = re.compile(r"state-([0-9]{9,})-([0-9a-f]{32})\.npz")
BLOCK = re.compile(r"trace-([0-9]{9,})\.npz")
NUM_KEPT = 2  # states
REMEDY = "bring it back from a copy, or start the search anew in another folder"


class Block(NamedTuple):
    """The steps between two visits of the host, as a state knows them."""

    end: int  # steps taken when it ended
    num_bytes: int
    sha256: bytes

    @property
    def name(self) -> str:
        """Of its file."""
        return f"trace-{self.end:09d}.npz"


class Checkpoints:
    """The folder of a run's checkpoints."""

    def __init__(self, folder: pathlib.Path, configuration: Mapping[str, Any]) -> None:
        self.folder = folder
        self._configuration = np.frombuffer(bytes.fromhex(seal_of(configuration)), np.uint8)
        self._blocks: tuple[Block, ...] = ()  # that led to the last state
        self._kept: tuple[str, ...] = ()  # states, the last one last

    @property
    def is_empty(self) -> bool:
        """Whether no state is kept, so that a search starts from its beginning."""
        return not self._states()

    def save(self, state: Any, info: Any, num_steps: int, account: Account) -> None:
        """Keep the state after `num_steps` steps, and the Info of the block that led to it."""
        blocks = self._blocks
        if len(info[0]):
            content = arrays_as_bytes(info._asdict())
            known = digest_of(content)
            block = Block(num_steps, known["bytes"], bytes.fromhex(known["sha256"]))
            if not blocks:
                self._remove(BLOCK, ())  # of a start that was cut off before its first state
            write_content(self.folder / block.name, content)
            blocks = (*blocks, block)
        arrays = {
            jax.tree_util.keystr(path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        arrays |= {name: np.asarray(value) for name, value in account._asdict().items()}
        arrays |= {
            "num_steps": np.asarray(num_steps),
            "configuration": self._configuration,
            "block_ends": np.array([block.end for block in blocks], np.int64),
            "block_bytes": np.array([block.num_bytes for block in blocks], np.int64),
            "block_sha256": np.frombuffer(b"".join(b.sha256 for b in blocks), np.uint8),
        }
        content = arrays_as_bytes(arrays)
        name = f"state-{num_steps:09d}-{digest_of(content)['sha256'][:32]}.npz"
        # Last, for it alone says how far the search has come.
        write_content(self.folder / name, content)
        self._blocks = blocks
        self._kept = (*(kept for kept in self._kept if kept != name), name)[-NUM_KEPT:]
        self._remove(STATE, self._kept)

    def restore(
        self, like: Any, last_step: int | None = None
    ) -> tuple[Any, list[dict[str, np.ndarray]], Account] | None:
        """The last whole state in the structure of `like`, all blocks' Info; None if never saved.

        A `RunWarning` tells of later ones that are damaged.

        Args:
          like: a state.
          last_step: the state after no more than so many steps; None for the last one.

        Raises:
          RunError: no state is whole, or it does not have the structure of `like`.
        """
        states = self._states(last_step)
        if not states:
            self._blocks, self._kept = (), ()
            if last_step is None:
                self._check_never_saved()
            return None
        faults: list[Fault] = []
        for path in states:
            try:
                arrays = self._read_state(path)
                blocks = _blocks_of(arrays, path)
                infos = [self._read_block(block) for block in blocks]
                _check_lengths(blocks, infos, int(arrays["num_steps"]), path)
            except RunError as error:
                faults += error.faults
                continue
            state = _in_structure(arrays, like, path)
            self._blocks, self._kept = tuple(blocks), (path.name,)
            if faults:
                lost = "; ".join(f"{fault.where}: {fault.found}" for fault in faults)
                warnings.warn(
                    f"the last checkpoint is damaged ({lost}); the search goes on from the one "
                    f"before it, at step {int(arrays['num_steps'])}",
                    RunWarning,
                    stacklevel=2,
                )
            return state, infos, Account(int(arrays["num_tokens"]), float(arrays["seconds"]))
        raise RunError(faults)

    def _states(self, last_step: int | None = None) -> list[pathlib.Path]:
        """The states after no more than so many steps, the last one first."""
        states = sorted(self._named(STATE), reverse=True)
        return [path for end, path in states if last_step is None or end <= last_step]

    def _named(self, pattern: re.Pattern[str]) -> list[tuple[int, pathlib.Path]]:
        with writing(self.folder):
            if not self.folder.exists():
                return []
            entries = list(self.folder.iterdir())
        matches = ((pattern.fullmatch(entry.name), entry) for entry in entries)
        return [(int(match[1]), entry) for match, entry in matches if match]

    def _remove(self, pattern: re.Pattern[str], kept: tuple[str, ...]) -> None:
        """Remove what nobody will read; what cannot be removed takes room, and does no harm."""
        for _, path in self._named(pattern):
            if path.name not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _check_never_saved(self) -> None:
        """Raise where there is more than the one block that may lie there before its state does."""
        blocks = self._named(BLOCK)
        if len(blocks) > 1:
            raise damage(self.folder, f"{len(blocks)} blocks of a trace and no state", REMEDY)

    def _read_state(self, path: pathlib.Path) -> dict[str, np.ndarray]:
        content = read_file(path)
        match = STATE.fullmatch(path.name)
        assert match is not None
        if digest_of(content)["sha256"][:32] != match[2]:
            found = f"{len(content)} bytes whose digest is not the one in its name"
            raise damage(path, found, REMEDY)
        arrays = bytes_as_arrays(content, path)
        wanted = {"num_steps", "configuration", "block_ends", "block_bytes", "block_sha256"}
        if not wanted <= arrays.keys() or int(arrays["num_steps"]) != int(match[1]):
            raise damage(path, "no state of a search", REMEDY)
        if arrays["configuration"].tobytes() != self._configuration.tobytes():
            raise damage(path, "the state of another search", REMEDY)
        return arrays

    def _read_block(self, block: Block) -> dict[str, np.ndarray]:
        path = self.folder / block.name
        known = {"bytes": block.num_bytes, "sha256": block.sha256.hex()}
        return bytes_as_arrays(read_known(path, known), path)


def _blocks_of(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> list[Block]:
    ends, sizes, digests = (arrays[f"block_{name}"] for name in ("ends", "bytes", "sha256"))
    if digests.size != 32 * ends.size or sizes.size != ends.size:
        raise damage(path, "blocks without their digests", REMEDY)
    rows = zip(ends.tolist(), sizes.tolist(), digests.reshape(-1, 32), strict=True)
    return [Block(end, size, digest.tobytes()) for end, size, digest in rows]


def _check_lengths(
    blocks: list[Block], infos: list[dict[str, np.ndarray]], num_steps: int, path: pathlib.Path
) -> None:
    """Raise where the steps of the blocks are not those that the state has taken."""
    taken = 0
    for block, info in zip(blocks, infos, strict=True):
        taken += {len(field) for field in info.values()}.pop() if info else 0
        if taken != block.end:
            found = f"{taken} steps up to {block.name}, which ends with step {block.end}"
            raise damage(path, found, REMEDY)
    if taken != num_steps:
        raise damage(path, f"{taken} steps in its blocks, and {num_steps} taken", REMEDY)


def _in_structure(arrays: Mapping[str, np.ndarray], like: Any, path: pathlib.Path) -> Any:
    leaves, faults = [], []
    for key_path, expected in jax.tree_util.tree_leaves_with_path(like):
        name = jax.tree_util.keystr(key_path)
        found = arrays.get(name)
        if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
            kind = "nothing" if found is None else f"{found.dtype} {found.shape}"
            faults.append(
                Fault(
                    rule="A checkpoint holds the state of the algorithm that goes on from it.",
                    found=f"{kind} where {expected.dtype} {expected.shape} is expected",
                    where=f"{path}, array {name}",
                    remedy="resume with the version of icmjax in manifest.json, or start anew",
                )
            )
        leaves.append(found)
    if faults:
        raise RunError(faults)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
