"""Claims: formats, labels, rules, selection; every fault is named where it is."""

import collections
import csv
import json
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.claims import (
    UNLABELLED,
    Claim,
    ClaimSet,
    GoldLabels,
    claims_from_rows,
    gold_from_rows,
    load_claims,
    load_gold,
    write_claims,
)
from icmjax.claims.consistency import make_rules
from icmjax.claims.texts import is_blank
from icmjax.errors import ClaimsError


def pair_rows(num_pairs=2, persona="Japan", **columns):
    return [
        {
            "question": f"Question {pair}?",
            "choice": f"They would answer {pair} as: '{side}'",
            "consistency_id": pair,
            "persona": persona,
            "label": int(side == "a"),
            **columns,
        }
        for pair in range(num_pairs)
        for side in "ab"
    ]


def write_rows(path: pathlib.Path, rows) -> pathlib.Path:
    """Write rows in the format of the path's suffix, by other code than the readers'."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def faults_of(call, *args, **kwargs):
    with pytest.raises(ClaimsError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


# Labels never reach a claim set.


def test_claims_load_without_labels_and_with_labels_that_make_no_sense():
    labelled = claims_from_rows(pair_rows())
    rows = pair_rows()
    for row in rows:
        del row["label"]
    assert claims_from_rows(rows) == labelled
    assert gold_from_rows(rows) is None
    assert claims_from_rows(pair_rows(label="perhaps")) == labelled


def test_the_kind_of_a_file_does_not_depend_on_its_labels(tmp_path):
    rows = [{"question": "q", "choice": choice, "is_liberal": choice == "a"} for choice in "ab"]
    unlabelled = [row | {"is_liberal": None} for row in rows]
    assert claims_from_rows(unlabelled) == claims_from_rows(rows)
    assert gold_from_rows(unlabelled) is None
    assert load_claims(write_rows(tmp_path / "a.csv", unlabelled)) == claims_from_rows(rows)


# Formats.


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_all_formats_say_the_same(tmp_path, suffix):
    rows = pair_rows(raw_choice_1="a", raw_choice_2="b")
    rows[1]["choice"] = 'commas, "quotes",\nline breaks\r\nand ünïcödé\u2028'
    path = write_rows(tmp_path / f"claims{suffix}", rows)
    assert load_claims(path) == claims_from_rows(rows)
    np.testing.assert_array_equal(load_gold(path).labels, gold_from_rows(rows).labels)


def test_line_separators_inside_of_json_strings_are_text(tmp_path):
    rows = pair_rows()
    rows[0]["choice"] = "one\u2028two\u2029three\x85four"
    path = tmp_path / "claims.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    assert load_claims(path, rule="none").claims[0].choice == rows[0]["choice"]


def test_rows_may_come_from_any_iterable_of_mappings():
    rows = pair_rows()
    assert claims_from_rows(iter([collections.OrderedDict(row) for row in rows])) == (
        claims_from_rows(rows)
    )


def test_tables_with_gaps_give_whole_numbers_and_no_label():
    rows = pair_rows()
    for row, label in zip(rows, [1.0, 0.0, float("nan"), None], strict=True):
        row |= {"label": label, "consistency_id": float(row["consistency_id"])}
    assert claims_from_rows(rows) == claims_from_rows(pair_rows())
    np.testing.assert_array_equal(gold_from_rows(rows).labels, [1, 0, UNLABELLED, UNLABELLED])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([True, False, 1, 0], [1, 0, 1, 0]),
        (["True", "false", " TRUE ", "0"], [1, 0, 1, 0]),
        ([None, "", 1.0, "1"], [UNLABELLED, UNLABELLED, 1, 1]),
        (["1.0", " 0. ", "01", "1.00"], [1, 0, 1, 1]),
    ],
)
def test_labels_come_in_many_kinds(labels, expected):
    rows = [row | {"label": label} for row, label in zip(pair_rows(), labels, strict=True)]
    np.testing.assert_array_equal(gold_from_rows(rows).labels, expected)


@pytest.mark.parametrize("label", [2, -1, 0.5, "yes", [1], float("inf"), "²", "0.5", "1.01", "1e0"])
def test_labels_outside_of_the_options_are_named(label):
    rows = pair_rows()
    rows[2]["label"] = label
    (fault,) = faults_of(gold_from_rows, rows)
    assert fault.where == "rows:row 2:label"
    assert "False, True" in fault.rule


def test_more_than_two_options(tmp_path):
    options = ("disagree", "unsure", "agree")
    rows = [
        row | {"label": label}
        for row, label in zip(pair_rows(), ["agree", 1, None, "0"], strict=True)
    ]
    claims = claims_from_rows(rows, rule="exactly_one_true", options=options)
    gold = gold_from_rows(rows, options=options)
    np.testing.assert_array_equal(gold.labels, [2, 1, UNLABELLED, 0])
    assert claims.rules.penalties.shape == (2, 3, 3)
    write_claims(claims, tmp_path / "three.jsonl", gold)
    assert load_claims(tmp_path / "three.jsonl") == claims
    np.testing.assert_array_equal(load_gold(tmp_path / "three.jsonl").labels, gold.labels)
    boolean = pair_rows(label=True)
    assert len(faults_of(gold_from_rows, boolean, options=options)) == len(boolean)


@pytest.mark.parametrize(
    "options",
    [
        ("one",),
        ("a", "a"),
        ("a", " a"),
        ("a", " "),
        ("a", "\u200b"),
        "no",
        ("a", "\ud800"),
        ("a", 1),
    ],
)
def test_options_are_distinct_names(options):
    assert "distinct" in faults_of(claims_from_rows, pair_rows(), options=options)[0].rule


# Rules.


def swapped_rows():
    rows = [
        {"question": "q", "choice": "x", "choice_2": "y", "consistency_id": 0},
        {"question": "q", "choice": "y", "choice_2": "x", "consistency_id": 0},
    ]
    return [row | {"consistency_id": pair} for pair in range(2) for row in rows]


def test_auto_takes_the_rule_that_the_schema_declares():
    both = pair_rows(raw_choice_1="x", raw_choice_2="y")
    assert len(claims_from_rows(both).rules.pairs) == 2
    assert len(claims_from_rows(both, rule="none").rules.pairs) == 0
    assert len(claims_from_rows(swapped_rows()).rules.pairs) == 2


@pytest.mark.parametrize("hard", [False, True])
def test_hardness_goes_to_every_pair_and_round(tmp_path, hard):
    claims = claims_from_rows(pair_rows(3), rule="exactly_one_true", hard=hard)
    assert claims.rules.is_hard.tolist() == [hard] * 3
    write_claims(claims, tmp_path / "claims.jsonl")
    assert load_claims(tmp_path / "claims.jsonl") == claims
    assert load_claims(tmp_path / "claims.jsonl", hard=True).rules.is_hard.all()
    assert len(load_claims(tmp_path / "claims.jsonl", rule="none").rules.pairs) == 0


def with_third(rows):
    return [*rows, rows[0] | {"choice": "a third"}]


@pytest.mark.parametrize(
    ("rows", "rule", "found"),
    [
        (with_third(pair_rows()), "exactly_one_true", "3 claims"),
        (pair_rows(choice="the same"), "exactly_one_true", "the same claim"),
        (with_third(swapped_rows()), "auto", "3 claims"),
        (pair_rows(), "asymmetric_preference", "does not swap"),
        (pair_rows(choice_2="z"), "auto", "does not swap"),
        (pair_rows(), "same_answer_same_label", "no answer"),
        (pair_rows()[::2], "exactly_one_true", "no two claims"),
    ],
)
def test_a_rule_that_does_not_fit_a_group_is_a_fault(rows, rule, found):
    faults = faults_of(claims_from_rows, rows, rule=rule)
    assert found in faults[0].found
    assert faults[0].where.startswith("rows")


def test_a_claim_alone_in_its_group_is_free_under_every_rule():
    rows = pair_rows(3)[:-1]
    assert len(claims_from_rows(rows, rule="exactly_one_true").rules.pairs) == 2


def test_unknown_rules_name_a_near_one():
    (fault,) = faults_of(claims_from_rows, pair_rows(), rule="exactly_one")
    assert "exactly_one_true" in fault.remedy


@pytest.mark.parametrize(
    "entry",
    [
        {"with": "7", "penalties": [[1, 0], [0, 1]], "hard": False},
        {"with": "0", "penalties": [[1, 0], [0, 1]], "hard": False},
        {"with": "1", "penalties": [[1, 0, 0], [0, 1, 0]], "hard": False},
        {"with": "1", "penalties": [[1, 0], [0, "1"]], "hard": False},
        {"with": "1", "penalties": [[1, 0], [0, 1]]},
        {"with": "1", "penalties": [[1, 0], [0, float("inf")]], "hard": False},
        {"with": "1", "penalties": [[1, 0], [0, float("nan")]], "hard": False},
        {"with": "1", "penalties": [[1, 0], [0, 10**400]], "hard": False},
        {"with": "1", "penalties": [[1, 0], [0, -1]], "hard": False},
        {"with": "1", "penalties": [[1, 2], [3, 1]], "hard": True},
        "exactly_one_true",
    ],
)
def test_spelt_out_rules_are_checked(entry):
    rows = [row | {"id": str(i), "pair_rules": []} for i, row in enumerate(pair_rows())]
    rows[0]["pair_rules"] = [entry]
    (fault,) = faults_of(claims_from_rows, rows)
    assert fault.where == "rows:row 0:pair_rules"


@pytest.mark.parametrize("cell", [5, "[]", {"with": "1"}, True])
def test_spelt_out_rules_are_a_list(cell):
    rows = [row | {"id": str(i), "pair_rules": []} for i, row in enumerate(pair_rows())]
    rows[0]["pair_rules"] = cell
    (fault,) = faults_of(claims_from_rows, rows)
    assert (fault.where, repr(cell) in fault.found) == ("rows:row 0:pair_rules", True)


def test_a_rule_that_costs_something_whatever_the_labels_is_soft_alone():
    entry = {"with": "1", "penalties": [[1, 2], [3, 1]], "hard": False}
    rows = [row | {"id": str(i), "pair_rules": []} for i, row in enumerate(pair_rows())]
    rows[0]["pair_rules"] = [entry]
    assert len(claims_from_rows(rows).rules.pairs) == 1
    assert "allows" in faults_of(claims_from_rows, rows, hard=True)[0].rule


def test_spelt_out_rules_tie_a_pair_once():
    entry = {"penalties": [[1, 0], [0, 1]], "hard": False}
    rows = [row | {"id": str(i), "pair_rules": []} for i, row in enumerate(pair_rows())]
    rows[0]["pair_rules"] = [entry | {"with": "1"}]
    assert claims_from_rows(rows).rules.pairs.tolist() == [[0, 1]]
    rows[1]["pair_rules"] = [entry | {"with": "0"}]
    assert len(faults_of(claims_from_rows, rows)) == 1


# Faults of files.


def test_a_missing_file_names_near_ones(tmp_path):
    write_rows(tmp_path / "japan.jsonl", pair_rows())
    (fault,) = faults_of(load_claims, tmp_path / "japn.jsonl")
    assert "japan.jsonl" in fault.remedy
    (fault,) = faults_of(load_claims, tmp_path / "nowhere" / "japan.jsonl")
    assert "nowhere" in fault.remedy


@pytest.mark.parametrize("name", ["claims.xls", "claims"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    (tmp_path / name).write_text("[]")
    (fault,) = faults_of(load_claims, tmp_path / name)
    assert ".jsonl" in fault.remedy


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[]"),
        ("a.txt", "\n \n"),
        ("a.jsonl", "\n\n"),
        ("a.csv", "question,choice\n"),
        ("b.csv", ""),
    ],
)
def test_an_empty_file_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (fault,) = faults_of(load_claims, tmp_path / name)
    assert fault.found == "no row"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.json", '[\n{"question": 1},\n{"question" 2}]', 3),
        ("b.json", '{"question": "q"}', 1),
        ("c.json", '{"question": "q"}\n{"question": "q"}', 2),
        ("d.json", "", 1),
        ("a.jsonl", '{"question": "q"}\n\n{"question": ', 3),
        ("b.jsonl", '[{"question": "q"}]', 1),
        ("a.csv", 'question,choice\n"a\nb",c\nq', 4),
        ("b.csv", 'question,choice\nq,"c', 2),
        ("c.csv", "question,choice,choice\nq,a,b", 1),
    ],
)
def test_malformed_lines_are_named(tmp_path, name, text, line):
    (tmp_path / name).write_text(text)
    wheres = [fault.where for fault in faults_of(load_claims, tmp_path / name)]
    assert f"{tmp_path / name}:{line}" in wheres


def test_lines_of_statements_are_claims(tmp_path):
    path = tmp_path / "statements.txt"
    path.write_text('\ufeffRice helps.\r\n\n  Tea, too; it\'s "good".\n', "utf-8")
    claims = load_claims(path)
    assert [claim.choice for claim in claims.claims] == ["Rice helps.", 'Tea, too; it\'s "good".']
    assert len(set(claims.group_index)) == 2
    assert not len(claims.rules.pairs)
    assert load_gold(path) is None
    path.write_bytes(b"Rice helps.\nTea \xff\n")
    (fault, *_) = faults_of(load_claims, path)
    assert fault.where == f"{path}:2"


@pytest.mark.parametrize("within", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c", "\r"])
def test_only_line_feeds_end_statements(tmp_path, within):
    path = tmp_path / "statements.txt"
    path.write_bytes(f"Rice{within}helps.\r\nTea helps.\n".encode())
    claims = load_claims(path).claims
    assert [claim.choice for claim in claims] == [f"Rice{within}helps.", "Tea helps."]


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "a"}\n{"question": "\xff"}\n')
    (fault,) = faults_of(load_claims, tmp_path / "a.jsonl")
    assert (fault.where, "0xff" in fault.found) == (f"{tmp_path / 'a.jsonl'}:2", True)


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    assert len(faults_of(load_claims, tmp_path / "a.parquet")) == 1


def test_json_lists_know_the_lines_of_their_rows(tmp_path):
    rows = pair_rows()
    rows[1]["choice"] = "with ] and , and\nbreaks"
    rows[3]["choice"] = 3
    text = json.dumps(rows, indent=2)
    (tmp_path / "a.json").write_text(text)
    (fault,) = faults_of(load_claims, tmp_path / "a.json")
    opening_lines = [i for i, line in enumerate(text.split("\n"), 1) if line.strip() == "{"]
    assert fault.where == f"{tmp_path / 'a.json'}:{opening_lines[3]}:choice"


def test_all_faults_are_raised_at_once(tmp_path):
    rows = pair_rows(3)
    rows[0]["choice"] = None
    rows[1]["question"] = 5
    rows[2]["consistency_id"] = True
    rows[3]["persona"] = 5
    path = write_rows(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n7\n")
    faults = faults_of(load_claims, path)
    wheres = [fault.where.removeprefix(f"{path}:") for fault in faults]
    fields = ["1:choice", "2:question", "3:consistency_id", "4:persona"]
    assert sorted(wheres) == sorted([*fields, "7", "8"])


@pytest.mark.parametrize("column", ["choice", "consistency_id"])
def test_a_missing_column_names_those_that_are_there(column):
    more = {"raw_choice_1": "a", "raw_choice_2": "b"}
    rows = [{name: row[name] for name in row if name != column} for row in pair_rows(**more)]
    (fault,) = faults_of(claims_from_rows, rows)
    assert column in fault.remedy
    assert "persona" in fault.found


def test_duplicate_ids_name_both_rows_and_duplicate_rows_are_allowed():
    rows = pair_rows()
    rows[3] = rows[2]
    assert len(claims_from_rows(rows, rule="none")) == 4
    numbered = [row | {"id": index % 3} for index, row in enumerate(pair_rows())]
    (fault,) = faults_of(claims_from_rows, numbered)
    assert (fault.where, "rows:row 0" in fault.found) == ("rows:row 3:id", True)


def test_leave_one_out_needs_two_claims():
    assert faults_of(claims_from_rows, pair_rows()[:1])[0].found == "one"
    alone = [*pair_rows(), pair_rows(persona="Chad")[0]]
    assert faults_of(claims_from_rows, alone, persona="Chad")[0].where == "rows:row 4"
    assert faults_of(claims_from_rows, pair_rows(), limit=1)[0].where == "limit"
    assert len(claims_from_rows(pair_rows(), limit=2)) == 2


@pytest.mark.parametrize("persona", ["japan", "Jpan"])
def test_an_unknown_persona_names_near_ones(persona):
    rows = pair_rows() + pair_rows(persona="Brazil")
    (fault,) = faults_of(claims_from_rows, rows, persona=persona)
    assert "mean Japan?" in fault.remedy
    assert "Brazil" in fault.remedy


def test_a_persona_is_refused_where_rows_name_none():
    rows = [row | {"persona": ""} for row in pair_rows()]
    assert claims_from_rows(rows).template == "truth"
    assert "leave out" in faults_of(claims_from_rows, rows, persona="Japan")[0].remedy


def test_country_rows_need_a_country():
    row = {"question": "q", "options": ["a", "b"], "selections": [0.4, 0.6], "consistency_id": 0}
    rows = [row | {"option": option} for option in "ab"]
    assert "whose" in faults_of(claims_from_rows, rows)[0].rule
    named = claims_from_rows([row | {"persona": "Netherlands"} for row in rows])
    assert named.claims[0].choice.startswith("People from the Netherlands would")
    assert claims_from_rows(rows, source="SouthKorea_train").personas == ("South Korea",)


def test_political_rows_need_their_other_side():
    rows = [
        {"question": q, "choice": f"{q}{i}", "is_liberal": bool(i % 2)}
        for i, q in enumerate("aabbc")
    ]
    (fault,) = faults_of(claims_from_rows, rows)
    assert fault.where == "rows:row 4:question"
    faults = faults_of(claims_from_rows, rows[1:])
    assert [fault.where for fault in faults] == ["rows:row 0:question", "rows:row 2:question"]


def test_claims_are_written_as_jsonl_alone(tmp_path):
    (fault,) = faults_of(write_claims, claims_from_rows(pair_rows()), tmp_path / "claims.csv")
    assert "claims.jsonl" in fault.remedy


def test_written_files_say_one_thing(tmp_path):
    path = tmp_path / "claims.jsonl"
    write_claims(claims_from_rows(pair_rows(), preamble="National poll."), path)
    assert load_claims(path).preamble == "National poll."
    assert load_claims(path, preamble="").preamble == ""
    path.write_text(path.read_text().replace("National", "Web", 1))
    faults = faults_of(load_claims, path)
    assert [fault.where for fault in faults] == [f"{path}:{line}:preamble" for line in (2, 3, 4)]


# Claim sets.


def test_a_fingerprint_tells_apart_all_that_a_score_or_utility_depends_on():
    rows = pair_rows()
    other_text = [row | {"choice": row["choice"] + "!"} for row in rows]
    claim_sets = [
        claims_from_rows(rows),
        claims_from_rows(other_text),
        claims_from_rows(rows[::-1]),
        claims_from_rows(rows, rule="none"),
        claims_from_rows(rows, rule="not_both_true"),
        claims_from_rows(rows, rule="not_both_true", hard=True),
        claims_from_rows(rows, preamble="Web poll."),
        claims_from_rows(rows, options=("no", "yes")),
        claims_from_rows([row | {"persona": None} for row in rows]),
    ]
    assert len({claims.fingerprint for claims in claim_sets}) == len(claim_sets)
    assert len(set(claim_sets)) == len(claim_sets)
    assert claims_from_rows(rows) == claim_sets[0]


def test_groups_are_those_of_persona_and_id():
    claims = claims_from_rows(pair_rows() + pair_rows(persona="Brazil"))
    assert claims.groups == ((0, 1), (2, 3), (4, 5), (6, 7))
    np.testing.assert_array_equal(claims.group_index, [0, 0, 1, 1, 2, 2, 3, 3])
    assert claims.group_index.dtype == np.int32
    assert claims.personas == ("Japan", "Brazil")


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_selection_keeps_claims_groups_and_whole_pairs(order, size):
    claims = claims_from_rows(pair_rows(3), rule="exactly_one_true")
    kept = order[:size]
    selected = claims.select(kept)
    assert selected.claims == tuple(claims.claims[index] for index in kept)
    tied = {frozenset(selected.claims[i].id for i in pair) for pair in selected.rules.pairs}
    whole = {frozenset(claims.claims[i].id for i in pair) for pair in claims.rules.pairs}
    assert tied == {pair for pair in whole if pair <= {claims.claims[i].id for i in kept}}
    assert all(first < second for first, second in selected.rules.pairs)
    for group, members in enumerate(selected.groups):
        assert {selected.claims[i].consistency_id for i in members} == {
            selected.claims[members[0]].consistency_id
        }
        assert (selected.group_index[list(members)] == group).all()


@pytest.mark.parametrize("indices", [[0, 0], [4], [-1]])
def test_selection_names_claims_once_each(indices):
    assert faults_of(claims_from_rows(pair_rows()).select, indices)[0].where == "select"


def test_gold_labels_are_selected_alike():
    gold = gold_from_rows(pair_rows())
    np.testing.assert_array_equal(gold.select([2, 1]).labels, [1, 0])


characters = st.characters(exclude_categories=["Cs"])
text = st.text(characters, min_size=1).filter(lambda drawn: not is_blank(drawn))
question = st.text(characters, max_size=5) | st.sampled_from(["", " \n", "\u200b"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(text | st.just(""), text, question, text, st.none() | text),
        min_size=2,
        max_size=5,
    ),
    text | st.just(""),
    st.data(),
)
def test_any_claims_go_round(tmp_path_factory, texts, preamble, data):
    claims = tuple(Claim(str(index), *fields) for index, fields in enumerate(texts))
    penalties = np.reshape(data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)), (2, 2))
    rules = make_rules([(1, 0)], penalties, not penalties.all() and data.draw(st.booleans()))
    claim_set = ClaimSet(claims, rules, data.draw(st.sampled_from([None, "world"])), preamble)
    label = st.integers(UNLABELLED, 1)
    labels = data.draw(st.lists(label, min_size=len(claims), max_size=len(claims)))
    path = tmp_path_factory.mktemp("round") / "claims.jsonl"
    write_claims(claim_set, path, GoldLabels(np.array(labels, np.int8)))
    assert load_claims(path) == claim_set
    gold = load_gold(path)
    assert labels == (gold.labels.tolist() if gold else [UNLABELLED] * len(labels))


def test_a_number_on_a_scale_of_numbers_is_the_option_of_that_name():
    rows = [
        {"question": "q", "choice": f"c{k}", "consistency_id": k, "label": label}
        for k, label in enumerate([1, 2.0, "3", "1.0", None])
    ]
    gold = gold_from_rows(rows, options=("1", "2", "3"))
    assert gold.labels.tolist() == [0, 1, 2, 0, UNLABELLED]
    words = gold_from_rows([row | {"label": 1} for row in rows], options=("no", "maybe", "yes"))
    assert words.labels.tolist() == [1] * 5
    with pytest.raises(ClaimsError):
        gold_from_rows([row | {"label": 0} for row in rows], options=("1", "2", "3"))
