"""Every experiment runs at toy size, resumes, and gives the same bytes for the same seed."""

import ast
import functools
import importlib
import itertools
import json
import pathlib
import shutil

import click
import numpy as np
import pytest
import torch
import transformers
from checkpoints import TINY, make_checkpoint
from experiment_commands import check_resumes, check_sets, invoke, invoke_in, read_units, run
from scorers import table_scorer

from icmjax import claims_from_rows, load_lm, make_scorer, utility
from icmjax.claims import GoldLabels
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.lm import SETTINGS_FILE
from icmjax.persona_world import Task, make_task, make_world, text
from icmjax.prompts import TEMPLATES
from icmjax.statistics import MIN_UNITS

pytestmark = pytest.mark.usefixtures("experiments_on_path")

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOY = "--groups hestonia,ilvania --seeds 1 --num-claims 8 --num-test 8"
# By experiment: its options at toy size. The observer in place of the model, where it can read;
# one number of iterations, so that they share the search's program.
EXPERIMENTS = {
    "matched_accuracy": f"--model observer {TOY} --iterations 12 --swaps 4 --draws 3 --repeats 1",
    "targeted_feedback": f"--model observer {TOY} --iterations 12 --budgets 1,4 --draws 2",
    "robustness": f"--model observer {TOY} --iterations 12 --orders 2",
    "icm_vs_gold": f"--model LM {TOY} --orders 2 --draws 2 --algorithms bootstrap --method "
    "sequential --formats claims,open",
    "bundled_model": "--model LM --groups hestonia,ilvania --seeds 1",
    "labels": f"--model observer {TOY} --orders 2 --formats claims --methods marginals,bootstrap",
    "stress": f"--model observer {TOY} --methods marginals,bootstrap --parts unknowable,majority",
    "granted_noise": "--model observer --groups hestonia,ilvania --seeds 1 --num-test 8 --draws 1",
}


@pytest.fixture(scope="module", autouse=True)
def one_model_object(experiments_on_path):
    """A folder is loaded once, and not by every command."""
    cached = functools.cache(load_lm)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("harness.readers", "icm_vs_gold", "bundled_model"):
            patch.setattr(importlib.import_module(name), "load_lm", cached)
        yield


@pytest.fixture(scope="module")
def toy_lm(tmp_path_factory):
    """A model of random weights that speaks the words of the world."""
    folder, tokenizer = tmp_path_factory.mktemp("lm"), text.make_tokenizer()
    config = transformers.LlamaConfig(
        **TINY | {"num_hidden_layers": 1},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / SETTINGS_FILE).write_text(json.dumps({"template": "world"}))
    return folder


@pytest.fixture(scope="module")
def claim_files(tmp_path_factory):
    """Options that name claims of two personas: more search claims than are used at a time."""
    folder, names = tmp_path_factory.mktemp("claims"), ("Hestonia", "Ilvania")
    for split, num in (("search", 12), ("test", 8)):
        rows = []
        for name in names:
            claims, gold = make_task(make_world(), name, 0, split, num, source=None)
            rows += [
                claim._asdict() | {"label": int(label), "raw_choice_1": "1", "raw_choice_2": "2"}
                for claim, label in zip(claims.claims, gold.labels, strict=True)
            ]
        kept = ("question", "choice", "consistency_id", "persona", "label")
        rows = [{key: row[key] for key in (*kept, "raw_choice_1", "raw_choice_2")} for row in rows]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    files = f"--claims {folder}/search.json --test {folder}/test.json"
    return f"{files} --personas {','.join(names)} --num-claims 8 --num-test 8"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, toy_lm):
    """Options, default folder and result by experiment, each run once without --out."""
    done = {}

    def output_of(name):
        if name not in done:
            options = EXPERIMENTS[name].replace("LM", str(toy_lm))
            folder = tmp_path_factory.mktemp(name)
            result = invoke_in(folder, name, options)
            assert result.exit_code == 0, result.output
            done[name] = (options, folder / "runs" / name, result)
        return done[name]

    return output_of


def imported(path):
    """The first names of all modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_files_at_the_top_are_commands_that_share_the_harness_alone():
    folder = ROOT / "experiments"
    commands = {path.stem for path in folder.glob("*.py")}
    parts = {path.stem for path in folder.glob("harness/*.py")}
    assert {"matched_accuracy", "doubt", "ablations", "polarized_issues"} < commands
    for name in commands:
        assert isinstance(importlib.import_module(name).main, click.Command)
    for path in (*folder.glob("*.py"), *folder.glob("harness/*.py")):
        assert not imported(path) & (commands | parts), path


def test_parts_and_quick_looks_have_folders_of_their_own():
    command = importlib.import_module("matched_accuracy").main
    folder_of = importlib.import_module("harness.command").default_folder
    for words, name in (
        ("", "matched_accuracy"),
        ("--quick --seeds 1", "matched_accuracy_quick"),
        ("--part phase", "matched_accuracy_phase"),
        ("--quick --part phase", "matched_accuracy_phase_quick"),
    ):
        context = command.make_context("matched_accuracy", words.split())
        assert folder_of("matched_accuracy", context, "part") == pathlib.Path("runs") / name


def test_the_cost_is_that_of_a_run_that_was_timed_or_of_none(capsys):
    costs = importlib.import_module("harness.costs")

    @click.command("x")
    @click.option("--part", default="one")
    @click.option("--steps", default=3)
    @click.option("--seeds", "num_seeds", default=3)
    @click.option("--quick", is_flag=True)
    def command(**options):
        published = [
            costs.Published("", 10, "an hour for 360 units"),
            costs.Published("--steps 4", 20, "a minute for 3 units"),
            costs.Published("--part two --steps 4", 5, "5 s for 1 unit"),
        ]
        costs.Cost(click.get_current_context(), published, "part").say(2, ["any"] * 7)

    for words, expected in (
        (
            "--seeds 8",
            "10 s a unit (an hour for 360 units; experiments/README.md); at that rate 70",
        ),
        (
            "--steps 4",
            "20 s a unit (a minute for 3 units; experiments/README.md); at that rate 140",
        ),
        (
            "--steps 5",
            "no time is published of these options, the first unit will tell; the nearest",
        ),
        (
            "--part two",
            "no time is published of these options, the first unit will tell; the nearest is of "
            "`--part two --steps 4`, 5.0 s a unit (5 s for 1 unit;",
        ),
        ("--quick", "less than 3 minutes for all of them on two CPU cores"),
    ):
        command.main(words.split(), standalone_mode=False)
        line = capsys.readouterr().err
        assert line.startswith(f"cost: 2 of 9 units are there already; {expected}")


def test_a_cost_adds_up_the_kinds_that_are_left(capsys):
    costs = importlib.import_module("harness.costs")
    context = click.Context(click.Command("x"))
    cost = costs.Cost(context, (), kinds={"quick": 2.0, "long": 200.0})
    cost.say(1, ["quick", "long", "untimed"])
    line = capsys.readouterr().err  # 2 + 200 + 200 s
    assert "1 of 4 units are there already; 7 minutes for the 3 left" in line
    cost.say_rate(4.0, ["quick"], ["long", "quick"])
    assert "2 more units at that rate: 7 minutes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_states_what_it_is_of(outputs, name):
    _, out, result = outputs(name)
    content = (out / "report.json").read_text()
    assert "NaN" not in content
    report = json.loads(content)
    num_compared = 0
    for title, rows in report.items():
        assert title in result.stdout
        for row in rows:
            assert {"num", "mean", "spread", "low", "high", "p_value", "num_needed"} <= row.keys()
            assert np.isfinite(row["mean"])
            has_interval = row["num"] >= MIN_UNITS
            assert (row["low"] is not None) == has_interval
            assert not has_interval or row["low"] <= row["mean"] + 1e-9
            if "p by Holm" in title:
                assert 0 < row["p_value"] <= 1
                num_compared += 1
    assert num_compared or name == "bundled_model"  # whose tiers have one group
    assert len(read_units(out)) == 2
    assert any(path.stat().st_size > 1000 for path in out.glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_same_seed_gives_the_same_bytes_and_a_broken_run_goes_on(outputs, name, tmp_path):
    options, out, _ = outputs(name)
    units = (out / "units.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    # As after a kill in the middle of a line.
    (tmp_path / "units.jsonl").write_text(units[0] + units[1][: len(units[1]) // 2])
    run(name, options, tmp_path)
    for file in ("units.jsonl", "report.json", "config.json"):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_cost_comes_first_and_a_second_call_runs_nothing(outputs, name, monkeypatch):
    options, out, result = outputs(name)
    first, *others = result.stderr.splitlines()
    assert first.startswith("cost: 0 of 2 units are there already; no time is published of these")
    assert sum("cost: the first unit took" in line for line in others) == 1
    report = (out / "report.json").read_bytes()
    check_resumes(out.parents[1], name, options, monkeypatch)
    assert (out / "report.json").read_bytes() == report


@pytest.mark.slow
def test_units_that_search_together_find_what_each_finds_alone(outputs, tmp_path, monkeypatch):
    together = importlib.import_module("harness.together")
    options, out, _ = outputs("matched_accuracy")
    sizes, whole = [], together.search_together

    def spy(scorers, *rest, **named):
        sizes.append(len(scorers))
        return whole(scorers, *rest, **named)

    monkeypatch.setattr(together, "search_together", spy)
    run("matched_accuracy", f"{options} --together 2", tmp_path / "whole")
    assert sizes[0] == 2  # the search; where one has no wrong label, only the other searches on
    assert_close(read_units(tmp_path / "whole"), read_units(out))
    # Broken off between the two: they are run together again, since that decides the roundings.
    units = (tmp_path / "whole" / "units.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    (tmp_path / "units.jsonl").write_text(units[0])
    run("matched_accuracy", f"{options} --together 2", tmp_path)
    assert (tmp_path / "units.jsonl").read_text() == "".join(units)


@pytest.mark.slow
def test_what_the_objective_makes_of_each_label_set_is_told(outputs, toy_lm):
    _, out, result = outputs("icm_vs_gold")
    assert "differences in U, 2 groups" in result.stdout
    for unit in read_units(out):
        claims, gold = make_task(make_world(), *unit["key"], num_claims=8)
        scorer = make_scorer(load_lm(toy_lm), claims, "sequential", leave="group")
        expected = utility(scorer(gold.labels), gold.labels, claims.rules)
        assert unit["claims"]["utility"]["gold"] == pytest.approx(float(expected), abs=1e-3)


def assert_close(found, expected):
    """Equal but for the rounding of floats."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        is_float = isinstance(expected, float)
        assert found == (pytest.approx(expected, rel=1e-4) if is_float else expected)


def test_a_fault_in_one_of_several_units_is_raised():
    together = importlib.import_module("harness.together")

    def fail():
        raise InputError(Fault("A rule.", "a fault", "here", "a remedy"))

    assert together.run_together([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(InputError, match="a fault"):
        together.run_together([lambda: 1, fail])


def test_another_configuration_is_refused(outputs):
    options, out, _ = outputs("matched_accuracy")
    result = invoke("matched_accuracy", options.replace("--swaps 4", "--swaps 5"), out)
    assert result.exit_code == 2
    assert "4 then, 5 now" in result.output
    assert "name another folder with --out" in result.output
    assert "cost:" not in result.output


@pytest.mark.parametrize(
    ("field", "value"), [("weights", "0"), ("version", "0.0.1"), ("world", {"seed": 1})]
)
def test_other_weights_worlds_and_versions_do_not_mix(outputs, tmp_path, field, value):
    options, out, _ = outputs("icm_vs_gold")
    config = json.loads((out / "config.json").read_text())
    assert field in config
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    result = invoke("icm_vs_gold", options, tmp_path)
    assert result.exit_code == 2
    assert field in result.output


def test_groups_are_the_units_of_statistics():
    tables = importlib.import_module("harness.tables")
    # Three equal seeds of each group: what one seed says, and n the number of groups.
    units = [
        {"key": [f"g{i}", seed], "x": 0.5 + i / 8, "y": 0.25} for i in range(6) for seed in range(3)
    ]
    firsts = [unit for unit in units if unit["key"][1] == 0]

    def rows_of(units):
        compared = [
            tables.Comparison("x", units, lambda u: u["x"], lambda u: u["y"]),
            tables.Comparison("tied", units, lambda u: u["y"], lambda u: u["y"]),
        ]
        return tables.comparison_rows(compared)

    assert rows_of(units) == rows_of(firsts)
    row, tied = rows_of(units)
    assert row.summary.num == 6
    assert tied.p_value == 1.0  # and it counts in the family: twice the p of x alone
    (alone,) = tables.comparison_rows(
        [tables.Comparison("x", units, lambda u: u["x"], lambda u: u["y"])]
    )
    assert row.p_value == pytest.approx(2 * alone.p_value)
    assert row.p_alone == alone.p_alone == alone.p_value
    one_group = tables.mean_row("x", units[:1], lambda u: u["x"])
    assert tables.table([one_group], "one").splitlines()[-1].split()[1] == "1"
    assert "nan" not in tables.table([one_group], "one")
    two_groups = tables.mean_row("x", units[:6], lambda u: u["x"])
    # n, mean and spread: two groups have no interval.
    line = tables.table([two_groups], "two").splitlines()[-1]
    assert line.split() == ["x", "2", "0.562", "0.088"]
    assert "[" in tables.table([tables.mean_row("x", units, lambda u: u["x"])], "six")
    assert tables.size_of(units) == "6 groups × 3 seeds"
    assert tables.size_of(units[:-1]) == "6 groups, 17 seeds of them in all"


def test_what_is_not_a_number_is_null(tmp_path):
    importlib.import_module("harness.tables").write_json(
        tmp_path / "a.json", {"a": [np.nan, np.inf, 1.0]}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, None, 1.0]}


def test_matched_sets_are_matched(outputs):
    """From the labels as they were stored, besides the checks in the experiment."""
    _, out, _ = outputs("matched_accuracy")
    betas = importlib.import_module("matched_accuracy").BETAS
    for unit in read_units(out):
        gold, pairs = np.array(unit["gold"]["labels"]), np.array(unit["pairs"])
        task = make_task(make_world(), *unit["key"], num_claims=8)
        assert (gold == task.gold.labels).all()
        assert sorted(pairs.ravel().tolist()) == list(range(8))
        check_sets([unit["search"]], gold, pairs, unit["num_wrong_pairs"])
        check_sets(unit["flips"], gold, pairs, unit["num_wrong_pairs"])
        check_sets(unit["dosed"], gold, pairs, unit["num_wrong_pairs"])
        assert len(unit["flips"]) == 3
        assert [one["beta"] for one in unit["dosed"]] == list(betas)
        assert unit["label_accuracy"] == 1 - 2 * unit["num_wrong_pairs"] / 8


def test_sets_that_are_not_matched_are_caught():
    module = importlib.import_module("harness.rules")
    gold, pairs = np.array([1, 0, 0, 1], np.int8), np.array([[0, 1], [2, 3]])
    module.check_matched(np.array([[0, 1, 0, 1]]), gold, pairs, 1)
    with pytest.raises(InputError, match="one accuracy"):
        module.check_matched(np.array([[1, 0, 0, 1]]), gold, pairs, 1)
    with pytest.raises(InputError, match="not consistent"):
        module.check_matched(np.array([[0, 0, 1, 1]]), gold, pairs, 1)


@pytest.mark.slow
def test_preferences_need_no_claims(toy_lm, tmp_path, monkeypatch):
    """And every algorithm runs: over a table, whose programs are small."""
    module = importlib.import_module("icm_vs_gold")
    monkeypatch.setattr(module, "make_scorer", lambda lm, claims, *_, **__: table_scorer(0, 4))
    options = f"--model {toy_lm} {TOY} --num-claims 4 --orders 1 --draws 1 --formats preferences"
    options += " --algorithms gibbs,icm,tempering"
    printed = run("icm_vs_gold", options, tmp_path)
    (unit, _) = read_units(tmp_path)
    assert unit.keys() == {"key", "preferences"}
    assert unit["preferences"]["labels"].keys() == {"gibbs", "icm", "tempering", "random", "gold"}
    assert "icm − gold" in printed
    rows = json.loads((tmp_path / "report.json").read_text())
    (compared,) = [rows[title] for title in rows if "differences in accuracy, " in title]
    names = [row["name"] for row in compared]
    assert len(names) == len(set(names)) == 2 * (len(unit["preferences"]["conditions"]) - 1) - 1
    assert not {"gold − gold", "gold − zero-shot"} & set(names)


@pytest.mark.slow
def test_groups_draw_their_own_random_numbers(outputs):
    _, out, _ = outputs("icm_vs_gold")
    first, second = (unit["claims"]["labels"]["random"] for unit in read_units(out))
    assert first != second


def test_what_is_in_claim_files_counts_and_not_where_they_lie(claim_files, tmp_path):
    """So that a folder of units goes on where other machines keep the claims elsewhere."""
    load_source = importlib.import_module("harness.sources").load_source
    words = claim_files.split()
    own = dict(zip(words[::2], words[1::2], strict=True))

    def config_of(search, test):
        return load_source(str(search), str(test), own["--personas"], None, 1, 8, 8, False).config

    folder = pathlib.Path(own["--claims"]).parent
    moved = shutil.copytree(folder, tmp_path / folder.name)
    files = [moved / "search.json", moved / "test.json"]
    config = config_of(own["--claims"], own["--test"])
    assert config_of(*files) == config
    assert str(tmp_path) not in json.dumps(config)
    rows = json.loads(files[0].read_text())
    rows[0]["choice"] += " indeed"
    other = tmp_path / "search.json"
    other.write_text(json.dumps(rows))
    fingerprints = config_of(other, files[1])["fingerprints"]
    assert fingerprints["Hestonia"] != config["fingerprints"]["Hestonia"]
    assert fingerprints["Ilvania"] == config["fingerprints"]["Ilvania"]


@pytest.mark.slow
def test_personas_of_a_claim_file(toy_lm, claim_files, tmp_path, monkeypatch):
    """Matched accuracy, feedback and robustness steer the language model; seeds draw other claims.

    The search is over a table, whose programs are small.
    """
    readers = importlib.import_module("harness.readers")
    monkeypatch.setattr(readers, "make_scorer", lambda lm, claims, *_, **__: table_scorer(0, 8))
    options = f"--model {toy_lm} {claim_files} --seeds 2 --iterations 12"
    run("matched_accuracy", f"{options} --swaps 4 --draws 2 --repeats 1", tmp_path / "matched")
    units = read_units(tmp_path / "matched")
    assert [unit["key"] for unit in units] == [
        [n, s] for n in ("Hestonia", "Ilvania") for s in (0, 1)
    ]
    assert units[0]["gold"] != units[1]["gold"]
    for unit in units:
        gold, pairs = np.array(unit["gold"]["labels"]), np.array(unit["pairs"])
        check_sets(unit["flips"], gold, pairs, unit["num_wrong_pairs"])
    printed = run(
        "targeted_feedback",
        f"{options} --budgets 4 --draws 1 --selectors margin",
        tmp_path / "asked",
    )
    assert "all personas: accuracy over random, 2 groups × 2 seeds, p by Holm" in printed
    for unit in read_units(tmp_path / "asked"):
        after = unit["margin"]["4"]  # all pairs answered
        assert after["label_accuracy"] == 1.0
        assert after["label_accuracy_of_rest"] is None
    run("robustness", f"{options} --parts order --orders 2", tmp_path / "order")
    for name, wanted in (("matched_accuracy", "--part phase"), ("robustness", "--parts salient")):
        result = invoke(name, f"--model observer {claim_files} {wanted}", tmp_path / "refused")
        assert result.exit_code == 2
        assert "only the world tells" in result.output


def test_a_file_is_sampled_by_whole_groups_or_has_one_seed(claim_files):
    sources = importlib.import_module("harness.sources")
    words = claim_files.split()
    paths, personas = (words[1], words[3]), words[5]
    source = sources.load_source(*paths, personas, None, 3, 8, 8, False)
    assert len(source.keys) == 6
    drawn = [source.draw("Hestonia", seed)[0] for seed in (0, 0, 1, 2)]
    assert drawn[0].claims == drawn[1].claims
    assert len({task.claims.fingerprint for task in drawn}) > 1
    assert drawn[0].claims != source.draw("Ilvania", 0)[0].claims
    for claims, gold in drawn:
        assert len(claims) == len(gold.labels) == 8
        assert all(len(group) == 2 for group in claims.groups)
    whole = sources.load_source(*paths, personas, None, 3, 12, 8, False)
    assert whole.keys == [("Hestonia", 0), ("Ilvania", 0)]
    assert whole.config["fingerprints"] == source.config["fingerprints"]


def test_claims_that_are_no_pairs_are_refused():
    module = importlib.import_module("harness.rules")
    rows = [{"question": "q", "choice": c, "consistency_id": c} for c in "ab"]
    task = Task(claims_from_rows(rows, rule="none"), GoldLabels(np.array([0, 1], np.int8)))
    with pytest.raises(ClaimsError, match="exactly one is true"):
        module.check_pairs(task, "x")
    unlabelled = task._replace(gold=GoldLabels(np.array([0, -1], np.int8)))
    with pytest.raises(ClaimsError, match="has a gold label"):
        module.check_pairs(unlabelled, "x")


def test_shares_of_true_claims_are_exact_or_refused():
    module = importlib.import_module("harness.robustness_parts")
    gold = np.array([1, 0, 0, 1, 1, 0, 1, 1, 1, 1])
    assert gold[module.with_share_true(gold, 0.7, 10)].sum() == 7
    with pytest.raises(InputError, match="8 claims that are True"):
        module.with_share_true(gold, 0.8, 10)


def test_hidden_labels_have_structure_and_are_not_gold():
    module, rng = importlib.import_module("harness.robustness_parts"), np.random.default_rng(0)
    claims, gold = make_task(make_world(), "hestonia", 0, num_claims=256)
    members, topics = module.few_topics(claims, 32, rng)
    assert len(set(members.tolist())) == 32
    assert len(set(topics.tolist())) == 4
    hidden = gold.labels[members] ^ module.coins_of(topics, rng)
    is_turned = hidden != gold.labels[members]
    assert all(len(set(is_turned[topics == topic])) == 1 for topic in topics)
    pairs = claims.select(members).rules.pairs
    assert len(pairs) == 16
    assert (hidden[pairs].sum(-1) == 1).all()
    with pytest.raises(InputError):
        module.few_topics(claims, 10, rng)


@pytest.mark.slow
def test_a_planted_header_is_measured_against_baselines(outputs):
    _, out, _ = outputs("robustness")
    for unit in read_units(out):
        runs = unit["salient"]
        assert runs.keys() == {"right header", "no header", "contradicting header", "gold"}
        assert unit["unknown"]["hidden labels"].keys() >= {"agreement where nothing is given"}
        assert unit["balance"]["70% true"]["all true would be right"] == pytest.approx(6 / 8)


def test_what_open_questions_follow_is_what_demonstrations_show(toy_lm):
    module = importlib.import_module("harness.open_answers")
    claims, _ = make_task(make_world(), "hestonia", 0, num_claims=4)
    lm, labels = load_lm(toy_lm), np.array([1, -1, 0, -1], np.int8)
    shown = [(claims.claims[0], 1), (claims.claims[2], 0)]
    expected = TEMPLATES["world"].prompt_text(claims.preamble, shown, claims.claims[1])
    context = "".join(module.context_of(lm, claims, labels))
    assert context + TEMPLATES["world"].query_fn(claims.claims[1]) == expected
    assert module.context_of(lm, claims, None) == (claims.preamble,)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("icm_vs_gold", "--formats claims,poems"),
        ("icm_vs_gold", "--algorithms magic"),
        ("robustness", "--parts luck"),
        ("robustness", "--orders 1"),
        ("targeted_feedback", "--selectors luck"),
        ("targeted_feedback", f"--model observer {TOY} --budgets 5"),
        ("matched_accuracy", "--model observer --claims one.json"),
    ],
)
def test_options_that_cannot_be(name, options, tmp_path):
    assert invoke(name, options, tmp_path).exit_code == 2


OPEN_ANSWERS = (
    ("Peruvians", "What is for lunch?", "Rice,\nof course."),
    ("Peruvians", "What is for lunch?", "Bread."),
    ("Peruvians", "And to drink?", "Tea."),
    ("Finns", "And to drink?", "Coffee."),
)


@pytest.mark.slow
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
        "--algorithms bootstrap --personas Peruvians --method sequential"
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
    module = importlib.import_module("harness.open_answers")
    with pytest.raises(ClaimsError, match=message):
        module.read_answers(str(tmp_path / "answers.json"), "Peruvians", None)


def test_the_votes_are_asked_for(tmp_path):
    for options, found in (("", "no folder"), (f"--data {tmp_path}", "0 files *_preference.csv")):
        result = invoke_in(tmp_path, "polarized_issues", options)
        assert result.exit_code == 2
        assert found in result.stderr
        assert "akonya/polarized-issues-data" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_votes_become_preferences_by_party(tmp_path):
    folder = DATA / "polarized_issues"
    if not folder.exists():
        pytest.skip(f"needs the public data in {folder}")
    result = invoke_in(tmp_path, "polarized_issues", f"--data {folder}")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("cost: seconds")
    texts = {}
    for split in ("search", "test"):
        path = tmp_path / f"runs/polarized_issues/democrats_{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) > 300
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert first["choice"] == second["choice_2"]
            assert first["label"] is not second["label"]
        texts[split] = {row["choice"] for row in rows}
    # Some people said the very same thing; no response is in both splits but for those.
    assert len(texts["search"] & texts["test"]) <= 2


def test_calibration_is_that_of_ten_bins():
    module = importlib.import_module("labels")
    rng = np.random.default_rng(0)
    probabilities = np.append(rng.random(200), [0.0, 1.0])
    labels = rng.random(202) < probabilities**2
    expected, edges = 0.0, np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        members = (probabilities >= low) & ((probabilities < high) | (high == 1.0))
        gap = abs(probabilities[members].mean() - labels[members].mean())
        expected += members.mean() * gap
    assert module.calibration_error(probabilities, labels) == pytest.approx(expected)
    assert module.calibration_error(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1])) == 0


def test_an_observer_s_zero_shot_marginals_are_those_of_its_joint_law():
    """What docs/objective.md says: of one joint law, the marginals are what it says zero-shot."""
    readers, module = (importlib.import_module(name) for name in ("harness.readers", "labels"))
    task = make_task(make_world(), "ilvania", 0, num_claims=4, is_paired=False)
    reader = readers.load_reader("observer", make_world())
    labellings = module.consistent_labellings(task.claims)
    assert len(labellings) == 16
    scorer = reader.make_joint_scorer(task.claims, 2)
    own = np.take_along_axis(
        np.asarray(scorer.by_order(labellings)), labellings[None, ..., None].astype(int), -1
    )
    joint = own[..., 0].sum(-1)
    np.testing.assert_allclose(joint[0], joint[1], atol=1e-3)  # whatever the order
    law = np.exp(joint[0])
    assert law.sum() == pytest.approx(1, abs=1e-3)
    alone = np.exp(np.asarray(reader.make_scorer(task.claims)(np.full(4, -1, np.int8))))
    np.testing.assert_allclose(law @ labellings, alone[:, 1], atol=1e-3)
    naive = [
        float(scorer.scorer(np.where(is_before, labels, -1).astype(np.int8))[query, labels[query]])
        for labels in labellings[:3]
        for query, is_before in enumerate(np.asarray(scorer.is_before[1]))
    ]
    np.testing.assert_allclose(own[1, :3, :, 0].ravel(), naive, atol=1e-4)  # other CPUs: 5e-5


@pytest.mark.slow
def test_enumeration_separates_the_objective_from_the_search(tmp_path):
    options = "--model observer --groups hestonia,ilvania --seeds 1 --num-claims 6 --num-test 8"
    output = run("labels", f"{options} --part exact", tmp_path)
    assert "marginals of the joint law: ECE" in output
    for unit in read_units(tmp_path):
        assert unit["highest U"]["U less the highest"] == 0
        best = unit["highest joint likelihood"]
        assert best["joint log-likelihood less the highest"] == 0
        assert unit["tempering"]["U less the highest"] <= 0
