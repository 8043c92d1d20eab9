"""Which claims to ask a human about."""

from icmjax.feedback.selectors import (
    SELECTORS,
    Evidence,
    choose_claims,
    expected_gain,
    implied_labels,
    uncertainty,
)

__all__ = [
    "SELECTORS",
    "Evidence",
    "choose_claims",
    "expected_gain",
    "implied_labels",
    "uncertainty",
]
