"""What users make from a run has names of its own, also where two processes make it at once."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from icmjax.errors import InputError, RunError
from icmjax.files import create_bytes
from icmjax.runs import write_new, write_numbered


@pytest.fixture(params=["links", "no links"])
def link(request, monkeypatch):
    """File systems with hard links, and such as have none."""

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def late(monkeypatch):
    """What is there was not there when the writer looked."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)


def test_a_file_is_written_where_nothing_is(tmp_path, link):
    path = tmp_path / "a.txt"
    assert create_bytes(path, b"first")
    assert not create_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    assert not create_bytes(tmp_path / "link", b"new")
    assert not create_bytes(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "folder", "link"]
    with pytest.raises(InputError, match="can be written"):
        create_bytes(tmp_path / "nowhere" / "a.txt", b"new")


def test_of_many_writers_one_has_the_name(tmp_path, link):
    with ThreadPoolExecutor(8) as pool:
        contents = [f"writer {number}".encode() for number in range(24)]
        written = list(pool.map(lambda each: create_bytes(tmp_path / "a", each), contents))
    assert sum(written) == 1
    assert (tmp_path / "a").read_bytes() == contents[written.index(True)]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("content", [b"new", {"part": b"new"}], ids=["file", "folder"])
@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_comes_meanwhile_stays(tmp_path, late, link, content, there):
    place = tmp_path / "made"
    if there == "file":
        place.write_bytes(b"mine")
    else:
        place.mkdir()
        (place / "part").write_bytes(b"mine")
    path, is_new = write_new(place, content)
    assert (path, is_new) == (tmp_path / "made-2", True)
    assert (place if there == "file" else place / "part").read_bytes() == b"mine"
    with pytest.raises(RunError, match="not written over"):
        write_new(place, content, is_chosen=True)
    assert sorted(os.listdir(tmp_path)) == ["made", "made-2"]
    assert write_new(place, content) == (path, False)


def test_files_that_belong_together_have_one_number(tmp_path, late):
    paths = tmp_path / "e.json", tmp_path / "e.png"
    assert write_numbered(paths[0], b"1", paths[1]) == [*paths]
    second = write_numbered(paths[0], b"2", paths[1])
    assert second == [tmp_path / "e-2.json", tmp_path / "e-2.png"]
    assert (paths[0].read_bytes(), second[0].read_bytes()) == (b"1", b"2")


def test_a_number_is_passed_over_where_a_figure_has_it(tmp_path):
    (tmp_path / "e.png").write_bytes(b"")
    path, _ = write_numbered(tmp_path / "e.json", b"1", tmp_path / "e.png")
    assert path == tmp_path / "e-2.json"
