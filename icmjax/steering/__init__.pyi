"""What labelled claims do to a model's answers: in context, calibrated, generated, compared."""

from .calibration import calibrate as calibrate
from .chat import chat_zero_shot as chat_zero_shot
from .comparison import Condition as Condition
from .comparison import compare as compare
from .comparison import random_labels as random_labels
from .generation import continuation_likelihood as continuation_likelihood
from .generation import generate as generate
from .in_context import check_same_kind as check_same_kind
from .in_context import evaluate as evaluate
from .in_context import fill_up as fill_up
from .in_context import make_steerer as make_steerer
from .known import Overlap as Overlap
from .known import held_out as held_out
from .known import overlap as overlap
from .scores import Evaluation as Evaluation
from .scores import Scores as Scores
from .scores import auc as auc
from .scores import score_predictions as score_predictions
