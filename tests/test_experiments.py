"""Every experiment runs at toy size, resumes, and gives the same bytes for the same seed."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
import torch
import transformers
from checkpoints import make_checkpoint
from click.testing import CliRunner

from icmjax.errors import ClaimsError
from icmjax.persona_world.world import make_world

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOY = "--groups hestonia,ilvania --seeds 1 --num-claims 8 --num-test 8"
# By experiment: its options at toy size. The observer in place of the model, where it can read.
EXPERIMENTS = {
    "matched_accuracy": f"--model observer {TOY} --iterations 6 --swaps 4 --draws 3 --repeats 1",
    "targeted_feedback": f"--model observer {TOY} --iterations 6 --budgets 1,2 --draws 2",
    "robustness": f"{TOY} --iterations 6 --orders 2 --parts order,unknown",
    "icm_vs_gold": f"{TOY} --orders 2 --draws 2 --algorithms bootstrap --formats claims,open",
    "bundled_model": "--groups hestonia,ilvania --seeds 1",
}


@pytest.fixture(scope="module", autouse=True)
def experiments_on_path():
    sys.path.insert(0, str(ROOT / "experiments"))
    yield
    sys.path.remove(str(ROOT / "experiments"))


def run(name, options, out):
    command = importlib.import_module(name).main
    result = CliRunner().invoke(command, [*options.split(), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Folder and printed tables by experiment, each run once."""
    done = {}

    def output_of(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            done[name] = (out, run(name, EXPERIMENTS[name], out))
        return done[name]

    return output_of


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_states_what_it_is_of(outputs, name):
    out, printed = outputs(name)
    report = json.loads((out / "report.json").read_text())
    for title, rows in report.items():
        assert title in printed
        for row in rows:
            assert {"num", "mean", "spread", "low", "high", "p_value"} <= row.keys()
            assert np.isfinite(row["mean"])
            assert row["num"] == 1 or row["low"] <= row["mean"] + 1e-9
    assert len((out / "units.jsonl").read_text().splitlines()) == 2
    assert any(path.stat().st_size > 1000 for path in out.glob("*.png"))


@pytest.mark.parametrize("name", ["matched_accuracy", "targeted_feedback"])
def test_the_same_seed_gives_the_same_bytes_and_a_broken_run_goes_on(outputs, name, tmp_path):
    out, _ = outputs(name)
    units = (out / "units.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    (tmp_path / "units.jsonl").write_text(units[0])
    run(name, EXPERIMENTS[name], tmp_path)
    for file in ("units.jsonl", "report.json", "config.json"):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


def test_another_configuration_is_refused(outputs):
    out, _ = outputs("matched_accuracy")
    command = importlib.import_module("matched_accuracy").main
    options = EXPERIMENTS["matched_accuracy"].replace("--swaps 4", "--swaps 5")
    result = CliRunner().invoke(command, [*options.split(), "--out", str(out)])
    assert result.exit_code == 2
    assert "4 then, 5 now" in result.output


def test_matched_sets_are_matched(outputs):
    """From the labels' own numbers, besides the assertions in the experiment."""
    out, _ = outputs("matched_accuracy")
    for line in (out / "units.jsonl").read_text().splitlines():
        unit = json.loads(line)
        assert len(unit["flips"]) == 3
        assert [one["beta"] for one in unit["dosed"]] == [-2.0, -0.5, 0.0, 0.5, 2.0]
        assert unit["label_accuracy"] == 1 - 2 * unit["num_wrong_pairs"] / 8


def test_sets_that_are_not_matched_are_caught():
    module = importlib.import_module("matched_accuracy")
    gold, pairs = np.array([1, 0, 0, 1], np.int8), np.array([[0, 1], [2, 3]])
    module.assert_matched(np.array([[0, 1, 0, 1]]), gold, pairs, 1)
    with pytest.raises(AssertionError, match="differ in accuracy"):
        module.assert_matched(np.array([[1, 0, 0, 1]]), gold, pairs, 1)
    with pytest.raises(AssertionError, match="not consistent"):
        module.assert_matched(np.array([[0, 0, 1, 1]]), gold, pairs, 1)


def test_the_phase_diagram_at_toy_size(tmp_path):
    options = EXPERIMENTS["matched_accuracy"].replace("num-claims 8", "num-claims 32")
    printed = run("matched_accuracy", f"{options} --part phase", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    (rows,) = report.values()  # the observer stands in for the model too
    assert len(rows) == 18
    assert "below f*" in printed
    assert (tmp_path / "phase_diagram.png").exists()


def test_critical_shares():
    critical_share = importlib.import_module("phase_diagram").critical_share
    found = [critical_share(error) for error in make_world().config.source_errors[:3]]
    np.testing.assert_allclose(found, [0.15, 0.19, 0.27], atol=0.005)


OPEN_ANSWERS = (
    ("Peruvians", "What is for lunch?", "Rice,\nof course."),
    ("Peruvians", "What is for lunch?", "Bread."),
    ("Peruvians", "And to drink?", "Tea."),
    ("Finns", "And to drink?", "Coffee."),
)


def test_a_real_persona_is_asked_openly(tmp_path):
    words = ("tea", "rice", "bread", "cake", "soup", "jam")
    choices = [f"Peruvians would answer: '{word}', which is True or False" for word in words]
    model = make_checkpoint(tmp_path / "lm", "llama", choices, num_hidden_layers=1)
    rows = [
        {
            "question": "Food?",
            "choice": choice,
            "consistency_id": index,
            "persona": "Peruvians",
            "label": index % 2,
        }
        for index, choice in enumerate(choices)
    ]
    answers = [
        dict(zip(("persona", "question", "answer"), row, strict=True)) for row in OPEN_ANSWERS
    ]
    for name, content in (("claims", rows[:4]), ("test", rows[4:]), ("answers", answers)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = " ".join(f"--{name} {tmp_path / name}.json" for name in ("claims", "test", "answers"))
    options = (
        f"--model {tmp_path / 'lm'} {files} --seeds 1 --orders 1 --draws 1 --max-new-tokens 4 "
        "--algorithms bootstrap --personas Peruvians"
    )
    printed = run("icm_vs_gold", options, tmp_path / "out")
    assert "open: judge_log_prob" in printed
    (unit,) = map(json.loads, (tmp_path / "out/units.jsonl").read_text().splitlines())
    conditions = unit["open"]["conditions"]
    assert conditions.keys() == {"zero-shot", "bootstrap", "random", "gold"}
    assert all(len(found["texts"]) == 2 for found in conditions.values())
    assert all(found["judge_log_prob"] < 0 for found in conditions.values())
    # By torch, one prompt an answer: nats a token of the persona's own answers alone.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "lm")
    total = num_tokens = 0
    for persona, question, answer in OPEN_ANSWERS[:3]:
        prompt = f"\n\nPeople of the group {persona} were asked: {question}\nTheir answer:"
        after = tokenizer(" " + " ".join(answer.split()), add_special_tokens=False).input_ids
        ids = [*tokenizer(prompt).input_ids, *after]
        if ids[0] != tokenizer.bos_token_id:
            ids = [tokenizer.bos_token_id, *ids]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        picked = logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        total, num_tokens = total + float(picked[-len(after) :].sum()), num_tokens + len(after)
    assert conditions["zero-shot"]["reference_log_prob"] == pytest.approx(
        total / num_tokens, rel=1e-4
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"persona": "Finns", "question": "q"}], "no answer"),
        ([{"persona": "Finns", "question": "q", "answer": "a"}], "answers of Finns"),
        ([], "answers of nobody"),
    ],
)
def test_an_answer_file_that_does_not_fit(tmp_path, rows, message):
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    module = importlib.import_module("open_answers")
    with pytest.raises(ClaimsError, match=message):
        module.read_answers(str(tmp_path / "answers.json"), "Peruvians", None)


def test_votes_become_preferences_by_party(tmp_path):
    folder = DATA / "polarized_issues"
    if not folder.exists():
        pytest.skip(f"needs the public data in {folder}")
    command = importlib.import_module("polarized_issues").main
    result = CliRunner().invoke(command, ["--data", str(folder), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    texts = {}
    for split in ("search", "test"):
        rows = [
            json.loads(line)
            for line in (tmp_path / f"democrats_{split}.jsonl").read_text().splitlines()
        ]
        assert len(rows) > 300
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert first["choice"] == second["choice_2"]
            assert first["label"] is not second["label"]
        texts[split] = {row["choice"] for row in rows}
    # Some people said the very same thing; no response is in both splits but for those.
    assert len(texts["search"] & texts["test"]) <= 2
