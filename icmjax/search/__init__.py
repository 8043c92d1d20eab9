"""Search for the labels that make the claims most predictable from one another."""

from icmjax.search.bootstrap import Bootstrap
from icmjax.search.fixed_accuracy import FixedAccuracy
from icmjax.search.gibbs import Gibbs
from icmjax.search.greedy import Greedy
from icmjax.search.icm import ICM
from icmjax.search.loop import SearchResult, search
from icmjax.search.screening import ScreenedScorer
from icmjax.search.tempering import ParallelTempering
from icmjax.search.together import search_together

__all__ = [
    "ICM",
    "Bootstrap",
    "FixedAccuracy",
    "Gibbs",
    "Greedy",
    "ParallelTempering",
    "ScreenedScorer",
    "SearchResult",
    "search",
    "search_together",
]
