"""The commands on a run folder: whom to ask, searching with answers, exports and the page."""

import itertools
import re
import shutil

import numpy as np
import pytest
from checkpoints import make_checkpoint
from commands import invoke, read_rows, write_rows

from icmjax.claims import load_claims
from icmjax.cli import labelling
from icmjax.lm import load_lm
from icmjax.prompts import get_template
from icmjax.runs import files
from icmjax.scoring import make_scorer

CHOICES = ("Trade helps", "Trade harms", "Taxes help", "Taxes harm", "Dams help", "Dams harm")


def ask(run, budget, *options):
    """Write questions into the run's folder."""
    return invoke("ask", run, "--budget", budget, "--out", run / "questions.jsonl", *options)


def reseal(run, **manifest):
    """Make a run's digests true again, as an icmjax that wrote other results would have."""
    kept = files.read_sealed(run / "manifest.json") | manifest
    summary = files.read_sealed(run / "summary.json")
    for name in summary["files"]:
        summary["files"][name] = files.digest_of((run / name).read_bytes())
    files.write_sealed(run / "manifest.json", kept)
    files.write_sealed(run / "summary.json", summary)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, claims and a finished run."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        {
            "id": f"c{index}",
            "question": "What do you think?",
            "choice": choice,
            "raw_choice_1": "helps",
            "raw_choice_2": "harms",
            "consistency_id": index // 2,
            "persona": "<Japan>",
            "label": index % 2,
        }
        for index, choice in enumerate(CHOICES)
    ]
    texts = [row["choice"] + row["question"] for row in rows]
    make_checkpoint(folder / "model", "llama", [*texts, "I think this claim is True False"] * 10)
    claims = write_rows(folder / "claims.jsonl", rows)
    options = ("--claims", claims, "--out", folder / "run", "--iterations", 6, "--quiet")
    result = invoke("search", "--model", folder / "model", *options)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.parametrize(
    "selector",
    [
        "zero_shot_entropy",
        "leave_one_out_entropy",
        "marginal_entropy",
        "margin",
        "expected_gain",
        "random",
    ],
)
def test_ask_writes_the_most_uncertain_claims(run, selector):
    result = ask(run, 2, "--selector", selector, "--devices", 2)
    assert result.exit_code == 0, result.output
    rows = read_rows(run / "questions.jsonl")
    assert len({row["consistency_id"] for row in rows}) == 2  # one a group
    assert [row["label"] for row in rows] == [None, None]
    assert rows[0]["uncertainty"] >= rows[1]["uncertainty"]
    assert all(row["choice"] in result.output for row in rows)


def test_what_the_machine_lacks_is_refused(run):
    for options in (("--devices", 99), ("--memory-budget", 0.00001), ("--batch-size", 10**6)):
        result = ask(run, 1, "--selector", "zero_shot_entropy", *options)
        assert result.exit_code == 2, result.output
        assert options[0][2:8] in result.output.replace("_", "-")
    ask(run, 1, "--selector", "margin")
    (row,) = read_rows(run / "questions.jsonl")
    answers = write_rows(run / "questions.jsonl", [row | {"label": 1}])
    result = invoke("answer", run, "--labels", answers, "--memory-budget", 0.00001)
    assert result.exit_code == 2
    assert "more than the budget" in result.output


@pytest.mark.slow
def test_answers_are_held_fast_with_what_they_imply(run, monkeypatch):
    ask(run, 2, "--selector", "margin")
    rows = read_rows(run / "questions.jsonl")
    before = {row["id"]: row["label"] for row in read_rows(run / "labels.jsonl")}
    told = {row["id"]: 1 - before[row["id"]] for row in rows}  # the human disagrees
    answers = write_rows(
        run / "questions.jsonl", [row | {"label": told[row["id"]]} for row in rows]
    )
    # What a pass takes is said before a long search.
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "LONG", 1)
        result = invoke("answer", run, "--labels", answers)
    assert result.exit_code == 0, result.output
    assert "tokens a pass" in result.stderr
    after = {row["id"]: row["label"] for row in read_rows(run / "answered/labels.jsonl")}
    for id_, label in told.items():
        assert after[id_] == label
        opposite = f"c{int(id_[1]) ^ 1}"
        assert after[opposite] == 1 - label  # implied by the pair's rule
    # Asking again leaves answered pairs out; answering otherwise is refused.
    result = ask(run / "answered", 1, "--selector", "margin")
    (asked,) = read_rows(run / "answered/questions.jsonl")
    assert asked["id"] not in told
    changed = [row | {"label": 1 - told[row["id"]]} for row in rows]
    again = write_rows(run / "changed.jsonl", changed)
    result = invoke("answer", run / "answered", "--labels", again)
    assert result.exit_code == 2
    assert "given once" in result.output


@pytest.mark.slow
def test_a_single_answer_is_enough(run):
    ask(run, 1)
    (row,) = read_rows(run / "questions.jsonl")
    answers = write_rows(run / "questions.jsonl", [row | {"label": 1}])
    options = "--out", run / "next", "--quiet", "--devices", 2
    result = invoke("answer", run, "--labels", answers, *options)
    assert result.exit_code == 0, result.output
    labels = {row["id"]: row["label"] for row in read_rows(run / "next/labels.jsonl")}
    assert labels[row["id"]] == 1


def test_answers_to_other_claims_are_refused(run):
    ask(run, 1)
    (row,) = read_rows(run / "questions.jsonl")
    for change, expected in (
        ({"id": "c9", "label": 1}, "claim 'c9', which is none of the run's"),
        ({"choice": "Something else", "label": 1}, "says something else"),
        ({"label": None}, f"set `label` in the rows of {run / 'a.jsonl'}"),
        ({"id": None, "label": 1}, "found: no `id`"),
    ):
        answers = write_rows(run / "a.jsonl", [row | change])
        result = invoke("answer", run, "--labels", answers)
        assert result.exit_code == 2
        assert expected in result.output
        assert not (run / "answered").exists()


def test_more_questions_than_groups(run):
    result = ask(run, 4)
    assert result.exit_code == 2
    assert "3 groups" in result.output


def test_exported_rows_continue_with_their_labels(run):
    claims = load_claims(run / "claims.jsonl")
    labels = [row["label"] for row in read_rows(run / "labels.jsonl")]
    template = get_template("persona")
    for form in ("prompt", "sft", "dpo"):
        assert invoke("export", run, "--format", form).exit_code == 0
    prompt = (run / "prompt.txt").read_text()
    demonstrations = list(zip(claims.claims, labels, strict=True))
    query = claims.claims[0]
    assert prompt + template.query_fn(query) == template.prompt_text("", demonstrations, query)
    sft, dpo = read_rows(run / "sft.jsonl"), read_rows(run / "dpo.jsonl")
    for claim, label, tuned, preferred in zip(claims.claims, labels, sft, dpo, strict=True):
        words = (" False", " True")
        assert tuned == {"prompt": template.query_fn(claim), "completion": words[label]}
        assert preferred["prompt"] == tuned["prompt"]
        assert (preferred["chosen"], preferred["rejected"]) == (words[label], words[1 - label])


def test_the_tree_order_is_that_of_the_scorer(made, run):
    assert invoke("export", run, "--format", "tree-order").exit_code == 0
    rows = read_rows(run / "tree_order.jsonl")
    claims = load_claims(made / "claims.jsonl")
    orders = make_scorer(load_lm(made / "model"), claims, "tree").demonstration_orders()
    ids = [claim.id for claim in claims.claims]
    assert sorted(row["id"] for row in rows) == ids
    for row in rows:
        order = orders[ids.index(row["id"])]
        assert row["demonstrations"] == [ids[other] for other in order if other >= 0]
    # Neighbours share their prefixes: the rows are in the order of the tree's leaves.
    told = [row["demonstrations"] for row in rows]
    shared = [
        next(i for i in range(6) if first[i : i + 1] != second[i : i + 1])
        for first, second in itertools.pairwise(told)
    ]
    assert max(shared) >= 3


def test_the_page_holds_every_label_and_escapes_its_text(run):
    result = invoke("report", run)
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    assert all(choice in page for choice in CHOICES)
    assert "&lt;Japan&gt;" in page
    assert "<Japan>" not in page
    # Figures are drawn in the page; those that somebody else put there are embedded.
    assert "data:image/png;base64" not in page
    assert '<svg viewBox="' in page
    shutil.copy(run / "diagnostics.png", run / "of mine.png")
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64") == 1
    assert "of mine" in page


def test_the_page_shows_the_probability_of_the_label_it_shows(run):
    """A search's best labels need not be the most probable ones."""
    arrays = dict(np.load(run / "scores.npz"))
    rows = np.arange(len(CHOICES))
    arrays["marginals"][rows, arrays["labels"]] = (0.125, 0.75, 0.875, 0.9375, 0.25, 0.0625)
    arrays["marginals"][rows, 1 - arrays["labels"]] = (
        1 - arrays["marginals"][rows, arrays["labels"]]
    )
    np.savez(run / "scores.npz", **arrays)
    reseal(run)
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    shown = re.findall(r'"number share"[^>]*>([0-9.]+)<', page)
    assert shown == ["0.125", "0.750", "0.875", "0.938", "0.250", "0.0625"]
    assert page.count('<tr class="uncertain"') == 4


def test_a_folder_without_a_run(tmp_path):
    for command in (["ask", "--budget", "1"], ["report"], ["export", "--format", "sft"]):
        result = invoke(command[0], tmp_path, *command[1:])
        assert result.exit_code == 2
        assert "to do:" in result.output


def test_a_run_of_the_library_records_no_options(run):
    reseal(run, options=None)
    result = invoke("export", run, "--format", "sft")
    assert result.exit_code == 2
    assert "records its search's options" in result.output
    reseal(run, options={"template": "truth"})
    result = invoke("export", run, "--format", "sft")
    assert result.exit_code == 2
    assert "no model, dtype" in result.output


def test_random_selection_is_by_seed(run):
    chosen = []
    for seed in (0, 0, 1, 2, 3, 4):
        ask(run, 2, "--selector", "random", "--seed", seed)
        chosen.append([row["id"] for row in read_rows(run / "questions.jsonl")])
        (run / "questions.jsonl").unlink()
    assert chosen[0] == chosen[1]
    assert len(np.unique(chosen, axis=0)) > 1
