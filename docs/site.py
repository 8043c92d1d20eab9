"""Hook of MkDocs: the site has the pages where the repository has them.

Links between pages are relative, and hold on the site as they do in a checkout.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Files that pages link to are copied as they are.
PATTERNS = (
    "README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "docs/**/*",
    "experiments/**/*.md",
    "experiments/**/*.py",
    "experiments/figures/*",
    "experiments/results/**/*.json*",
    "benchmarks/**/*.md",
    "benchmarks/*.py",
    "benchmarks/results/*",
    "icmjax/**/*.py",
    "tests/*.py",
)


def on_files(files: Files, config: Any) -> Files:
    """The repository's pages, and the plugins' own files."""
    paths = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.is_file()})
    pages = [
        File(
            path.relative_to(ROOT).as_posix(),
            str(ROOT),
            config["site_dir"],
            config["use_directory_urls"],
        )
        for path in paths
        if "__pycache__" not in path.parts
    ]
    own = [file for file in files if file.src_dir != config["docs_dir"]]
    return Files([*own, *pages])
