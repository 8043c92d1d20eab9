"""Algorithms that search for the labels of highest utility, and the loop that drives them."""

from icmjax.scoring import BIASES
from icmjax.search.base import (
    Account,
    Algorithm,
    Labelling,
    Outcome,
    RunStore,
    Scorer,
    field_names,
    gain,
    metropolis_accept,
    with_fields,
)
from icmjax.search.bootstrap import Bootstrap
from icmjax.search.chains import ChainSearch
from icmjax.search.fixed_accuracy import FixedAccuracy
from icmjax.search.gibbs import Gibbs
from icmjax.search.greedy import Greedy
from icmjax.search.hosts import listens_for_preemption
from icmjax.search.icm import ICM
from icmjax.search.ladder import Ladder
from icmjax.search.loop import (
    SearchResult,
    TokenCounter,
    log_odds_of,
    mean_entropy,
    run_block,
    run_search,
    start,
)
from icmjax.search.marginals import ONE_SIDED, Marginals
from icmjax.search.moves import assignment_scores, best_assignment
from icmjax.search.replicas import InformedMoves
from icmjax.search.schedule import TemperingSchedule
from icmjax.search.screening import ScreenedScorer
from icmjax.search.tempering import ParallelTempering
from icmjax.search.together import have_one_shape, search_together
from icmjax.search.units import Units, assignment_of, labels_of, make_units
from icmjax.search.warm_start import Start

__all__ = [
    "BIASES",
    "ICM",
    "ONE_SIDED",
    "Account",
    "Algorithm",
    "Bootstrap",
    "ChainSearch",
    "FixedAccuracy",
    "Gibbs",
    "Greedy",
    "InformedMoves",
    "Labelling",
    "Ladder",
    "Marginals",
    "Outcome",
    "ParallelTempering",
    "RunStore",
    "Scorer",
    "ScreenedScorer",
    "SearchResult",
    "Start",
    "TemperingSchedule",
    "TokenCounter",
    "Units",
    "assignment_of",
    "assignment_scores",
    "best_assignment",
    "field_names",
    "gain",
    "have_one_shape",
    "labels_of",
    "listens_for_preemption",
    "log_odds_of",
    "make_units",
    "mean_entropy",
    "metropolis_accept",
    "run_block",
    "run_search",
    "search_together",
    "start",
    "with_fields",
]
