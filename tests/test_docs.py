"""The pages as a site, the package as a wheel, and what both promise."""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import zipfile

import nbclient
import nbformat
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()
PUBLIC = re.findall(
    r"^from \.\w+ import (\w+) as", (ROOT / "icmjax/__init__.pyi").read_text(), re.M
)


def test_the_library_s_page_has_every_public_name():
    shown = re.findall(r"^::: icmjax\.(\w+)$", API, re.MULTILINE)
    assert sorted(shown) == sorted(set(PUBLIC) - {"__version__"})


def test_every_page_is_in_the_site_s_contents():
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    contents = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in sorted(pages) if page not in contents] == []


def test_a_file_that_a_page_links_to_is_on_the_site():
    """The quick half of the test below."""
    site = runpy.run_path(str(ROOT / "docs" / "site.py"))
    found = (path for pattern in site["PATTERNS"] for path in ROOT.glob(pattern))
    copied = {path for path in found if path.is_file()}
    pages = sorted(path for path in copied if path.suffix == ".md")
    links = {
        (page, target)
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    }
    assert len(links) > 100
    missing = [
        (page.name, target)
        for page, target in sorted(links)
        if (page.parent / target).resolve() not in copied
    ]
    assert missing == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Links and anchors between pages, names of the library and of commands are looked up."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "run_search" in (tmp_path / "docs" / "api" / "index.html").read_text()
    assert "--leave" in (tmp_path / "docs" / "commands" / "index.html").read_text()
    home = (tmp_path / "index.html").read_text()
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:css|js|woff2?))"', home)
    assert fetched == []


def test_a_release_is_tested_before_it_is_published():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert any(".ci/run" in step.get("run", "") for step in jobs["build"]["steps"])
    assert jobs["publish"]["needs"] == "build"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it is installed, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.slow
def test_a_wheel_has_all_that_the_package_reads(wheel):
    suffixes = {".html", ".css", ".js", ".jinja", ".json", ".safetensors", ".pyi"}
    kept = {
        path.relative_to(ROOT) for path in (ROOT / "icmjax").rglob("*") if path.suffix in suffixes
    }
    assert len(kept) > 5
    assert [path for path in sorted(kept) if not (wheel / path).is_file()] == []


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel(wheel, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "icmjax", "demo", "--out", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(wheel)},
    )
    assert done.returncode == 0, done.stderr
    assert "icmjax search --model persona-world" in done.stderr
    assert "search labels" in done.stdout
    assert (tmp_path / "demo" / "evaluation.json").is_file()


def test_the_index_is_told_who_it_is_for():
    metadata = (ROOT / "setup.cfg").read_text()
    for word in ("author =", "project_urls", "Development Status", "Intended Audience"):
        assert word in metadata


NOTEBOOKS = sorted(path.name for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / name, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are of one machine"
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert "IProgress" not in str(notebook.cells)
