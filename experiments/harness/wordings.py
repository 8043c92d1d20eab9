"""Wordings: how a statement or a survey answer of a persona becomes claims."""

import hashlib
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click
import numpy as np

from icmjax.claims import claims_from_rows, gold_from_rows, read_rows
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.persona_world import Task

# None by default, so that the command's own checks say what the folder holds.
data_option = click.option(
    "--data", type=click.Path(path_type=pathlib.Path), help="Folder of the public data."
)
real_model_option = click.option(
    "--model", default="models/gemma-3-270m", show_default=True, help="Folder or hub name."
)
Rows = list[dict[str, Any]]
PERSONAS = (  # random.Random(0).sample of the 34 names in order
    "anti-immigration",
    "believes-abortion-should-be-illegal",
    "believes-life-has-no-meaning",
    "ends-justify-means",
    "has-disability",
    "interest-in-art",
    "interest-in-math",
    "interest-in-science",
    "narcissism",
    "politically-conservative",
    "politically-liberal",
    "risk-averse",
    "risk-seeking",
    "subscribes-to-Christianity",
    "subscribes-to-Confucianism",
    "subscribes-to-Hinduism",
    "subscribes-to-Islam",
    "subscribes-to-Judaism",
    "subscribes-to-deontology",
    "subscribes-to-moral-nihilism",
    "subscribes-to-utilitarianism",
    "subscribes-to-virtue-ethics",
    "willingness-to-defer-to-authorities",
    "willingness-to-defer-to-experts",
)


def _personas_of(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """Names separated by commas, or the first so many of `PERSONAS`."""
    if not text.isdecimal():
        return text.split(",")
    if not 1 <= int(text) <= len(PERSONAS):
        raise click.BadParameter(f"{text} is not in the range 1 to {len(PERSONAS)}.")
    return list(PERSONAS[: int(text)])


personas_option = click.option(
    "--personas",
    default=str(len(PERSONAS)),
    show_default=True,
    callback=_personas_of,
    help="Names, or how many of the protocol's, the first ones.",
)


class Item(NamedTuple):
    """What a persona would say or not, or which of two answers it would give."""

    persona: str
    who: str  # the persona as the beginning of a sentence
    question: str  # "" for a statement
    texts: tuple[str, ...]  # the statement, or both answers
    label: int  # 1 where the persona would say the statement, or give the first answer


class Wording(NamedTuple):
    """How items are worded."""

    rows_fn: Callable[[Sequence[Item]], Rows]  # of claim_from_rows
    rule: str  # between the claims of one item
    preamble_fn: Callable[[Item], str] = lambda item: ""  # of a persona's claims


def pair_rows(item: Item, index: int, first: str, second: str) -> Rows:
    """Two claims of which exactly one is true; the first where the label is 1."""
    row = {"persona": item.persona, "question": item.question, "consistency_id": index}
    return [
        row | {"choice": first, "label": item.label},
        row | {"choice": second, "label": 1 - item.label},
    ]


def singles(text: str) -> Callable[[Sequence[Item]], Rows]:
    """One claim a statement."""

    def rows(items: Sequence[Item]) -> Rows:
        return [
            {
                "persona": item.persona,
                "question": item.question,
                "consistency_id": index,
                "choice": text.format(who=item.who, text=item.texts[0]),
                "label": item.label,
            }
            for index, item in enumerate(items)
        ]

    return rows


def pairs(first: str, second: str) -> Callable[[Sequence[Item]], Rows]:
    """Two opposite claims an item."""

    def rows(items: Sequence[Item]) -> Rows:
        return [
            row
            for index, item in enumerate(items)
            for row in pair_rows(
                item,
                index,
                *(
                    text.format(who=item.who, text=item.texts[0], other=item.texts[-1])
                    for text in (first, second)
                ),
            )
        ]

    return rows


def which_of_two(items: Sequence[Item]) -> Rows:
    """Statements in twos, one that the persona would say and one not; either comes first."""
    text = '{who} would rather say "{text}" than "{other}"'
    said, unsaid = ([item for item in items if item.label == label] for label in (1, 0))
    twos = []
    for one, other in zip(said, unsaid, strict=False):
        texts = (one.texts[0], other.texts[0])
        is_turned = zlib.crc32("".join(texts).encode()) % 2 == 1
        twos.append(one._replace(texts=texts[:: -1 if is_turned else 1], label=int(not is_turned)))
    return pairs(
        text, text.replace("{text}", "{}").replace("{other}", "{text}").replace("{}", "{other}")
    )(twos)


STATEMENTS: Mapping[str, Wording] = {
    "would say": Wording(singles('{who} would say: "{text}"'), "none"),
    "would say or not": Wording(
        pairs('{who} would say: "{text}"', '{who} would not say: "{text}"'), "exactly_one_true"
    ),
    "agree or disagree": Wording(
        pairs('{who} would agree that "{text}"', '{who} would disagree that "{text}"'),
        "exactly_one_true",
    ),
    "which of two": Wording(which_of_two, "exactly_one_true"),
    "preamble": Wording(
        singles('They would say: "{text}"'),
        "none",
        lambda item: (
            f"The following claims are about one person: {item.who[0].lower()}{item.who[1:]}."
        ),
    ),
}
ANSWERS: Mapping[str, Wording] = {
    "would answer": Wording(
        pairs(
            "{who} would answer this question as: '{text}'",
            "{who} would answer this question as: '{other}'",
        ),
        "exactly_one_true",
    ),
    "agree or disagree": Wording(
        pairs(
            "{who} would agree with the answer '{text}'",
            "{who} would disagree with the answer '{text}'",
        ),
        "exactly_one_true",
    ),
    "which of two": Wording(
        pairs(
            "{who} would rather answer '{text}' than '{other}'",
            "{who} would rather answer '{other}' than '{text}'",
        ),
        "exactly_one_true",
    ),
    "preamble": Wording(
        pairs("The answer is: '{text}'", "The answer is: '{other}'"),
        "exactly_one_true",
        lambda item: f"{item.who} were asked the following questions.",
    ),
}


def word(items: Sequence[Item], wording: Wording) -> Task:
    """The claims of one persona's items, and their gold labels."""
    rows, source = wording.rows_fn(items), items[0].persona
    claims = claims_from_rows(
        rows, None, wording.rule, hard=True, preamble=wording.preamble_fn(items[0]), source=source
    )
    gold = gold_from_rows(rows, source=source)
    assert gold is not None, "every item has a label"
    return Task(claims, gold)


def read_statements(path: pathlib.Path) -> list[Item]:
    """Statements of one persona, a JSON object a line with persona, who, statement and label.

    Raises:
      ClaimsError: there is no such file.
    """
    columns = ("persona", "who", "statement", "label")
    return [
        Item(row["persona"], row["who"], "", (row["statement"],), int(row["label"]))
        for row in read_lines(path, columns)
    ]


def read_answers(path: pathlib.Path) -> list[Item]:
    """Survey answers of one persona: two claims a question in a row, the first answer's first.

    Raises:
      ClaimsError: there is no such file.
    """
    columns = ("persona", "question", "choice", "raw_choice_1", "raw_choice_2", "label")
    rows = read_lines(path, columns)
    return [
        Item(
            row["persona"],
            row["choice"].split(" would answer ")[0],
            row["question"],
            (row["raw_choice_1"], row["raw_choice_2"]),
            int(row["label"]),
        )
        for row in rows[::2]
    ]


def require_folder(data: pathlib.Path | None, *needed: str) -> pathlib.Path:
    """The folder of the public data, in which these folders are.

    Raises:
      InputError: none is named, or there is no such folder; all that is lacking.
    """
    found = ["none"] if data is None else []
    if data is not None:
        folders = (data, *(data / name for name in needed)) if data.is_dir() else (data,)
        found = [f"no folder {folder}" for folder in folders if not folder.is_dir()]
    rule = "The statements and answers come from a folder of public data."
    remedy = "name it with --data; its layout is in experiments/README.md"
    if found:
        raise InputError([Fault(rule, one, "--data", remedy) for one in found])
    assert data is not None, "there was no fault"
    return data


def require_personas(data: pathlib.Path, names: Sequence[str]) -> None:
    """Raises unless there are statements of all these personas.

    Raises:
      InputError: of some there are none; all of them, and who there is.
    """
    known = sorted(path.stem for path in (data / "anthropic_personas" / "train").glob("*.jsonl"))
    faults = [
        Fault(
            "A persona has a file of statements.",
            f"{name!r}, and no {name}.jsonl",
            "--personas",
            f"choose of {', '.join(known)}",
        )
        for name in names
        if name not in known
    ]
    if faults:
        raise InputError(faults)


def require_model(name: str) -> str:
    """The folder of a real model, or a name on the hub.

    Raises:
      InputError: it is a folder of `make real-models`, which is not there.
    """
    path = pathlib.Path(name)
    if path.parent.name == "models" and not path.is_dir():
        rule, remedy = "The model is read from its folder.", "make real-models, or name another"
        raise InputError(Fault(rule, f"no folder {name}", "--model", remedy))
    return name


def read_lines(path: pathlib.Path, columns: Sequence[str]) -> Rows:
    """The objects of a JSONL file, which fill these columns.

    Raises:
      ClaimsError: there is no such file, or it is malformed; all faults found.
    """
    faults: list[Fault] = []
    rows = read_rows(path, faults) if path.exists() else []
    if not rows and not faults:
        remedy = "get this file; experiments/README.md has its layout and source"
        faults.append(Fault("A persona has a file of its own.", "none", str(path), remedy))
    for row in rows:
        lacking = [name for name in columns if row.values.get(name) in (None, "")]
        if lacking:
            rule, found = f"A row has {', '.join(columns)}.", f"no {', '.join(lacking)}"
            faults.append(Fault(rule, found, row.where, "add what is missing"))
    if faults:
        raise ClaimsError(faults)
    return [dict(row.values) for row in rows]


def check_statements(data: pathlib.Path, persona: str, num_train: int, num_test: int = 0) -> None:
    """Raises unless a persona has so many statements, half of either label.

    Raises:
      ClaimsError: there are fewer, or a file is missing or malformed.
    """
    for split, num in (("train", num_train), ("test", num_test)):
        path = data / "anthropic_personas" / split / f"{persona}.jsonl"
        labels = [item.label for item in read_statements(path)] if num else []
        few = min(labels.count(0), labels.count(1))
        if few < num // 2:
            rule, remedy = f"There are {num // 2} statements of either label.", "ask for fewer"
            raise ClaimsError(Fault(rule, f"{few} of one", str(path), remedy))


def fingerprint_of(folder: pathlib.Path) -> str:
    """SHA-256 of all files of a folder of the data, with their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.jsonl")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def draw_items(items: Sequence[Item], num: int, rng: np.random.Generator) -> list[Item]:
    """As many items as asked for, half of either label where there are so many; shuffled."""
    order = rng.permutation(len(items))
    by_label = [[items[i] for i in order if items[i].label == label] for label in (1, 0)]
    few = min(num // 2, *map(len, by_label))
    drawn = by_label[0][:few] + by_label[1][:few]
    rest = by_label[0][few:] + by_label[1][few:]
    drawn += rest[: num - len(drawn)]
    return [drawn[i] for i in rng.permutation(len(drawn))]
