"""A run's labelled claims in the forms that other tools take."""

import json
from collections.abc import Iterator

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.prompts import Template

FORMATS = ("prompt", "sft", "dpo")


def export_prompt(claims: ClaimSet, labels: np.ndarray, template: Template) -> str:
    """The text that steers a model: preamble and labelled claims; a query goes right after it."""
    shown = "".join(
        template.demonstration_text(claim, int(label))
        for claim, label in zip(claims.claims, labels, strict=True)
        if label != UNLABELLED
    )
    return template.preamble_text(claims.preamble) + shown


def export_sft(claims: ClaimSet, labels: np.ndarray, template: Template) -> str:
    """JSONL for supervised fine-tuning: `prompt` and `completion`, one labelled claim a row."""
    return _jsonl(
        {"prompt": prompt, "completion": forms[label]}
        for prompt, forms, label in _rows(claims, labels, template)
    )


def export_dpo(claims: ClaimSet, labels: np.ndarray, template: Template) -> str:
    """JSONL for preference tuning: `prompt`, `chosen` and `rejected`, a row for each other option.

    The format of direct preference optimisation (Rafailov et al., arXiv:2305.18290).
    """
    return _jsonl(
        {"prompt": prompt, "chosen": forms[label], "rejected": other}
        for prompt, forms, label in _rows(claims, labels, template)
        for option, other in enumerate(forms)
        if option != label
    )


def export_tree_order(claims: ClaimSet, labels: np.ndarray, orders: np.ndarray) -> str:
    """JSONL for servers with a prefix cache: for every claim the ids of the others, in tree order.

    Sent in this order of rows, prompts share all the prefixes that a prefix tree shares.

    Args:
      orders: int32 `[N, N - 1]`, from a `tree` scorer's `demonstration_orders()`.
    """
    ids = [claim.id for claim in claims.claims]
    by_prefix = sorted(range(len(ids)), key=lambda index: orders[index].tolist())
    return _jsonl(
        {
            "id": ids[index],
            "demonstrations": [
                ids[other] for other in orders[index] if other >= 0 and labels[other] != UNLABELLED
            ],
        }
        for index in by_prefix
    )


def _rows(
    claims: ClaimSet, labels: np.ndarray, template: Template
) -> Iterator[tuple[str, list[str], int]]:
    """Prompt, label texts by option and label of every labelled claim."""
    opening = template.preamble_text(claims.preamble)
    forms = [option[0] for option in template.label_forms]
    for claim, label in zip(claims.claims, labels, strict=True):
        if label != UNLABELLED:
            yield opening + template.query_fn(claim), forms, int(label)


def _jsonl(rows: Iterator[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
