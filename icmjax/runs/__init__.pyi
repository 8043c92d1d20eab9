"""Run folders, and what is made from them: tables, figures, pages, exports."""

from .curves import found_by as found_by
from .curves import held_fast as held_fast
from .exports import FORMATS as FORMATS
from .exports import export as export
from .figures import plot_comparison as plot_comparison
from .figures import plot_search as plot_search
from .files import free_name as free_name
from .files import lock as lock
from .fingerprints import pytree_fingerprint as pytree_fingerprint
from .fingerprints import search_configuration as search_configuration
from .folder import Run as Run
from .folder import check_folder as check_folder
from .folder import open_run as open_run
from .jsonl import as_jsonl as as_jsonl
from .jsonl import label_rows as label_rows
from .page import make_page as make_page
from .page import report as report
from .places import write_new as write_new
from .places import write_numbered as write_numbered
from .reading import RunRecord as RunRecord
from .reading import read_run as read_run
from .rows import gold_in as gold_in
from .tables import comparison_table as comparison_table
from .warned import turned_by as turned_by
from .warned import warnings_of as warnings_of
from .warned import warnings_of_claims as warnings_of_claims
