"""Internal Coherence Maximization: find the labels that make claims most predictable."""

from icmjax._version import __version__
from icmjax.claims import (
    UNLABELLED,
    Claim,
    ClaimSet,
    GoldLabels,
    claims_from_rows,
    gold_from_rows,
    load_claims,
    load_gold,
    write_claims,
)
from icmjax.consistency import PairRules, count_violations
from icmjax.cores import use_cores
from icmjax.errors import InputError
from icmjax.lm.loading import LanguageModel, load_lm
from icmjax.persona_world.tasks import load_task
from icmjax.runs import open_run, read_run, search_configuration
from icmjax.scoring import make_scorer, make_subset_scorer
from icmjax.search import (
    ICM,
    Bootstrap,
    FixedAccuracy,
    Gibbs,
    Greedy,
    ParallelTempering,
    ScreenedScorer,
    SearchResult,
    search,
    search_together,
)
from icmjax.steering import Evaluation, Scores, calibrate, evaluate, make_steerer
from icmjax.templates import TEMPLATES, Template
from icmjax.utility import mutual_predictability, utility

__all__ = [
    "ICM",
    "TEMPLATES",
    "UNLABELLED",
    "Bootstrap",
    "Claim",
    "ClaimSet",
    "Evaluation",
    "FixedAccuracy",
    "Gibbs",
    "GoldLabels",
    "Greedy",
    "InputError",
    "LanguageModel",
    "PairRules",
    "ParallelTempering",
    "Scores",
    "ScreenedScorer",
    "SearchResult",
    "Template",
    "__version__",
    "calibrate",
    "claims_from_rows",
    "count_violations",
    "evaluate",
    "gold_from_rows",
    "load_claims",
    "load_gold",
    "load_lm",
    "load_task",
    "make_scorer",
    "make_steerer",
    "make_subset_scorer",
    "mutual_predictability",
    "open_run",
    "read_run",
    "search",
    "search_configuration",
    "search_together",
    "use_cores",
    "utility",
    "write_claims",
]
