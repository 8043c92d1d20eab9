"""Held-out claims as a task of Inspect, each after the labelled claims, as a choice of labels."""

import json

from icmjax.runs.exports.rows import prompt
from icmjax.runs.exports.source import Worded
from icmjax.runs.jsonl import as_jsonl

TASK = '''"""Held-out claims after labelled ones; written by icmjax.

    inspect eval FOLDER/task.py --model PROVIDER/NAME
    inspect eval FOLDER/task.py --model PROVIDER/NAME -T is_steered=false
"""

import pathlib

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import choice
from inspect_ai.solver import multiple_choice

FOLDER = pathlib.Path(__file__).parent
TEMPLATE = """
The text below ends where the label of a claim is missing. Which label comes next? The entire \\
content of your response should be of the following format: 'ANSWER: $LETTER' (without quotes) \\
where LETTER is one of {letters}.

{question}

{choices}
""".strip()


@task(name=TITLE)
def claims(is_steered: bool = True) -> Task:
    """Shows the labelled claims before each claim that is asked about, or none."""
    name = "demonstrations.txt" if is_steered else "preamble.txt"
    context = (FOLDER / name).read_bytes().decode()
    dataset = json_dataset(str(FOLDER / "queries.jsonl"), name=TITLE)
    for sample in dataset:
        sample.input = context + sample.input
    return Task(dataset=dataset, solver=multiple_choice(template=TEMPLATE), scorer=choice())
'''


def inspect_task(source: Worded) -> dict[str, bytes]:
    """The files of a task folder by name: the task in Python, and its data.

    Inspect is not needed. Its models write text, so that they are asked for the letter of a label;
    the words before that are the prompt that our own steering reads.
    """
    assert source.questions is not None
    choices = [form.strip() for form in source.forms]
    pairs = zip(source.questions.claims.claims, source.questions.gold.tolist(), strict=True)
    queries = as_jsonl(
        {
            "id": claim.id,
            "input": source.template.query_fn(claim),
            "choices": choices,
            "target": _letter(label),
            "metadata": {"persona": claim.persona, "consistency_id": claim.consistency_id},
        }
        for claim, label in pairs
    )
    files = {
        "task.py": TASK.replace("TITLE", json.dumps(source.title)),
        "demonstrations.txt": prompt(source),
        "preamble.txt": source.preamble,
        "queries.jsonl": queries,
    }
    return {name: content.encode() for name, content in files.items()}


def _letter(option: int) -> str:
    """What Inspect calls a choice: A to Z, then 1, 2, ..."""
    return chr(ord("A") + option) if option < 26 else str(option - 25)
