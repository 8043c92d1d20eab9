"""Published survey and preference tables: which claims their rows make, and what ties these."""

import contextlib
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.claims import (
    UNLABELLED,
    claims_from_rows,
    count_violations,
    gold_from_rows,
    load_claims,
    load_gold,
    write_claims,
)
from icmjax.claims.surveys import SURVEYS, find_survey
from icmjax.errors import ClaimsError

COUNTRIES = "brazil britain france indonesia japan jordan lebanon russia turkey".split()


def faults_of(call, *args, **kwargs):
    with pytest.raises(ClaimsError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


QUESTIONS = [
    {
        "question": "Is trade good?",
        "selections": {"Japan": [0.6, 0.3, 0.1], "United States": [0.4, 0.4, 0.2], "Chad": None},
        "options": ["Yes", "No", "DK/Refused"],
    },
    {
        "question": "How much do you trust it?",
        "selections": {"Japan": [0.1, 0.2, 0.7], "Peru (Non-national sample)": []},
        "options": ["A lot", "Some", "Not at all"],
    },
]


def test_each_country_and_answer_is_a_claim():
    claims, gold = claims_from_rows(QUESTIONS), gold_from_rows(QUESTIONS)
    assert claims.personas == ("Japan", "United States", "Peru (Non-national sample)")
    says = [claim.choice.replace(" would answer this question as", "") for claim in claims.claims]
    assert says[:4] == [
        "People from Japan: 'Yes'",
        "People from Japan: 'No'",
        "People from the United States: 'Yes'",
        "People from the United States: 'No'",
    ]
    assert says[-1] == "People from Peru: 'Not at all'"
    # A tie and a country without shares have no label; nobody asks for "DK/Refused".
    none = UNLABELLED
    assert gold.labels.tolist() == [1, 0, none, none, 0, 0, 1, none, none, none]
    assert len({claim.id for claim in claims.claims}) == len(claims) == 10
    assert claims.describe().endswith(
        "one_answer (declared by the columns of a GlobalOpinionQA file)"
    )
    japan = claims_from_rows(QUESTIONS, persona="Japan")
    assert japan.rules.pairs.tolist() == [[0, 1], [2, 3], [2, 4], [3, 4]]
    np.testing.assert_array_equal(japan.rules.penalties[0], np.eye(2))
    np.testing.assert_array_equal(japan.rules.penalties[1], np.diag([0, 1]))


def test_the_published_table_has_its_cells_as_text(tmp_path):
    as_text = [
        {
            "question": row["question"],
            "selections": f"defaultdict(<class 'list'>, {row['selections']})",
            "options": str(row["options"]),
            "source": "GAS",
        }
        for row in QUESTIONS
    ]
    assert claims_from_rows(as_text) == claims_from_rows(QUESTIONS)
    np.testing.assert_array_equal(gold_from_rows(as_text).labels, gold_from_rows(QUESTIONS).labels)
    write_claims(claims_from_rows(QUESTIONS), tmp_path / "claims.jsonl")
    assert load_claims(tmp_path / "claims.jsonl") == claims_from_rows(QUESTIONS)


def test_what_people_answered_changes_no_claim():
    shuffled = json.loads(json.dumps(QUESTIONS))
    shuffled[0]["selections"]["Japan"] = [0.0, 0.0, 1.0]
    shuffled[1]["selections"]["Japan"] = []
    assert claims_from_rows(shuffled) == claims_from_rows(QUESTIONS)
    assert gold_from_rows(shuffled) is None


@pytest.mark.parametrize(
    ("changed", "where", "found"),
    [
        ({"selections": {"Japan": [0.5, 0.5]}}, "selections", "Japan: [0.5, 0.5]"),
        ({"selections": {"Japan": [0.5, 0.5, "x"]}}, "selections", "Japan"),
        ({"selections": {"Japan": [0.5, 0.5, float("nan")]}}, "selections", "Japan"),
        ({"selections": {"Japan": 0.5}}, "selections", "Japan"),
        ({"selections": "__import__('os')"}, "selections", "str"),
        ({"selections": [0.5]}, "selections", "list"),
        ({"options": "Yes"}, "options", "str 'Yes'"),
        ({"options": ["Yes"]}, "options", "list"),
        ({"options": ["Yes", None]}, "options", "list"),
    ],
)
def test_questions_that_cannot_be_read_are_named(changed, where, found):
    faults = faults_of(claims_from_rows, [QUESTIONS[0], QUESTIONS[1] | changed])
    assert faults[0].where == f"rows:row 1:{where}"
    assert found in faults[0].found


def test_equal_options_are_no_two_claims():
    twice = QUESTIONS[0] | {"options": ["Yes", "Yes", "No"]}
    (fault, *_) = faults_of(claims_from_rows, [twice])
    assert "the same claim" in fault.found


@pytest.mark.slow
def test_the_public_table_has_the_labels_of_the_persona_files(data):
    path = data / "global_opinions" / "global_opinions_partial.jsonl"
    claims, gold = load_claims(path), load_gold(path)
    assert len(claims.personas) == 124
    known = {
        (claim.persona, claim.question.strip(), claim.choice): label
        for claim, label in zip(claims.claims, gold.labels.tolist(), strict=True)
    }
    num_same = 0
    for split in ("train", "test"):
        for country in COUNTRIES:
            own = data / "goqa_personas" / split / f"globaloqa_{country}.jsonl"
            for claim, label in zip(load_claims(own).claims, load_gold(own).labels, strict=True):
                found = known.get((claim.persona, claim.question.strip(), claim.choice), UNLABELLED)
                assert found in (label, UNLABELLED)
                num_same += found == label
    assert num_same == 302  # the others are not in this part of the table; one pair is a tie
    japan = load_claims(path, persona="Japan", limit=60)
    assert japan.personas == ("Japan",)
    labels = load_gold(path, persona="Japan", limit=60).labels
    assert count_violations(labels, japan.rules) == 0


ASKED = [
    {"question": "Q1?", "options": "['Good', 'Bad', 'Refused']", "persona": "Democrats"},
    {"question": "Q2?", "options": ["1", "2", "3"], "persona": "Democrats"},
]


def test_questions_with_options_are_put_to_their_persona():
    claims = claims_from_rows(ASKED)
    assert [claim.choice for claim in claims.claims[:2]] == [
        "Democrats would answer this question as: 'Good'",
        "Democrats would answer this question as: 'Bad'",
    ]
    assert (len(claims), len(claims.groups), gold_from_rows(ASKED)) == (5, 2, None)
    labelled = [ASKED[0] | {"label": "Bad"}, ASKED[1] | {"label": 3}]
    assert gold_from_rows(labelled).labels.tolist() == [0, 1, 0, 0, 1]
    assert claims_from_rows(labelled) == claims
    wrong = [ASKED[0] | {"label": "Worse"}]
    assert claims_from_rows(wrong) == claims_from_rows(ASKED[:1])
    assert "'Worse'" in faults_of(gold_from_rows, wrong)[0].found
    (fault, *_) = faults_of(claims_from_rows, [ASKED[0], ASKED[1] | {"persona": " "}])
    assert fault.where == "rows:row 1:persona"


@pytest.mark.parametrize("label", ["Refused", 2, "2", "", None])
def test_who_gives_no_answer_denies_none(label):
    rows = [ASKED[0] | {"label": label}, ASKED[1] | {"label": 3}]
    none = UNLABELLED
    assert gold_from_rows(rows).labels.tolist() == [none, none, 0, 0, 1]
    assert count_violations(gold_from_rows(rows).labels, claims_from_rows(rows).rules) == 0


def test_questions_of_nobody_name_the_nearest_kinds(tmp_path):
    path = tmp_path / "wave.tsv"
    path.write_text("question\toptions\nQ1?\t['Good', 'Bad']\n")
    (fault,) = faults_of(load_claims, path)
    assert "question, options" in fault.rule
    assert "found" not in fault.rule
    assert fault.found == "it fills options, question"
    path.write_text("question\toptions\tpersona\nQ1?\t['Good', 'Bad']\tDemocrats\n")
    assert len(load_claims(path)) == 2


STATEMENTS = [
    {
        "question": 'Is the following statement something you would say?\n"I forgive."',
        "statement": "I forgive.",
        "label_confidence": 0.9,
        "answer_matching_behavior": " Yes",
        "answer_not_matching_behavior": " No",
    },
    {"statement": "I hate.", "answer_matching_behavior": " No"},
    {"statement": "I wait.", "answer_matching_behavior": ""},
]


def test_statements_of_a_persona_file_name_the_persona(tmp_path):
    path = write_lines(tmp_path / "risk-averse.jsonl", STATEMENTS)
    claims = load_claims(path)
    assert (
        claims.claims[0].choice == 'Somebody of the persona "risk averse" would say: "I forgive."'
    )
    assert (claims.personas, claims.claims[0].question) == (("risk-averse",), "")
    assert load_gold(path).labels.tolist() == [1, 0, UNLABELLED]
    who = [row | {"persona": "kind", "who": "A kind person"} for row in STATEMENTS]
    assert claims_from_rows(who).claims[1].choice == 'A kind person would say: "I hate."'


def test_statements_of_no_file_say_whose_they_are():
    assert claims_from_rows(STATEMENTS, source="kind").personas == ("kind",)
    (fault, *_) = faults_of(claims_from_rows, STATEMENTS, source="")
    assert "whose" in fault.rule
    perhaps = [STATEMENTS[0], STATEMENTS[1] | {"answer_matching_behavior": "Perhaps"}]
    assert faults_of(gold_from_rows, perhaps)[0].found == "str 'Perhaps'"


def test_the_public_persona_files_load(data):
    for path in sorted((data / "anthropic_persona").glob("*.jsonl")):
        claims, gold = load_claims(path), load_gold(path)
        assert claims.describe() == "1000 claims, no pair rule"
        assert claims.personas == (path.stem,)
        assert np.bincount(gold.labels).tolist() == [500, 500]


VOTES = [
    {
        "conversation_id": 7,
        "annotator_country": "united states",
        "first_turn_prompt": "What shall I cook?",
        **{f"first_turn_response_{letter}": f"Dish {letter}" for letter in "abcd"},
        "first_turn_preferred_response": "response_c",
    }
]


def test_votes_are_every_two_responses_both_ways():
    claims, gold = claims_from_rows(VOTES), gold_from_rows(VOTES)
    assert (len(claims), len(claims.rules.pairs)) == (12, 6)
    assert claims.personas == ("People from the United States",)
    assert claims.template == "preference"
    for claim, label in zip(claims.claims, gold.labels, strict=True):
        expected = UNLABELLED
        if "Dish c" in (claim.choice, claim.choice_2):
            expected = int(claim.choice == "Dish c")
        assert label == expected
    assert count_violations(gold.labels, claims.rules) == 0
    voted_otherwise = [VOTES[0] | {"first_turn_preferred_response": "response_a"}]
    assert claims_from_rows(voted_otherwise) == claims
    of_two = [VOTES[0] | {"first_turn_response_c": None, "first_turn_response_d": ""}]
    assert len(claims_from_rows(of_two)) == 2


@pytest.mark.parametrize("vote", ["response_b", "Response B", "b", " B ", "response b"])
def test_votes_name_a_response(vote):
    rows = [VOTES[0] | {"first_turn_preferred_response": vote}]
    preferred = [claim.choice for claim, label in labelled(rows) if label == 1]
    assert preferred == ["Dish b"] * 3


@pytest.mark.parametrize("vote", ["none preferred", "None", "No preference", "tie", "", None])
def test_votes_for_none_are_no_labels(vote):
    rows = [VOTES[0] | {"first_turn_preferred_response": vote}]
    assert all(label == UNLABELLED for _, label in labelled(rows))


@pytest.mark.parametrize("vote", ["Both are bad", "response_e", "response_d", "d", 2, "all-a"])
def test_votes_for_no_response_are_named(vote):
    """Of three: the last letter of a text is no vote."""
    of_three = VOTES[0] | {"first_turn_response_d": None}
    rows = [of_three | {"first_turn_preferred_response": vote}]
    (fault, *_) = faults_of(gold_from_rows, rows)
    assert f"{vote!r}, none of the responses" in fault.found
    assert claims_from_rows(rows) == claims_from_rows([of_three])


def labelled(rows):
    claims, gold = claims_from_rows(rows), gold_from_rows(rows)
    labels = [UNLABELLED] * len(claims) if gold is None else gold.labels.tolist()
    return list(zip(claims.claims, labels, strict=True))


def test_triplets_come_in_an_order_that_tells_nothing():
    rows = [
        {"id": f"t{index}", "prompt": "How?", "pref": pref, "dispref": other, "country": "Japan"}
        for index, (pref, other) in enumerate([("alone", "together"), ("yes", "no")])
    ]
    claims, gold = claims_from_rows(rows), gold_from_rows(rows)
    assert claims.personas == ("People from Japan",)
    assert [claim.choice for claim in claims.claims] == ["alone", "together", "no", "yes"]
    assert gold.labels.tolist() == [1, 0, 0, 1]
    turned = [row | {"pref": row["dispref"], "dispref": row["pref"]} for row in rows]
    assert claims_from_rows(turned) == claims
    assert gold_from_rows(turned).labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("column", ["claim", "statement"])
def test_two_columns_are_statements(tmp_path, column):
    path = tmp_path / "claims.csv"
    path.write_text(f'{column},label\nRice helps.,True\n"Tea, too.",0\nSalt harms.,\n')
    claims = load_claims(path)
    assert [claim.choice for claim in claims.claims] == ["Rice helps.", "Tea, too.", "Salt harms."]
    assert claims.describe() == "3 claims, no pair rule"
    assert load_gold(path).labels.tolist() == [1, 0, UNLABELLED]


def test_rows_that_are_claims_already_are_no_survey(data):
    """Files with a schema of their own have some of the surveys' columns, too."""
    for name in (
        "goqa_country_pairs/France_test.json",
        "anthropic_personas/test/risk-averse.jsonl",
    ):
        claims = load_claims(data / name)
        assert claims.rule in ("exactly_one_true", "none")
        assert claims.rule_source != "declared by the columns of a GlobalOpinionQA file"
    assert find_survey([]) is None


def test_any_order_of_rows_gives_the_same_claims():
    def texts(rows):
        return {claim[1:2] + claim[3:] for claim in claims_from_rows(rows).claims}

    rows = QUESTIONS + [row | {"question": f"{row['question']} Again?"} for row in QUESTIONS]
    before = texts(rows)
    random.Random(0).shuffle(rows)
    assert texts(rows) == before


CELLS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6))
    | st.sampled_from(["\ud800", b"\xff"])
    | st.builds(lambda: 10**5000),
    lambda cells: st.one_of(
        st.lists(cells, max_size=3), st.dictionaries(st.text(max_size=3), cells, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("number", range(len(SURVEYS)))
def test_any_cells_are_claims_or_a_fault(number):
    names = [*SURVEYS[number].recognised_by, "annotator_country", "persona", "label", "country"]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.fixed_dictionaries(dict.fromkeys(names, CELLS)), min_size=1, max_size=3))
    def check(rows):
        for read in (claims_from_rows, gold_from_rows):
            with contextlib.suppress(ClaimsError):
                read(rows)

    check()
