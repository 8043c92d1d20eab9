"""The files of a run: one process at a time writes them, and none is believed unverified."""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import pathlib
import platform
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from icmjax.errors import Fault, RunError
from icmjax.files import write_bytes, write_text

LOCK = ".lock"
SEAL = "sha256"  # the field of a sealed JSON file that has the digest of all its others


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it when the process dies, however it does."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # a link may lead anywhere
    with contextlib.ExitStack() as stack:
        with writing(folder):
            file = stack.enter_context(open(os.open(folder / LOCK, flags, 0o666), "r+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunError(_not_writable(folder, error)) from error
            raise RunError(_in_use(folder, file)) from None
        with writing(folder):
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


def free_name(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path, or where something is there already the first of `name-2.suffix`, `name-3.suffix`.

    What a run holds is never written over: each evaluation and each answered run has its own name.
    """
    return next(name for (name,) in numbered_names(path) if not os.path.lexists(name))


def numbered_names(*paths: str | os.PathLike[str]) -> Iterator[list[pathlib.Path]]:
    """The paths, then all with the number 2 before their suffixes, then 3, and so on."""
    first = [pathlib.Path(path) for path in paths]
    yield first
    for n in itertools.count(2):
        yield [path.with_name(f"{path.stem}-{n}{path.suffix}") for path in first]


def digest_of(content: bytes) -> dict[str, Any]:
    """What a file is known by: its length and the SHA-256 of its bytes."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def damage(path: pathlib.Path, found: str, remedy: str = "") -> RunError:
    """The error about a file of a run that is not what was written."""
    rule = "A file of a run is as it was written."
    return RunError(
        Fault(rule, found, str(path), remedy or "bring it back from a copy, or run the search anew")
    )


def read_file(path: pathlib.Path) -> bytes:
    """All bytes of a plain file.

    Raises:
      RunError: it is missing, no plain file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise damage(path, "a folder" if path.is_dir() else "no plain file")
        return path.read_bytes()
    except FileNotFoundError:
        raise damage(path, "no such file") from None
    except OSError as error:
        raise damage(path, error.strerror or str(error)) from error


def read_known(path: pathlib.Path, known: Any) -> bytes:
    """All bytes of a file whose `digest_of` is known.

    Raises:
      RunError: as `read_file`; or its length or digest is another one.
    """
    content = read_file(path)
    found = digest_of(content)
    if found == known:
        return content
    if not isinstance(known, Mapping) or found["bytes"] == known.get("bytes"):
        raise damage(path, "other content than was written, of the same length")
    raise damage(path, f"{found['bytes']} bytes, where {known.get('bytes')} were written")


def write_sealed(path: pathlib.Path, content: Mapping[str, Any], private: bool = False) -> None:
    """Write a JSON file that holds a digest of itself; atomic."""
    # ASCII, because a path on the command line need not be UTF-8.
    text = json.dumps(dict(content) | {SEAL: seal_of(content)}, indent=2) + "\n"
    write_text(path, text, private, RunError)


def read_sealed(path: pathlib.Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises:
      RunError: as `read_file`; or it is no JSON object, or not the one that was written.
    """
    content = read_file(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "no bytes" if not content else f"no JSON: {error}"
        raise damage(path, kind) from None
    if not isinstance(found, dict):
        raise damage(path, f"a JSON {type(found).__name__} instead of an object")
    if SEAL not in found:
        remedy = "use the version of icmjax that made the run, or run the search anew"
        raise damage(path, f"no field {SEAL}: cut, or of an earlier version of icmjax", remedy)
    if found.pop(SEAL) != seal_of(found):
        raise damage(path, "other values than were written")
    return found


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256, in hex digits, of what JSON makes of the content."""
    plain = json.loads(json.dumps(dict(content)))
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def arrays_as_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as `.npz`; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    return buffer.getvalue()


def bytes_as_arrays(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    """What `arrays_as_bytes` was given.

    Raises:
      RunError: the bytes, of the file at `path`, are no arrays.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    # An empty file, a cut one, pickled objects, broken members: each has an error of its own.
    except (
        EOFError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise damage(path, f"no arrays: {e}") from None


def write_content(path: pathlib.Path, content: bytes, private: bool = False) -> dict[str, Any]:
    """Write a file of a run, and return what it is known by; atomic."""
    write_bytes(path, content, private, RunError)
    return digest_of(content)
