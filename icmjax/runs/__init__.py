"""Run folders, and what is made from them: tables, figures, pages, exports."""

from icmjax.runs.exports import FORMATS, export
from icmjax.runs.files import free_name, free_names
from icmjax.runs.fingerprints import pytree_fingerprint, search_configuration
from icmjax.runs.folder import Run, check_folder, open_run
from icmjax.runs.jsonl import as_jsonl, label_rows
from icmjax.runs.page import make_page
from icmjax.runs.places import write_new
from icmjax.runs.reading import RunRecord, read_run
from icmjax.runs.report import comparison_table, plot_comparison, plot_search

__all__ = [
    "FORMATS",
    "Run",
    "RunRecord",
    "as_jsonl",
    "check_folder",
    "comparison_table",
    "export",
    "free_name",
    "free_names",
    "label_rows",
    "make_page",
    "open_run",
    "plot_comparison",
    "plot_search",
    "pytree_fingerprint",
    "read_run",
    "search_configuration",
    "write_new",
]
