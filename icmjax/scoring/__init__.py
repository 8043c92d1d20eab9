"""Leave-one-out label log-probs, and the utility of labels."""

from icmjax.scoring.anchored import AnchoredScorer, confident_labels
from icmjax.scoring.bias import (
    BIASES,
    FEWEST_READ,
    Bias,
    cluster_border,
    less_bias,
    share_border,
    without_bias,
)
from icmjax.scoring.blockwise import BlockwiseScorer, make_blockwise_scorer
from icmjax.scoring.brief import OverScorer
from icmjax.scoring.chain_rule import ChainRuleScorer, make_chain_rule_scorer
from icmjax.scoring.contexts import build_context, shown_lengths
from icmjax.scoring.contrast import ContrastScorer, make_contrast_scorer
from icmjax.scoring.fidelity import Fidelity, measure_fidelity
from icmjax.scoring.finite import checked_scores
from icmjax.scoring.labels import label_log_probs, read_prompts
from icmjax.scoring.make import AnyScorer, Method, make_scorer, make_subset_scorer
from icmjax.scoring.objectives import (
    OBJECTIVES,
    Objective,
    claim_scores,
    label_log_odds,
    mutual_predictability,
    utility,
)
from icmjax.scoring.orders import OrderMeanScorer, standard_error
from icmjax.scoring.passes import describe
from icmjax.scoring.planner import MEMORY_BUDGET, PassPlan, fitting_batch, level_bytes, text_bytes
from icmjax.scoring.probes import contrast_features, principal_probe
from icmjax.scoring.sequential import Leave, SequentialScorer, make_sequential_scorer
from icmjax.scoring.shapes import round_up
from icmjax.scoring.shared_context import score_in_context, tokens_in_context
from icmjax.scoring.spread import share
from icmjax.scoring.subset import TreeSubsetScorer
from icmjax.scoring.tree import TreeScorer, make_tree_scorer, piece_starts, stretches
from icmjax.scoring.unbiased import UnbiasedScorer, make_unbiased_scorer

__all__ = [
    "BIASES",
    "FEWEST_READ",
    "MEMORY_BUDGET",
    "OBJECTIVES",
    "AnchoredScorer",
    "AnyScorer",
    "Bias",
    "BlockwiseScorer",
    "ChainRuleScorer",
    "ContrastScorer",
    "Fidelity",
    "Leave",
    "Method",
    "Objective",
    "OrderMeanScorer",
    "OverScorer",
    "PassPlan",
    "SequentialScorer",
    "TreeScorer",
    "TreeSubsetScorer",
    "UnbiasedScorer",
    "build_context",
    "checked_scores",
    "claim_scores",
    "cluster_border",
    "confident_labels",
    "contrast_features",
    "describe",
    "fitting_batch",
    "label_log_odds",
    "label_log_probs",
    "less_bias",
    "level_bytes",
    "make_blockwise_scorer",
    "make_chain_rule_scorer",
    "make_contrast_scorer",
    "make_scorer",
    "make_sequential_scorer",
    "make_subset_scorer",
    "make_tree_scorer",
    "make_unbiased_scorer",
    "measure_fidelity",
    "mutual_predictability",
    "piece_starts",
    "principal_probe",
    "read_prompts",
    "round_up",
    "score_in_context",
    "share",
    "share_border",
    "shown_lengths",
    "standard_error",
    "stretches",
    "text_bytes",
    "tokens_in_context",
    "utility",
    "without_bias",
]
