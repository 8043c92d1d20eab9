"""Every public claim file loads as its description says, goes round and comes back."""

import collections
import json
import pathlib
import random

import numpy as np
import pytest

from icmjax.claims import (
    claims_from_rows,
    count_violations,
    load_claims,
    load_gold,
    write_claims,
)
from icmjax.errors import ClaimsError

COUNTRIES = "brazil britain france indonesia japan jordan lebanon russia turkey".split()
PERSONA_PAIRS = {  # pairs in a file, from the data's README
    f"goqa_personas/{split}/globaloqa_{country}.jsonl": {"brazil": 16, "indonesia": 23}.get(
        country, 28
    )
    for split in ("train", "test")
    for country in COUNTRIES
} | {
    f"opinionqa_personas/{split}/opinionqa_{party}.jsonl": num_pairs
    for split in ("train", "test")
    for party, num_pairs in (("democrat", 142), ("republican", 143))
}
COUNTRY_PAIRS = {  # pairs, labels 1, labels 0
    "UnitedStates_train": (164, 161, 167),
    "UnitedStates_test": (35, 35, 35),
    "France_train": (162, 162, 162),
    "France_test": (35, 35, 35),
}
TRUTH = {  # rows, groups, labels 1
    "train_truthfulqa": (2608, 652, 1194),
    "test_truthfulqa": (1000, 144, 432),
    "truthfulqa_train_small": (256, 64, 113),
    "truthfulqa_test_small": (100, 70, 43),
}
POLITICAL = {"test_political_normative": 558, "train_political_normative_first400": 1016}
ALL_FILES = (
    list(PERSONA_PAIRS)
    + [f"goqa_country_pairs/{stem}.json" for stem in COUNTRY_PAIRS]
    + [f"icm_schema/{stem}.json" for stem in TRUTH]
    + ["icm_schema/test_alpaca_first240.json", "icm_schema/test_gsm8k_first100.json"]
    + [f"political_normative/{stem}.json" for stem in POLITICAL]
)


def test_the_list_of_public_files_is_complete(data):
    folders = ("goqa_personas", "opinionqa_personas", "goqa_country_pairs")
    folders += ("icm_schema", "political_normative")
    found = [path for folder in folders for path in (data / folder).rglob("*.json*")]
    assert sorted(path.relative_to(data).as_posix() for path in found) == sorted(ALL_FILES)


@pytest.mark.parametrize("name", ALL_FILES)
def test_public_files_go_round(data, tmp_path, name):
    claims, gold = load_claims(data / name), load_gold(data / name)
    written = tmp_path / "claims.jsonl"
    write_claims(claims, written, gold)
    again = load_claims(written)
    assert again == claims
    assert again.claims == claims.claims
    for field, other in zip(again.rules, claims.rules, strict=True):
        np.testing.assert_array_equal(field, other)
        assert field.dtype == other.dtype
    np.testing.assert_array_equal(load_gold(written).labels, gold.labels)
    assert gold.labels.dtype == np.int8


@pytest.mark.parametrize(("name", "num_pairs"), PERSONA_PAIRS.items())
def test_persona_files_are_pairs_of_opposites(data, name, num_pairs):
    claims, gold = load_claims(data / name), load_gold(data / name)
    assert len(claims) == 2 * num_pairs
    assert claims.template == "persona"
    assert claims.personas == (pathlib.Path(name).stem.partition("_")[2].capitalize(),)
    np.testing.assert_array_equal(claims.rules.pairs, np.arange(2 * num_pairs).reshape(-1, 2))
    np.testing.assert_array_equal(claims.rules.penalties[0], np.eye(2))
    assert gold.labels.sum() == num_pairs
    assert count_violations(gold.labels, claims.rules) == 0


@pytest.mark.parametrize("name", [*PERSONA_PAIRS, *(f"{c}.json" for c in COUNTRY_PAIRS)])
def test_opposite_options_are_found_by_their_text_alone(data, name):
    path = data / name if "/" in name else data / "goqa_country_pairs" / name
    claims = load_claims(path)
    columns = ("persona", "consistency_id", "question", "choice")
    rows = [{column: getattr(claim, column) for column in columns} for claim in claims.claims]
    by_text = claims_from_rows(rows)
    assert by_text.describe().endswith("rule exactly_one_true (found by the options' text)")
    for field, other in zip(by_text.rules, claims.rules, strict=True):
        np.testing.assert_array_equal(field, other)


def test_statements_without_a_question_load(data):
    paths = sorted((data / "anthropic_personas").rglob("*.jsonl"))
    assert len(paths) == 68
    for path in paths[::17]:
        claims = load_claims(path)
        assert claims.describe() == "128 claims, no pair rule"
        assert {claim.question for claim in claims.claims} == {""}


@pytest.mark.parametrize(("stem", "counts"), COUNTRY_PAIRS.items())
def test_country_files_name_their_country(data, stem, counts):
    path = data / "goqa_country_pairs" / f"{stem}.json"
    claims, gold = load_claims(path), load_gold(path)
    num_pairs, num_true, num_false = counts
    assert (len(claims.rules.pairs), len(claims)) == (num_pairs, 2 * num_pairs)
    assert ((gold.labels == 1).sum(), (gold.labels == 0).sum()) == (num_true, num_false)
    country = {"UnitedStates": "United States", "France": "France"}[stem.split("_")[0]]
    assert claims.personas == (country,)
    people = "the United States" if country == "United States" else country
    rows = json.loads(path.read_text(encoding="utf-8"))
    for claim, row in zip(claims.claims, rows, strict=True):
        opening = f"People from {people} would answer this question as: "
        assert claim.choice == f"{opening}'{row['option']}'"


def test_a_tie_keeps_both_gold_labels_false(data):
    path = data / "goqa_country_pairs" / "UnitedStates_train.json"
    claims, gold = load_claims(path), load_gold(path)
    violated = [group for group in claims.groups if gold.labels[list(group)].sum() != 1]
    ids = {claims.claims[first].consistency_id for first, _ in violated}
    assert ids == {"8", "40", "46"}
    assert count_violations(gold.labels, claims.rules) == 3


def test_country_claims_read_as_the_persona_files_do(data):
    by_pair = load_claims(data / "goqa_country_pairs" / "France_train.json").claims
    by_persona = load_claims(data / "goqa_personas" / "train" / "globaloqa_france.jsonl").claims
    texts = {claim.choice.strip() for claim in by_pair}
    assert sum(claim.choice.strip() in texts for claim in by_persona) > 20


@pytest.mark.parametrize(("stem", "counts"), TRUTH.items())
def test_truth_files_have_no_rule(data, stem, counts):
    path = data / "icm_schema" / f"{stem}.json"
    claims, gold = load_claims(path), load_gold(path)
    assert (len(claims), len(claims.groups), gold.labels.sum()) == counts
    assert claims.template == "truth"
    assert len(claims.rules.pairs) == 0
    assert claims.personas == ("",)


def test_preferences_are_asymmetric_and_mix_booleans_with_integers(data):
    path = data / "icm_schema" / "test_alpaca_first240.json"
    kinds = {type(row["label"]) for row in json.loads(path.read_text(encoding="utf-8"))}
    assert kinds == {bool, int}
    claims, gold = load_claims(path), load_gold(path)
    assert claims.template == "preference"
    assert len(claims.rules.pairs) == 240
    for first, second in claims.rules.pairs:
        one, other = claims.claims[first], claims.claims[second]
        assert (one.choice, one.choice_2) == (other.choice_2, other.choice)
    assert gold.labels.sum() == 240
    assert count_violations(gold.labels, claims.rules) == 0


def test_solutions_with_one_answer_share_a_label(data):
    path = data / "icm_schema" / "test_gsm8k_first100.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    claims, gold = load_claims(path), load_gold(path)
    assert (claims.template, len(claims.groups)) == ("solution", 100)
    assert len(claims.rules.pairs) == 100 * 6
    assert gold.labels.sum() == 206
    for (first, second), table in zip(claims.rules.pairs, claims.rules.penalties, strict=True):
        is_same = rows[first]["answer"] == rows[second]["answer"]
        np.testing.assert_array_equal(table, 1 - np.eye(2) if is_same else np.diag([0, 1]))
    # The five right answers held to be wrong, against the other solutions of their questions.
    violated = collections.Counter(
        rows[first]["consistency_id"]
        for first, second in claims.rules.pairs
        if rows[first]["answer"] == rows[second]["answer"]
        and bool(rows[first]["label"]) != bool(rows[second]["label"])
    )
    assert count_violations(gold.labels, claims.rules) == violated.total() == 11


@pytest.mark.parametrize(("stem", "num_rows"), POLITICAL.items())
def test_political_statements_pair_by_position(data, stem, num_rows):
    path = data / "political_normative" / f"{stem}.json"
    claims, gold = load_claims(path), load_gold(path)
    assert (len(claims), claims.personas) == (num_rows, ("liberal",))
    np.testing.assert_array_equal(claims.rules.pairs, np.arange(num_rows).reshape(-1, 2))
    assert len(claims.groups) == num_rows // 2
    assert (gold.labels[::2] + gold.labels[1::2] == 1).all()
    num_questions = len({claim.question for claim in claims.claims})
    assert num_questions < num_rows // 2, "questions repeat, and so are no key"


def test_ids_of_two_parties_are_kept_apart(data, tmp_path):
    both = tmp_path / "parties.jsonl"
    files = (data / "opinionqa_personas" / "train").glob("*.jsonl")
    both.write_text("".join(path.read_text(encoding="utf-8") for path in files), encoding="utf-8")
    claims = load_claims(both)
    assert len(claims.groups) == len(claims.rules.pairs) == 142 + 143
    assert len({claim.consistency_id for claim in claims.claims}) < 142 + 143
    republicans = load_claims(both, persona="Republican")
    assert republicans.personas == ("Republican",)
    assert len(republicans.rules.pairs) == 143
    assert len(load_gold(both, persona="Republican").labels) == len(republicans) == 286


@pytest.mark.parametrize("name", ["polis/brexit-consensus/comments.csv", "recipe_mpr/500QA.json"])
def test_files_of_other_kinds_are_refused_by_their_columns(data, name):
    with pytest.raises(ClaimsError) as caught:
        load_claims(data / name)
    (fault,) = caught.value.faults
    assert "One column of a file holds its claims" in fault.rule
    assert name in fault.where


# Labels never reach a claim set.


def label_column(rows):
    return next(name for name in ("is_liberal", "label") if name in rows[0])


@pytest.mark.parametrize(
    "name",
    [
        "opinionqa_personas/train/opinionqa_democrat.jsonl",
        "goqa_country_pairs/UnitedStates_train.json",
        *(f"icm_schema/{name}.json" for name in ("test_alpaca_first240", "test_gsm8k_first100")),
        "icm_schema/train_truthfulqa.json",
        "political_normative/test_political_normative.json",
    ],
)
def test_shuffled_labels_change_nothing_but_gold(data, tmp_path, name):
    text = (data / name).read_text(encoding="utf-8")
    is_list = name.endswith(".json")
    rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines()]
    column = label_column(rows)
    labels = [row[column] for row in rows]
    random.Random(0).shuffle(labels)
    shuffled = [row | {column: label} for row, label in zip(rows, labels, strict=True)]
    path = tmp_path / pathlib.Path(name).name
    lines = [json.dumps(row) for row in shuffled]
    path.write_text(f"[{','.join(lines)}]" if is_list else "\n".join(lines))
    assert load_claims(path).fingerprint == load_claims(data / name).fingerprint
    assert (load_gold(path).labels != load_gold(data / name).labels).any()
