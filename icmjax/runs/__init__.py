"""Run folders, and what is made from them: tables, figures, pages, exports."""

from icmjax.runs.export import FORMATS, export_dpo, export_prompt, export_sft, export_tree_order
from icmjax.runs.folder import (
    RunRecord,
    open_run,
    pytree_fingerprint,
    read_run,
    search_configuration,
)
from icmjax.runs.page import make_page
from icmjax.runs.report import comparison_table, plot_comparison, plot_search

__all__ = [
    "FORMATS",
    "RunRecord",
    "comparison_table",
    "export_dpo",
    "export_prompt",
    "export_sft",
    "export_tree_order",
    "make_page",
    "open_run",
    "plot_comparison",
    "plot_search",
    "pytree_fingerprint",
    "read_run",
    "search_configuration",
]
