"""`icmjax check` says what a search would read, and spends nothing on it."""

import json

import pytest
from click.testing import CliRunner

import icmjax
from icmjax.cli import main
from icmjax.runs import warnings_of_claims


def checked(*words: object):
    return CliRunner().invoke(main, ["check", *map(str, words)])


def write(path, rows: list[dict]):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": f"c{i}", "persona": "Japan", "question": "", "choice": text, "consistency_id": i // 2}
    for i, text in enumerate(("Rice helps", "Rice harms", "Tea helps", "Tea harms"))
]


def test_claims_alone_need_no_model(tmp_path):
    rows = [row | {"label": i % 2 == 0} for i, row in enumerate(ROWS)]
    found = checked(
        "--claims", write(tmp_path / "claims.jsonl", rows), "--rule", "exactly_one_true"
    )
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == "4 claims, 2 pairs, rule exactly_one_true (as asked)"
    assert "personas: Japan: 4" in lines
    assert "labels to choose from: False, True" in lines
    assert "gold labels: 4 of 4; a search never sees them" in lines
    first = lines.index("the first pair that a rule ties:")
    assert lines[first + 1 : first + 3] == ["  c0: Rice helps", "  c1: Rice harms"]
    assert "--model NAME" in lines[-1]


def test_what_is_not_there_is_said(tmp_path):
    rows = [*ROWS[:2], *(row | {"persona": "Peru"} for row in ROWS[2:])]
    found = checked("--claims", write(tmp_path / "claims.jsonl", rows), "--rule", "none")
    assert found.exit_code == 0, found.output
    assert "4 claims, no pair rule" in found.output
    assert "personas: Japan: 2, Peru: 2" in found.output
    assert "warning: Claims of 2 personas are one search" in found.output
    assert "text of a claim says that these are claims of Japan, Peru, and a model" in found.output
    assert "gold labels: none" in found.output
    assert "first pair" not in found.output


@pytest.mark.slow
def test_prompts_and_tokens_are_those_of_a_search(tmp_path):
    """The prompts as the template writes them, the tokens as the search counts them."""
    found = checked("--claims", "persona-world:norvania:0", "--model", "persona-world")
    assert found.exit_code == 0, found.output
    claims, _ = icmjax.load_task("persona-world:norvania:0")
    lm = icmjax.load_lm("persona-world")
    template = icmjax.prompts.resolve_template(None, lm.default_template, claims)
    query = claims.claims[0]
    demonstrations = [(claims.claims[2], 0), (claims.claims[3], 1)]  # 1 is the query's opposite
    for shown in ([], demonstrations):
        assert template.prompt_text(claims.preamble, shown, query) in found.output
    assert "False: ' False'; True: ' True'" in found.output

    line = next(
        line for line in found.output.splitlines() if "by default a search will read" in line
    )
    told = int(line.split(" tokens")[0].split()[-1].replace(",", ""))
    out = tmp_path / "run"
    words = "search --quiet --model persona-world --claims persona-world:norvania:0 --out".split()
    searched = CliRunner().invoke(main, [*words, str(out)])
    assert searched.exit_code == 0, searched.output
    taken = json.loads((out / "summary.json").read_text())["num_tokens"]
    assert told == pytest.approx(taken, rel=0.1)
    assert "tokens/s" in found.output


def test_faults_are_those_of_a_search(tmp_path):
    found = checked("--claims", tmp_path / "absent.jsonl")
    assert found.exit_code == 2
    assert "to do:" in found.output
    path = write(tmp_path / "claims.jsonl", ROWS)
    found = checked(
        "--claims", path, "--rule", "none", *"--model persona-world --template x".split()
    )
    assert found.exit_code == 2
    assert "template" in found.output


def test_programs_get_the_same_as_json(tmp_path):
    path = write(tmp_path / "claims.jsonl", ROWS)
    found = checked("--claims", path, "--rule", "exactly_one_true", "--json")
    assert found.exit_code == 0, found.output
    (facts,) = json.loads(found.stdout)["claims"]
    assert (facts["num_claims"], facts["num_pairs"], facts["num_gold"]) == (4, 2, 0)
    assert facts["personas"] == {"Japan": 4}
    assert facts["first_pair"] == {"c0": "Rice helps", "c1": "Rice harms"}


@pytest.mark.parametrize(
    ("rows", "is_named"),
    [
        ([{"persona": "Japan", "claim": "Rice helps"}], False),
        ([{"persona": "Japan", "claim": "Japanese rice helps"}], True),
        ([{"persona": "Norvania", "question": "What would a norvanian say?", "claim": "No"}], True),
        ([{"persona": "People of 日本", "claim": "今日日本では"}], True),
        ([{"persona": "US", "claim": "Use rice"}], False),
        ([{"persona": "US", "claim": "Rice", "preamble": "A poll of the US."}], True),
        ([{"claim": "Rice helps"}, {"claim": "Tea helps"}], False),
        ([{"claim": f"A vegan would say: {word}"} for word in ("tea", "rice")], True),
        ([{"claim": "Rice helps", "question": "What do vegans say?"}], True),
    ],
)
def test_claims_that_name_nobody_are_warned_of(rows, is_named):
    warnings = warnings_of_claims(icmjax.claims_from_rows(rows * 2, rule="none"), "Marginals")
    assert any("each claim has to say it" in warning for warning in warnings) != is_named


@pytest.mark.parametrize("name", ["norvania:0", "ilvania:1:test", "esteria:0:preferences"])
def test_the_world_s_claims_name_their_group(name):
    claims, _ = icmjax.load_task(f"persona-world:{name}")
    assert warnings_of_claims(claims, "Marginals") == []


@pytest.mark.parametrize("name", ["persona-world", "persona-world:norvania"])
def test_a_task_without_its_group_or_seed_is_told_of_both(name):
    found = checked("--claims", name)
    assert found.exit_code == 2
    assert "persona-world:GROUP:SEED" in found.output
    assert "norvania, esteria" in found.output


@pytest.mark.slow
def test_prompts_and_costs_are_json_too():
    words = "--claims", "persona-world:norvania:0", "--model", "persona-world"
    found = json.loads(checked(*words, "--json").stdout)
    assert [prompt["num_tokens"] > 0 for prompt in found["prompts"]] == [True, True]
    assert found["label_forms"] == {"False": [" False"], "True": [" True"]}
    search = found["search"]
    assert search["seconds"] == pytest.approx(search["num_tokens"] / search["tokens_per_second"])
