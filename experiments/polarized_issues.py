"""Turns the polarized-issues dialogues into preference claims by party, and into open answers.

    python experiments/polarized_issues.py --data FOLDER

A claim says that people of a party prefer one response to another; its gold label is the vote of
the party's members, their majority where several voted on a pair, and ties are left out. Every pair
comes in both orders, under the rule that exactly one of them is true. Responses are divided between
search and test claims, so that no response is in both; votes across the two are left out. The test
responses, by the party of who wrote them, are the references of the open questions.
FOLDER holds the data: akonya/polarized-issues-data, CC BY 4.0, of which three files are read (the
votes that were cast, not the inferred ones). The command runs for seconds.
"""

import csv
import hashlib
import json
import pathlib
from collections import Counter, defaultdict

import click
from harness.command import RUNS, out_option, show_faults

from icmjax.errors import Fault, InputError

NAME = "polarized_issues"
PARTIES = {
    "Democrat": "Democrats",
    "Republican": "Republicans",
    "Other/Independent": "Independents",
}
PARTY_COLUMN = "What political party do you most identify with?"
TEST_SHARE = 0.4  # of the responses
NUM_PREAMBLE = {"verbatim_map": 8, "preference": 8, "participants": 11}


def files_of(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The files of one kind, of which a folder of the data has one."""
    return sorted(folder.glob(f"*_{name}.csv"))


def check_data(folder: pathlib.Path | None) -> pathlib.Path:
    """The folder, where it holds one file of each kind.

    Raises:
      InputError: no folder is named, or it has no file of a kind, or several.
    """
    names = ", ".join(f"*_{name}.csv" for name in NUM_PREAMBLE)
    rule = f"The votes are read from files, which are no part of this project: {names}."
    remedy = "get akonya/polarized-issues-data (CC BY 4.0) and name its folder with --data"
    if folder is None:
        raise InputError(Fault(rule, "no folder", "--data", remedy))
    faults = [
        Fault(rule, f"{len(files_of(folder, name))} files *_{name}.csv", f"--data {folder}", remedy)
        for name in NUM_PREAMBLE
        if len(files_of(folder, name)) != 1
    ]
    if faults:
        raise InputError(faults)
    return folder


def read_table(folder: pathlib.Path, name: str) -> list[list[str]]:
    """Header and rows of one file, without the lines about the dialogue before them."""
    (path,) = files_of(folder, name)
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))[NUM_PREAMBLE[name] :]


def is_test(response: str) -> bool:
    """Whether a response belongs to the test claims, by a hash of its id."""
    return hashlib.sha256(response.encode()).digest()[0] < TEST_SHARE * 256


def make_rows(folder: pathlib.Path) -> dict[tuple[str, str], list[dict]]:
    """Rows in the preference schema, by (party, split)."""
    header, *people = read_table(folder, "participants")
    who, party_at = header.index("Participant Id"), header.index(PARTY_COLUMN)
    party_of = {person[who]: person[party_at] for person in people}
    _, *responses = read_table(folder, "verbatim_map")
    text = {row[3]: (row[1].strip(), row[4].strip()) for row in responses}

    votes: dict[tuple[str, str, str], Counter] = defaultdict(Counter)
    _, *cast = read_table(folder, "preference")
    for _, person, first, second, vote, _ in cast:
        pair = tuple(sorted((first, second)))
        winner = {"Thought A": first, "Thought B": second}.get(vote)
        if winner is not None and is_test(first) == is_test(second):
            votes[party_of[person], *pair][winner] += 1

    rows: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for (party, *pair), counts in sorted(votes.items()):
        winner, num_votes = counts.most_common(1)[0]
        if 2 * num_votes == counts.total():
            continue
        split = "test" if is_test(pair[0]) else "search"
        for first, second in (pair, pair[::-1]):
            rows[party, split].append(
                {
                    "question": text[first][0],
                    "choice": text[first][1],
                    "choice_2": text[second][1],
                    "consistency_id": "-".join(pair),
                    "persona": PARTIES[party],
                    "label": winner == first,
                }
            )
    return rows


def make_answers(folder: pathlib.Path) -> list[dict]:
    """Rows `persona, question, answer`: the test responses and who wrote them."""
    header, *people = read_table(folder, "participants")
    who, party_at = header.index("Participant Id"), header.index(PARTY_COLUMN)
    party_of = {person[who]: person[party_at] for person in people}
    _, *responses = read_table(folder, "verbatim_map")
    return [
        {"persona": PARTIES[party_of[row[2]]], "question": row[1].strip(), "answer": row[4].strip()}
        for row in responses
        if is_test(row[3]) and row[2] in party_of
    ]


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=pathlib.Path), help="Folder of the data; needed.")
@out_option(NAME)
@show_faults
def main(data: pathlib.Path | None, out: pathlib.Path | None) -> None:
    """The command of this file."""
    data, out = check_data(data), out or RUNS / NAME
    click.echo("cost: seconds (experiments/README.md)", err=True)
    out.mkdir(parents=True, exist_ok=True)
    for (party, split), rows in make_rows(data).items():
        path = out / f"{PARTIES[party].lower()}_{split}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        click.echo(f"{path}: {len(rows)} claims")
    answers, path = make_answers(data), out / "answers.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers))
    click.echo(f"{path}: {len(answers)} answers")


if __name__ == "__main__":
    main()
