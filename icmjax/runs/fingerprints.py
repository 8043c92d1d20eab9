"""What the result of a search depends on, as JSON: a resumed search must have the same."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, RunError
from icmjax.lm import LanguageModel, without_mesh
from icmjax.prompts import TokenizedClaims
from icmjax.search import Algorithm

# How a pass is cut up and what things are called. These change no score, so that a run may go on
# with another batch size, on other devices, or in a process that padded its trees otherwise.
HARMLESS = frozenset(
    "batch_size query_batch_size width widths num_serial num_spare mesh memory_budget "
    "name default_template tokenizer graphdef params platform kv_repeats".split()
)
# The claims' and the weights' own fingerprints stand for the paths that led to them.
PATHS = frozenset({"model", "source"})


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
      scorer: the scorer; a checksum of its arrays, the model's weights and the tokens of the
        claims among them, and its settings stand for it, or where it has `sources` those of these.
      claims: the claims.
      algorithm: a dataclass.
      rng_key: a typed key.
      model: the model's name, for the record.
      clamped: int8 `[N]`, -1 where free.
    """
    assert dataclasses.is_dataclass(algorithm)
    answers = [] if clamped is None else np.flatnonzero(np.asarray(clamped) >= 0)
    sources = _as_given(getattr(scorer, "sources", scorer))
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
            "fingerprint": pytree_fingerprint(sources),
            "settings": settings_of(sources),
        },
    }
    return json.loads(json.dumps(configuration))


def settings_of(value: Any) -> Any:
    """The settings of a scorer that are no arrays, in all its parts, as JSON; None for none.

    A setting is a field that is a number, text, truth value or None, or a part or list of these.
    What is not known to be harmless counts, so that a new setting cannot be forgotten.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        parts = value._asdict()
    elif isinstance(value, Mapping):
        parts = {str(key): part for key, part in value.items()}
    elif isinstance(value, tuple | list):
        settings = [settings_of(part) for part in value]
        return None if all(part is None for part in settings) else settings
    else:
        return None  # an array, whose checksum is taken; or a function or a device
    found = {name: settings_of(part) for name, part in parts.items() if name not in HARMLESS}
    return {name: part for name, part in found.items() if part is not None} or None


def _as_given(scorer: Any) -> Any:
    """The scorer with claims as wide as their longest text, and with weights as their files are.

    So that neither padding nor a mesh, on which heads may be repeated, makes it another.
    """

    def trim(array: Any) -> Any:
        array = np.asarray(array)
        if array.ndim < 2:
            return array
        is_used = array.reshape(-1, array.shape[-1]).any(axis=0)
        return array[..., : int(is_used.nonzero()[0].max(initial=-1)) + 1]

    def give(leaf: Any) -> Any:
        if isinstance(leaf, TokenizedClaims):
            return jax.tree.map(trim, leaf)
        if isinstance(leaf, LanguageModel):
            config, params = without_mesh(leaf.config, leaf.params)
            return dataclasses.replace(leaf, config=config, params=params)
        return leaf

    kinds = (TokenizedClaims, LanguageModel)
    return jax.tree.map(give, scorer, is_leaf=lambda leaf: isinstance(leaf, kinds))


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
    if array.dtype == jnp.bool_ or array.dtype == jnp.int4:
        array = array.astype(jnp.int8)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    weights = jnp.uint32(1)
    for axis in range(array.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        weights = weights * jnp.uint32(0x9E3779B1) + index * jnp.uint32(0x85EBCA77)
    return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


def check_same(
    path: pathlib.Path,
    before: Mapping[str, Any],
    configuration: Mapping[str, Any],
    options: Mapping[str, Any] | None,
) -> None:
    """Refuse a search that differs from the one that a manifest tells of.

    Args:
      path: of the manifest.
      before: the manifest.
      configuration: of the search, from `search_configuration`.
      options: of the command; None where there is none.

    Raises:
      RunError: a fault for each difference, by its name.
    """
    changes = _changes(before["configuration"], configuration)
    if options is not None and before.get("options") is not None:
        changes |= _changes(before["options"], json.loads(json.dumps(dict(options))), "options.")
    counted = changes.keys() - PATHS - {f"options.{name}" for name in PATHS}
    if not counted:
        return  # moved, not changed
    given = _given_otherwise(before["configuration"], configuration)
    faults = [
        Fault(
            rule="A search is resumed as it was started.",
            found=f"{name} = {now!r}, before {earlier!r}",
            where=str(path),
            remedy="resume with the value it had, or start anew in another folder",
        )
        for name, (earlier, now) in sorted(changes.items())
        if not (given and name.startswith(GIVEN))
    ]
    if given:
        rule = "A search is resumed with the answers, or other given labels, that it began with."
        remedy = "leave it as it is, and search in another folder (`open_run`)"
        faults.append(Fault(rule, given, str(path), remedy))
    raise RunError(faults)


ABSENT = "(absent)"
GIVEN = "clamped."
MOST_NAMED = 6  # claims in a message


def _given_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How given labels, and what they imply, differ, in words; "" where they do not."""
    then, since = _given_labels(before), _given_labels(now)
    of_kind: dict[str, list[str]] = {"given since": [], "no longer given": [], "given anew": []}
    for id_ in sorted(then.keys() | since.keys()):
        was, is_ = then.get(id_), since.get(id_)
        if was is None:
            of_kind["given since"].append(f"claim {id_!r} ({is_})")
        elif is_ is None:
            of_kind["no longer given"].append(f"claim {id_!r} ({was})")
        elif was != is_:
            of_kind["given anew"].append(f"claim {id_!r} ({is_}, before {was})")
    said = []
    for kind, named in of_kind.items():
        others = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        said += [f"{kind}: {', '.join(named[:MOST_NAMED])}{others}"] if named else []
    return "; ".join(said)


def _given_labels(configuration: Mapping[str, Any]) -> dict[str, str]:
    """The names of given labels, by the ids of their claims."""
    given = configuration.get("clamped", {})
    return {id_: configuration["claims"]["options"][label] for id_, label in given.items()}


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    flat_before, flat_now = _flatten(before, prefix), _flatten(now, prefix)
    both = {
        name: (flat_before.get(name, ABSENT), flat_now.get(name, ABSENT))
        for name in flat_before.keys() | flat_now.keys()
    }
    # An option that was not there is one that was not given.
    unsaid = (ABSENT, None)
    return {
        name: (then, now)
        for name, (then, now) in both.items()
        if then != now and not (then in unsaid and now in unsaid)
    }


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names; a list of objects is told apart by number."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
            value = {str(index): part for index, part in enumerate(value)}
        is_branch = isinstance(value, Mapping)
        flat |= _flatten(value, f"{prefix}{name}.") if is_branch else {f"{prefix}{name}": value}
    return flat
