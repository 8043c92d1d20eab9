"""Open questions to people of a real persona: what a model says, and how well that fits them.

Where no parser can read a stance back, two measures stand in for it, both in nats:
  - reference: the mean log-prob a token of what people of the persona did answer to the same
    questions, which the model has not seen;
  - judge: the log-prob of True that a judge model, who has read the persona's gold labels, gives
    to the claim that people of the persona would answer as the model did.

An answer file has rows `persona, question, answer`: JSON, JSONL, CSV or Parquet.
"""

import pathlib
from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np

from icmjax.claims import UNLABELLED, Claim, ClaimSet, read_rows
from icmjax.errors import ClaimsError, Fault
from icmjax.lm import LanguageModel
from icmjax.prompts import get_template, resolve_template
from icmjax.steering import continuation_likelihood, generate

COLUMNS = ("persona", "question", "answer")


class OpenQuestion(NamedTuple):
    """A question, and what people of the persona answered to it."""

    question: str
    references: tuple[str, ...]


def read_answers(path: str, persona: str | None, limit: int | None) -> list[OpenQuestion]:
    """The questions of an answer file in their order, each with up to `limit` references.

    Raises:
      ClaimsError: the file is missing or malformed, or has no answer of the persona.
    """
    faults: list[Fault] = []
    answers: dict[str, list[str]] = defaultdict(list)
    personas = set()
    for row in read_rows(pathlib.Path(path), faults):
        lacking = [name for name in COLUMNS if not str(row.values.get(name) or "").strip()]
        if lacking:
            found, rule = f"no {', '.join(lacking)}", f"A row has {', '.join(COLUMNS)}."
            faults.append(Fault(rule, found, row.where, "add what is missing"))
            continue
        personas.add(row.values["persona"])
        if persona in (None, row.values["persona"]):
            # A line break would end the answer of the model.
            answers[row.values["question"]].append(" ".join(row.values["answer"].split()))
    if not faults and not answers:
        found = f"answers of {', '.join(sorted(personas)) or 'nobody'}"
        rule, remedy = "Some answers are of the persona.", "name one of them"
        faults.append(Fault(rule, found, f"{path}: {persona}", remedy))
    if faults:
        raise ClaimsError(faults)
    return [OpenQuestion(key, tuple(told[:limit])) for key, told in answers.items()]


def query_of(persona: str, question: str) -> str:
    """The prompt of an open question; the space before an answer belongs to the answer."""
    return f"\n\nPeople of the group {persona} were asked: {question.strip()}\nTheir answer:"


def context_of(lm: LanguageModel, claims: ClaimSet, labels: np.ndarray | None) -> tuple[str, ...]:
    """Claims with labels int8 `[N]` as pieces of text, as `make_steerer` shows them; None: none."""
    template = resolve_template(None, lm.default_template, claims)
    shown = [] if labels is None else zip(claims.claims, labels, strict=True)
    return (
        template.preamble_text(claims.preamble),
        *(
            template.demonstration_text(claim, int(label))
            for claim, label in shown
            if label != UNLABELLED
        ),
    )


def judged(
    judge: LanguageModel,
    claims: ClaimSet,
    gold: np.ndarray,
    persona: str,
    questions: list[OpenQuestion],
    answers: list[str],
) -> np.ndarray:
    """log P(True), float32 `[M]` in nats, of "these people would answer so", by the judge."""
    template, context = get_template("persona"), context_of(judge, claims, gold)
    said = [
        Claim("", persona, "", asked.question, f"People of the group {persona}: '{answer.strip()}'")
        for asked, answer in zip(questions, answers, strict=True)
    ]
    queries = [template.query_fn(claim) for claim in said]
    no, yes = (
        continuation_likelihood(judge, context, queries, [forms[0]] * len(said)).log_probs
        for forms in template.label_forms
    )
    return yes - np.logaddexp(no, yes)


def run_open_answers(
    lm: LanguageModel,
    judge: LanguageModel,
    claims: ClaimSet,
    labellings: dict[str, np.ndarray],
    questions: list[OpenQuestion],
    persona: str,
    rng_key: jax.Array,
    temperature: float,
    max_new_tokens: int,
) -> dict[str, dict]:
    """Both measures and the sampled texts, after each labelling, int8 `[N]` or its first draw.

    Claims are shown in their given order. All labellings sample by the same key, so that they
    differ by the labels alone.
    """
    queries = [query_of(persona, asked.question) for asked in questions]
    references = [(q, f" {told}") for q, asked in zip(queries, questions, strict=True)
                  for told in asked.references]  # fmt: skip
    gold = labellings["gold"]
    result = {}
    for name, labels in {"zero-shot": None, **labellings}.items():
        first = None if labels is None else np.reshape(labels, (-1, len(claims)))[0]
        context = context_of(lm, claims, first)
        texts = generate(
            lm,
            context,
            queries,
            rng_key=rng_key,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        likelihood = continuation_likelihood(lm, context, *zip(*references, strict=True))
        result[name] = {
            "reference_log_prob": float(likelihood.log_probs.sum() / likelihood.num_tokens.sum()),
            "judge_log_prob": float(judged(judge, claims, gold, persona, questions, texts).mean()),
            "texts": texts,
        }
    return result
