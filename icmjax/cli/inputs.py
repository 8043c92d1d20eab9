"""What commands read: claims, labels, and the options that a run recorded."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import icmjax
from icmjax.errors import ClaimsError, Fault, InputError, RunError

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, GoldLabels
    from icmjax.cli.options import ClaimsOptions
    from icmjax.runs import RunRecord


# That a run of before lacks, and that then were not given.
NEW_OPTIONS = ("columns", "label_options")


def read_claims(
    source: str,
    persona: str | None = None,
    rule: str = "auto",
    limit: int | None = None,
    is_hard: bool = False,
    columns: str | None = None,
    label_options: str | Sequence[str] | None = None,
    with_gold: bool = True,
) -> tuple[ClaimSet, GoldLabels | None]:
    """Claims and, apart, their gold labels, from a file or a task of the persona world.

    Args:
      source: of the claims.
      persona, rule, limit, is_hard: as of `load_claims`.
      columns: ours to the source's, as `parse_columns` reads them.
      label_options: with commas between, or one by one.
      with_gold: whether a file's labels are looked at.

    Raises:
      InputError: see `load_claims` and `load_task`.
    """
    if not icmjax.persona_world.is_task_name(source):
        mapping = None if columns is None else icmjax.claims.parse_columns(columns)
        options = split_names(label_options, "--options")
        claims = icmjax.load_claims(
            source, persona, rule, limit, hard=is_hard, options=options, columns=mapping
        )
        if not with_gold:
            return claims, None
        return claims, icmjax.load_gold(source, persona, limit, options=options, columns=mapping)
    given = (persona, limit, columns, label_options)
    if any(value is not None for value in given) or rule != "auto" or is_hard:
        raise ClaimsError(
            Fault(
                "A task of the persona world says its persona, size, rule and labels itself.",
                "--persona, --limit, --rule, --hard, --columns or --options",
                source,
                "leave them out",
            )
        )
    return icmjax.load_task(source)


def read_personas(
    source: ClaimsOptions, personas: str
) -> dict[str, tuple[ClaimSet, GoldLabels | None]]:
    """The claims and, apart, the gold labels of several personas of a source, by persona.

    Args:
      source: of the claims.
      personas: names with commas between, or "all".

    Raises:
      InputError: see `icmjax.load_personas`; or the source or its options name one persona.
    """
    if source.persona is not None or icmjax.persona_world.is_task_name(source.source):
        found = source.source if source.persona is None else f"--persona {source.persona}"
        rule, remedy = "Several personas are those of one source.", "leave out --personas"
        raise ClaimsError(Fault(rule, f"{found}, which is one", "--personas", remedy))
    columns = None if source.columns is None else icmjax.claims.parse_columns(source.columns)
    return icmjax.load_personas(
        source.source,
        None if personas == "all" else split_names(personas, "--personas"),
        source.rule,
        source.limit,
        hard=source.is_hard,
        options=split_names(source.label_options, "--options"),
        columns=columns,
    )


def split_names(text: str | Sequence[str] | None, where: str) -> Sequence[str] | None:
    """Names with commas between them; one with a comma stands in double quotes, as CSV has it.

    Raises:
      InputError: quotes do not close.
    """
    if not isinstance(text, str):
        return text
    try:
        return next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        rule, remedy = "Names have commas between them.", 'write them as A,B or "A, or so",B'
        raise ClaimsError(Fault(rule, f"{text!r}: {error}", where, remedy)) from None


def place_of(name: str) -> str:
    """What a run records of a file or folder: its absolute path, which holds in every folder.

    A task, a bundled model or a hub id is its own name; a folder may have a split behind it.
    """
    bundled = {path.name for path in icmjax.lm.BUNDLED_MODELS.glob("*")}
    if icmjax.persona_world.is_task_name(name) or name in bundled:
        return name
    folder, _, split = name.rpartition("@")
    is_here = os.path.exists(name) or (bool(split) and "/" not in split and os.path.isdir(folder))
    return os.path.abspath(name) if is_here else name


def read_labels(path: str, claims: ClaimSet, is_part: bool = False) -> np.ndarray:
    """The labels of claims from a file with the same ids, in any order: int8 `[N]`.

    Args:
      is_part: whether the claims are a part of those of a file, whose other labels are passed over.

    Raises:
      ClaimsError: the file does not have the same claims, or lacks labels.
    """
    import numpy as np

    labelled = icmjax.load_claims(path, rule="none", options=claims.options, preamble="")
    gold = icmjax.load_gold(path, options=claims.options)
    found = {claim.id: claim for claim in labelled.claims}
    asked = {claim.id: claim for claim in claims.claims}
    faults = [
        Fault("Labels are of the claims.", f"no label of claim {id_!r}", path, "label it")
        for id_ in asked.keys() - found.keys()
    ]
    others = set() if is_part else found.keys() - asked.keys()
    faults += [
        Fault("Labels are of the claims.", f"claim {id_!r} is not among them", path, "leave it out")
        for id_ in others
    ]
    faults += [
        Fault(
            "Claims of one id say the same.",
            f"{getattr(found[id_], name)!r} and {getattr(asked[id_], name)!r}",
            f"{path}: claim {id_!r}, {name}",
            "give the labels of this very claim file",
        )
        for id_ in asked.keys() & found.keys()
        for name in icmjax.feedback.differing_fields(found[id_]._asdict(), asked[id_])
    ]
    if gold is None:
        faults.append(Fault("A label file has labels.", "none", path, "label its claims"))
    if faults:
        raise ClaimsError(sorted(faults))
    assert gold is not None
    by_id = dict(zip((claim.id for claim in labelled.claims), gold.labels, strict=True))
    return np.array([by_id[claim.id] for claim in claims.claims], np.int8)


def gold_of_run(run: RunRecord, folder: str) -> GoldLabels | None:
    """Gold labels of a run's claims: those that the run keeps, else those of its source.

    A run keeps none whose source had none then. The source counts where it is still there and has
    the same claims.

    Args:
      folder: of the run, which records its options.

    Raises:
      RunError: the labels that it keeps are not as they were written; or see `recorded_options`.
    """
    kept = icmjax.runs.gold_in(pathlib.Path(folder), run)
    if kept is not None:
        return kept
    options = recorded_options(run, folder)
    names = ("source", "persona", "rule", "limit", "is_hard", *NEW_OPTIONS)
    given: dict[str, Any] = {name: options.get(name) for name in names}
    try:
        known, gold = read_claims(**given)
    except InputError:
        return None  # moved or changed: the run has its claims, and its accuracy is not known
    return gold if known.claims == run.claims.claims else None


def gold_of(claims: ClaimSet, source: str, columns: str | None = None) -> np.ndarray:
    """Gold labels of a run's claims from where the claims came from: int8 `[N]`.

    Args:
      claims: of the run.
      source: where they came from.
      columns: as of `read_claims`.
    """
    import numpy as np

    # Neither rules nor preambles matter to labels, so that neither is asked about.
    if icmjax.persona_world.is_task_name(source):
        known, gold = read_claims(source)
    else:
        named = None if columns is None else icmjax.claims.parse_columns(columns)
        options = claims.options
        known = icmjax.load_claims(source, rule="none", options=options, columns=named, preamble="")
        gold = icmjax.load_gold(source, options=options, columns=named)
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
    lacking = [name for name in _recorded_names() if name not in options]
    if lacking:
        found, remedy = f"no {', '.join(lacking)}", "use the version of icmjax in manifest.json"
        rule = "The run records the options that its search has today."
        raise RunError(Fault(rule, found, f"{folder}/manifest.json", remedy))
    return options


def _recorded_names() -> list[str]:
    # The options' own file reads claims by this one.
    from icmjax.cli import options

    kinds = (options.ModelOptions, options.ClaimsOptions, options.ScorerOptions)
    names = [
        name
        for kind in (*kinds, options.UtilityOptions)
        for name in kind._fields
        if name not in NEW_OPTIONS
    ]
    return [*names, "algorithm", "seed"]


def clamped_labels(run: RunRecord) -> np.ndarray:
    """The labels that the run's search held fast: int8 `[N]`, -1 where free."""
    import numpy as np

    clamped = run.manifest["configuration"]["clamped"]
    return np.array(
        [clamped.get(claim.id, icmjax.UNLABELLED) for claim in run.claims.claims], np.int8
    )
