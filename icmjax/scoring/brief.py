"""What all scorers of tokenised claims say of themselves."""

from typing import Any

from icmjax.prompts import TokenizedClaims


class OfClaims:
    """A scorer of N claims with Y label options, which it shows in one line."""

    claims: TokenizedClaims

    @property
    def num_claims(self) -> int:
        """N."""
        return self.claims.queries.shape[0]

    @property
    def num_options(self) -> int:
        """Y."""
        return self.claims.label_forms.shape[0]

    def __repr__(self) -> str:
        return describe_scorer(self)


def describe_scorer(scorer: Any) -> str:
    """The kind of a scorer and its sizes, for its `repr`: its arrays would fill pages."""
    name = getattr(getattr(scorer, "lm", None), "name", None)
    under = "" if name is None else f", lm={name[-80:]!r}"
    return f"{type(scorer).__name__}(N = {scorer.num_claims}, Y = {scorer.num_options}{under})"
