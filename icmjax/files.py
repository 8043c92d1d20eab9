"""Files written whole or not at all, and never through a symbolic link."""

import contextlib
import errno
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator

from icmjax.errors import Fault, InputError


def write_text(
    path: str | pathlib.Path,
    text: str,
    private: bool = False,
    error: type[InputError] = InputError,
) -> None:
    """Write text as UTF-8, line ends as they are, as `write_bytes` does.

    Raises:
      InputError: of the kind `error`; also where UTF-8 has no bytes for the text.
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as fault:
        found = f"U+{ord(text[fault.start]):04X}, half of a surrogate pair"
        remedy = "replace the character"
        raise error(Fault("A file is UTF-8 text.", found, str(path), remedy)) from None
    write_bytes(path, content, private, error)


def write_bytes(
    path: str | pathlib.Path,
    content: bytes,
    private: bool = False,
    error: type[InputError] = InputError,
) -> None:
    """Write a file whole or not at all, also when the machine goes down.

    A file that is there keeps its permissions, unless the new one is to be private.

    Args:
      path: the file, in a folder that exists.
      content: all of it.
      private: whether its owner alone may read it (mode 0600).
      error: the kind of error to raise.

    Raises:
      InputError: of the kind `error`; the path is a symbolic link or no plain file, or the system
        does not let it be written.
    """
    path = pathlib.Path(path)
    with _refused_as(error, path):
        mode = _mode_of(path, error)
        with _written_apart(path, content, mode, private) as temporary:
            os.replace(temporary, path)


def create_bytes(
    path: str | pathlib.Path, content: bytes, error: type[InputError] = InputError
) -> bool:
    """Write a file whole or not at all where nothing is; what comes there meanwhile stays.

    Args:
      path: the file, in a folder that exists.
      content: all of it.
      error: the kind of error to raise.

    Returns:
      whether it was written: not where something is there.

    Raises:
      InputError: of the kind `error`; the system does not let it be written.
    """
    path = pathlib.Path(path)
    with _refused_as(error, path), _written_apart(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as fault:
            if fault.errno not in _NO_LINKS:
                raise
            return _take_name(path, temporary)
    return True


# Of file systems that know no hard links, such as buckets that are mounted.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


def _take_name(path: pathlib.Path, temporary: pathlib.Path) -> bool:
    """Move a file to a name that an empty file takes first."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    except FileExistsError:
        return False
    os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _refused_as(error: type[InputError], path: pathlib.Path) -> Iterator[None]:
    """What the system refuses inside, as an error of a kind about this path."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as fault:  # ValueError: a path that no system takes
        found = getattr(fault, "strerror", None) or str(fault)
        remedy = "name a file in a folder, on a disk with room, that you may write to"
        raise error(Fault("The file can be written.", found, str(path), remedy)) from fault


@contextlib.contextmanager
def _written_apart(
    path: pathlib.Path, content: bytes, mode: int | None = None, private: bool = False
) -> Iterator[pathlib.Path]:
    """A file of the content beside the path, on the disk; gone afterwards if it was not moved."""
    # A name of its own: two writers of one file do not mix, and a long name has room.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600 if private else 0o666)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None and not private:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _mode_of(path: pathlib.Path, error: type[InputError]) -> int | None:
    """The permissions of the plain file that is there; None where there is none."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    # A link may lead to a file that somebody else chose; a device or a pipe would be replaced.
    kinds = {stat.S_IFLNK: f"a symbolic link to {os.path.realpath(path)}", stat.S_IFDIR: "a folder"}
    found = kinds.get(stat.S_IFMT(mode), "neither a file nor a folder")
    remedy = "name another file, or take away what is there"
    raise error(Fault("What is written over is a plain file.", found, str(path), remedy))
