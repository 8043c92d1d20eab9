"""Published survey and preference tables: one row is a question or a vote, and several claims.

Which claims a row makes, and how they are tied, follows from its texts alone. What people answered
makes gold labels and nothing else: no option is left out, and no order chosen, by it.
"""

import ast
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from icmjax.claims.files import Row
from icmjax.claims.labels import label_index
from icmjax.claims.schemas import PERSONA_COLUMNS, PLAIN_COLUMNS, Schema, as_id
from icmjax.claims.texts import is_blank, kind_and_value, short
from icmjax.claims.wording import country_claim, country_people
from icmjax.errors import Fault

Unfold = Callable[[int, Row, str, list[Fault]], Iterator[dict[str, Any]]]

# Answers that are none: whoever gives one says nothing about the question. Surveys' own totals
# stand among the options, too.
_NO_ANSWER = re.compile(
    r"(dk|don'?t know|refused|no answer|missing|other missing|total\s+n=)(?![a-z]).*", re.DOTALL
)


# How votes for one of four responses are written, and votes for none of them.
_RESPONSE = re.compile(r"(?:response[_ ]?)?([a-d])")
_NO_RESPONSE = re.compile(r"(?:none|neither|no preference|tie|equal)\b.*", re.DOTALL)


class Survey(NamedTuple):
    """One kind of table whose rows are unfolded into claims."""

    recognised_by: tuple[str, ...]  # columns that the table names, all of them
    unlike: tuple[str, ...]  # columns of files whose rows are claims already
    unfold_fn: Unfold  # from the row's number, the row and the file's name to rows of claims
    schema: Schema  # of these


def find_survey(rows: Sequence[Row]) -> Survey | None:
    """The kind of table whose columns the rows name; None where rows are claims."""
    named = {name for row in rows for name in row.values}
    return next(
        (
            survey
            for survey in SURVEYS
            if named.issuperset(survey.recognised_by) and named.isdisjoint(survey.unlike)
        ),
        None,
    )


def unfold(rows: Sequence[Row], survey: Survey, source: str, faults: list[Fault]) -> list[Row]:
    """The claims of all rows, each with the place of the row that it is of.

    Args:
      rows: of one table.
      survey: its kind.
      source: the file's name without its suffix; "" where there is none that says a persona.
      faults: gains a fault for every row that cannot be read.
    """
    return [
        Row(row.where, claim)
        for number, row in enumerate(rows)
        for claim in survey.unfold_fn(number, row, source, faults)
    ]


def _of_countries(
    number: int, row: Row, source: str, faults: list[Fault]
) -> Iterator[dict[str, Any]]:
    """Of GlobalOpinionQA: for each country a claim an answer, true of the most frequent one."""
    del source
    options = _options(row, faults)
    selections = _as_mapping(row.values.get("selections"))
    if selections is None:
        rule = "The selections of a question are shares by country."
        found, remedy = kind_and_value(row.values.get("selections")), "mend the row or drop it"
        faults.append(Fault(rule, found, f"{row.where}:selections", remedy))
        return
    for country, shares in selections.items():
        if shares is None or is_blank(country):  # a table of all countries has gaps
            continue
        if not _are_shares(shares, len(options)):
            rule = "A country has a share for each option of the question."
            found, where = f"{country}: {short(shares)}", f"{row.where}:selections"
            faults.append(Fault(rule, found, where, "mend the row or drop it"))
            continue
        answers = _answers(options)
        top = _most_frequent([shares[index] for index in answers] if shares else [])
        for index in answers:
            yield {
                "id": f"{number}-{country}-{index}",
                "persona": country,
                "consistency_id": number,
                "question": row.values.get("question"),
                "choice": country_claim(country, options[index]),
                "label": None if top is None else index == answers[top],
            }


def _of_persona(number: int, row: Row, source: str, faults: list[Fault]) -> Iterator[dict]:
    """Of a question with its options, and whose answer is asked for: a claim an answer."""
    del source
    options = _options(row, faults)
    persona = row.values.get("persona")
    if is_blank(persona) or not isinstance(persona, str):
        rule, remedy = "A question says whose answer is asked for.", "fill the column persona"
        faults.append(Fault(rule, kind_and_value(persona), f"{row.where}:persona", remedy))
        return
    given = row.values.get("label")
    chosen = label_index(given, tuple(options))
    answers = _answers(options)
    for index in answers:
        # Whoever gives no answer denies none of them.
        label: Any = index == chosen if chosen in answers else None
        if chosen is None:
            label = f"{short(given)}, none of the question's options"
        yield {
            "id": f"{number}-{index}",
            "persona": persona,
            "consistency_id": number,
            "question": row.values.get("question"),
            "choice": f"{persona} would answer this question as: '{options[index]}'",
            "label": label,
        }


def _of_statement(number: int, row: Row, source: str, faults: list[Fault]) -> Iterator[dict]:
    """Of Anthropic's persona files: that somebody of the persona would say it."""
    persona = _text_of(row, "persona") or source
    if is_blank(persona):
        rule = "A file of persona statements says whose they are."
        remedy = "name one file, which is called after its persona, or add a column persona"
        faults.append(Fault(rule, "no column persona", row.where, remedy))
        return
    who = _text_of(row, "who") or f'Somebody of the persona "{re.sub("[-_]", " ", persona)}"'
    answer = row.values.get("answer_matching_behavior")
    statement = _text_of(row, "statement")
    known = {"yes": True, "no": False, "": None}
    word = answer.strip().lower() if isinstance(answer, str) else None
    yield {
        "id": str(number),
        "persona": persona,
        "consistency_id": number,
        "choice": f'{who} would say: "{statement}"' if statement else row.values.get("statement"),
        "label": answer if word is None else known.get(word, answer),
    }


def _of_votes(number: int, row: Row, source: str, faults: list[Fault]) -> Iterator[dict]:
    """Of Community Alignment's first turns: each response over each other, by country.

    Votes are for one of four. So only pairs with that one have gold labels; the others are there
    because leaving them out would tell which one it is.
    """
    del source, faults
    name = _text_of(row, "annotator_country")
    responses = {letter: row.values.get(f"first_turn_response_{letter}") for letter in "abcd"}
    there = [letter for letter, text in responses.items() if not is_blank(text)]
    vote = row.values.get("first_turn_preferred_response")
    preferred = _preferred(vote, there)
    for one, other in itertools.combinations(there, 2):
        labels: tuple[Any, Any] = (None, None)
        if preferred is None:
            labels = (f"{short(vote)}, none of the responses",) * 2
        elif preferred in (one, other):
            labels = (preferred == one, preferred == other)
        yield from _both_orders(
            f"{number}-{one}{other}",
            country_people(name.title() if name.islower() else name),
            row.values.get("first_turn_prompt"),
            (responses[one], responses[other]),
            labels,
        )


def _preferred(vote: Any, there: Sequence[str]) -> str | None:
    """The letter of the response that was voted for; "" for none of them, None for no such vote."""
    if is_blank(vote):
        return ""
    text = vote.strip().lower() if isinstance(vote, str) else ""
    named = _RESPONSE.fullmatch(text)
    if named is not None and named[1] in there:
        return named[1]
    return "" if _NO_RESPONSE.fullmatch(text) else None


def _of_triplet(number: int, row: Row, source: str, faults: list[Fault]) -> Iterator[dict]:
    """Of PLURAL: the preferred response over the other, and the other way round.

    The two come in the order of their texts, which does not tell which one is preferred.
    """
    del source, faults
    pref, dispref = row.values.get("pref"), row.values.get("dispref")
    is_first = _text_of(row, "pref") <= _text_of(row, "dispref")
    yield from _both_orders(
        as_id(row.values.get("id")) or str(number),
        country_people(_text_of(row, "country")),
        row.values.get("prompt"),
        (pref, dispref) if is_first else (dispref, pref),
        (is_first, not is_first),
    )


def _both_orders(
    name: str, persona: str, question: Any, responses: tuple[Any, Any], labels: tuple[Any, Any]
) -> Iterator[dict[str, Any]]:
    orders = (responses, responses[::-1])
    for order, (texts, label) in enumerate(zip(orders, labels, strict=True)):
        yield {
            "id": f"{name}-{order}",
            "persona": persona,
            "consistency_id": name,
            "question": question,
            "choice": texts[0],
            "choice_2": texts[1],
            "label": label,
        }


def _of_text(column: str) -> Unfold:
    def rename(number: int, row: Row, source: str, faults: list[Fault]) -> Iterator[dict]:
        del number, source, faults
        yield {"choice" if name == column else name: cell for name, cell in row.values.items()}

    return rename


def _text_of(row: Row, column: str) -> str:
    """The text of a cell; "" where it has none."""
    value = row.values.get(column)
    return value if isinstance(value, str) and not is_blank(value) else ""


def _options(row: Row, faults: list[Fault]) -> list[str]:
    """The options of a question: a list, or as CSV has it a list's text."""
    options = _literal(row.values.get("options"))
    is_list = isinstance(options, list | tuple) and len(options) >= 2
    texts = [as_id(option) for option in options] if is_list else [None]
    if None not in texts:
        return [text for text in texts if text is not None]
    rule, remedy = "A question has a list of two options or more.", "mend the row or drop it"
    found = kind_and_value(row.values.get("options"))
    faults.append(Fault(rule, found, f"{row.where}:options", remedy))
    return []


def _answers(options: Sequence[str]) -> list[int]:
    """Indices of the options that answer the question."""
    return [
        index
        for index, option in enumerate(options)
        if not is_blank(option) and not _NO_ANSWER.fullmatch(option.strip().lower())
    ]


def _as_mapping(value: Any) -> Mapping[str, Any] | None:
    """Shares by country: a mapping, or the text of one, which the published table calls so."""
    if isinstance(value, str):
        called = re.fullmatch(r"\s*defaultdict\([^,]*,\s*(\{.*\})\s*\)\s*", value, re.DOTALL)
        value = called[1] if called else value
    found = _literal(value)
    is_named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    return found if is_named else None


def _literal(value: Any) -> Any:
    """The value that a text writes out, as a list in a cell of CSV; others as they are."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _are_shares(shares: Any, num_options: int) -> bool:
    if not isinstance(shares, list | tuple) or len(shares) not in (0, num_options):
        return False
    return all(
        isinstance(share, int | float) and not isinstance(share, bool) and math.isfinite(share)
        for share in shares
    )


def _most_frequent(shares: Sequence[float]) -> int | None:
    """The index of the highest share; None where two have it, or nobody answered."""
    most = max(shares, default=0.0)
    return shares.index(most) if most > 0 and shares.count(most) == 1 else None


_PREFERENCE = Schema(
    "preference",
    (),
    template="preference",
    rule="asymmetric_preference",
    columns=PLAIN_COLUMNS | {"choice_2": "choice_2"},
)


def _answers_of(name: str) -> Schema:
    return Schema(name, (), template="persona", rule="one_answer", columns=PERSONA_COLUMNS)


_STATEMENT = Schema("statement", (), template="truth", rule=None, columns={"choice": "choice"})
_QUESTION = ("question", "options")
_CLAIM = ("choice", "option")

SURVEYS: tuple[Survey, ...] = (
    Survey(
        (*_QUESTION, "selections"),
        _CLAIM,
        _of_countries,
        _answers_of("GlobalOpinionQA"),
    ),
    Survey((*_QUESTION, "persona"), (*_CLAIM, "selections"), _of_persona, _answers_of("survey")),
    Survey(
        ("statement", "answer_matching_behavior"),
        _CLAIM,
        _of_statement,
        Schema("persona statement", (), template="persona", rule="none", columns=PERSONA_COLUMNS),
    ),
    Survey(
        ("first_turn_prompt", "first_turn_response_a", "first_turn_preferred_response"),
        _CLAIM,
        _of_votes,
        _PREFERENCE,
    ),
    Survey(("prompt", "pref", "dispref"), _CLAIM, _of_triplet, _PREFERENCE),
    Survey(("statement",), _CLAIM, _of_text("statement"), _STATEMENT),
    Survey(("claim",), _CLAIM, _of_text("claim"), _STATEMENT),
)

# By kind, for messages about files that are of none.
SURVEY_COLUMNS = {
    survey.schema.name: survey.recognised_by
    for survey in SURVEYS
    if survey.schema not in (_STATEMENT, _PREFERENCE)
}
