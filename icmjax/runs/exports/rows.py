"""Labelled claims as a prompt, and as rows for fine-tuning and for prefix caches."""

from collections.abc import Iterator

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.runs.exports.source import Worded
from icmjax.runs.jsonl import as_jsonl


def prompt(source: Worded) -> str:
    """The text that steers a model: preamble and labelled claims; a query goes right after it."""
    shown = (source.template.demonstration_text(*pair) for pair in source.labelled)
    return source.preamble + "".join(shown)


def sft(source: Worded) -> str:
    """JSONL for supervised fine-tuning: `prompt` and `completion`, one labelled claim a row."""
    return as_jsonl(
        {"prompt": prompt, "completion": source.forms[label]} for prompt, label in _pairs(source)
    )


def dpo(source: Worded) -> str:
    """JSONL for preference tuning: `prompt`, `chosen` and `rejected`, a row for each other option.

    The format of direct preference optimisation (Rafailov et al., arXiv:2305.18290).
    """
    return as_jsonl(
        {"prompt": prompt, "chosen": source.forms[label], "rejected": other}
        for prompt, label in _pairs(source)
        for option, other in enumerate(source.forms)
        if option != label
    )


def tree_order(claims: ClaimSet, labels: np.ndarray, orders: np.ndarray) -> str:
    """JSONL for servers with a prefix cache: for every claim the ids of the others, in tree order.

    Sent in this order of rows, prompts share all the prefixes that a prefix tree shares.

    Args:
      claims: N claims.
      labels: int8 `[N]`.
      orders: int32 `[N, N - 1]`, from a `tree` scorer's `demonstration_orders()`.
    """
    ids = [claim.id for claim in claims.claims]
    by_prefix = sorted(range(len(ids)), key=lambda index: orders[index].tolist())
    return as_jsonl(
        {
            "id": ids[index],
            "demonstrations": [
                ids[other] for other in orders[index] if other >= 0 and labels[other] != UNLABELLED
            ],
        }
        for index in by_prefix
    )


def _pairs(source: Worded) -> Iterator[tuple[str, int]]:
    """The prompt that asks about each labelled claim, without others, and its label."""
    for claim, label in source.labelled:
        yield source.preamble + source.template.query_fn(claim), label
