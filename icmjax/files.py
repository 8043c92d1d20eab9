"""Files written whole or not at all, and never through a symbolic link."""

import contextlib
import os
import pathlib
import secrets
import stat

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
    try:
        _write(path, content, private, error)
    except InputError:
        raise
    except (OSError, ValueError) as fault:  # ValueError: a path that no system takes
        found = getattr(fault, "strerror", None) or str(fault)
        remedy = "name a file in a folder, on a disk with room, that you may write to"
        raise error(Fault("The file can be written.", found, str(path), remedy)) from fault


def _write(path: pathlib.Path, content: bytes, private: bool, error: type[InputError]) -> None:
    mode = _mode_of(path, error)
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
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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
