"""What exports are made from: a run, its wording, and claims to be asked about."""

import re
from typing import NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, Claim, ClaimSet, GoldLabels
from icmjax.errors import ClaimsError, Fault
from icmjax.prompts import Template, check_template
from icmjax.runs.reading import RunRecord
from icmjax.steering import check_same_kind


class Questions(NamedTuple):
    """Held-out claims, each with its gold label."""

    claims: ClaimSet  # M
    gold: np.ndarray  # int8 [M], of no claim UNLABELLED


class Worded(NamedTuple):
    """Labelled claims, and how they are put into words."""

    claims: ClaimSet
    labels: np.ndarray  # int8 [N]
    template: Template
    title: str  # what tasks are called
    questions: Questions | None = None  # of the formats that ask

    @property
    def labelled(self) -> list[tuple[Claim, int]]:
        """The labelled claims with their labels, in the order of the claims."""
        pairs = zip(self.claims.claims, self.labels, strict=True)
        return [(claim, int(label)) for claim, label in pairs if label != UNLABELLED]

    @property
    def preamble(self) -> str:
        """The text before the first claim; "" for none."""
        return self.template.preamble_text(self.claims.preamble)

    @property
    def forms(self) -> list[str]:
        """The text of each label, as demonstrations show it."""
        return [forms[0] for forms in self.template.label_forms]


def title_of(name: str) -> str:
    """A name as an identifier: what a task of lm-eval or Inspect may be called."""
    return "icmjax_" + (re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_") or "run")


def worded(run: RunRecord, template: Template, name: str) -> Worded:
    """A run's labelled claims under a template.

    Raises:
      PromptError: the template does not fit the claims.
    """
    check_template(run.claims, template)
    return Worded(run.claims, run.labels, template, title_of(name))


def questions_for(source: Worded, queries: ClaimSet, gold: GoldLabels | None) -> Questions:
    """The queries that have a gold label.

    Raises:
      ClaimsError: none has one.
      InputError: the queries are not of the run's kind, or the template does not fit them.
    """
    check_same_kind(source.claims, queries)
    check_template(queries, source.template)
    labels = np.full(len(queries), UNLABELLED, np.int8) if gold is None else gold.labels
    kept = np.flatnonzero(labels != UNLABELLED)
    if not len(kept):
        rule, remedy = "Claims of a task have gold labels, to judge by.", "add a column label"
        raise ClaimsError(Fault(rule, "none", "the claims to ask about", remedy))
    return Questions(queries.select(kept), labels[kept])
