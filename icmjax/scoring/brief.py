"""What all scorers of tokenised claims say of themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from icmjax.notebooks import facts_html
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

    def _repr_html_(self) -> str:
        return scorer_html(self)


class OverScorer:
    """A scorer that changes what another one says of the same claims, its `own`."""

    own: Any  # a scorer of N claims

    def __repr__(self) -> str:
        return describe_scorer(self)

    def _repr_html_(self) -> str:
        return scorer_html(self)

    @property
    def num_claims(self) -> int:
        """N."""
        return self.own.num_claims

    # As properties, they are absent where the own scorer has none.
    @property
    def is_read(self) -> Callable[..., np.ndarray]:
        """That of the own scorer."""
        return self.own.is_read

    @property
    def demonstration_orders(self) -> Callable[..., np.ndarray]:
        """That of the own scorer."""
        return self.own.demonstration_orders

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Tokens of a pass of the own scorer; what is changed about it reads none."""
        return self.own.tokens_per_pass(labels)


def describe_scorer(scorer: Any) -> str:
    """The kind of a scorer and its sizes, for its `repr`: its arrays would fill pages."""
    name = getattr(getattr(scorer, "lm", None), "name", None)
    under = "" if name is None else f", lm={name[-80:]!r}"
    return f"{type(scorer).__name__}(N = {scorer.num_claims}, Y = {scorer.num_options}{under})"


def scorer_html(scorer: Any) -> str:
    """The same as a table."""
    facts = {"claims": scorer.num_claims, "label options": scorer.num_options}
    every = np.zeros(scorer.num_claims, np.int8)
    facts["tokens of a pass, all claims labelled"] = scorer.tokens_per_pass(every)
    name = getattr(getattr(scorer, "lm", None), "name", None)
    return facts_html(type(scorer).__name__, facts | ({} if name is None else {"model": name}))
