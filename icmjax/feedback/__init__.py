"""Which claims to ask a human about, the asking, and a search that holds the answers fast."""

from icmjax.feedback.answers import (
    answer,
    beside,
    differing_fields,
    hold_answers,
    labels_in,
    read_answer_rows,
    read_answers,
)
from icmjax.feedback.asking import Question, Questions, ask
from icmjax.feedback.changes import changes_between
from icmjax.feedback.evidence import NEEDS_MODEL, default_selector
from icmjax.feedback.interview import Interview
from icmjax.feedback.questionnaire import Questionnaire
from icmjax.feedback.selectors import (
    READS,
    SELECTORS,
    Evidence,
    choose_claims,
    expected_gain,
    implied_labels,
    uncertainty,
)
from icmjax.feedback.server import PageServer, leading_file, serve_page

__all__ = [
    "NEEDS_MODEL",
    "READS",
    "SELECTORS",
    "Evidence",
    "Interview",
    "PageServer",
    "Question",
    "Questionnaire",
    "Questions",
    "answer",
    "ask",
    "beside",
    "changes_between",
    "choose_claims",
    "default_selector",
    "differing_fields",
    "expected_gain",
    "hold_answers",
    "implied_labels",
    "labels_in",
    "leading_file",
    "read_answer_rows",
    "read_answers",
    "serve_page",
    "uncertainty",
]
