"""Run folders: what a search was asked to do, its checkpoints and its results.

```
DIR/manifest.json       the configuration, and the environment of every session
DIR/claims.jsonl        the claims, without labels
DIR/labels.jsonl        one row a claim: its label, log-odds and marginal
DIR/scores.npz          the arrays of the result, in full precision
DIR/trace.npz           the algorithm's Info of every step
DIR/summary.json        written last: its presence says that the search is complete
DIR/checkpoints/        the state after the last block, and the trace of each block
DIR/.lock               held by the process that writes
```

Every file is written beside its place and renamed, so that none is ever half-written.

Checkpoints are `.npz` files and not orbax ones. A state is some kilobytes and a block may take no
more than a tenth of a second: at N = 256 a save took 2 ms, and 45 ms through
`orbax.checkpoint.CheckpointManager` (idle CPU, local disk; the factor of 20 held under load), whose
strength, sharded and asynchronous saving of large arrays, has nothing to work on here.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax._version import __version__
from icmjax.claims import (
    UNLABELLED,
    ClaimSet,
    GoldLabels,
    count_violations,
    load_claims,
    write_claims,
)
from icmjax.errors import Fault, InputError, RunError
from icmjax.runs.files import (
    LOCK,
    lock,
    read_arrays,
    write_arrays,
    write_bytes,
    write_json,
    writing,
)
from icmjax.scoring import mutual_predictability
from icmjax.search import Account, Algorithm, SearchResult

MANIFEST, SUMMARY, LABELS = "manifest.json", "summary.json", "labels.jsonl"
CLAIMS, SCORES, TRACE = "claims.jsonl", "scores.npz", "trace.npz"
CHECKPOINTS, STATE = "checkpoints", "state.npz"


def search_configuration(
    scorer: Any,
    claims: ClaimSet,
    algorithm: Algorithm,
    rng_key: Array,
    *,
    model: str | None = None,
    clamped: np.ndarray | None = None,
) -> dict[str, Any]:
    """All that the result of a search depends on, as JSON; a resumed search must have the same.

    Args:
      scorer: the scorer; a checksum of its arrays, the model's weights among them, stands for it,
        or where it has `sources` of these.
      claims: the claims.
      algorithm: a dataclass.
      rng_key: a typed key.
      model: the model's name.
      clamped: int8 `[N]`, -1 where free.
    """
    assert dataclasses.is_dataclass(algorithm)
    answers = [] if clamped is None else np.flatnonzero(np.asarray(clamped) >= 0)
    configuration = {
        "algorithm": {"name": type(algorithm).__name__} | dataclasses.asdict(algorithm),
        "claims": {
            "fingerprint": claims.fingerprint,
            "num_claims": len(claims),
            "options": list(claims.options),
        },
        "clamped": {claims.claims[i].id: int(np.asarray(clamped)[i]) for i in answers},
        "model": model,
        "rng_key": {
            "impl": str(jax.random.key_impl(rng_key)),
            "data": np.asarray(jax.random.key_data(rng_key)).tolist(),
        },
        "scorer": {
            "name": type(scorer).__name__,
            "fingerprint": pytree_fingerprint(getattr(scorer, "sources", scorer)),
        },
    }
    return json.loads(json.dumps(configuration))


def pytree_fingerprint(tree: Any) -> str:
    """SHA-256 over paths, shapes, dtypes and position-weighted checksums of all arrays of a pytree.

    The checksums are taken where the arrays lie, so that it costs one read of the weights; it is
    made against mistakes, not against forgery.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.shape} {array.dtype} {_checksum(array)}\n".encode())
    return digest.hexdigest()


@jax.jit
def _checksum(array: Array) -> Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    weights = jnp.uint32(1)
    for axis in range(array.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        weights = weights * jnp.uint32(0x9E3779B1) + index * jnp.uint32(0x85EBCA77)
    return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


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
        self._claims = claims
        self._checkpoints = path / CHECKPOINTS

    def save(self, state: Any, info: Any, num_steps: int, account: Account) -> None:
        """Keep the state after `num_steps` steps, and the Info of the block that led to it."""
        if len(info[0]):
            write_arrays(self._checkpoints / f"trace-{num_steps:09d}.npz", info._asdict())
        arrays = {
            jax.tree_util.keystr(path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        arrays |= {name: np.asarray(value) for name, value in account._asdict().items()}
        # Last, for it alone says how far the search has come.
        write_arrays(self._checkpoints / STATE, arrays | {"num_steps": np.asarray(num_steps)})

    def restore(self, like: Any) -> tuple[Any, list[dict[str, np.ndarray]], Account] | None:
        """The last state in the structure of `like`, all blocks' Info; None before a first save.

        Raises:
          RunError: the checkpoint does not have the structure of `like`.
        """
        path = self._checkpoints / STATE
        if not path.exists():
            return None
        arrays = read_arrays(path)
        leaves = []
        for key_path, expected in jax.tree_util.tree_leaves_with_path(like):
            name = jax.tree_util.keystr(key_path)
            found = arrays.get(name)
            if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
                kind = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise RunError(
                    Fault(
                        rule="A checkpoint holds the state of the algorithm that goes on from it.",
                        found=f"{kind} where {expected.dtype} {expected.shape} is expected",
                        where=f"{path}, array {name}",
                        remedy="resume with the version of icmjax in manifest.json, or start anew",
                    )
                )
            leaves.append(found)
        num_steps = int(arrays["num_steps"])
        blocks = [
            read_arrays(block)
            for block in sorted(self._checkpoints.glob("trace-*.npz"))
            if int(block.stem.removeprefix("trace-")) <= num_steps
        ]
        account = Account(int(arrays["num_tokens"]), float(arrays["seconds"]))
        return jax.tree.unflatten(jax.tree.structure(like), leaves), blocks, account

    def write_results(self, result: SearchResult, gold: GoldLabels | None = None) -> dict[str, Any]:
        """Write labels, scores, trace and, last, the summary, which is also returned.

        Args:
          result: of the search.
          gold: for the accuracy alone.
        """
        claims, options = self._claims, self._claims.options
        is_binary = len(options) == 2
        rows = []
        for index, claim in enumerate(claims.claims):
            row: dict[str, Any] = {k: v for k, v in claim._asdict().items() if v is not None}
            marginals = result.marginals[index].tolist()
            row["label"] = int(result.labels[index])
            row["log_odds"] = float(result.log_odds[index])
            row["marginal"] = marginals[1] if is_binary else marginals
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        summary = self._summarise(result, gold)
        write_bytes(self.path / LABELS, "".join(rows).encode())
        names = ("labels", "log_odds", "marginals", "label_log_probs")
        write_arrays(self.path / SCORES, {name: getattr(result, name) for name in names})
        write_arrays(self.path / TRACE, result.trace._asdict())
        write_json(self.path / SUMMARY, summary)
        return summary

    def _summarise(self, result: SearchResult, gold: GoldLabels | None) -> dict[str, Any]:
        labels, logp = jnp.asarray(result.labels), jnp.asarray(result.label_log_probs)
        session = self.manifest["sessions"][-1]
        diagnostics = dict(result.diagnostics)
        accuracy = None
        if gold is not None and np.any(gold.labels != UNLABELLED):
            has_gold = gold.labels != UNLABELLED
            accuracy = float(np.mean(result.labels[has_gold] == gold.labels[has_gold]))
        return {
            "utility": result.utility,
            "mutual_predictability": float(mutual_predictability(logp, labels)),
            "num_inconsistent": int(count_violations(labels, self._claims.rules)),
            "num_claims": len(self._claims),
            "accuracy": accuracy,
            "seeds": self.manifest["configuration"]["rng_key"]["data"],
            "versions": session["versions"],
            "device": session["device"],
            "wall_seconds": diagnostics.pop("seconds"),
            "num_tokens": diagnostics.pop("num_tokens"),
            "diagnostics": diagnostics,
        }


@contextlib.contextmanager
def open_run(
    path: str | os.PathLike[str],
    claims: ClaimSet,
    configuration: Mapping[str, Any],
    *,
    resume: bool = False,
    command: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Open a run folder for writing, until the context ends.

    Args:
      path: the folder; it is made where absent.
      claims: the claims of the search.
      configuration: of the search, from `search_configuration`.
      resume: go on with the search that the folder holds, rather than start one in a new folder.
      command: the command line, for the record.
      options: of the command, so that others can run it again.

    Raises:
      RunError: the folder is in use or not writable; there is nothing to resume, or it is another
        search, whose differences are shown. Any fault in the input that ends the context before
        the first checkpoint removes what was written.
    """
    folder = pathlib.Path(path)
    if resume and not (folder / MANIFEST).is_file():
        raise RunError(
            Fault(
                rule="A search that is resumed has begun.",
                found=f"no {MANIFEST}",
                where=str(folder),
                remedy="start it without --resume, or name the folder of a run",
            )
        )
    if not resume:
        _check_empty(folder)
    is_new_folder = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if resume:
            manifest = json.loads((folder / MANIFEST).read_text())
            _check_configuration(folder, manifest["configuration"], configuration)
        else:
            _check_empty(folder)  # again: another process may have been first
            manifest = {"configuration": configuration, "sessions": []}
            if options is not None:
                manifest["options"] = dict(options)
        manifest["sessions"].append(environment(command))
        with writing(folder):
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            temporary = folder / f".{CLAIMS}"
            write_claims(claims, temporary)
            os.replace(temporary, folder / CLAIMS)
        write_json(folder / MANIFEST, manifest)
        try:
            yield Run(folder, manifest, claims)
        except InputError:
            if not (folder / CHECKPOINTS / STATE).exists():
                _discard(folder, is_new_folder)
            raise


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


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read the results of a complete run.

    Raises:
      RunError: the folder holds no run, or one that is not complete.
    """
    folder = pathlib.Path(path)
    if not (folder / SUMMARY).is_file():
        has_begun = (folder / MANIFEST).is_file()
        raise RunError(
            Fault(
                rule="The folder holds the results of a search.",
                found="a search that is not complete" if has_begun else f"no {MANIFEST}",
                where=str(folder),
                remedy="complete it with --resume" if has_begun else "name the folder of a run",
            )
        )
    return RunRecord(
        manifest=json.loads((folder / MANIFEST).read_text()),
        summary=json.loads((folder / SUMMARY).read_text()),
        claims=load_claims(folder / CLAIMS),
        trace=read_arrays(folder / TRACE),
        **read_arrays(folder / SCORES),
    )


def _discard(folder: pathlib.Path, is_new_folder: bool) -> None:
    """Remove a run that has kept nothing yet, so that the search can start in the folder again."""
    shutil.rmtree(folder / CHECKPOINTS)
    for name in (MANIFEST, CLAIMS, LOCK):
        (folder / name).unlink()
    if is_new_folder:
        folder.rmdir()


def _check_empty(folder: pathlib.Path) -> None:
    if folder.exists() and not folder.is_dir():
        found = "a file"
    elif folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
        found = "a run" if (folder / MANIFEST).exists() else "other files"
    else:
        return
    raise RunError(
        Fault(
            rule="A search starts in a new or empty folder.",
            found=found,
            where=str(folder),
            remedy="name another folder" + (", or --resume" if found == "a run" else ""),
        )
    )


def _check_configuration(
    folder: pathlib.Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    before, now = _flatten(before), _flatten(now)
    absent = "(absent)"
    faults = [
        Fault(
            rule="A search is resumed as it was started.",
            found=f"{name} = {now.get(name, absent)!r}, before {before.get(name, absent)!r}",
            where=str(folder / MANIFEST),
            remedy="resume with the value it had, or start anew in another folder",
        )
        for name in sorted(before.keys() | now.keys())
        if before.get(name, absent) != now.get(name, absent)
    ]
    if faults:
        raise RunError(faults)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        is_branch = isinstance(value, Mapping)
        flat |= _flatten(value, f"{prefix}{name}.") if is_branch else {f"{prefix}{name}": value}
    return flat
