"""A complete run read back: every file of it is verified before it is believed."""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from icmjax.claims import ClaimSet, load_claims
from icmjax.errors import Fault, InputError, RunError
from icmjax.notebooks import rows_html
from icmjax.runs.files import bytes_as_arrays, damage, read_known, read_sealed, seal_of

MANIFEST, SUMMARY, LABELS = "manifest.json", "summary.json", "labels.jsonl"
CLAIMS, SCORES, TRACE = "claims.jsonl", "scores.npz", "trace.npz"
GOLD, ANSWERS = "gold.jsonl", "answers.jsonl"  # where there are any
TOKENS = "tokens"  # in the trace, beside the fields of the algorithm's Info
RESULT_ARRAYS = ("labels", "log_odds", "marginals", "label_log_probs")


class RunRecord(NamedTuple):
    """What a complete run folder holds."""

    manifest: dict[str, Any]
    summary: dict[str, Any]
    claims: ClaimSet
    labels: np.ndarray  # int8 [N]
    log_odds: np.ndarray  # float32 [N]
    marginals: np.ndarray  # float32 [N, Y]
    label_log_probs: np.ndarray  # float32 [N, Y]
    trace: dict[str, np.ndarray]  # [num_steps, ...] each

    def __repr__(self) -> str:
        return f"RunRecord({self.claims.describe()}, U = {self.summary['utility']:.3f})"

    def _repr_html_(self) -> str:
        rows = [
            (claim.persona, claim.choice, self.claims.options[label], float(marginal[label]))
            for claim, label, marginal in zip(
                self.claims.claims, self.labels, self.marginals, strict=True
            )
        ]
        return rows_html(repr(self), ("persona", "choice", "label", "probability"), rows)


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read the results of a complete run.

    Raises:
      RunError: the folder holds no run, or one that is not complete; or files of it are missing,
        damaged or another run's, and all of these are named.
    """
    folder = pathlib.Path(path)
    if not os.path.lexists(folder / SUMMARY):
        has_begun = os.path.lexists(folder / MANIFEST)
        within = sorted(str(path.parent) for path in folder.glob(f"*/{SUMMARY}"))
        name = f"name one of {', '.join(within)}" if within else "name the folder of a run"
        raise RunError(
            Fault(
                rule="The folder holds the results of a search.",
                found="a search that is not complete" if has_begun else f"no {MANIFEST}",
                where=str(folder),
                remedy=_completing(folder) if has_begun else name,
            )
        )
    manifest, summary, contents = _verified(folder)
    claims = _claims(folder / CLAIMS, manifest.get("rule"))
    scores = bytes_as_arrays(contents[SCORES], folder / SCORES)
    _check_scores(scores, len(claims), len(claims.options), folder / SCORES)
    trace = bytes_as_arrays(contents[TRACE], folder / TRACE)
    return RunRecord(manifest, summary, claims, **scores, trace=trace)


def _verified(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """The manifest, the summary, and the bytes of all other files by name; each as was written."""
    faults: list[Fault] = []
    sealed: dict[str, dict[str, Any]] = {}
    contents: dict[str, bytes] = {}
    for owner, wanted in ((MANIFEST, {CLAIMS}), (SUMMARY, {LABELS, SCORES, TRACE})):
        try:
            sealed[owner] = read_sealed(folder / owner)
            known = sealed[owner].get("files")
            if not isinstance(known, Mapping) or not wanted <= known.keys():
                raise damage(folder / owner, f"no digests of {', '.join(sorted(wanted))}")
        except RunError as error:
            faults += error.faults
            continue
        for name in known:
            try:
                contents[name] = read_known(folder / name, known[name])
            except RunError as error:
                faults += error.faults
    if not faults:
        configuration = seal_of(sealed[MANIFEST]["configuration"])
        if sealed[SUMMARY].get("configuration") != configuration:
            faults += damage(folder / SUMMARY, f"the summary of another run than {MANIFEST}").faults
    if faults:
        raise RunError(faults)
    return sealed[MANIFEST], sealed[SUMMARY], contents


def _completing(folder: pathlib.Path) -> str:
    """How a search that was cut off is completed: the whole command, where one began it.

    Raises:
      RunError: the manifest is damaged.
    """
    command = read_sealed(folder / MANIFEST)["sessions"][-1]["command"]
    if command is None:
        return "complete it with resume=True"
    return f"complete it by `{resumed(command)}`"


def resumed(command: str) -> str:
    """The command that goes on with the search which this command began."""
    is_told = {"--resume", "--resume-if-begun"} & {*shlex.split(command)}
    return command if is_told else f"{command} --resume"


def _claims(path: pathlib.Path, rule: Mapping[str, Any] | None) -> ClaimSet:
    """The claims of a run, with the rule that its manifest names: a file of claims names none."""
    try:
        claims = load_claims(path)
    except InputError as error:
        raise RunError(error.faults) from None
    if rule is None:
        return claims
    return dataclasses.replace(claims, rule=rule["name"], rule_source=rule["source"])


def _check_scores(
    scores: Mapping[str, np.ndarray], num_claims: int, num_options: int, path: pathlib.Path
) -> None:
    """Refuse arrays that are not of these claims, or labels and numbers that cannot be."""
    both = (num_claims, num_options)
    shapes = dict(zip(RESULT_ARRAYS, ((num_claims,), (num_claims,), both, both), strict=True))
    found = {name: array.shape for name, array in scores.items()}
    if found != shapes:
        raise damage(path, f"arrays {found}, where {num_claims} claims have {shapes}")
    labels = scores["labels"]
    if labels.dtype != np.int8 or labels.min() < 0 or labels.max() >= num_options:
        found_labels = f"{labels.dtype} labels from {labels.min()} to {labels.max()}"
        raise damage(path, f"{found_labels}, and {num_options} options")
    # The odds of a label that is sure are infinite.
    is_sound = {
        "log_odds": ~np.isnan(scores["log_odds"]),
        "marginals": (scores["marginals"] >= 0) & (scores["marginals"] <= 1 + 1e-5),
        "label_log_probs": np.isfinite(scores["label_log_probs"]),
    }
    for name, is_number in is_sound.items():
        if not is_number.all():
            raise damage(path, f"{(~is_number).sum()} {name} that cannot be")
