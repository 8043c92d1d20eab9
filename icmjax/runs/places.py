"""Where that goes which users make from a run: every one has its own name, none is written over."""

import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping

from icmjax.errors import Fault, RunError
from icmjax.files import create_bytes, write_bytes
from icmjax.runs.files import numbered_names, writing

Content = bytes | Mapping[str, bytes]  # of a file, or of the files of a folder by their names


def write_new(
    path: str | os.PathLike[str], content: Content, is_chosen: bool = False
) -> tuple[pathlib.Path, bool]:
    """Write a file or a folder, whole or not at all; what is there stays as it is.

    Args:
      path: in a folder that exists.
      content: all of it.
      is_chosen: whether it has to be this path. Else it is the first of `name`, `name-2`,
        `name-3`, ... at which nothing is, or this very content.

    Returns:
      the path, and whether it was written: not where the content was there already.

    Raises:
      RunError: the path was chosen and something else is there, or it cannot be written.
    """
    for (place,) in numbered_names(path):
        if not os.path.lexists(place) and _create(place, content):
            return place, True
        if _holds(place, content):
            return place, False
        if is_chosen:
            raise RunError(
                Fault(
                    "What is there is not written over.",
                    "a folder" if place.is_dir() else "a file of other content",
                    str(place),
                    "name another path, or take away what is there",
                )
            )
    raise AssertionError("there is always another name")


def write_numbered(
    path: str | os.PathLike[str], content: bytes, *beside: str | os.PathLike[str]
) -> list[pathlib.Path]:
    """Write a file under the first number at which neither it nor those beside it are.

    Args:
      path: in a folder that exists.
      content: all of it.
      beside: paths of files that belong to it, which the caller writes.

    Returns:
      the paths with that number, the file's own first.

    Raises:
      RunError: it cannot be written.
    """
    for group in numbered_names(path, *beside):
        is_free = not any(map(os.path.lexists, group))
        if is_free and create_bytes(group[0], content, error=RunError):
            return group
    raise AssertionError("there is always another number")


def _create(path: pathlib.Path, content: Content) -> bool:
    """Write where nothing is, and say whether nothing was: another process may come first."""
    if isinstance(content, bytes):
        return create_bytes(path, content, error=RunError)
    unfinished = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.unfinished")
    with writing(path):
        unfinished.mkdir()
        try:
            for name, part in content.items():
                write_bytes(unfinished / name, part, error=RunError)
            try:
                unfinished.rename(path)  # over an empty folder at most
            except OSError as error:
                if error.errno not in _IS_THERE:
                    raise
                return False
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


_IS_THERE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def _holds(path: pathlib.Path, content: Content) -> bool:
    """Whether the file, or every file of the folder that would be written, is there as it is."""
    if not isinstance(content, bytes):
        return path.is_dir() and all(_holds(path / name, part) for name, part in content.items())
    with writing(path):
        return path.is_file() and path.read_bytes() == content
