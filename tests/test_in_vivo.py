"""Real personas: how they are worded, what is matched, where borders lie; all at toy size."""

import importlib
import json

import numpy as np
import pytest
from checkpoints import make_checkpoint
from conftest import EXPERIMENTS
from experiment_commands import check_resumes, invoke, invoke_in, read_units

pytestmark = pytest.mark.usefixtures("experiments_on_path")

NAMES = ("baker", "sailor")
PARTS = (
    "zero-shot",
    "gold",
    "marginals",
    "dose",
    "feedback marginals",
    "open",
)
TOY = "--personas baker,sailor --seeds 1 --num-items 12 --num-test 8 --orders 2"


@pytest.fixture(scope="module")
def persona_data(tmp_path_factory):
    """Statements of two personas, as the public data has them, and a model of their words."""
    folder, texts = tmp_path_factory.mktemp("data"), []
    for split, num in (("train", 12), ("test", 10)):
        (folder / "anthropic_personas" / split).mkdir(parents=True)
        for name in NAMES:
            rows = [
                {
                    "persona": name,
                    "who": f"A {name}",
                    "statement": f"I like {split} thing {index}",
                    "label": index % 2,
                }
                for index in range(num)
            ]
            texts += [f'A {name} would say: "{row["statement"]}"' for row in rows]
            path = folder / "anthropic_personas" / split / f"{name}.jsonl"
            path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    make_checkpoint(folder / "lm", "llama", [*texts, "Claim: I think this claim is True False"])
    return folder


@pytest.fixture(scope="module")
def wordings(experiments_on_path):
    return importlib.import_module("harness.wordings")


def ask_little(patch):
    """Of every number of answers a search has a program of its own: one number, not three."""
    for name in ("in_vivo", "harness.in_vivo_parts"):
        patch.setattr(importlib.import_module(name), "BUDGETS", (2,))


@pytest.fixture(scope="module")
def found(persona_data, experiments_on_path, tmp_path_factory):
    """The command's options, the folder that it was called in, and its result."""
    options = f"--model {persona_data}/lm --data {persona_data} {TOY}"
    options += f" --parts '{','.join(PARTS)}'"
    folder = tmp_path_factory.mktemp("in_vivo")
    with pytest.MonkeyPatch.context() as patch:
        ask_little(patch)
        result = invoke_in(folder, "in_vivo", options)
    assert result.exit_code == 0, result.output
    return options, folder, result


def items_of(wordings, num=6):
    return [
        wordings.Item("p", "A baker", "", (f"statement {index}",), index % 2)
        for index in range(num)
    ]


def test_of_two_opposite_claims_gold_has_one_true(wordings):
    for kind in (wordings.STATEMENTS, wordings.ANSWERS):
        items = items_of(wordings)
        if kind is wordings.ANSWERS:
            items = [
                item._replace(question="Which?", texts=(item.texts[0], f"no {index}"))
                for index, item in enumerate(items)
            ]
        for name, wording in kind.items():
            claims, gold = wordings.word(items, wording)
            assert len({claim.choice for claim in claims.claims}) == len(claims), name
            pairs = np.asarray(claims.rules.pairs)
            if wording.rule == "none":
                assert not len(pairs)
                assert gold.labels.tolist() == [item.label for item in items]
            else:
                assert len(pairs) == len(claims) / 2
                assert (gold.labels[pairs].sum(axis=1) == 1).all()
                assert claims.rules.is_hard.all()


def test_of_two_statements_one_is_said_and_either_comes_first(wordings):
    said = {item.texts[0] for item in items_of(wordings) if item.label}
    claims, gold = wordings.word(items_of(wordings), wordings.STATEMENTS["which of two"])
    assert 'A baker would rather say "statement 1" than "statement 0"' in [
        claim.choice for claim in claims.claims[:2]
    ]
    for claim, label in zip(claims.claims, gold.labels, strict=True):
        first, second = claim.choice.split('"')[1::2]
        assert (first in said, second in said) == (bool(label), not label)
    _, gold = wordings.word(items_of(wordings, 40), wordings.STATEMENTS["which of two"])
    assert 0 < gold.labels[::2].sum() < 20


def test_the_persona_is_in_the_claim_or_before_all_claims(wordings):
    items = items_of(wordings)
    for name, wording in wordings.STATEMENTS.items():
        claims, _ = wordings.word(items, wording)
        is_before = "a baker" in claims.preamble
        assert is_before == (name == "preamble")
        assert all(("A baker" in claim.choice) != is_before for claim in claims.claims)


def test_as_many_items_are_drawn_of_either_label(wordings):
    items = items_of(wordings, 20) + [item._replace(label=1) for item in items_of(wordings, 9)]
    for num in (4, 10, 20, 29, 40):
        drawn = wordings.draw_items(items, num, np.random.default_rng(num))
        num_true = sum(item.label for item in drawn)
        assert len(drawn) == min(num, 29)
        assert num_true == max(len(drawn) // 2, len(drawn) - 10)


@pytest.mark.slow
def test_errors_are_as_many_on_either_side(found, persona_data):
    _, folder, _ = found
    by_part = {unit["key"][2]: unit for unit in read_units(folder / "runs/in_vivo")}
    assert tuple(by_part) == PARTS
    in_vivo = importlib.import_module("harness.in_vivo_parts")
    wordings = importlib.import_module("harness.wordings")
    readers = importlib.import_module("harness.readers")
    reader = readers.load_reader(str(persona_data / "lm"), None)
    options = {"num_items": 8, "num_test": 8, "num_orders": 3}
    for name in ("would say", "would say or not"):
        arguments = (reader, persona_data, wordings.STATEMENTS[name], options, "baker", 0)
        bench = in_vivo.Bench(*arguments)
        gold = bench.task.gold.labels
        rng = np.random.default_rng(0)
        for missed, false in ((0, 0), (1, 3), (2, 2)):
            if len(bench.task.claims.rules.pairs):
                missed = false
            rows = in_vivo.with_errors(bench, missed, false, rng)
            assert ((rows == 0) & (gold == 1)).sum(axis=1).tolist() == [missed] * 3
            assert ((rows == 1) & (gold == 0)).sum(axis=1).tolist() == [false] * 3
            for first, second in np.asarray(bench.task.claims.rules.pairs):
                assert (rows[:, first] != rows[:, second]).all()


@pytest.mark.slow
def test_every_part_has_its_tables_and_a_second_call_runs_nothing(found, monkeypatch):
    options, folder, result = found
    report = json.loads((folder / "runs/in_vivo/report.json").read_text())
    rows = {title: [row["name"] for row in rows] for title, rows in report.items()}
    names = ["zero-shot", "calibrated", "gold", "marginals", "errors as of marginals"]
    names += ["incoherent errors", "coherent errors", "random errors"]
    assert rows["held-out AUC, 2 personas × 1 seeds"] == names
    assert rows["label accuracy, 2 personas × 1 seeds"] == ["zero-shot", "calibrated", "marginals"]
    assert rows["held-out accuracy, found − random errors of the same number, p by Holm"] == [
        "marginals"
    ]
    title = "feedback, marginals: AUC{}, 2 personas × 1 seeds"
    assert len(rows[title.format("")]) == 1 + 3
    assert len(rows[title.format(" − that of random answers") + ", p by Holm"]) == 2
    assert rows["held-out AUC, coherent errors − others, p by Holm"] == [
        "incoherent errors",
        "random errors",
    ]
    for unit in read_units(folder / "runs/in_vivo"):
        if unit["key"][2] == "open":
            assert all(len(unit[f"open: {name}"]["texts"]) == 9 for name in ("gold", "marginals"))
            assert all('"' not in text for text in unit["open: gold"]["texts"])
    assert all(title in result.stdout for title in report)
    ask_little(monkeypatch)
    check_resumes(folder, "in_vivo", options, monkeypatch)


@pytest.mark.slow
def test_wordings_and_borders_are_measured(persona_data, tmp_path, monkeypatch):
    wording = importlib.import_module("wording")
    monkeypatch.setattr(wording, "PERSONAS", NAMES)
    monkeypatch.setattr(wording, "SURVEYS", {})
    monkeypatch.setattr(wording, "KINDS", {"statements": wording.KINDS["statements"]})
    files = f"--model {persona_data}/lm --data {persona_data}"
    result = invoke("wording", f"{files} --quick", tmp_path / "wording")
    assert result.exit_code == 0, result.output
    chosen = json.loads((tmp_path / "wording/chosen.json").read_text())["statements"]
    units = read_units(tmp_path / "wording/statements")
    means = {
        name: np.mean([unit[name]["16 shots"] for unit in units])
        for name in units[0]
        if name != "key"
    }
    assert means[chosen] == max(means.values())
    monkeypatch.setattr(importlib.import_module("borders"), "NUM_DRAWN", 4)
    monkeypatch.setattr(importlib.import_module("borders"), "LEAST_AUC", 0.0)
    result = invoke("borders", f"{files} --personas {','.join(NAMES)}", tmp_path / "borders")
    assert "6 minutes for 24 units" in result.stderr
    assert result.exit_code == 0, result.output
    assert "0.9 of the claims true: accuracy, 2 personas" in result.output


def test_borders_are_those_of_their_names():
    borders = importlib.import_module("borders")
    log_odds = np.array([-3.0, -2.8, 1.0, 1.2, 1.4])
    none, mean, clusters, gated, empty = borders.borders_of(log_odds, 0.7)
    assert (none, gated, empty) == (0.0, 0.0, 0.7)
    assert borders.borders_of(log_odds - 2, 0.7)[3] == pytest.approx(-2.9)
    assert mean == pytest.approx(-0.44)
    assert clusters == pytest.approx(-0.9)


@pytest.mark.parametrize("name", ["wording", "in_vivo", "borders"])
@pytest.mark.parametrize("options", ["", "--data nowhere"])
def test_without_the_data_the_message_says_what_to_do(name, options, tmp_path):
    result = invoke(name, options, tmp_path)
    assert result.exit_code == 2
    assert "name it with --data" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--personas nobody", "choose of baker"),
        ("--personas nobody,noone,baker", "'noone', and no noone.jsonl"),
        ("--model models/absent --num-items 12 --num-test 8", "make real-models"),
        ("--num-items 64", "6 of one"),
        ("--seeds 0", "0 is not in the range"),
        ("--personas 0", "0 is not in the range 1 to 24"),
        ("--personas 2", "'anti-immigration', and no anti-immigration.jsonl"),
        ("--orders 0", "0 is not in the range"),
        ("--personas broken", "broken.jsonl:2"),
        ("--personas lacking", "no statement"),
    ],
)
def test_what_cannot_be_read_is_said_before_the_first_unit(persona_data, tmp_path, options, said):
    row = {"persona": "x", "who": "An x", "statement": "I am", "label": 1}
    folder = persona_data / "anthropic_personas" / "train"
    (folder / "broken.jsonl").write_text(json.dumps(row) + "\n{\n")
    (folder / "lacking.jsonl").write_text(json.dumps(row | {"statement": ""}) + "\n")
    files = f"--model {tmp_path}/none --data {persona_data} --personas baker"
    result = invoke("in_vivo", f"{files} {options}", tmp_path / "out")
    (folder / "broken.jsonl").unlink()
    (folder / "lacking.jsonl").unlink()
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out").exists()


def test_who_interrupts_is_told_how_to_go_on(persona_data, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("in_vivo"), "load_reader", interrupt)
    options = f"--data {persona_data} --model {persona_data}/lm {TOY}"
    result = invoke("in_vivo", options, tmp_path / "out")
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.output


def test_a_survey_file_that_is_missing_is_said_before_the_first_unit(persona_data, tmp_path):
    for folder in ("anthropic_personas/train", "goqa_personas/train", "opinionqa_personas/train"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        options = f"--data {tmp_path}/data --model {persona_data}/lm"
        result = invoke("wording", options, tmp_path / "out")
        assert result.exit_code == 2
    assert "get this file" in result.output  # all folders are there, and hold nothing
    assert not (tmp_path / "out").exists()


def test_other_statements_are_another_configuration(persona_data, wordings):
    before = wordings.fingerprint_of(persona_data)
    path = persona_data / "anthropic_personas/test/baker.jsonl"
    content = path.read_text()
    path.write_text(content.replace("thing 3", "thing three"))
    assert wordings.fingerprint_of(persona_data) != before
    path.write_text(content)
    assert wordings.fingerprint_of(persona_data) == before


def test_no_two_conditions_are_compared_twice(experiments_on_path):
    in_vivo = importlib.import_module("in_vivo")
    rng = np.random.default_rng(0)
    names = ["zero-shot", "calibrated", "random labels", "marginals", "icm", "gold"]
    errors = ["errors as of marginals", "errors as of icm"]
    metrics = (*in_vivo.METRICS, "label accuracy", "share of True")
    units = [
        {"key": [f"persona {index}", 0, part]}
        | {name: dict(zip(metrics, rng.random(len(metrics)), strict=True)) for name in shown}
        for index in range(8)
        for part, shown in (("all", names), ("errors", errors))
    ]
    rows = in_vivo.analyse(units)
    assert len(rows["does the search help? 8 personas × 1 seeds, p by Holm"]) == 5
    for metric in in_vivo.METRICS:
        start = f"held-out {metric} − that of "
        pairs = [
            frozenset((title.removeprefix(start).split(",")[0], row.name))
            for title, found in rows.items()
            if title.startswith(start)
            for row in found
        ]
        assert len(pairs) == len(set(pairs))
        # Without the bias zero-shot and calibrated predictions are the same, and no rows of two.
        num = len(names) - (metric in ("AUC", "calibrated accuracy"))
        assert len(pairs) == num * (num - 1) // 2


def test_found_labels_are_matched_by_what_they_miss_and_what_they_invent(
    persona_data, wordings, monkeypatch
):
    parts = importlib.import_module("harness.in_vivo_parts")
    labellers = importlib.import_module("harness.labellers")
    readers = importlib.import_module("harness.readers")
    reader = readers.load_reader(str(persona_data / "lm"), None)
    options = {"num_items": 8, "num_test": 8, "num_orders": 3}
    arguments = (reader, persona_data, wordings.STATEMENTS["would say"], options, "baker", 0)
    bench, seen = parts.Bench(*arguments), []
    labels = bench.task.gold.labels.copy()
    labels[np.flatnonzero(labels == 1)[:3]] = 0  # three missed
    labels[np.flatnonzero(bench.task.gold.labels == 0)[:1]] = 1  # one invented
    found = labellers.Found(labels, np.full((8, 2), 0.5, np.float32), 1)
    monkeypatch.setitem(parts.LABELLERS, "marginals", lambda unit: found)
    monkeypatch.setattr(bench, "scores", lambda shown: seen.append(shown) or {})
    unit = parts.run_found(bench, "marginals")
    assert unit["marginals"]["label accuracy"] == 0.5
    _, matched = seen
    gold = bench.task.gold.labels
    assert ((matched == 0) & (gold == 1)).sum(axis=1).tolist() == [3] * 3
    assert ((matched == 1) & (gold == 0)).sum(axis=1).tolist() == [1] * 3


@pytest.mark.parametrize("name", ["in_vivo_gemma", "in_vivo_smollm2"])
def test_a_command_goes_on_from_the_units_that_are_published(wordings, name):
    parts = importlib.import_module("harness.in_vivo_parts")
    folder = EXPERIMENTS / "results" / "units" / name
    config = json.loads((folder / "config.json").read_text())
    assert config.items() >= parts.constants(wordings.STATEMENTS[config["wording"]]).items()
    keys = [tuple(unit["key"]) for unit in read_units(folder)]
    assert len(keys) == len(set(keys))
    assert {persona for persona, _, _ in keys} <= set(wordings.PERSONAS)
