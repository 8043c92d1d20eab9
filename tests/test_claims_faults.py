"""Claim files that cannot be used: every one is an error of four lines, and none a traceback."""

import csv
import datetime
import json
import os
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icmjax.claims import (
    UNLABELLED,
    Claim,
    ClaimSet,
    claims_from_rows,
    gold_from_rows,
    load_claims,
    load_gold,
    write_claims,
)
from icmjax.claims.consistency import no_rules
from icmjax.claims.json_text import list_elements
from icmjax.claims.texts import is_blank
from icmjax.errors import ClaimsError


def rows_of(num=4, **columns):
    return [
        {"question": "q", "choice": f"c{i}", "consistency_id": i, **columns} for i in range(num)
    ]


def faults_of(call, *args, **kwargs):
    with pytest.raises(ClaimsError) as caught:
        call(*args, **kwargs)
    error = caught.value
    causes = {(fault.rule, fault.remedy) for fault in error.faults}
    assert len(str(error).split("\n")) >= 4 * len(causes)
    str(error).encode()
    return error.faults


def write_lines(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# Paths.


@pytest.mark.parametrize(
    "name", ["n" * 300 + ".jsonl", "nul\0.jsonl", "a.jsonl/b.jsonl", "\ud800.json"]
)
def test_names_that_the_system_refuses(tmp_path, name):
    (tmp_path / "a.jsonl").write_text("")
    (fault,) = faults_of(load_claims, tmp_path / name)
    assert "exists" in fault.rule


def test_links_in_a_circle_and_pipes_are_not_read(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    faults_of(load_claims, tmp_path / "a.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (fault,) = faults_of(load_claims, tmp_path / "pipe.jsonl")
    assert fault.found == "neither a file nor a directory"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", [json.dumps(row) for row in rows_of()])

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    assert faults_of(load_claims, path)[0].found == "Permission denied"


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf", b"\n", b"\0", b"\xff\xfe[\0", b"[" * 995]
)
def test_files_without_content(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    faults_of(load_claims, path)
    faults_of(load_gold, path)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["json", "jsonl", "csv", "parquet"]), st.binary(max_size=60))
def test_any_bytes_are_claims_or_a_fault(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("bytes") / f"a.{suffix}"
    path.write_bytes(content)
    faults_of(load_claims, path)


# JSON.

NESTED = {
    "995 lists": "[" * 995,
    "995 whole lists": "[" * 995 + "]" * 995,
    "a deep row": '[{"x": ' + "[" * 500 + "]" * 500 + "}]",
    "100,000 lists": "[" * 100_000 + "]" * 100_000,
    "100,000 objects": '{"a":' * 100_000,
}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("text", NESTED.values(), ids=list(NESTED))
def test_deep_nesting_is_a_fault(tmp_path, suffix, text):
    path = write_lines(tmp_path / f"a.{suffix}", [text])
    assert faults_of(load_claims, path)[0].where.startswith(f"{path}:1")


@pytest.mark.parametrize("column", ["id", "label", "consistency_id", "unrelated"])
def test_numbers_of_thousands_of_digits_are_named_by_their_line(tmp_path, column):
    rows = [json.dumps(row) for row in rows_of()]
    rows[2] = rows[2][:-1] + f', "{column}": {"7" * 5000}}}'
    (fault, *_) = faults_of(load_claims, write_lines(tmp_path / "a.jsonl", rows))
    assert fault.where.endswith("a.jsonl:3")
    text = "[\n" + ",\n".join(rows) + "]"
    (fault, *_) = faults_of(load_claims, write_lines(tmp_path / "a.json", [text]))
    assert fault.where.endswith("a.json:4")


@pytest.mark.parametrize("column", ["id", "consistency_id", "label", "choice"])
def test_long_numbers_and_deep_lists_in_memory(column):
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (10**5000, deep):
        read = gold_from_rows if column == "label" else claims_from_rows
        (fault,) = faults_of(read, [*rows_of(), rows_of(5)[4] | {column: value}])
        assert fault.where == f"rows:row 4:{column}"


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_key_twice_in_one_object(tmp_path, suffix):
    rows = [json.dumps(row) for row in rows_of()]
    rows[1] = '{"question": "q", "choice": "a", "choice": "b", "consistency_id": 1}'
    text = f"[{', '.join(rows)}]" if suffix == "json" else "\n".join(rows)
    (fault,) = faults_of(load_claims, write_lines(tmp_path / f"a.{suffix}", [text]))
    assert "'choice' twice" in fault.found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_values, max_size=4), st.sampled_from([None, 1]))
def test_lists_are_read_as_json_reads_them(values, indent):
    texts = [json.dumps(value, indent=indent) for value in values]
    elements = list(list_elements("[\n" + ",\r\n ".join(texts) + " ]\n"))
    assert [value for _, value in elements] == values
    lines_before = [sum(text.count("\n") + 1 for text in texts[:i]) for i in range(len(texts))]
    assert [line for line, _ in elements] == [2 + before for before in lines_before]


@pytest.mark.parametrize(
    "text", ["[1 2]", "[,]", "[1,]", "[1,,2]", "[1] 2", "[", "[1", "[1,", "]", "[1}", '["a]', "nul"]
)
def test_lists_that_json_refuses_are_refused(tmp_path, text):
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    (fault,) = faults_of(load_claims, write_lines(tmp_path / "a.json", [text]))
    assert "well-formed JSON" in fault.rule


# Texts.


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, "half \ud800") for column in ("question", "choice", "persona", "id")),
        *(("choice", blank) for blank in ("", " \n", "\u200b\u2060", "\ufeff", "\u3164", "\x08")),
        ("consistency_id", "\u200b"),
    ],
)
def test_texts_that_nobody_can_read(tmp_path, column, value):
    rows = rows_of()
    rows[1][column] = value
    for row in rows:
        row.setdefault("persona", "Finns")
    (fault,) = faults_of(claims_from_rows, rows)
    assert fault.where == f"rows:row 1:{column}"
    (fault,) = faults_of(
        load_claims, write_lines(tmp_path / "a.jsonl", [json.dumps(row) for row in rows])
    )
    assert fault.where.endswith(f":2:{column}")


def test_visible_texts_are_not_blank():
    assert not any(map(is_blank, ["a", "日", "👩‍👩‍👧", "é", "-", "\u200bx", "ไ"]))


def test_claims_with_half_a_surrogate_pair_are_not_written(tmp_path):
    claims = claims_from_rows(rows_of())
    broken = ClaimSet(
        (claims.claims[0]._replace(question="\ud800"), *claims.claims[1:]), no_rules()
    )
    faults_of(write_claims, broken, tmp_path / "a.jsonl")
    assert os.listdir(tmp_path) == []
    faults_of(claims_from_rows, rows_of(), preamble="\ud800")


def test_claims_are_not_written_through_a_link(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target")
    faults_of(write_claims, claims_from_rows(rows_of()), tmp_path / "link.jsonl")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("question", ["absent", None, "", " \n", "\u200b"])
@pytest.mark.parametrize("columns", [{}, {"persona": "Finns"}])
def test_a_statement_needs_no_question(tmp_path, question, columns):
    rows = rows_of(**columns)
    for row in rows:
        row["question"] = question
        if question == "absent":
            del row["question"]
    claims = claims_from_rows(rows)
    kept = question if question not in (None, "absent") else ""
    assert {claim.question for claim in claims.claims} == {kept}
    write_claims(claims, tmp_path / "a.jsonl")
    assert load_claims(tmp_path / "a.jsonl") == claims
    labels = [claim._asdict() | {"label": True, "log_odds": 1.0} for claim in claims.claims]
    assert claims_from_rows(labels).claims == claims.claims


@pytest.mark.parametrize("name", ["Question", " persona", "CHOICE", "Choice_2"])
def test_a_column_that_is_all_but_spelt_as_one_is_named(name):
    rows = [{"question": "q", "choice": f"c{i}", "consistency_id": i} for i in range(2)]
    meant = name.strip().lower()
    for row in rows:
        row[name] = row.pop(meant, "text")
    (fault,) = faults_of(claims_from_rows, rows)
    assert f"rename {name} to {meant}" in fault.remedy


# CSV.


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_delimiters_are_named(tmp_path, delimiter, name):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows_of()[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(row | {"choice": "one, two"} for row in rows_of())
    (fault,) = faults_of(load_claims, path)
    assert name in fault.found


def test_one_label_is_the_same_label_in_every_format(tmp_path):
    rows = [row | {"label": label} for row, label in zip(rows_of(), [1.0, 0.0, 1, 0], strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("a.jsonl", "a.csv"):
        np.testing.assert_array_equal(load_gold(tmp_path / name).labels, [1, 0, 1, 0])


@pytest.mark.parametrize("label", ["Yes", "no", "y", "Agree"])
def test_labels_in_other_words_get_a_hint(label):
    (fault,) = faults_of(gold_from_rows, [*rows_of(), rows_of(5)[4] | {"label": label}])
    assert 'options=("No", "Yes")' in fault.remedy
    gold = gold_from_rows(rows_of(label="yes"), options=("no", "yes"))
    np.testing.assert_array_equal(gold.labels, [1] * 4)


def test_there_are_as_many_options_as_labels_have_numbers(tmp_path):
    options = tuple(f"option {i}" for i in range(129))
    faults_of(claims_from_rows, rows_of(), options=options)
    faults_of(gold_from_rows, rows_of(label=128), options=options)
    gold = gold_from_rows(rows_of(label=127), options=options[:128])
    np.testing.assert_array_equal(gold.labels, [127] * 4)


@pytest.mark.parametrize("options", [[["a"], ["b"]], "yes", 5, [{"a": 1}, None]])
def test_options_of_a_written_file_are_texts(options):
    rows = [row | {"id": str(i), "pair_rules": []} for i, row in enumerate(rows_of())]
    faults_of(claims_from_rows, [row | {"label_options": options} for row in rows])


# Parquet.


def write_parquet(path, columns, metadata=None):
    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pyarrow.parquet.write_table(table, path)
    return path


def columns_of(rows):
    return {name: pyarrow.array([row[name] for row in rows]) for name in rows[0]}


def test_columns_of_times_are_let_be(tmp_path):
    now = datetime.datetime(2024, 6, 1, 12)
    times = {
        "ns": pyarrow.array([1, 2, 3, None], pyarrow.timestamp("ns")),
        "zone": pyarrow.array([now] * 4, pyarrow.timestamp("us", "Europe/Rome")),
        "far": pyarrow.array([2**40] * 4, pyarrow.timestamp("s")),
        "took": pyarrow.array([1, 2, 3, 4], pyarrow.duration("ns")),
        "clock": pyarrow.array([1, 2, 3, 4], pyarrow.time64("ns")),
    }
    path = write_parquet(tmp_path / "a.parquet", columns_of(rows_of()) | times)
    assert load_claims(path) == claims_from_rows(rows_of())


def test_bytes_that_are_no_text_in_a_column(tmp_path):
    broken = pyarrow.array([b"a", b"\xff", b"c", b"d"]).view(pyarrow.string())
    columns = columns_of(rows_of()) | {"choice": broken}
    (fault,) = faults_of(load_claims, write_parquet(tmp_path / "a.parquet", columns))
    assert fault.where.endswith("a.parquet:choice")


def declared(**classes):
    features = {
        column: {"names": names, "_type": "ClassLabel"} for column, names in classes.items()
    }
    return {"info": {"features": features | {"choice": {"dtype": "string", "_type": "Value"}}}}


def test_names_of_classes_stand_for_their_numbers(tmp_path):
    columns = columns_of([row | {"label": row["consistency_id"] - 1} for row in rows_of(3)])
    turned = declared(label=["True", "False"])
    path = write_parquet(tmp_path / "a.parquet", columns, turned)
    np.testing.assert_array_equal(load_gold(path).labels, [UNLABELLED, 1, 0])
    others = write_parquet(tmp_path / "b.parquet", columns, declared(label=["no", "yes"]))
    assert "options" in faults_of(load_gold, others)[0].remedy
    np.testing.assert_array_equal(
        load_gold(others, options=("yes", "no")).labels, [UNLABELLED, 1, 0]
    )
    few = write_parquet(tmp_path / "c.parquet", columns, declared(label=["only"]))
    assert "only" in faults_of(load_claims, few)[0].rule


@pytest.mark.parametrize(
    "metadata", [5, {}, {"info": {"features": {"label": {"_type": "ClassLabel"}}}}]
)
def test_declarations_of_another_form_are_refused(tmp_path, metadata):
    path = write_parquet(tmp_path / "a.parquet", columns_of(rows_of()), metadata)
    faults_of(load_claims, path)


class Dataset(list):
    """As a Hugging Face dataset: rows, and features by column."""

    class ClassLabel:
        names = ("True", "False")

    features = {"label": ClassLabel(), "choice": object()}  # noqa: RUF012


def test_names_of_classes_of_a_dataset_in_memory():
    rows = Dataset(row | {"label": row["consistency_id"] - 1} for row in rows_of(3))
    np.testing.assert_array_equal(gold_from_rows(rows).labels, [UNLABELLED, 1, 0])


# Size.


@pytest.mark.parametrize("rule", ["auto", "none", "not_both_true", "exactly_one_true"])
def test_thousands_of_claims_of_one_group_take_no_time(rule):
    rows = [row | {"consistency_id": "one"} for row in rows_of(4000)]
    start = time.perf_counter()
    if rule == "none":
        assert len(claims_from_rows(rows, rule=rule, limit=8)) == 8
    else:
        (fault,) = faults_of(claims_from_rows, rows, rule=rule, limit=8)
        assert ("4000 claims" in fault.found) == (rule != "auto")
    assert time.perf_counter() - start < 5


cells = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["\ud800", 10**5000, "\u200b", {"with": "0"}, b"\xff"])
)
names = st.sampled_from(
    (
        "question choice consistency_id persona choice_2 label id answer cot pair_rules preamble "
        "label_options template is_liberal option options selections raw_choice_1 "
        "raw_choice_2 other"
    ).split()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(names, cells, max_size=8), max_size=4))
@example([{"choice": "a", "consistency_id": 0, "id": "x", "pair_rules": 5}] * 2)
def test_any_rows_are_claims_or_faults(tmp_path_factory, rows):
    full = [{"question": "q", "choice": "c", "consistency_id": 0} | row for row in rows]
    for drawn in (rows, full):
        for read in (claims_from_rows, gold_from_rows):
            try:
                read(drawn)
            except ClaimsError as error:
                message = str(error)
                message.encode()
                num_lines = len(message.splitlines())
                assert num_lines >= 4


def test_a_claim_set_made_by_hand_goes_round(tmp_path):
    claims = ClaimSet((Claim("0", "", "0", "", "a"), Claim("1", "", "1", " ", " b ")), no_rules())
    write_claims(claims, tmp_path / "a.jsonl")
    assert load_claims(tmp_path / "a.jsonl") == claims
