"""Which pair rule a file gets that declares none, and what a claim set says of it."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.claims import RULES, Claim, ClaimSet, claims_from_rows, load_claims, write_claims
from icmjax.claims.consistency import make_rules, no_rules
from icmjax.claims.opposites import are_opposite
from icmjax.errors import ClaimsError

FRAME = "People from Japan would answer this question as: "


def pair(first, second, question="Is tea good?", other_question=None):
    asked = (question, question if other_question is None else other_question)
    return [Claim("", "", "0", q, text) for q, text in zip(asked, (first, second), strict=True)]


def rows_of(*choices, num_groups=3):
    return [
        {"question": f"Q{group}?", "choice": choice, "consistency_id": group, "persona": "Japan"}
        for group in range(num_groups)
        for choice in choices
    ]


def faults_of(call, *args, **kwargs):
    with pytest.raises(ClaimsError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FRAME + "'Yes'", FRAME + "'No'"),
        (FRAME + '"Very good"', FRAME + '"Very bad"'),
        (FRAME + "“Yes”", FRAME + "“No”"),
        (FRAME + "'It's the system that's broken'", FRAME + "'The doctors' work is'"),
        ("'Good' is what they'd say.", "'Bad' is what they'd say."),
        ("Asked 'how?', they say 'well'", "Asked 'how?', they say 'badly'"),
        ("They would answer: keep troops", "They would answer: remove troops"),
        ("Japan would say yes.", "Japan would say no."),
        ("They agree", "They disagree"),
        ("Yes", "no"),
        ("It is true", "It is false"),
    ],
)
def test_two_options_of_one_question_are_opposite(first, second):
    assert are_opposite(*pair(first, second))
    assert are_opposite(*pair(second, first))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FRAME + "'Yes'", FRAME + "'Yes'"),
        (FRAME + "'Yes'", FRAME + "'yes. '"),
        (FRAME + "'Yes'", FRAME.replace("Japan", "Chad") + "'No'"),
        (FRAME + "'Yes'", FRAME + "'No' or so"),
        (FRAME + "'Yes'", FRAME + "''"),
        ("'Tea'", "'Milk'"),
        ("'Tea' goes before 'milk'", "'Milk' goes before 'tea'"),
        ("Paris", "London"),
        ("The capital is Paris", "The capital is London"),
        ("Claim 0a", "Claim 0b"),
        ("Tea doesn't help", "Tea doesn't harm"),
        ("no tea is good", "yes tea is good"),
        ("", "No"),
    ],
)
def test_other_claims_are_not_opposite(first, second):
    assert not are_opposite(*pair(first, second))
    assert not are_opposite(*pair(first + "?", second))


def test_opposite_options_have_one_question():
    yes, no = FRAME + "'Yes'", FRAME + "'No'"
    assert not are_opposite(*pair(yes, no, "Tea?", "Milk?"))
    assert not are_opposite(*pair(f"{FRAME}'Tea'", f"{FRAME}'Milk'", " "))


texts = st.text("'\"“”‘’«»: yesno\n", max_size=12)


@settings(max_examples=200, deadline=None)
@given(texts, texts, texts, texts)
def test_opposition_has_no_direction_and_no_claim_is_its_own(frame, one, other, end):
    claims = pair(frame + one + end, frame + other + end)
    assert are_opposite(*claims) == are_opposite(*claims[::-1])
    assert not are_opposite(claims[0], claims[0])


@pytest.mark.parametrize("text", [" 'a" * 30_000, "a" * 100_000 + "!", "x: " * 30_000])
def test_long_texts_take_no_time(text):
    assert not are_opposite(*pair(text + "b", text + "c"))


# Rules of files.


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_of_the_documented_columns_gets_its_pairs(tmp_path, suffix):
    rows = rows_of(FRAME + "'Yes'", FRAME + "'No'")
    claims = claims_from_rows(rows)
    assert claims.describe() == (
        "6 claims, 3 pairs, rule exactly_one_true (found by the options' text)"
    )
    np.testing.assert_array_equal(claims.rules.pairs, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(claims.rules.penalties, [np.eye(2)] * 3)
    path = tmp_path / f"claims.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_claims(claims, path)
    assert load_claims(path) == claims


@pytest.mark.parametrize("columns", [{"persona": "Japan"}, {"persona": None}])
def test_tied_claims_without_a_rule_are_asked_about(columns):
    rows = [row | columns for row in rows_of("Paris", "London", "Rome")]
    (fault,) = faults_of(claims_from_rows, rows)
    assert "3 groups of several claims, none" in fault.found
    assert all(rule in fault.remedy for rule in (*RULES, 'rule="none"'))
    assert claims_from_rows(rows, rule="none").describe() == "9 claims, no pair rule"
    assert len(claims_from_rows(rows, rule="not_both_true").rules.pairs) == 9
    mixed = [*rows_of(FRAME + "'Yes'", FRAME + "'No'", num_groups=2), *rows_of("a", "b")[4:]]
    assert "only 2 of them" in faults_of(claims_from_rows, mixed)[0].found


def test_claims_that_are_not_tied_need_no_rule():
    rows = rows_of("Paris") + [row | {"persona": "Chad"} for row in rows_of("Paris", "Rome")]
    assert claims_from_rows(rows, persona="Japan").describe() == "3 claims, no pair rule"
    assert "3 groups" in faults_of(claims_from_rows, rows)[0].found


def test_truthfulqa_has_no_rule_on_purpose():
    rows = [row | {"persona": None} for row in rows_of("Paris", "London", "Rome")]
    assert claims_from_rows(rows, source="train_TruthfulQA").describe() == "9 claims, no pair rule"


def test_a_description_says_how_the_rule_was_found(tmp_path):
    rows = rows_of(FRAME + "'Yes'", FRAME + "'No'")
    asked = claims_from_rows(rows, rule="exactly_one_true", hard=True)
    assert asked.describe() == "6 claims, 3 hard pairs, rule exactly_one_true (as asked)"
    assert asked.select([0, 1]).describe() == (
        "2 claims, 1 hard pair, rule exactly_one_true (as asked)"
    )
    declared = [row | {"raw_choice_1": "Yes", "raw_choice_2": "No"} for row in rows]
    assert "declared by the columns" in claims_from_rows(declared).describe()
    write_claims(asked, tmp_path / "a.jsonl")
    assert "spelt out in the file" in load_claims(tmp_path / "a.jsonl").describe()
    by_hand = ClaimSet(asked.claims[:2], make_rules([(0, 1)], np.eye(2)))
    assert by_hand.describe() == "2 claims, 1 pair, rules of their own"


def test_how_a_rule_was_found_is_no_part_of_the_fingerprint():
    rows = rows_of(FRAME + "'Yes'", FRAME + "'No'")
    found, asked = claims_from_rows(rows), claims_from_rows(rows, rule="exactly_one_true")
    assert (found.rule, found.rule_source) != (asked.rule, asked.rule_source)
    assert found.fingerprint == asked.fingerprint
    bare = ClaimSet(found.claims, no_rules(), found.template)
    assert bare.fingerprint == claims_from_rows(rows, rule="none").fingerprint


# Limits.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.integers(2, 10))
def test_a_limit_parts_no_pair(ids, limit):
    rows = [
        {"question": "q", "choice": f"c{i}", "consistency_id": id_} for i, id_ in enumerate(ids)
    ]
    is_whole = {k for k in range(2, len(ids) + 1) if not set(ids[:k]) & set(ids[k:])}
    assert len(claims_from_rows(rows, rule="none", limit=limit)) == min(limit, len(ids))
    if len(set(ids)) == len(ids):
        return
    if min(limit, len(ids)) in is_whole:
        kept = claims_from_rows(rows, rule="not_both_true", limit=limit)
        assert len(kept) == min(limit, len(ids))
        return
    (fault,) = faults_of(claims_from_rows, rows, rule="not_both_true", limit=limit)
    nearest = [max((k for k in is_whole if k < limit), default=None)]
    nearest.append(min(k for k in is_whole if k > limit))
    named = " or ".join(str(k) for k in nearest if k is not None)
    assert fault.remedy == f'choose {named}, or rule="none"'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Answer: it passes through you", "Answer: nothing harmful happens"),
        ("Advice: sleep well", "Advice: eat well"),
        ("It closes at 10: 30", "It closes at 10: 45"),
        ("She liked 'Alien'", "She liked 'Brazil'"),
        ("The novel 'Emma' is by Austen", "The novel 'Persuasion' is by Austen"),
        ("Some people agree", "Some people disagree"),
        ("At least one of them said yes.", "At least one of them said no."),
    ],
)
def test_texts_of_which_both_may_be_right_are_no_opposites(one, other):
    rows = [{"question": "Q?", "choice": text, "consistency_id": 0} for text in (one, other)]
    with pytest.raises(ClaimsError, match="rule"):
        claims_from_rows(rows)
