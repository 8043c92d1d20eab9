"""The files of a run: written whole or not at all, by one process at a time."""

import contextlib
import errno
import fcntl
import io
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from icmjax.errors import Fault, RunError

LOCK = ".lock"


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it when the process dies, however it does."""
    with contextlib.ExitStack() as stack:
        with writing(folder):
            file = stack.enter_context(open(folder / LOCK, "a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunError(_not_writable(folder, error)) from error
            raise RunError(_in_use(folder, file)) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _in_use(folder: pathlib.Path, file: IO[str]) -> Fault:
    file.seek(0)
    return Fault(
        rule="One process at a time writes a run.",
        found=f"process {file.read().strip() or '(unknown)'} is writing it",
        where=str(folder),
        remedy="wait until it ends, or name another folder",
    )


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn what the system refuses inside into a `RunError` about this path."""
    try:
        yield
    except OSError as error:
        raise RunError(_not_writable(path, error)) from error


def _not_writable(path: pathlib.Path, error: OSError) -> Fault:
    return Fault(
        rule="The run folder can be written to.",
        found=error.strerror or str(error),
        where=str(path),
        remedy="name a folder on a disk with room that you may write to",
    )


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file whole or not at all, also when the machine goes down."""
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, as `write_bytes` does."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as `.npz`, as `write_bytes` does."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    write_bytes(path, buffer.getvalue())


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
