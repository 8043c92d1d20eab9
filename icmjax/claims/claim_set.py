"""Claims and, apart, their gold labels: what all else is made from."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icmjax.claims.consistency import PairRules, Rule, select_rules
from icmjax.claims.rules import group_claims
from icmjax.errors import ClaimsError, Fault
from icmjax.notebooks import rows_html

UNLABELLED = -1
BINARY_OPTIONS = ("False", "True")


class Claim(NamedTuple):
    """One text to be labelled."""

    id: str
    persona: str  # whose claim it is; "" where the data name nobody
    consistency_id: str  # claims of one persona with the same id are tied
    question: str
    choice: str
    choice_2: str | None = None  # the other response, where two are compared


@dataclasses.dataclass(frozen=True, eq=False)
class ClaimSet:
    """N claims and all that is known of them without labels. Equal where nothing differs."""

    claims: tuple[Claim, ...]
    rules: PairRules  # of numpy arrays
    template: str | None = None  # the template that the data's schema asks for; None: the model's
    preamble: str = ""  # text before the first demonstration
    options: tuple[str, ...] = BINARY_OPTIONS  # label y is options[y]
    # For descriptions alone, and so no part of what makes two claim sets equal.
    rule: Rule | None = None  # the one rule of all pairs; None where each pair has its own
    rule_source: str = ""  # how the rule was found
    unread: tuple[str, ...] = ()  # columns of the file that nothing reads

    def __post_init__(self) -> None:
        num_claims, num_options = len(self.claims), len(self.options)
        assert self.rules.penalties.shape[1:] == (num_options, num_options), "rules lack an option"
        assert np.all(self.rules.pairs < num_claims), "a rule names a claim that is not there"

    def __len__(self) -> int:
        return len(self.claims)

    def __repr__(self) -> str:
        return f"ClaimSet({self.describe()})"

    def _repr_html_(self) -> str:
        rows = [(c.persona, c.question, c.choice, c.choice_2 or "") for c in self.claims]
        columns = ("persona", "question", "choice", "choice_2")
        filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        kept = [[row[i] for i in filled] for row in rows]
        return rows_html(self.describe(), [columns[i] for i in filled], kept)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClaimSet) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex digits, of everything that a score or a utility depends on."""
        rules = [np.asarray(field).tolist() for field in self.rules]
        content = [self.claims, rules, self.template, self.preamble, self.options]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def describe(self) -> str:
        """The claims and their pair rule in one line."""
        num_pairs = len(self.rules.pairs)
        if num_pairs == 0:
            return f"{len(self)} claims, no pair rule"
        hard = "hard " if np.all(self.rules.is_hard) else ""
        pairs = f"{num_pairs} {hard}pair{'s' if num_pairs > 1 else ''}"
        rule = f", rule {self.rule}" if self.rule else ", rules of their own"
        source = f" ({self.rule_source})" if self.rule_source else ""
        return f"{len(self)} claims, {pairs}{rule}{source}"

    @functools.cached_property
    def personas(self) -> tuple[str, ...]:
        """The personas, in the order of their first claims."""
        return tuple(dict.fromkeys(claim.persona for claim in self.claims))

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Claim indices of each consistency group, keyed by (persona, `consistency_id`)."""
        return group_claims(self.claims)

    @functools.cached_property
    def group_index(self) -> np.ndarray:
        """The group of each claim, int32 `[N]`."""
        index = np.empty(len(self), np.int32)
        for group, members in enumerate(self.groups):
            index[list(members)] = group
        return index

    def select(self, indices: Sequence[int] | np.ndarray) -> "ClaimSet":
        """Some of the claims, in the order of `indices`; pairs whose other half is left out go.

        Raises:
          ClaimsError: an index is out of range or occurs twice.
        """
        kept = [int(index) for index in indices]
        out_of_range = [index for index in kept if not 0 <= index < len(self)]
        if out_of_range or len(set(kept)) < len(kept):
            found = f"{out_of_range[0]} of {len(self)}" if out_of_range else "an index twice"
            remedy = f"give distinct indices from 0 to {len(self) - 1}"
            raise ClaimsError(Fault("A selection names claims once each.", found, "select", remedy))
        return dataclasses.replace(
            self,
            claims=tuple(self.claims[index] for index in kept),
            rules=select_rules(self.rules, kept),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class GoldLabels:
    """What is held to be true of N claims; for evaluation alone."""

    labels: np.ndarray  # int8 [N]; UNLABELLED where the file has none

    def __repr__(self) -> str:
        num_known = int(np.sum(self.labels != UNLABELLED))
        return f"GoldLabels({num_known} of {len(self.labels)} claims)"

    def select(self, indices: Sequence[int] | np.ndarray) -> "GoldLabels":
        """The gold labels of some of the claims, in the order of `indices`."""
        return GoldLabels(self.labels[np.asarray(indices, np.int64)])
