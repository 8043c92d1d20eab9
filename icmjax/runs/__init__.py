"""Run folders, and what is made from them: tables, figures, pages, exports."""

from icmjax.runs.curves import found_by, held_fast
from icmjax.runs.exports import FORMATS, export
from icmjax.runs.figures import plot_comparison, plot_search
from icmjax.runs.files import free_name, lock
from icmjax.runs.fingerprints import pytree_fingerprint, search_configuration
from icmjax.runs.folder import Run, check_folder, open_run
from icmjax.runs.jsonl import as_jsonl, label_rows
from icmjax.runs.page import make_page, report
from icmjax.runs.places import write_new, write_numbered
from icmjax.runs.reading import RunRecord, read_run
from icmjax.runs.rows import gold_in
from icmjax.runs.tables import comparison_table
from icmjax.runs.warned import warnings_of, warnings_of_claims

__all__ = [
    "FORMATS",
    "Run",
    "RunRecord",
    "as_jsonl",
    "check_folder",
    "comparison_table",
    "export",
    "found_by",
    "free_name",
    "gold_in",
    "held_fast",
    "label_rows",
    "lock",
    "make_page",
    "open_run",
    "plot_comparison",
    "plot_search",
    "pytree_fingerprint",
    "read_run",
    "report",
    "search_configuration",
    "warnings_of",
    "warnings_of_claims",
    "write_new",
    "write_numbered",
]
