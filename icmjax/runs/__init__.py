"""Run folders, and what is made from them: tables, figures, pages, exports."""

from icmjax.runs.export import FORMATS, export_dpo, export_prompt, export_sft, export_tree_order
from icmjax.runs.files import free_name, free_names, lock
from icmjax.runs.fingerprints import pytree_fingerprint, search_configuration
from icmjax.runs.folder import Run, check_folder, open_run
from icmjax.runs.page import make_page
from icmjax.runs.reading import RunRecord, read_run
from icmjax.runs.report import comparison_table, plot_comparison, plot_search

__all__ = [
    "FORMATS",
    "Run",
    "RunRecord",
    "check_folder",
    "comparison_table",
    "export_dpo",
    "export_prompt",
    "export_sft",
    "export_tree_order",
    "free_name",
    "free_names",
    "lock",
    "make_page",
    "open_run",
    "plot_comparison",
    "plot_search",
    "pytree_fingerprint",
    "read_run",
    "search_configuration",
]
