"""The formats by name, and the function that writes one."""

import os
import pathlib

import numpy as np

from icmjax.claims import ClaimSet, GoldLabels
from icmjax.errors import Fault, InputError, RunError
from icmjax.prompts import resolve_template
from icmjax.runs.exports.dataset import dataset
from icmjax.runs.exports.draws import draws
from icmjax.runs.exports.inspect_task import inspect_task
from icmjax.runs.exports.lm_eval_task import lm_eval_task
from icmjax.runs.exports.rows import dpo, prompt, sft, tree_order
from icmjax.runs.exports.source import questions_for, worded
from icmjax.runs.places import Content, write_new
from icmjax.runs.reading import RunRecord, read_run

# By the file or the folder that each is in a run.
FORMATS = {
    "prompt": "prompt.txt",
    "sft": "sft.jsonl",
    "dpo": "dpo.jsonl",
    "tree-order": "tree_order.jsonl",
    "lm-eval": "lm_eval",
    "inspect": "inspect",
    "hf": "dataset",
    "arviz": "draws.nc",
}
TEXTS = {"prompt": prompt, "sft": sft, "dpo": dpo}  # of the labelled claims alone
TASKS = {"lm-eval": lm_eval_task, "inspect": inspect_task}  # of claims to be asked about, too


def export(
    run: RunRecord | str | os.PathLike[str],
    form: str,
    path: str | os.PathLike[str] | None = None,
    *,
    queries: ClaimSet | None = None,
    gold: GoldLabels | None = None,
    template: str | None = None,
    orders: np.ndarray | None = None,
) -> tuple[pathlib.Path, bool]:
    """Write a run's labelled claims in a form that other tools take.

    Args:
      run: the folder of a complete run, or what `read_run` gave.
      form: one of `FORMATS`; docs/exports.md says what each writes, and how it is read.
      path: of the file or folder to be. By default it has the format's name in the run folder, or
        the first of `name-2`, `name-3`, ... at which nothing is, or the same already.
      queries: lm-eval, inspect: held-out claims that the task asks about.
      gold: lm-eval, inspect: their gold labels. Claims without one are left out.
      template: of the texts; by default the one that the run records.
      orders: tree-order: int32 `[N, N - 1]`, a tree scorer's `demonstration_orders()`.

    Returns:
      the path, and whether it was written: not where the same is there already.

    Raises:
      InputError: the format is not known, lacks what it is made from or is given what it does not
        take; a library that it needs is not installed.
      RunError: the run is not complete, or has not what the format is made from; or something
        else is at the path.
    """
    _check(form, path is None and isinstance(run, RunRecord), queries, orders)
    if isinstance(run, RunRecord):
        assert path is not None
        record, place, name = run, pathlib.Path(path), pathlib.Path(path).stem
    else:
        folder = pathlib.Path(run)
        place = folder / FORMATS[form] if path is None else pathlib.Path(path)
        record, name = read_run(run), pathlib.Path(os.path.abspath(run)).name
    content = _content(record, form, name, queries, gold, template, orders)
    return write_new(place, content, is_chosen=path is not None)


def _content(
    run: RunRecord,
    form: str,
    name: str,
    queries: ClaimSet | None,
    gold: GoldLabels | None,
    template: str | None,
    orders: np.ndarray | None,
) -> Content:
    if form == "arviz":
        return draws(run)
    if form == "hf":
        return dataset(run, name)
    if orders is not None:
        return tree_order(run.claims, run.labels, orders).encode()
    recorded = template or run.manifest.get("options", {}).get("template")
    if recorded is None:
        rule, remedy = "An export has a template.", "name one, as the search had it"
        raise RunError(Fault(rule, "none, and the run records none", "template", remedy))
    source = worded(run, resolve_template(recorded, None, run.claims), name)
    if form in TEXTS:
        return TEXTS[form](source).encode()
    assert queries is not None
    return TASKS[form](source._replace(questions=questions_for(source, queries, gold)))


def _check(form: str, is_placeless: bool, queries: ClaimSet | None, orders: object) -> None:
    """Refuse a format that is not known, or arguments that do not go with it; all at once."""
    if form not in FORMATS:
        remedy = f"choose one of {', '.join(FORMATS)}"
        raise InputError(Fault("A format is chosen by its name.", repr(form), "form", remedy))
    faults = []
    for argument, value, needing in (
        ("queries", queries, tuple(TASKS)),
        ("orders", orders, ("tree-order",)),
    ):
        rule = f"The formats that are made from {argument} are {', '.join(needing)}."
        if form in needing and value is None:
            remedy = {"queries": "give the claims to ask about"}.get(argument, "give it")
            faults.append(Fault(rule, "none", f"{argument} of {form}", remedy))
        if form not in needing and value is not None:
            faults.append(Fault(rule, f"{argument} for {form}", argument, "leave it out"))
    if is_placeless:
        rule = "An export has a place."
        faults.append(Fault(rule, "a run without its folder", "path", "give a path"))
    if faults:
        raise InputError(faults)
