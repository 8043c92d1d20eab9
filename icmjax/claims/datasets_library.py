"""Claims that Hugging Face's library `datasets` reads: datasets of the hub, and folders."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from icmjax.claims.files import Row, rows_from_mappings
from icmjax.errors import ClaimsError, Fault
from icmjax.notebooks import let_bars_be_plain

HUB = "hf:"  # before an id, which would else be a path
_SAVED = ("dataset_info.json", "dataset_dict.json")  # by `save_to_disk`
_PLACE = re.compile(r"(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?")
_SPELLING = "hf:OWNER/NAME, with :CONFIG and @SPLIT where there are several"
_TAKE_A_COPY = (
    "try again with a network; or, where there is one, write a folder by "
    'datasets.load_dataset("OWNER/NAME").save_to_disk("FOLDER"), bring it here and name it'
)


class _Place(NamedTuple):
    """Where the library finds a dataset."""

    name: str  # an id or a folder
    config: str | None
    split: str | None
    is_hub: bool


def is_of_library(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a dataset of the hub, a folder, or a folder with a split."""
    text = os.fspath(source)
    return text.startswith(HUB) or _folder_of(text) is not None


def read_library(source: str | os.PathLike[str], faults: list[Fault]) -> tuple[list[Row], str]:
    """The rows of a dataset, and its name where that says whose claims they are, else "".

    Args:
      source: `hf:OWNER/NAME[:CONFIG][@SPLIT]`, or a folder, `FOLDER[@SPLIT]`: one that
        `save_to_disk` wrote, or one of data files.
      faults: gains a fault for each row that is none.

    Raises:
      ClaimsError: the library is not installed, or finds no such dataset; or there are several
        splits, and none is named.
    """
    text = os.fspath(source)
    place = _place_of(text)
    datasets = _library(text)
    with _told_as_faults(datasets, text):
        found = _load(datasets, place)
    rows = rows_from_mappings(_one_split(found, place, text), text, faults)
    is_saved = not place.is_hub and _is_saved(place.name)
    return rows, pathlib.Path(place.name).name if is_saved else ""


def _place_of(text: str) -> _Place:
    if not text.startswith(HUB):
        folder = _folder_of(text)
        assert folder is not None, "no folder"
        return _Place(folder, None, text[len(folder) + 1 :] or None, is_hub=False)
    match = _PLACE.fullmatch(text.removeprefix(HUB))
    if match is None:
        rule = "A dataset of the hub is named by its id."
        raise ClaimsError(Fault(rule, repr(text), "claims", f"write it as {_SPELLING}"))
    if os.path.lexists(match["name"]):  # which the library would take in its place
        rule, found = "A dataset of the hub has no file of its name here.", match["name"]
        remedy = f"name the folder without {HUB}, or go to another folder"
        raise ClaimsError(Fault(rule, found, text, remedy))
    return _Place(match["name"], match["config"], match["split"], is_hub=True)


def _folder_of(text: str) -> str | None:
    """The folder that a text names, with a split or without one."""
    if os.path.isdir(text):
        return text
    folder, _, split = text.rpartition("@")
    is_split = bool(split) and "/" not in split and not os.path.lexists(text)
    return folder if is_split and os.path.isdir(folder) else None


def _is_saved(folder: str) -> bool:
    return any(os.path.lexists(os.path.join(folder, name)) for name in _SAVED)


def _library(text: str) -> Any:
    let_bars_be_plain()
    try:
        import datasets
    except ImportError as error:
        rule = "Datasets of the hub and folders are read by the library datasets."
        remedy = 'pip install "icmjax[datasets]", or name a file'
        raise ClaimsError(Fault(rule, "it is not installed", text, remedy)) from error
    return datasets


@contextlib.contextmanager
def _told_as_faults(datasets: Any, text: str) -> Iterator[None]:
    """Turn what the library and the hub raise into a fault."""
    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        # The hub's own errors and those of the network are OSErrors.
        rule = "The library datasets can read the dataset."
        remedy = f"check its name and its files; an id is written {_SPELLING}; or name a file"
        if isinstance(error, ConnectionError):
            found, remedy = "no network, and no copy of the dataset on this machine", _TAKE_A_COPY
        elif isinstance(error, datasets.exceptions.DatasetNotFoundError):
            found = "no dataset of this name, or one that asks for a login"
            remedy += "; to log in: hf auth login"
        else:
            cause = error.__cause__ or error
            found = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise ClaimsError(Fault(rule, found, text, remedy)) from error


def _load(datasets: Any, place: _Place) -> Any:
    if place.is_hub:
        return datasets.load_dataset(place.name, place.config)
    if _is_saved(place.name):
        return datasets.load_from_disk(place.name)
    were_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        # A cache would keep a copy of files that the user may change.
        with tempfile.TemporaryDirectory() as scratch:
            return datasets.load_dataset(place.name, cache_dir=scratch, keep_in_memory=True)
    finally:
        if were_shown:
            datasets.enable_progress_bars()


def _one_split(found: Any, place: _Place, text: str) -> Any:
    """The rows of the split that is named, or of the only one."""
    splits = found if isinstance(found, dict) else {None: found}
    if place.split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if place.split in splits:
        return splits[place.split]
    names = [str(name) for name in splits if name is not None]
    rule = "A dataset's claims are those of one split."
    told = f"no split {place.split}" if place.split else f"the splits {', '.join(names)}"
    own = text.rpartition("@")[0] if place.split else text
    remedy = f"write {own}@{names[0]}; there are {', '.join(names)}" if names else f"write {own}"
    raise ClaimsError(Fault(rule, told, text, remedy))
