"""What commands read: claims, labels, answers, and the options that a run recorded."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import icmjax
from icmjax.errors import ClaimsError, Fault, RunError

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, GoldLabels
    from icmjax.runs import RunRecord


def read_claims(
    source: str,
    persona: str | None = None,
    rule: str = "auto",
    limit: int | None = None,
    is_hard: bool = False,
) -> tuple[ClaimSet, GoldLabels | None]:
    """Claims and, apart, their gold labels, from a file or a task of the persona world.

    Raises:
      InputError: see `load_claims` and `load_task`.
    """
    if not icmjax.persona_world.is_task_name(source):
        claims = icmjax.load_claims(source, persona, rule, limit, hard=is_hard)
        return claims, icmjax.load_gold(source, persona, limit)
    if persona is not None or rule != "auto" or limit is not None or is_hard:
        raise ClaimsError(
            Fault(
                "A task of the persona world says its persona, size and rule itself.",
                "--persona, --rule, --hard or --limit",
                source,
                "leave them out",
            )
        )
    return icmjax.load_task(source)


def read_labels(path: str, claims: ClaimSet) -> np.ndarray:
    """The labels of claims from a file with the same ids, in any order: int8 `[N]`.

    Raises:
      ClaimsError: the file does not have the same claims, or lacks labels.
    """
    import numpy as np

    labelled = icmjax.load_claims(path, rule="none", options=claims.options)
    gold = icmjax.load_gold(path, options=claims.options)
    found = {claim.id: claim for claim in labelled.claims}
    asked = {claim.id: claim for claim in claims.claims}
    faults = [
        Fault("Labels are of the claims.", f"no label of claim {id_!r}", path, "label it")
        for id_ in asked.keys() - found.keys()
    ]
    faults += [
        Fault("Labels are of the claims.", f"claim {id_!r} is not among them", path, "leave it out")
        for id_ in found.keys() - asked.keys()
    ]
    faults += [
        Fault(
            "Claims of one id say the same.",
            f"{found[id_].choice!r} and {asked[id_].choice!r}",
            f"{path}: claim {id_!r}",
            "give the labels of this very claim file",
        )
        for id_ in asked.keys() & found.keys()
        if found[id_].choice.strip() != asked[id_].choice.strip()
    ]
    if gold is None:
        faults.append(Fault("A label file has labels.", "none", path, "label its claims"))
    if faults:
        raise ClaimsError(sorted(faults))
    assert gold is not None
    by_id = dict(zip((claim.id for claim in labelled.claims), gold.labels, strict=True))
    return np.array([by_id[claim.id] for claim in claims.claims], np.int8)


def read_answers(path: str, claims: ClaimSet) -> np.ndarray:
    """Answers to some of the claims, from rows with `id` and `label`: int8 `[N]`, -1 elsewhere.

    Raises:
      ClaimsError: a row is not about one of the claims, has another label, or none has any.
    """
    import numpy as np

    faults: list[Fault] = []
    index = {claim.id: number for number, claim in enumerate(claims.claims)}
    answers = np.full(len(claims), icmjax.UNLABELLED, np.int8)
    for row in icmjax.claims.read_rows(pathlib.Path(path), faults):
        id_, choice = str(row.values.get("id")), row.values.get("choice")
        label = icmjax.claims.label_index(row.values.get("label"), claims.options)
        if id_ not in index or choice not in (None, claims.claims[index[id_]].choice):
            found = f"claim {id_!r}, which is not among them or says something else"
            remedy = "answer the rows of questions.jsonl, and change their labels alone"
            faults.append(Fault("Answers are to claims of the run.", found, row.where, remedy))
        elif label is None:
            found, remedy = repr(row.values.get("label")), f"one of {', '.join(claims.options)}"
            faults.append(Fault("A label is one of the options.", found, row.where, remedy))
        else:
            answers[index[id_]] = label
    if not faults and (answers == icmjax.UNLABELLED).all():
        remedy = "set `label` in the rows of questions.jsonl"
        faults.append(Fault("An answer has a label.", "none", path, remedy))
    if faults:
        raise ClaimsError(faults)
    return answers


def gold_of(claims: ClaimSet, source: str) -> np.ndarray:
    """Gold labels of a run's claims from where the claims came from: int8 `[N]`."""
    import numpy as np

    known, gold = read_claims(source)
    labels = {} if gold is None else dict(zip(known.claims, gold.labels, strict=True))
    faults = [
        Fault(
            "Every demonstration has a gold label.",
            f"none for claim {claim.id!r}",
            source,
            "give the file that the run was searched over, with its labels",
        )
        for claim in claims.claims
        if labels.get(claim, icmjax.UNLABELLED) == icmjax.UNLABELLED
    ]
    if faults:
        raise ClaimsError(faults)
    return np.array([labels[claim] for claim in claims.claims], np.int8)


def recorded_options(run: RunRecord, folder: str) -> dict[str, Any]:
    """The options that the run's `icmjax search` was given.

    Raises:
      RunError: the run was made by the library, which records none.
    """
    options = run.manifest.get("options")
    if options is None:
        remedy = "make the run with `icmjax search`, or use the library's functions"
        raise RunError(
            Fault(
                "The run records its search's options.", "none", f"{folder}/manifest.json", remedy
            )
        )
    return options


def clamped_labels(run: RunRecord) -> np.ndarray:
    """The labels that the run's search held fast: int8 `[N]`, -1 where free."""
    import numpy as np

    clamped = run.manifest["configuration"]["clamped"]
    return np.array(
        [clamped.get(claim.id, icmjax.UNLABELLED) for claim in run.claims.claims], np.int8
    )
