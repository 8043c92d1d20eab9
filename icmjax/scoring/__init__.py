"""Leave-one-out label log-probs: one file a method, one protocol."""

from icmjax.scoring.blockwise import BlockwiseScorer
from icmjax.scoring.chain_rule import ChainRuleScorer
from icmjax.scoring.fidelity import Fidelity, fidelity
from icmjax.scoring.make import make_scorer, make_subset_scorer
from icmjax.scoring.orders import OrderMeanScorer, standard_error
from icmjax.scoring.sequential import SequentialScorer
from icmjax.scoring.subset import TreeSubsetScorer
from icmjax.scoring.tree import TreeScorer

__all__ = [
    "BlockwiseScorer",
    "ChainRuleScorer",
    "Fidelity",
    "OrderMeanScorer",
    "SequentialScorer",
    "TreeScorer",
    "TreeSubsetScorer",
    "fidelity",
    "make_scorer",
    "make_subset_scorer",
    "standard_error",
]
