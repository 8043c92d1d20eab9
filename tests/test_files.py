"""Files are written whole or not at all, and never through a symbolic link."""

import os
import stat

import pytest

from icmjax.errors import InputError, RunError
from icmjax.files import write_bytes, write_text


def fault_of(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        write_text(*args, **kwargs)
    (fault,) = caught.value.faults
    assert len(str(caught.value).split("\n")) == 4
    return fault


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one\r\ntwo\u2028ünd\n")
    assert path.read_bytes() == "one\r\ntwo\u2028ünd\n".encode()
    write_bytes(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_new_files_of_the_old_one_or_private(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    path = tmp_path / "a.txt"
    write_text(path, "new")
    assert mode_of(path) == mode_of(usual)
    path.chmod(0o640)
    write_text(path, "again")
    assert mode_of(path) == 0o640
    write_text(path, "of its owner", private=True)
    assert mode_of(path) == 0o600


@pytest.mark.parametrize("is_dangling", [False, True])
def test_nothing_is_written_through_a_link(tmp_path, is_dangling):
    target, link = tmp_path / "target", tmp_path / "link"
    if not is_dangling:
        target.write_text("kept")
    link.symlink_to(target)
    fault = fault_of(link, "new")
    assert (fault.where, str(target) in fault.found) == (str(link), True)
    assert link.is_symlink()
    assert not target.exists() if is_dangling else target.read_text() == "kept"


def test_folders_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "folder" in fault_of(tmp_path, "new").found
    fault_of(tmp_path / "pipe", "new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    "name", ["nowhere/a.txt", "file/a.txt", "n" * 300, "nul\0", "half\ud800", "/proc/1/icmjax-test"]
)
def test_what_the_system_refuses_is_a_fault(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    fault_of(tmp_path / name, "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_long_name_is_written(tmp_path):
    write_text(tmp_path / ("ü" * 127), "new")
    assert (tmp_path / ("ü" * 127)).read_text() == "new"


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    assert fault_of(path, "new").found == "No space left on device"
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.txt"])


def test_halves_of_surrogate_pairs_are_named_and_nothing_is_written(tmp_path):
    assert "U+D800" in fault_of(tmp_path / "a.txt", "text \ud800").found
    assert os.listdir(tmp_path) == []


def test_the_kind_of_error_is_the_callers(tmp_path):
    with pytest.raises(RunError):
        write_bytes(tmp_path / "nowhere" / "a", b"", error=RunError)
