"""Run folders: what a search was asked to do, its checkpoints and its results.

```
DIR/manifest.json       the configuration, and the environment of every session
DIR/claims.jsonl        the claims, without labels
DIR/answers.jsonl       labels of people that the search holds fast, where it was given any
DIR/checkpoints/        the last states, and the trace of each block of steps
DIR/labels.jsonl        one row a claim: its label, log-odds and marginal
DIR/scores.npz          the arrays of the result, in full precision
DIR/trace.npz           the algorithm's Info of every step, and the tokens that it read
DIR/gold.jsonl          gold labels by claim, where they are known: for accuracies and reports alone
DIR/summary.json        written last: its presence says that the search is complete
DIR/.lock               held by the process that writes
```

A folder is one of three things at every moment, whenever a process dies. Without a manifest it is
empty, whatever else of a run's start lies in it: a search may start there. With one it can be
resumed. With a summary it is complete, and is never touched again.

Every file is written beside its place and renamed, so that none is ever half-written. The manifest
and the summary hold digests of themselves and of the files that belong to them.
"""

import contextlib
import datetime
import os
import pathlib
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax._version import __version__
from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels, count_violations, write_claims
from icmjax.errors import Fault, RunError
from icmjax.runs.checkpoints import Checkpoints
from icmjax.runs.curves import found_by, held_fast
from icmjax.runs.files import (
    LOCK,
    arrays_as_bytes,
    damage,
    digest_of,
    lock,
    read_known,
    read_sealed,
    seal_of,
    write_content,
    write_sealed,
    writing,
)
from icmjax.runs.fingerprints import check_same
from icmjax.runs.jsonl import as_jsonl, label_rows
from icmjax.runs.reading import (
    ANSWERS,
    CLAIMS,
    GOLD,
    LABELS,
    MANIFEST,
    RESULT_ARRAYS,
    SCORES,
    SUMMARY,
    TOKENS,
    TRACE,
    read_run,
)
from icmjax.runs.warned import warnings_of
from icmjax.scoring import mutual_predictability
from icmjax.search import Account, SearchResult

CHECKPOINTS = "checkpoints"
PARTIAL = re.compile(
    r"\..*\.[0-9a-f]{16}\.partial"
)  # what `icmjax.files` leaves where it is killed


def environment(command: str | None = None) -> dict[str, Any]:
    """Where and when a session of a search ran."""
    device = jax.devices()[0]
    return {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "versions": {
            "icmjax": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


class Run:
    """An open run folder, which this process alone may write; made by `open_run`."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], claims: ClaimSet):
        self.path = path
        self.manifest = manifest
        self.checkpoints = Checkpoints(path / CHECKPOINTS, manifest["configuration"])
        self.is_complete = os.path.lexists(path / SUMMARY)
        self._claims = claims

    def save(self, state: Any, info: Any, num_steps: int, account: Account) -> None:
        """Keep the state after `num_steps` steps, and the Info of the block that led to it."""
        if not self.is_complete:
            self.checkpoints.save(state, info, num_steps, account)

    def restore(
        self, like: Any, last_step: int | None = None
    ) -> tuple[Any, list[dict[str, np.ndarray]], Account] | None:
        """The last state in the structure of `like`, all blocks' Info; None before a first save.

        Args:
          like: a state.
          last_step: the state after no more than so many steps; None for the last one.

        Raises:
          RunError: no checkpoint is whole, or they do not have the structure of `like`.
        """
        if self.is_complete and self.checkpoints.is_empty:
            remedy = "read the results; they need no checkpoint"
            raise damage(self.path / CHECKPOINTS, "no state of a run that is complete", remedy)
        return self.checkpoints.restore(like, last_step)

    def write_results(self, result: SearchResult, gold: GoldLabels | None = None) -> dict[str, Any]:
        """Write labels, scores, trace and, last, the summary, which is also returned.

        A run that is complete keeps the summary that it has.

        Args:
          result: of the search.
          gold: for the accuracy and the report alone.
        """
        if self.is_complete:
            return read_sealed(self.path / SUMMARY)
        scores = {name: getattr(result, name) for name in RESULT_ARRAYS}
        rows = label_rows(self._claims, result.labels, result.log_odds, result.marginals)
        contents = {
            LABELS: as_jsonl(rows).encode(),
            SCORES: arrays_as_bytes(scores),
            TRACE: arrays_as_bytes(result.trace._asdict() | {TOKENS: result.tokens}),
        }
        if gold is not None:
            contents[GOLD] = _gold_rows(self._claims, gold)
        summary = self._summarise(result, gold)
        summary["files"] = {name: digest_of(content) for name, content in contents.items()}
        summary["configuration"] = seal_of(self.manifest["configuration"])
        for name, content in contents.items():
            write_content(self.path / name, content)
        # Its diagnostics say which answers spoke for what.
        write_sealed(self.path / SUMMARY, summary, private=ANSWERS in self.manifest["files"])
        self.is_complete = True
        return summary

    def _summarise(self, result: SearchResult, gold: GoldLabels | None) -> dict[str, Any]:
        labels, logp = jnp.asarray(result.labels), jnp.asarray(result.label_log_probs)
        session = self.manifest["sessions"][-1]
        diagnostics = dict(result.diagnostics)
        accuracy, num_accuracy_claims = self._accuracy(result.labels, gold)
        summary = {
            "utility": result.utility,
            "mutual_predictability": float(mutual_predictability(logp, labels)),
            "num_inconsistent": int(count_violations(labels, self._claims.rules)),
            "num_claims": len(self._claims),
            "accuracy": accuracy,
            "num_accuracy_claims": num_accuracy_claims,
            "warnings": list(diagnostics.pop("warnings", [])),
            "seeds": self.manifest["configuration"]["rng_key"]["data"],
            "versions": session["versions"],
            "device": session["device"],
            "wall_seconds": diagnostics.pop("seconds"),
            "num_tokens": diagnostics.pop("num_tokens"),
            "diagnostics": diagnostics,
        }
        is_held = held_fast(self._claims, self.manifest["configuration"])
        found = found_by(result, self._claims, gold, is_held)
        return summary | {"warnings": warnings_of(self.manifest, summary, self._claims, found)}

    def _accuracy(self, labels: np.ndarray, gold: GoldLabels | None) -> tuple[float | None, int]:
        """The share of right labels among those that the search found, and how many these are.

        Labels that it was given say nothing about it.
        """
        if gold is None:
            return None, 0
        clamped = self.manifest["configuration"].get("clamped", {})
        is_free = np.array([claim.id not in clamped for claim in self._claims.claims])
        is_counted = is_free & (gold.labels != UNLABELLED)
        if not is_counted.any():
            return None, 0
        return float(np.mean((labels == gold.labels)[is_counted])), int(is_counted.sum())


def _gold_rows(claims: ClaimSet, gold: GoldLabels) -> bytes:
    rows = zip(claims.claims, gold.labels.tolist(), strict=True)
    return as_jsonl(
        {"id": claim.id, "label": None if label == UNLABELLED else label} for claim, label in rows
    ).encode()


@contextlib.contextmanager
def open_run(
    path: str | os.PathLike[str],
    claims: ClaimSet,
    configuration: Mapping[str, Any],
    *,
    resume: bool = False,
    command: str | None = None,
    plan: str | None = None,
    options: Mapping[str, Any] | None = None,
    private_files: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Open a run folder for writing, until the context ends.

    Args:
      path: the folder; it is made where absent.
      claims: the claims of the search.
      configuration: of the search, from `search_configuration`.
      resume: go on with the search that the folder holds, rather than start one in a new folder. A
        run that is complete is opened too, and nothing but its lock is written.
      command: the command line, for the record.
      plan: what a pass takes in this session, for the record.
      options: of the command, so that others can run it again.
      private_files: further files of the run by name, which its owner alone may read, as then the
        manifest and the checkpoints.

    Raises:
      RunError: the folder is in use or not writable; there is nothing to resume, it is another
        search, whose differences are shown, or files of it are damaged. Whatever ends the context
        of a search that was started here before its first checkpoint, removes what was written.
    """
    folder = pathlib.Path(path)
    check_folder(folder, resume)
    session = environment(command) | ({} if plan is None else {"plan": plan})
    with writing(folder):
        is_new_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        contents = {CLAIMS: (_claims_as_bytes(claims), False)}
        contents |= {name: (text.encode(), True) for name, text in (private_files or {}).items()}
        if resume:
            run = _go_on(folder, claims, configuration, options, contents, session)
        else:
            check_folder(folder, resume, is_locked=True)  # again: another may have been first
            run = None
        try:
            yield run or _begin(folder, claims, configuration, options, contents, session)
        except BaseException:  # a Ctrl-C too leaves a folder in which a search may start
            is_kept = os.path.lexists(folder / SUMMARY) or resume
            if not is_kept and Checkpoints(folder / CHECKPOINTS, {}).is_empty:
                _discard(folder, list(contents), is_new_folder)
            raise


def check_folder(path: str | os.PathLike[str], resume: bool, is_locked: bool = False) -> None:
    """Refuse a folder in which no search can start, or none be resumed; nothing is written.

    Raises:
      RunError: as `open_run`, so that a command may find it before it loads a model.
    """
    folder = pathlib.Path(path)
    with writing(folder):
        if resume and not os.path.lexists(folder / MANIFEST):
            remedy = "start it without resume=True, or name the folder of a run"
            rule = "A search that is resumed has begun."
            raise RunError(Fault(rule, f"no {MANIFEST}", str(folder), remedy))
        if not is_locked and os.path.lexists(folder / LOCK):
            with lock(folder):
                pass
        if resume:
            read_sealed(folder / MANIFEST)
        else:
            _check_empty(folder)


def _begin(
    folder: pathlib.Path,
    claims: ClaimSet,
    configuration: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    contents: Mapping[str, tuple[bytes, bool]],
    session: Mapping[str, Any],
) -> Run:
    manifest: dict[str, Any] = {"configuration": configuration, "sessions": [session]}
    # The claims' file spells pairs out, and does not say by which rule.
    manifest["rule"] = {"name": claims.rule, "source": claims.rule_source}
    if options is not None:
        manifest["options"] = dict(options)
    manifest["files"] = {name: digest_of(content) for name, (content, _) in contents.items()}
    _sweep(folder)
    # First, for without it the folder counts as empty, and with it the rest can be made anew.
    _write_manifest(folder, manifest, contents)
    _complete_start(folder, contents)
    return Run(folder, manifest, claims)


def _go_on(
    folder: pathlib.Path,
    claims: ClaimSet,
    configuration: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    contents: Mapping[str, tuple[bytes, bool]],
    session: Mapping[str, Any],
) -> Run:
    manifest = read_sealed(folder / MANIFEST)
    check_same(folder / MANIFEST, manifest, configuration, options)
    run = Run(folder, manifest, claims)
    if run.is_complete:
        read_run(folder)  # whatever is damaged is found now
        return run
    known = manifest["files"]
    for name in known.keys() | contents.keys():
        # A start that was cut off may lack it; a search that has come further has lost it.
        if os.path.lexists(folder / name) or not run.checkpoints.is_empty:
            read_known(folder / name, known.get(name))
        elif name not in contents or digest_of(contents[name][0]) != known.get(name):
            raise damage(folder / name, "no such file, and other content to make it from")
    _sweep(folder)
    _sweep(folder / CHECKPOINTS)
    _complete_start(folder, contents)
    manifest["sessions"].append(session)
    _write_manifest(folder, manifest, contents)
    return run


def _write_manifest(
    folder: pathlib.Path, manifest: Mapping[str, Any], contents: Mapping[str, tuple[bytes, bool]]
) -> None:
    """Write the manifest; where files are private, it is: its configuration has the answers too."""
    write_sealed(folder / MANIFEST, manifest, _has_private(contents))


def _has_private(contents: Mapping[str, tuple[bytes, bool]]) -> bool:
    return any(is_private for _, is_private in contents.values())


def _complete_start(folder: pathlib.Path, contents: Mapping[str, tuple[bytes, bool]]) -> None:
    for name, (content, is_private) in contents.items():
        if not os.path.lexists(folder / name):
            write_content(folder / name, content, is_private)
    with writing(folder):
        # States know which labels were given.
        (folder / CHECKPOINTS).mkdir(0o700 if _has_private(contents) else 0o777, exist_ok=True)


def _claims_as_bytes(claims: ClaimSet) -> bytes:
    with writing(pathlib.Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / CLAIMS
        write_claims(claims, path)
        return path.read_bytes()


def _sweep(folder: pathlib.Path) -> None:
    """Remove what writers that were killed left half-written."""
    with writing(folder):
        for entry in folder.iterdir() if folder.exists() else ():
            if PARTIAL.fullmatch(entry.name):
                entry.unlink()


def _discard(folder: pathlib.Path, names: list[str], is_new_folder: bool) -> None:
    """Remove a run that has kept nothing, so that the search can start in the folder again.

    The manifest goes after all that it tells of: where this is cut off too, the run can be resumed.
    """
    with contextlib.suppress(OSError):
        if (folder / CHECKPOINTS).exists():
            for entry in (folder / CHECKPOINTS).iterdir():
                entry.unlink()
            (folder / CHECKPOINTS).rmdir()
        for name in (*names, MANIFEST, LOCK):
            (folder / name).unlink(missing_ok=True)
        if is_new_folder:
            folder.rmdir()


def _check_empty(folder: pathlib.Path) -> None:
    if folder.exists() and not folder.is_dir():
        found = "a file"
    elif folder.is_dir() and any(not _is_of_a_start(entry.name) for entry in folder.iterdir()):
        found = "a run" if os.path.lexists(folder / MANIFEST) else "other files"
    else:
        return
    others = ", or go on by resume=True" if found == "a run" else ""
    raise RunError(
        Fault(
            rule="A search starts in a new or empty folder.",
            found=found,
            where=str(folder),
            remedy=f"name another folder{others}",
        )
    )


def _is_of_a_start(name: str) -> bool:
    """Whether a start that was cut off before its manifest may have left this."""
    return name == LOCK or (name.startswith(f".{MANIFEST}.") and bool(PARTIAL.fullmatch(name)))
