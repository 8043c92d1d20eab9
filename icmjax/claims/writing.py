"""Claims written as JSONL, from which loading gives back the same."""

import json
import pathlib
from typing import Any

from icmjax.claims.claim_set import BINARY_OPTIONS, UNLABELLED, ClaimSet, GoldLabels
from icmjax.claims.rules import pair_rules_column
from icmjax.errors import ClaimsError, Fault
from icmjax.files import write_text


def write_claims(
    claims: ClaimSet, path: str | pathlib.Path, gold: GoldLabels | None = None
) -> None:
    """Write claims as JSONL, such that loading gives back the same claims, rules and gold labels.

    Raises:
      ClaimsError: the path does not end in .jsonl, or cannot be written; see
        `icmjax.files.write_bytes`.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".jsonl":
        remedy = f"name it {path.with_suffix('.jsonl').name}"
        raise ClaimsError(Fault("Claims are written as JSONL.", path.name, str(path), remedy))
    assert gold is None or len(gold.labels) == len(claims), "gold labels of other claims"
    is_binary = claims.options == BINARY_OPTIONS
    pair_rules = pair_rules_column(claims.rules, [claim.id for claim in claims.claims])
    lines = []
    for index, claim in enumerate(claims.claims):
        row: dict[str, Any] = claim._asdict()
        if gold is not None:
            label = int(gold.labels[index])
            name: str | bool = bool(label) if is_binary else claims.options[label]
            row["label"] = None if label == UNLABELLED else name
        row["template"] = claims.template
        row["preamble"] = claims.preamble
        row["label_options"] = claims.options
        row["pair_rules"] = pair_rules[index]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines), error=ClaimsError)
