"""Held-out claims as a task of EleutherAI's lm-evaluation-harness, labelled claims as its shots."""

from collections.abc import Iterable
from typing import Any

import yaml

from icmjax._version import __version__
from icmjax.claims import Claim
from icmjax.errors import Fault, InputError
from icmjax.prompts import Template
from icmjax.runs.exports.source import Worded
from icmjax.runs.jsonl import as_jsonl

# The harness looks for paths in the folder that it is run from, and a task's folder may be moved.
DATA = '''"""The data of the task beside this file, wherever the folder lies."""

import pathlib

import datasets


def load(**_):
    folder = pathlib.Path(__file__).parent
    splits = ("demonstrations", "queries")
    files = {split: str(folder / f"{split}.jsonl") for split in splits}
    return datasets.load_dataset("json", data_files=files)
'''


def lm_eval_task(source: Worded) -> dict[str, bytes]:
    """The files of a task folder by name: YAML, its data, and what loads these.

    The harness is not needed. A prompt is the text that our own steering reads, up to the label:
    every space in it is the template's, and the harness adds none. The first N demonstrations are
    shown, all by default; `--num_fewshot 0` is zero-shot. Special tokens are those that the
    model's tokenizer adds itself, in both. Accuracy is of the label with the highest log-prob.

    Raises:
      InputError: the harness would read labels under this template otherwise than icmjax does.
    """
    assert source.questions is not None
    _check_forms(source.template)
    shown, asked = source.labelled, source.questions
    config: dict[str, Any] = {
        "task": source.title,
        "tag": "icmjax",
        "fewshot_split": "demonstrations",
        "test_split": "queries",
        "num_fewshot": len(shown),
        "fewshot_config": {"sampler": "first_n"},
        "fewshot_delimiter": source.template.separator,
        "target_delimiter": "",
        "output_type": "multiple_choice",
        # Names of columns: what is in them is no template.
        "doc_to_text": "text",
        "doc_to_target": "label",
        "doc_to_choice": source.forms,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "icmjax": __version__, "template": source.template.name},
    }
    if source.preamble:
        # A template of the column: the column's name alone is text to some versions.
        config["description"] = "{{preamble}}"
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    # A tag of the harness, which YAML's own writer has no value for.
    text += "custom_dataset: !function data.load\n"
    pairs = zip(asked.claims.claims, asked.gold.tolist(), strict=True)
    files = {
        f"{source.title}.yaml": text,
        "demonstrations.jsonl": as_jsonl(_rows(source, shown)),
        "queries.jsonl": as_jsonl(_rows(source, pairs)),
        "data.py": DATA,
    }
    return {name: content.encode() for name, content in files.items()}


def _rows(source: Worded, pairs: Iterable[tuple[Claim, int]]) -> Iterable[dict[str, Any]]:
    for claim, label in pairs:
        text = source.template.query_fn(claim)
        yield {"id": claim.id, "text": text, "label": label, "preamble": source.preamble}


def _check_forms(template: Template) -> None:
    """Refuse labels that the harness would read otherwise than `icmjax.scoring` does."""
    where, remedy = f"template {template.name!r}", "name another `template`"
    faults = []
    if template.is_label_apart:
        rule = "lm-eval reads the space before a label together with the label."
        faults.append(Fault(rule, "a template that reads them apart", where, remedy))
    if any(len(forms) > 1 for forms in template.label_forms):
        rule = "A label is one text in lm-eval."
        faults.append(Fault(rule, "several forms of a label", where, remedy))
    if faults:
        raise InputError(faults)
