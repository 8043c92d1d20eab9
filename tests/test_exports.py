"""Exports are read back by the libraries that they are for, and nothing is written over."""

import contextlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import arviz
import datasets
import jax
import numpy as np
import pytest
import yaml
from commands import invoke, write_rows
from scorers import table_scorer
from table_runs import search_in, write_task

import icmjax
from icmjax.errors import InputError, RunError
from icmjax.prompts import get_template
from icmjax.runs import FORMATS, export, read_run
from icmjax.runs.exports.lm_eval_task import lm_eval_task
from icmjax.runs.exports.source import Questions, worded

ROOT = Path(__file__).parents[1]
NUM_SHOWN, NUM_ASKED = 6, 8
MODEL = icmjax.lm.BUNDLED_MODELS / "persona-world"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over claims of the bundled world, and claims of other topics with their gold labels."""
    folder = tmp_path_factory.mktemp("exports")
    claims = write_task(folder / "claims.jsonl", "persona-world:norvania:0", NUM_SHOWN)
    write_task(folder / "test.jsonl", "persona-world:norvania:0:test", NUM_ASKED)
    algorithm = icmjax.Gibbs(num_iterations=8)
    search_in(folder / "Nor-vania", icmjax.load_claims(claims), algorithm, template="world")
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A run folder of one's own, and a cache of `datasets` that no other test sees."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return Path(shutil.copytree(made / "Nor-vania", tmp_path / "Nor-vania"))


@pytest.fixture(scope="module")
def steered(made):
    """What our own steering says of the test claims: predictions, and label log-probs."""
    record = read_run(made / "Nor-vania")
    claims = icmjax.load_claims(made / "test.jsonl")
    lm = icmjax.load_lm("persona-world")
    gold = icmjax.load_gold(made / "test.jsonl")
    return icmjax.evaluate(lm, record.claims, record.labels, claims, gold)


@pytest.mark.parametrize(
    ("form", "columns"),
    [("sft", ["prompt", "completion"]), ("dpo", ["prompt", "chosen", "rejected"])],
)
def test_rows_have_the_columns_that_trl_s_trainers_take(run, form, columns):
    """SFTTrainer's prompt-completion format, and DPOTrainer's with an explicit prompt."""
    assert invoke("export", run, "--format", form).exit_code == 0
    rows = datasets.load_dataset("json", data_files=str(run / FORMATS[form]), split="train")
    assert rows.column_names == columns
    record = read_run(run)
    forms = np.array([" False", " True"])
    assert rows[columns[1]] == forms[record.labels].tolist()
    opening = get_template("world").preamble_text(record.claims.preamble)
    assert rows["prompt"] == [
        opening + get_template("world").query_fn(claim) for claim in record.claims.claims
    ]


def test_the_data_set_has_its_labels_named_and_a_card(run):
    assert invoke("export", run, "--format", "hf").exit_code == 0
    rows = datasets.load_dataset(str(run / "dataset"), split="train")
    record = read_run(run)
    assert rows.features["label"].names == ["False", "True"]
    assert rows["label"] == record.labels.tolist()
    np.testing.assert_allclose(rows["marginal"], record.marginals[:, 1])
    np.testing.assert_allclose(rows["log_odds"], record.log_odds)
    assert [tuple(row[name] for name in ("id", "choice")) for row in rows] == [
        (claim.id, claim.choice) for claim in record.claims.claims
    ]
    assert set(rows["source"]) == {"found"}
    front, text = (run / "dataset/README.md").read_text().split("---\n")[1:]
    assert "license" not in yaml.safe_load(front)
    said = ("without gold labels", "`a table`", "`Gibbs`", "Norvania", "None is stated")
    assert all(words in text for words in said)
    assert all(f"`{column}`" in text for column in rows.column_names)
    assert all(f"warning: {warning}" in text for warning in record.summary["warnings"])


def test_the_data_set_says_which_labels_were_given(made, tmp_path):
    """Of more than two options each has a probability; the preference has its second choice."""
    rows = [
        {"question": "", "choice": f"{i}", "choice_2": "x", "consistency_id": i, "persona": "P"}
        for i in range(4)
    ]
    options = ("no", "perhaps", "yes")
    claims = icmjax.claims_from_rows(rows, options=options, rule="none")
    clamped = np.array([-1, 2, -1, -1], np.int8)
    folder = tmp_path / "run"
    search_in(folder, claims, icmjax.Gibbs(num_iterations=6), clamped=clamped)
    path, _ = export(folder, "hf")
    rows = datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["source"] == ["found", "given", "found", "found"]
    assert rows.features["label"].names == list(options)
    assert np.shape(rows["marginal"]) == (4, 3)
    assert rows["choice_2"] == ["x"] * 4
    assert "accuracy: not known" in (path / "README.md").read_text()


TEMPERING = icmjax.search.with_fields(
    icmjax.ParallelTempering(), num_iterations=32, num_replicas=3, num_chains=2, temperature=5.0
)
SETTLED = icmjax.search.with_fields(TEMPERING, marginal_tolerance=0.2, num_iterations=80)
GIBBS = icmjax.Gibbs(num_iterations=20, num_chains=3)


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(TEMPERING, marks=pytest.mark.slow),
        pytest.param(SETTLED, marks=pytest.mark.slow),
        GIBBS,
    ],
    ids=["all", "settled", "gibbs"],
)
def test_draws_are_the_samples_that_marginals_are_shares_of(made, tmp_path, algorithm):
    claims = icmjax.load_claims(made / "claims.jsonl")
    result = search_in(tmp_path / "run", claims, algorithm)
    path, _ = export(tmp_path / "run", "arviz")
    data = arviz.from_netcdf(path)
    label = data.posterior.label
    assert label.dims == ("chain", "draw", "claim")
    assert label.claim.values.tolist() == [claim.id for claim in claims.claims]
    assert label.sizes["chain"] == algorithm.num_chains
    utility = data.sample_stats.utility
    assert utility.shape == label.shape[:2]
    if algorithm is SETTLED:
        ends = [int(np.flatnonzero(c)[-1]) + 1 for c in result.trace.num_passes.sum(2).T]
        assert min(ends) < algorithm.phases.sampling  # a chain did end early
        assert label.sizes["draw"] == min(ends) - algorithm.phases.burn_in
    else:
        shares = label.mean(("chain", "draw"))
        np.testing.assert_allclose(shares, result.marginals[:, 1], atol=1e-6)
    # The utilities are those of the draws themselves.
    scorer = table_scorer(0, len(claims), coupling=2.0)
    drawn = jax.numpy.asarray(label.values.reshape(-1, len(claims)))
    rules = jax.tree.map(jax.numpy.asarray, claims.rules)
    expected = icmjax.utility(scorer(drawn), drawn, rules, algorithm.alpha)
    np.testing.assert_allclose(utility.values.ravel(), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(data.constant_data.found_label, result.labels)
    if algorithm is not GIBBS:
        np.testing.assert_allclose(data.sample_stats.lp, utility / 5.0, rtol=1e-5)
    assert arviz.ess(data.sample_stats.utility) > 0
    # The same run gives the same bytes, so that nothing new is written.
    assert export(tmp_path / "run", "arviz") == (path, False)


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        ({"name": "ICM"}, "a run of ICM"),
        ({"name": "ParallelTempering", "ladder": {"final_temperature": 0.1}}, "annealed"),
        ({"name": "ParallelTempering", "schedule": {"num_iterations": 999}}, "are burn-in"),
    ],
)
def test_what_is_no_sample_is_not_called_a_draw(run, tmp_path, recorded, found):
    record = read_run(run)
    record.manifest["configuration"]["algorithm"] = recorded
    record.trace["num_passes"] = np.ones((3, 1, 1), np.int32)
    with pytest.raises(RunError, match=found):
        export(record, "arviz", tmp_path / "draws.nc")


def test_a_library_that_is_missing_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    result = invoke("export", run, "--format", "arviz")
    assert result.exit_code == 2
    assert 'pip install "icmjax[arviz]"' in result.stderr


@pytest.mark.parametrize("form", ["prompt", "sft", "dpo", "lm-eval", "inspect", "hf"])
def test_text_needs_none_of_the_libraries(run, made, form, monkeypatch):
    for name in ("datasets", "lm_eval", "inspect_ai", "arviz"):
        monkeypatch.setitem(sys.modules, name, None)
    queries = ("--claims", made / "test.jsonl") if form in ("lm-eval", "inspect") else ()
    result = invoke("export", run, "--format", form, *queries)
    assert result.exit_code == 0, result.output


@pytest.fixture
def harness_task(run, made):
    """The exported task, as the harness loads it."""
    from lm_eval.tasks import TaskManager

    result = invoke("export", run, "--format", "lm-eval", "--claims", made / "test.jsonl")
    assert result.exit_code == 0, result.output
    manager = TaskManager(include_path=str(run / "lm_eval"), include_defaults=False)
    assert "icmjax_nor_vania" in manager.all_tasks
    return manager


def test_the_harness_reads_the_prompts_that_we_read(run, made, harness_task):
    task = harness_task.load(["icmjax_nor_vania"])["tasks"]["icmjax_nor_vania"]
    record, template = read_run(run), get_template("world")
    claims, gold = (load(made / "test.jsonl") for load in (icmjax.load_claims, icmjax.load_gold))
    shown = list(zip(record.claims.claims, record.labels, strict=True))
    docs = list(task.eval_docs)
    assert len(docs) == NUM_ASKED
    for doc, claim, label in zip(docs, claims.claims, gold.labels, strict=True):
        for number in (0, 2, NUM_SHOWN):
            ours = template.prompt_text(claims.preamble, shown[:number], claim)
            assert task.fewshot_context(doc, number) == ours
        requests = task.construct_requests(doc, "text", metadata=("task", 0, 1))
        assert [request.args for request in requests] == [("text", " False"), ("text", " True")]
        assert task.doc_to_target(doc) == label
    assert task.config.num_fewshot == NUM_SHOWN


@pytest.mark.slow
def test_the_harness_scores_as_we_do(harness_task, steered):
    """Its own Hugging Face model, on torch, gives our log-probs and our accuracy."""
    import lm_eval

    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(MODEL), "dtype": "float32", "device": "cpu"},
        tasks=["icmjax_nor_vania"],
        task_manager=harness_task,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["icmjax_nor_vania"], key=lambda sample: sample["doc_id"])
    of_forms = [[float(each[0][0]) for each in sample["resps"]] for sample in samples]
    log_probs = jax.nn.log_softmax(np.array(of_forms, np.float32))
    np.testing.assert_allclose(log_probs, steered.label_log_probs, atol=1e-4)
    accuracy = found["results"]["icmjax_nor_vania"]["acc,none"]
    assert accuracy == pytest.approx(steered.scores.accuracy)


def test_texts_come_through_yaml_and_jinja_as_they_are(made, tmp_path):
    """Spaces, braces, digits and line ends in claims, options and preamble."""
    rows = [
        {"question": "", "choice": text, "consistency_id": i, "persona": ""}
        for i, text in enumerate(("{{ 7 }}", " 12 ", "a: 'b'\u2028c", "{% raw %}\t"))
    ]
    options, preamble = ("{{no}}", " : yes"), "{{ x }}: poll "
    claims = icmjax.claims_from_rows(rows, options=options, preamble=preamble, rule="none")
    search_in(tmp_path / "run", claims, icmjax.Gibbs(num_iterations=4))
    record = read_run(tmp_path / "run")
    template = get_template("truth").for_options(options)
    source = worded(record, template, "x")._replace(
        questions=Questions(claims, np.zeros(4, np.int8))
    )
    from lm_eval.tasks import TaskManager

    # Harnesses before 0.4.13 take a column's bare name for the description itself.
    assert b"description: '{{preamble}}'" in lm_eval_task(source)["icmjax_x.yaml"]
    for name, content in lm_eval_task(source).items():
        (tmp_path / name).write_bytes(content)
    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    task = manager.load(["icmjax_x"])["tasks"]["icmjax_x"]
    shown = list(zip(claims.claims, record.labels, strict=True))
    for doc, claim in zip(task.eval_docs, claims.claims, strict=True):
        ours = template.prompt_text(preamble, shown, claim)
        assert task.fewshot_context(doc, len(shown)) == ours
        assert task.doc_to_choice(doc) == [" {{no}}", "  : yes"]


def test_labels_that_the_harness_would_read_otherwise_are_refused(run, made):
    options = "--claims", made / "test.jsonl", "--template", "reference"
    result = invoke("export", run, "--format", "lm-eval", *options)
    assert result.exit_code == 2
    assert "the space before a label" in result.stderr
    assert not (run / "lm_eval").exists()


@pytest.fixture
def inspect_task(run, made):
    """The exported task's file."""
    result = invoke("export", run, "--format", "inspect", "--claims", made / "test.jsonl")
    assert result.exit_code == 0, result.output
    return run / "inspect/task.py"


def prompts_of(run, made, num_shown):
    """Our prompts for the test claims, up to the label."""
    record, template = read_run(run), get_template("world")
    claims = icmjax.load_claims(made / "test.jsonl")
    shown = list(zip(record.claims.claims, record.labels, strict=True))[:num_shown]
    return [template.prompt_text(claims.preamble, shown, claim) for claim in claims.claims]


def test_inspect_asks_what_we_ask(inspect_task, run, made):
    module = runpy.run_path(str(inspect_task))
    gold = icmjax.load_gold(made / "test.jsonl")
    for num_shown in (0, NUM_SHOWN):
        samples = list(module["claims"](is_steered=num_shown > 0).dataset)
        assert [sample.input for sample in samples] == prompts_of(run, made, num_shown)
        assert [sample.target for sample in samples] == ["AB"[label] for label in gold.labels]
        assert all(sample.choices == ["False", "True"] for sample in samples)
    assert module["claims"]().name == "icmjax_nor_vania"


ANSWERING = """
import json, sys
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

task, answers = sys.argv[1], json.loads(sys.argv[2])

def answer(messages, *_):
    (letter,) = [letter for end, letter in answers.items() if messages[-1].text.endswith(end)]
    output = ModelOutput.from_content("mockllm/model", f"ANSWER: {letter}")
    output.usage = ModelUsage()  # which is counted by a file of the net otherwise
    return output

model = get_model("mockllm/model", custom_outputs=answer)
(log,) = inspect_eval(task, model=model, log_dir="logs", display="none")
print(json.dumps([log.status, len(log.samples), log.results.scores[0].metrics["accuracy"].value]))
"""


@pytest.mark.slow
def test_inspect_judges_as_we_do(inspect_task, run, made, tmp_path):
    """A model that is right but for two claims; it sees our prompt, and then the choices."""
    gold = icmjax.load_gold(made / "test.jsonl").labels
    labels = np.where(np.arange(NUM_ASKED) < 2, 1 - gold, gold)
    answers = {
        f"\n\n{prompt}\n\nA) False\nB) True": "AB"[label]
        for prompt, label in zip(prompts_of(run, made, NUM_SHOWN), labels, strict=True)
    }
    done = subprocess.run(
        [sys.executable, "-c", ANSWERING, f"{inspect_task}@icmjax_nor_vania", json.dumps(answers)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    accuracy = 1 - 2 / NUM_ASKED
    assert json.loads(done.stdout.splitlines()[-1]) == ["success", NUM_ASKED, accuracy]


def test_what_is_there_is_not_written_over(run, tmp_path):
    """The same is left; other content has another name, or is refused where a name was chosen."""
    said = [invoke("export", run, "--format", "sft").stdout for _ in range(2)]
    assert said == [f"wrote {run}/sft.jsonl\n", f"{run}/sft.jsonl is there already, the same\n"]
    kept = (run / "sft.jsonl").read_text()
    (run / "sft.jsonl").write_text("mine")
    assert invoke("export", run, "--format", "sft").stdout == f"wrote {run}/sft-2.jsonl\n"
    assert (run / "sft.jsonl").read_text() == "mine"
    assert (run / "sft-2.jsonl").read_text() == kept
    for _ in range(2):
        assert invoke("export", run, "--format", "sft").stdout.startswith(f"{run}/sft-2.jsonl is")
    result = invoke("export", run, "--format", "sft", "--out", run / "sft.jsonl")
    assert result.exit_code == 2
    assert "not written over" in result.stderr
    chosen = tmp_path / "other.jsonl"
    assert invoke("export", run, "--format", "sft", "--out", chosen).stdout == f"wrote {chosen}\n"
    assert chosen.read_text() == kept
    result = invoke("export", run, "--format", "sft", "--out", tmp_path / "nowhere/x.jsonl")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_folder_that_is_there_is_not_written_over(run, made):
    options = "export", run, "--format", "lm-eval", "--claims", made / "test.jsonl"
    assert invoke(*options).stdout == f"wrote {run}/lm_eval\n"
    (run / "lm_eval/__pycache__").mkdir()  # which reading it leaves
    assert "the same" in invoke(*options).stdout
    assert invoke(*options, "--limit", 4).stdout == f"wrote {run}/lm_eval-2\n"
    result = invoke(*options, "--limit", 2, "--out", run / "lm_eval")
    assert result.exit_code == 2
    assert "found: a folder" in result.stderr
    assert len((run / "lm_eval/queries.jsonl").read_text().splitlines()) == NUM_ASKED
    assert not list(run.glob(".*unfinished"))


def test_claims_without_gold_or_among_the_shown_are_no_questions(run, made, tmp_path):
    rows = [json.loads(line) for line in (made / "test.jsonl").read_text().splitlines()]
    known = json.loads((made / "claims.jsonl").read_text().splitlines()[0])
    rows = [
        row | {"id": f"t{index}", "pair_rules": [], "label": row["label"] if index else None}
        for index, row in enumerate(rows)
    ]
    asked = write_rows(tmp_path / "asked.jsonl", [*rows, known | {"pair_rules": []}])
    result = invoke("export", run, "--format", "inspect", "--claims", asked)
    assert result.exit_code == 0, result.output
    assert f"left out 1 of {NUM_ASKED + 1} claims" in result.stderr
    assert "left out 1 claims that have no gold label" in result.stderr
    lines = (run / "inspect/queries.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"t{i}" for i in range(1, NUM_ASKED)]
    unlabelled = write_rows(tmp_path / "none.jsonl", [row | {"label": None} for row in rows])
    result = invoke("export", run, "--format", "inspect", "--claims", unlabelled)
    assert result.exit_code == 2
    assert "icmjax predict" in result.stderr


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        (("--format", "lm-eval"), ["asks about held-out claims"]),
        (("--format", "hf", "--template", "truth", "--limit", 2), ["other claims", "of texts"]),
        (("--format", "sft", "--claims", "x.jsonl"), ["other claims"]),
        (("--format", "sft", "--template", "preference"), ["compares two responses"]),
        (("--format", "sft", "--template", "poem"), ["chosen by its name"]),
    ],
)
def test_options_that_say_nothing_of_a_format_are_refused(run, options, rules):
    before = sorted(run.iterdir())
    result = invoke("export", run, *options)
    assert result.exit_code == 2
    assert all(rule in result.stderr for rule in rules)
    assert sorted(run.iterdir()) == before


def test_the_library_exports_what_the_command_does(run, made, tmp_path):
    record = icmjax.read_run(run)
    path, is_new = icmjax.export(record, "prompt", tmp_path / "prompt.txt")
    assert (path, is_new) == (tmp_path / "prompt.txt", True)
    invoke("export", run, "--format", "prompt")
    assert path.read_bytes() == (run / "prompt.txt").read_bytes()
    claims = icmjax.load_claims(made / "test.jsonl")
    for arguments, rule in (
        ((run, "poem"), "chosen by its name"),
        ((record, "sft"), "has a place"),
        ((run, "tree-order"), "made from orders"),
        ((run, "lm-eval"), "made from queries"),
    ):
        with pytest.raises(InputError, match=rule):
            icmjax.export(*arguments)
    with pytest.raises(InputError, match="have gold labels"):
        icmjax.export(run, "lm-eval", queries=claims)
    with pytest.raises(InputError, match="queries for sft"):
        icmjax.export(run, "sft", queries=claims)


def test_a_run_of_the_library_needs_a_template(made, tmp_path):
    search_in(tmp_path / "run", icmjax.load_claims(made / "claims.jsonl"), GIBBS)
    with pytest.raises(RunError, match="has a template"):
        icmjax.export(tmp_path / "run", "sft")
    assert invoke("export", tmp_path / "run", "--format", "sft").exit_code == 2
    result = invoke("export", tmp_path / "run", "--format", "sft", "--template", "world")
    assert result.exit_code == 0, result.output


# Its own tasks, 12 s of reading at each start, are none of ours.
LM_EVAL = f"""#!{sys.executable}
import functools
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks import TaskManager
TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)
cli_evaluate()
"""


def run_page(text: str, folder: Path) -> dict[str, str]:
    """Runs a page's commands and Python in a folder; returns what others' commands printed."""
    (folder / "bin").mkdir()
    (folder / "bin" / "lm_eval").write_text(LM_EVAL)
    (folder / "bin" / "lm_eval").chmod(0o755)
    paths = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(folder / "hf"),
    }
    printed = {}
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            with contextlib.chdir(folder):
                exec(block, {})
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            program, *words = shlex.split(line)
            if program == "icmjax":  # in this process, where what was compiled is at hand
                with contextlib.chdir(folder):
                    result = invoke(*words)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                continue
            done = subprocess.run(
                line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            printed[line] = done.stdout
    return printed


@pytest.mark.slow
def test_the_page_s_commands_run(tmp_path, monkeypatch):
    """Among them is the harness's own validation of the task."""
    page = (ROOT / "docs/exports.md").read_text()
    assert all(f"--format {form}" in page for form in FORMATS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    printed = run_page(page, tmp_path)
    (validated,) = [said for line, said in printed.items() if line.startswith("lm_eval validate")]
    assert "All tasks found and valid" in validated
