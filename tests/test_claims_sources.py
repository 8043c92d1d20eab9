"""Where claims come from beside files: the hub, folders, frames; and columns of other names."""

import contextlib
import json
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icmjax
from icmjax.claims import (
    UNLABELLED,
    claims_from_rows,
    gold_from_rows,
    load_claims,
    load_gold,
    parse_columns,
)
from icmjax.claims.columns import KNOWN_COLUMNS
from icmjax.errors import ClaimsError


def faults_of(call, *args, **kwargs):
    with pytest.raises(ClaimsError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


ROWS = [
    {
        "question": f"Question {index // 2}?",
        "choice": f"They would answer: '{'yes' if index % 2 else 'no'}'",
        "consistency_id": index // 2,
        "persona": "Japan",
        "label": index % 2,
    }
    for index in range(6)
]


def write_lines(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# The library datasets.


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def test_saved_datasets_are_read(datasets, tmp_path):
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "whole")
    assert load_claims(tmp_path / "whole") == claims_from_rows(ROWS)
    np.testing.assert_array_equal(load_gold(tmp_path / "whole").labels, [0, 1] * 3)
    splits = datasets.DatasetDict({"train": whole, "test": whole.select(range(4))})
    splits.save_to_disk(tmp_path / "splits")
    assert len(load_claims(f"{tmp_path / 'splits'}@test")) == 4
    (fault,) = faults_of(load_claims, tmp_path / "splits")
    assert "the splits train, test" in fault.found
    assert f"{tmp_path / 'splits'}@train" in fault.remedy
    (fault,) = faults_of(load_claims, f"{tmp_path / 'splits'}@dev")
    assert "no split dev" in fault.found
    assert "there are train, test" in fault.remedy


def test_a_saved_dataset_is_called_after_its_folder(datasets, tmp_path):
    rows = [
        {"statement": text, "answer_matching_behavior": " Yes"} for text in ("I wait.", "I go.")
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "risk-averse")
    assert load_claims(tmp_path / "risk-averse").personas == ("risk-averse",)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_folders_of_data_files_are_read(datasets, tmp_path, suffix):
    folder = tmp_path / "folder"
    folder.mkdir()
    table = datasets.Dataset.from_list(ROWS)
    write = {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[suffix]
    write(folder / f"train.{suffix}")
    before = sorted(path.name for path in folder.iterdir())
    assert load_claims(folder) == claims_from_rows(ROWS)
    assert sorted(path.name for path in folder.iterdir()) == before
    write(folder / f"test.{suffix}")
    assert "train, test" in faults_of(load_claims, folder)[0].found
    assert len(load_claims(f"{folder}@test")) == 6


def test_folders_without_claims_are_faults(datasets, tmp_path):
    (tmp_path / "empty").mkdir()
    (fault,) = faults_of(load_claims, tmp_path / "empty")
    assert "datasets can read" in fault.rule
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"question": ')
    (fault,) = faults_of(load_claims, tmp_path / "broken")
    assert fault.where == str(tmp_path / "broken")
    statements = [{"statement": "I wait.", "answer_matching_behavior": " Yes"}] * 2
    (tmp_path / "people").mkdir()
    write_lines(tmp_path / "people" / "kind.jsonl", statements)
    # Rows of a folder do not know their files, which would say whose they are.
    assert "whose" in faults_of(load_claims, tmp_path / "people")[0].rule


def test_the_public_folder_of_countries_loads(datasets, data):
    folder = data / "goqa_personas"
    claims = load_claims(f"{folder}@test", persona="Japan")
    alone = load_claims(folder / "test" / "globaloqa_japan.jsonl")
    assert {claim[1:] for claim in claims.claims} == {claim[1:] for claim in alone.claims}
    assert len(claims.rules.pairs) == len(alone.rules.pairs) == 28


def stand_in(monkeypatch, datasets, load_dataset):
    """The hub cannot be reached from a test."""
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:owner/name", ("owner/name", None)),
        ("hf:owner/name:config", ("owner/name", "config")),
        ("hf:owner/name:config@train", ("owner/name", "config")),
        ("hf:name@train", ("name", None)),
    ],
)
def test_ids_of_the_hub_say_what_is_loaded(datasets, monkeypatch, name, expected):
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    stand_in(monkeypatch, datasets, load_dataset)
    assert load_claims(name) == claims_from_rows(ROWS)
    assert asked == [expected]
    (fault,) = faults_of(load_claims, f"{name.partition('@')[0]}@dev")
    assert "hf:" in fault.remedy
    assert "@train" in fault.remedy


def test_class_names_of_the_hub_stand_for_numbers(datasets, monkeypatch):
    table = datasets.Dataset.from_list(ROWS)
    table = table.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    stand_in(monkeypatch, datasets, lambda *_: table)
    gold = load_gold("hf:owner/name", options=("no", "yes"))
    np.testing.assert_array_equal(gold.labels, [0, 1] * 3)


def test_what_the_hub_refuses_is_a_fault(datasets, monkeypatch):
    def refuse(error):
        def load_dataset(*_):
            raise error

        stand_in(monkeypatch, datasets, load_dataset)
        (fault,) = faults_of(load_claims, "hf:owner/name")
        assert fault.where == "hf:owner/name"
        return fault

    missing = datasets.exceptions.DatasetNotFoundError("404: 'owner/name' doesn't exist")
    assert "no dataset of this name" in refuse(missing).found
    assert "404" not in refuse(missing).found
    offline = refuse(ConnectionError("Couldn't reach the Hub (LocalEntryNotFoundError)"))
    assert offline.found == "no network, and no copy of the dataset on this machine"
    assert "save_to_disk" in offline.remedy
    for error in (
        ValueError("BuilderConfig 'x' not found"),
        datasets.exceptions.DatasetGenerationError("An error occurred"),
    ):
        assert str(error) in refuse(error).found


@pytest.mark.parametrize("name", ["hf:", "hf:@train", "hf:a:b:c", "hf:owner/name@a@b", "hf:a:"])
def test_misspelt_ids_say_how_they_are_written(name):
    (fault,) = faults_of(load_claims, name)
    assert "hf:OWNER/NAME" in fault.remedy


def test_an_id_is_never_a_folder(datasets, monkeypatch, tmp_path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (fault,) = faults_of(load_claims, "hf:owner/name")
    assert "name the folder" in fault.remedy


def test_without_the_library_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("hf:owner/name", tmp_path):
        (fault,) = faults_of(load_claims, source)
        assert 'pip install "icmjax[datasets]"' in fault.remedy
    assert load_claims(write_lines(tmp_path / "claims.jsonl")) == claims_from_rows(ROWS)


def test_names_with_at_signs_are_files_still(tmp_path):
    (tmp_path / "a").mkdir()
    path = write_lines(tmp_path / "a@b.jsonl")
    assert load_claims(path) == claims_from_rows(ROWS)
    (fault,) = faults_of(load_claims, tmp_path / "a@c" / "claims.jsonl")
    assert fault.rule == "A claim file exists."


# Frames.


def test_frames_are_tables_with_gaps():
    pandas = pytest.importorskip("pandas")
    rows = [*ROWS, ROWS[0] | {"label": None, "consistency_id": 9, "question": None}]
    frame = pandas.DataFrame(rows)
    assert frame["label"].dtype == float
    expected = claims_from_rows(rows, rule="exactly_one_true")
    assert icmjax.load_claims(frame, rule="exactly_one_true") == expected
    assert claims_from_rows(frame, rule="exactly_one_true") == expected
    expected = [0, 1, 0, 1, 0, 1, UNLABELLED]
    assert icmjax.load_gold(frame).labels.tolist() == expected
    frame["label"] = frame["label"].astype("boolean")
    assert gold_from_rows(frame).labels.tolist() == expected
    frame.index = [f"row {i}" for i in range(7)]
    assert len(load_claims(frame, rule="none")) == 7


def test_frames_have_lists_as_arrays():
    """As pandas reads them from Parquet files, in mappings too."""
    pandas = pytest.importorskip("pandas")
    row = {
        "question": "Q?",
        "options": np.array(["Yes", "No"], object),
        "selections": {"Japan": np.array([0.75, 0.25], np.float32), "Peru": None},
    }
    plain = row | {"options": ["Yes", "No"], "selections": {"Japan": [0.75, 0.25]}}
    frame = pandas.DataFrame([row])
    assert load_claims(frame) == claims_from_rows([plain])
    assert load_gold(frame).labels.tolist() == [1, 0]


def test_frames_with_columns_of_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["q", "a", "b", 0]], columns=["question", "choice", "choice", "id"])
    (fault, *_) = faults_of(load_claims, frame)
    assert fault.found == "choice"


def test_icmjax_imports_no_pandas():
    """A frame is known by its methods."""
    frame = types.SimpleNamespace(
        columns=types.SimpleNamespace(is_unique=True),
        notna=lambda: None,
        astype=lambda kind: frame,
        where=lambda *_: frame,
        to_dict=lambda kind: ROWS if kind == "records" else None,
    )
    assert load_claims(frame) == claims_from_rows(ROWS)


# Columns.

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
OURS = ("question", "choice", "consistency_id", "persona", "label")


def written(columns):
    """A mapping as a user writes it, in CSV's quotes where it needs them."""
    pairs = [f"{ours}={yours}" for ours, yours in columns.items()]
    return ",".join(f'"{pair.replace(chr(34), 2 * chr(34))}"' for pair in pairs)


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, min_size=5, max_size=5, unique=True), st.sets(st.sampled_from(OURS)))
def test_columns_of_any_names_are_mapped(names, mapped):
    columns = {ours: yours for ours, yours in zip(OURS, names, strict=True) if ours in mapped}
    kept = set(OURS) - mapped
    if kept & set(columns.values()) or not columns:
        return  # two columns of one name
    rows = [{columns.get(name, name): cell for name, cell in row.items()} for row in ROWS]
    assert parse_columns(written(columns)) == columns
    found = claims_from_rows(rows, columns=parse_columns(written(columns)))
    assert found == claims_from_rows(ROWS)
    gold = gold_from_rows(rows, columns=columns)
    np.testing.assert_array_equal(gold.labels, [0, 1] * 3)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_mapping_or_a_fault(text):
    with contextlib.suppress(ClaimsError):
        assert all(parse_columns(text).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question=Q,choice=A", {"question": "Q", "choice": "A"}),
        ("question=Q, choice=A b", {"question": "Q", "choice": "A b"}),
        ('"question=Q, in full",choice=A=B', {"question": "Q, in full", "choice": "A=B"}),
    ],
)
def test_mappings_are_read(text, expected):
    assert parse_columns(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "nothing"),
        ("question", "'question'"),
        ("question=", "'question='"),
        ("=Q", "'=Q'"),
        ("question=Q,", "''"),
        ("question=Q,question=R", "question"),
        ('"question=Q', "question=Q"),
    ],
)
def test_what_is_no_mapping_is_refused(text, found):
    faults = faults_of(parse_columns, text)
    assert found in faults[0].found


def test_names_that_are_not_there_are_told_with_those_that_are():
    rows = [{"Q": row["question"], "Answer": row["choice"]} for row in ROWS]
    faults = faults_of(claims_from_rows, rows, columns={"question": "q", "choise": "Answer"})
    assert [fault.found for fault in faults] == ["'q'", "'choise'"]
    assert "the file has Q, Answer" in faults[0].remedy
    assert "did you mean choice?" in faults[1].remedy
    assert all(name in faults[1].remedy for name in KNOWN_COLUMNS)
    assert len(claims_from_rows(rows, columns={"question": "Q", "choice": "Answer"})) == 6


def test_a_mapped_column_takes_the_place_of_one_of_that_name():
    rows = [row | {"choice": "draft", "final": row["choice"]} for row in ROWS]
    assert claims_from_rows(rows, columns={"choice": "final"}) == claims_from_rows(ROWS)


def test_a_row_without_the_mapped_column_has_no_other_one():
    rows = [row | {"mine": 1 - row["label"]} for row in ROWS]
    del rows[2]["mine"]
    found = gold_from_rows(rows, columns={"label": "mine"})
    assert found.labels.tolist() == [1, 0, UNLABELLED, 0, 1, 0]
    swapped = [row | {"choice": row["question"], "question": row["choice"]} for row in ROWS]
    columns = {"choice": "question", "question": "choice"}
    assert claims_from_rows(swapped, columns=columns) == claims_from_rows(ROWS)


def test_columns_of_a_survey_are_mapped():
    rows = [{"Q": "Trade?", "answers": ["Good", "Bad"], "who": "Democrats"}]
    columns = {"question": "Q", "options": "answers", "persona": "who"}
    assert len(claims_from_rows(rows, columns=columns)) == 2


# Columns that are missing.


@pytest.mark.parametrize(
    ("columns", "missing", "kind"),
    [
        ("choice choice_2", "consistency_id", "preference"),
        ("question options selection", "selections", "GlobalOpinionQA"),
        ("cot answer", "consistency_id", "solution"),
        ("question persona text", "choice", "persona"),
    ],
)
def test_a_file_of_no_kind_hears_of_the_nearest(columns, missing, kind):
    names = columns.split()
    (fault,) = faults_of(claims_from_rows, [dict.fromkeys(names, str(i)) for i in range(2)])
    assert fault.found == f"it fills {', '.join(sorted(names))}"
    assert f"A {kind} file" in fault.rule
    assert f'columns={{"{missing}": "NAME"}}' in fault.remedy


@pytest.mark.parametrize("name", ["Consistency_ID", "consistency-id", "consistencyId"])
def test_ties_are_not_lost_to_a_misspelt_name(name):
    rows = [{(name if key == "consistency_id" else key): row[key] for key in row} for row in ROWS]
    (fault,) = faults_of(claims_from_rows, rows)
    assert f"rename {name} to consistency_id" in fault.remedy


def test_claims_without_ids_are_tied_to_none():
    rows = [{key: row[key] for key in row if key != "consistency_id"} for row in ROWS]
    claims = claims_from_rows(rows)
    assert claims.describe() == "6 claims, no pair rule"
    assert len(claims.groups) == 6
    # Another file numbers its rows alike, and has other claims of the same questions.
    others = claims_from_rows([row | {"choice": f"{row['choice']} Or not."} for row in rows])
    assert icmjax.steering.held_out(claims, others).tolist() == list(range(6))
    some = [*ROWS[:3], ROWS[3] | {"consistency_id": None}]
    (fault,) = faults_of(claims_from_rows, some)
    assert fault.where == "rows:row 3:consistency_id"
    (fault,) = faults_of(claims_from_rows, rows, rule="exactly_one_true")
    assert "ties claims" in fault.rule


PREAMBLES = [
    {"choice": f"c{n}", "consistency_id": n, "persona": persona, "preamble": f"Poll of {persona}."}
    for n, persona in enumerate("AABB")
]


def test_a_preamble_is_a_column_too():
    claims = icmjax.claims_from_rows(PREAMBLES[:2], rule="none")
    assert claims.preamble == "Poll of A."
    other = icmjax.claims_from_rows(PREAMBLES[:2], rule="none", preamble="Another.")
    assert other.preamble == "Another."


def test_claims_of_several_preambles_are_no_one_search():
    with pytest.raises(icmjax.InputError, match="one preamble, or none"):
        icmjax.claims_from_rows(PREAMBLES, rule="none")
    with pytest.raises(icmjax.InputError, match="one preamble, or none"):
        icmjax.claims_from_rows([PREAMBLES[0], PREAMBLES[1] | {"preamble": ""}], rule="none")
    assert icmjax.claims_from_rows(PREAMBLES, persona="B", rule="none").preamble == "Poll of B."


def test_a_file_of_quite_other_columns_is_asked_which_holds_the_claims():
    rows = [{"item": f"I like {n}.", "true?": True} for n in ("tea", "rice")]
    (fault,) = faults_of(claims_from_rows, rows)
    assert fault.rule.startswith("One column of a file holds its claims")
    assert 'columns={"claim": "item"}' in fault.remedy
    # Not the first column, nor one of few values, nor ids however long.
    long = [{"country": "The United States of America", "code": f"{n:040d}", "no": n, **row}
            for n, row in enumerate(rows)]  # fmt: skip
    assert 'columns={"claim": "item"}' in faults_of(claims_from_rows, long)[0].remedy
    few = [{"country": "The United States of America", "no": n} for n in range(2)]
    assert 'columns={"claim": "NAME"}' in faults_of(claims_from_rows, few)[0].remedy
    claims = icmjax.claims_from_rows(rows, columns={"claim": "item", "label": "true?"})
    assert [claim.choice for claim in claims.claims] == ["I like tea.", "I like rice."]


def test_columns_that_nothing_reads_are_told():
    rows = [{"choice": f"c{n}", "persona": "A", "Persna": "B", "age": 3} for n in range(2)]
    claims = icmjax.claims_from_rows(rows)
    assert claims.unread == ("Persna", "age")
    assert claims.select([1]).unread == ("Persna", "age")
    assert icmjax.claims_from_rows([{"choice": f"c{n}"} for n in range(2)]).unread == ()
