"""What labelled claims do to a model's answers: in context, calibrated, generated, compared."""

from icmjax.steering.calibration import calibrate
from icmjax.steering.chat import chat_zero_shot
from icmjax.steering.comparison import Condition, compare, held_out, random_labels
from icmjax.steering.generation import continuation_likelihood, generate
from icmjax.steering.in_context import check_same_kind, evaluate, fill_up, make_steerer
from icmjax.steering.scores import Evaluation, Scores, auc, score_predictions

__all__ = [
    "Condition",
    "Evaluation",
    "Scores",
    "auc",
    "calibrate",
    "chat_zero_shot",
    "check_same_kind",
    "compare",
    "continuation_likelihood",
    "evaluate",
    "fill_up",
    "generate",
    "held_out",
    "make_steerer",
    "random_labels",
    "score_predictions",
]
