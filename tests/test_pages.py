"""The Python of the pages runs as it is written."""

import pathlib
import re

import numpy as np
import pytest

import icmjax

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


def blocks_of(page: str) -> list[str]:
    """The Python blocks of a page, in their order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run_page(page: str) -> dict:
    """Run a page's blocks one after the other, and return the names that they leave."""
    names: dict = {}
    for block in blocks_of(page):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture(scope="module")
def extended():
    return run_page("docs/extend.md")


def test_an_own_scorer_is_flatter_than_the_one_it_is_over(extended):
    labels = extended["gold"].labels
    doubtful = extended["Doubtful"](extended["scorer"], 2.0)
    plain = np.asarray(extended["scorer"](labels))
    expected = plain / 2 - np.log(np.exp(plain / 2).sum(-1, keepdims=True))
    assert np.allclose(doubtful(labels), expected, atol=1e-5)
    assert doubtful.tokens_per_pass(labels) == extended["scorer"].tokens_per_pass(labels)


def test_an_own_template_of_the_same_words_gives_the_same_scores(extended):
    labels = extended["gold"].labels
    claims, lm = extended["claims"], extended["lm"]
    world = icmjax.make_scorer(lm, claims, template="world")
    assert np.allclose(extended["scorer"](labels), world(labels), atol=1e-5)


def test_an_own_algorithm_climbs_and_keeps_rules(extended):
    result, claims = extended["result"], extended["claims"]
    assert set(np.unique(result.labels)) <= {0, 1}
    assert result.trace.is_accepted.any()
    assert result.utility > result.trace.utility[1].max()  # of the labels that were drawn first
    assert len(result.tokens) == 64
    assert len(claims.rules.pairs)


@pytest.mark.parametrize("name", ["lm", "claims", "scorer", "result"])
def test_values_are_tables_in_notebooks(extended, name):
    text = extended[name]._repr_html_()
    assert text.startswith("<table>")
    assert text.count("<tr>") == text.count("</tr>") > 2
    assert len(text) < 4000


def test_a_notebook_s_table_escapes_claims():
    rows = [
        {"question": "<script>alert(1)</script>", "choice": f"c{n}", "consistency_id": n}
        for n in range(9)
    ]
    text = icmjax.claims_from_rows(rows, rule="none")._repr_html_()
    assert "<script>" not in text
    assert "and 1 more" in text


def test_the_library_s_page_runs(capsys):
    names = run_page("docs/library.md")
    printed = capsys.readouterr().out.split()
    assert float(printed[-1]) == names["evaluation"].scores.accuracy > 0.7
