"""A scorer in one line."""

from typing import Any


def describe_scorer(scorer: Any) -> str:
    """The kind of a scorer and its sizes, for its `repr`: its arrays would fill pages."""
    name = getattr(getattr(scorer, "lm", None), "name", None)
    under = "" if name is None else f", lm={name[-80:]!r}"
    return f"{type(scorer).__name__}(N = {scorer.num_claims}, Y = {scorer.num_options}{under})"
