"""Search for the labels that make the claims most predictable from one another."""

from icmjax.search.icm import ICM
from icmjax.search.loop import SearchResult, search
from icmjax.search.screening import ScreenedScorer
from icmjax.search.tempering import ParallelTempering

__all__ = ["ICM", "ParallelTempering", "ScreenedScorer", "SearchResult", "search"]
