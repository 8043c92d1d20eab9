"""The page of a run, opened in a browser: what it says, shows, sorts, and keeps out."""

import json
import re
import stat
from xml.etree import ElementTree

import jax
import matplotlib.axes
import numpy as np
import pytest
from browsers import open_browser, serious_faults
from click.testing import CliRunner
from scorers import planted_scorer, table_scorer

import icmjax
from icmjax.claims import GoldLabels, claims_from_rows
from icmjax.cli.commands import main
from icmjax.errors import RunError
from icmjax.runs import Run, open_run, search_configuration
from icmjax.runs.curves import calibration, found_in, readings, utility_curve
from icmjax.runs.facts import flat, three_digits
from icmjax.runs.figures import panel_svg, plot_search
from icmjax.runs.panels import Panel, panels_of
from icmjax.runs.rows import gold_in
from icmjax.runs.warned import turned_by, warnings_of
from icmjax.search import (
    ICM,
    Bootstrap,
    Gibbs,
    Greedy,
    Marginals,
    ParallelTempering,
    run_search,
    with_fields,
)
from icmjax.statistics import calibration_error, reliability, share_interval

NUM_CLAIMS = 8
SCRIPT = "<script>document.title = 'owned'</script>"
GOLD = np.array([1, 0, 0, 1, 1, 0, 0, 1], np.int8)
ALGORITHMS = {
    "marginals": Marginals(num_iterations=6),
    "tempering": with_fields(ParallelTempering(), num_iterations=24, num_replicas=3),
    "icm": ICM(num_iterations=30),
    "gibbs": Gibbs(num_iterations=12),
    "bootstrap": Bootstrap(num_iterations=4),
    "greedy": Greedy(num_iterations=12),
}
SLOW = {"tempering": pytest.mark.slow}
ENDED_BY = {
    "marginals": "What each pass said",
    "tempering": "Swaps and moves by temperature",
    "icm": "Utility against tokens",
    "gibbs": "Utility against tokens",
    "bootstrap": "Labelled claims against tokens",  # it has nothing left to change at once
    "greedy": "Utility against tokens",
}


def make_claims(options=None, rule="exactly_one_true", personas=("<b>Japan</b>",)):
    rows = [
        {
            "id": f"c{index}",
            "question": "What of it?",
            "choice": f"Claim {index} {SCRIPT if index == 3 else 'holds'}",
            "consistency_id": index // 2,
            "persona": personas[index // 2 % len(personas)],
        }
        for index in range(NUM_CLAIMS)
    ]
    return claims_from_rows(rows, rule=rule, options=options)


def make_run(folder, algorithm, claims=None, gold=None, scorer=None, answers=None):
    """A search of a toy model in a run folder."""
    claims = make_claims() if claims is None else claims
    scorer = planted_scorer(GOLD, coupling=0.3, bias=0.4) if scorer is None else scorer
    key, clamped, files = jax.random.key(0), None, None
    if answers:
        clamped = np.full(NUM_CLAIMS, -1, np.int8)
        clamped[list(answers)] = list(answers.values())
        rows = [{"id": f"c{i}", "label": int(y), "is_answer": i == 0} for i, y in answers.items()]
        files = {"answers.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
    configuration = search_configuration(
        scorer, claims, algorithm, key, model="a toy", clamped=clamped
    )
    options = {"command": "icmjax search --out 'a & b'", "plan": "tree: 8 claims, 64 tokens"}
    with open_run(folder, claims, configuration, private_files=files, **options) as run:
        assert isinstance(run, Run)
        result = run_search(
            scorer, claims.rules, algorithm, key, clamped=clamped, run=run, progress=False
        )
        run.write_results(result, None if gold is None else GoldLabels(gold))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by the name of their algorithm, each made once, with the gold labels of most claims."""
    made = {}
    gold = GOLD.copy()
    gold[6] = -1
    gold[0] = 1 - gold[0]  # the model is wrong here

    def run_of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "run"
            made[name] = make_run(folder, ALGORITHMS[name], gold=gold)
        return made[name]

    return run_of


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def open_page(browser):
    """Opens a page and, at the end, holds that it neither complained nor asked for anything."""
    said, asked, pages = [], [], []

    def open_(path, width=1440, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert not said
    assert all(url.startswith(("file:", "data:")) for url in asked)


def parametrized(*names):
    return pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW.get(n, ())) for n in names])


@parametrized(*ALGORITHMS)
def test_every_algorithm_has_figures_none_of_which_is_empty(runs, open_page, name):
    page = open_page(icmjax.report(runs(name)))
    titles = page.locator("#figures h3").all_inner_texts()
    assert ENDED_BY[name] in titles
    assert "Calibration" in titles
    figures = page.locator("#figures svg")
    assert figures.count() == len(titles)
    for index in range(figures.count()):
        figure = figures.nth(index)
        assert figure.get_attribute("role") == "img"
        named = figure.get_attribute("aria-labelledby").split()
        assert [len(page.locator(f"[id='{id_}']").all()) for id_ in named] == [1, 1]
        # What is drawn within the axes: lines, bands or points; and what both axes are of.
        drawn = figure.locator("[id$='axes_1'] > g")
        assert drawn.locator("path[style*='--series'], use[style*='--series']").count(), titles[
            index
        ]
        texts = [text for text in figure.locator("text").all_text_contents() if text.strip()]
        assert sum(not re.fullmatch(r"[−\d.k]+", text) for text in texts) >= 2
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.slow
@parametrized(*ALGORITHMS)
def test_the_png_has_the_panels_of_the_page(runs, tmp_path, name):
    run = icmjax.read_run(runs(name))
    found = found_in(run, GoldLabels(GOLD))
    figure = plot_search(found, tmp_path / "search.png", "US$ and $x_{")
    shown = [axes for axes in figure.axes if isinstance(axes, matplotlib.axes.Axes)]
    assert [axes.get_title(loc="left") for axes in shown] == [p.title for p in panels_of(found)]
    for axes in shown:
        assert axes.has_data()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_two_sentences_come_first(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")))
    asked, told = page.locator("p.lead").all_inner_texts()
    assert asked.startswith(
        "Asked: which of “False” and “True” fits each of 8 claims of <b>Japan</b>"
    )
    assert "a toy" in asked
    labels = icmjax.read_run(runs("marginals")).labels
    assert f"“True” for {labels.sum()}" in told
    # Of the seven labels with gold one is wrong, whose group of two counts once.
    low, high = share_interval(6 / 7, 4)
    assert f"0.857 of the labels agree with gold (95 % interval {low:.3f} to {high:.3f})" in told
    warnings = page.locator("p.warning").all_inner_texts()
    assert any("4 consistency groups" in warning for warning in warnings)
    assert any("not told from chance" in warning for warning in warnings)
    assert page.locator("#label-table .id").all_inner_texts() == [f"id c{n}" for n in range(8)]
    # What people answered is on the page, for its owner, and in no warning that is published.
    run = icmjax.read_run(runs("marginals"))
    spoke = {"diagnostics": {"spoke_for_turning": [[2, 1.25]] * 7}}
    (text,) = turned_by(spoke, run.claims, run.labels)
    assert f"claim 'c2', held at {bool(run.labels[2])} (1.2 nats)" in text
    assert text.endswith("; and 1 more.")


def test_the_table_sorts_filters_and_searches_by_keyboard(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")))
    run = icmjax.read_run(runs("marginals"))
    rows = page.locator("#label-table tbody tr:visible")

    def column(index):
        return [row.locator("td").nth(index).inner_text() for row in rows.all()]

    assert column(0) == [str(number) for number in range(1, 9)]
    header = page.locator("#label-table th", has_text="log-odds")
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    expected = np.argsort(-run.log_odds, kind="stable") + 1
    assert column(0) == [str(number) for number in expected]
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(0)[0] == str(np.argmin(run.log_odds) + 1)
    assert page.locator("[aria-sort]").count() == 1

    page.get_by_label("Search").fill("claim 5")
    assert column(0) == ["6"]
    assert page.locator("#count").inner_text() == "1 of 8 claims"
    page.get_by_label("Search").fill("")
    page.locator("#by-label").select_option("True")
    assert set(column(2)) == {"True"}
    assert rows.count() == run.labels.sum()
    page.locator("#by-kind").select_option("wrong")
    assert [text.split() for text in column(5)] == [["False", "wrong"]]
    assert column(0) == ["1"]


def test_without_scripts_the_table_is_a_plain_one(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")), java_script_enabled=False)
    assert page.locator("#label-table tbody tr:visible").count() == NUM_CLAIMS
    assert not page.locator("#controls").is_visible()
    assert not page.locator("#label-table button").count()


def test_what_a_claim_says_is_never_markup(runs, open_page):
    path = icmjax.report(runs("marginals"))
    page = open_page(path)
    assert page.title() == "run: 8 claims"
    assert page.evaluate("document.scripts.length") == 1
    assert SCRIPT in page.locator("#label-table").inner_text()
    assert not page.locator("main b").count()
    # The one script that may run is the page's own.
    page.evaluate("document.body.append(document.createElement('script'))")
    assert "script-src 'sha256-" in path.read_text()


@pytest.mark.slow
def test_options_of_a_caller_are_never_markup(tmp_path, open_page):
    """Options stand in figures too, some in letters that matplotlib's font lacks."""
    options = ("_no", SCRIPT, "$x_{", "日本語")
    claims = make_claims(options, rule="none")
    folder = make_run(
        tmp_path / "run", Gibbs(num_iterations=6), claims, scorer=table_scorer(0, 8, num_options=4)
    )
    page = open_page(icmjax.report(folder))
    assert page.title() == "run: 8 claims"
    text = page.locator("#figures").inner_html()
    assert all(name in text for name in ("labelled _no", "&lt;script&gt;", "$x_{", "日本語"))
    assert page.locator("#by-label option").all_inner_texts() == ["all", *options]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_people_can_read_it_in_any_size_and_light(runs, open_page, width, colours):
    page = open_page(icmjax.report(runs("marginals")), width, color_scheme=colours)
    page.locator("#settings summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert not serious_faults(page)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.locator("#figures svg text").first.evaluate("(text) => getComputedStyle(text).fill")
    assert [sum(map(int, re.findall(r"\d+", c))) > 382 for c in (paper, ink)] == (
        [True, False] if colours == "light" else [False, True]
    )


def test_the_checker_of_pages_has_teeth(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")))
    page.evaluate("document.getElementById('search').parentElement.replaceWith(search)")
    assert any("label" in fault for fault in serious_faults(page))


def test_on_a_phone_all_of_a_row_is_seen_at_once(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")), 390)
    for column in ("place", "claim", "label", "share", "odds", "gold"):
        box = page.locator(f"#label-table td.{column}").first.bounding_box()
        assert box["width"] > 0, column
        assert box["x"] + box["width"] <= 390, column
    # Every column can be sorted by, and what is filtered away is gone.
    page.locator("#label-table th", has_text="log-odds").locator("button").click()
    page.get_by_label("Search").fill("claim 5")
    assert page.locator("#label-table tbody tr:visible").count() == 1


def test_print_shows_all_and_no_controls(tmp_path, open_page):
    folder = make_run(tmp_path / "run", Greedy(num_iterations=2))
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    page = open_page(icmjax.report(folder), 720, color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth") == 720
    assert not page.locator("#controls").is_visible()
    assert page.locator("#settings dl").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_settings_tell_how_to_run_it_again(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")))
    page.locator("#settings summary").first.click()
    text = page.locator("#settings").inner_text()
    for told in (
        "icmjax search --out 'a & b'",
        "tree: 8 claims, 64 tokens",
        "versions.jax",
    ):
        assert told in text
    assert re.search(r"num_iterations\s+6\b", text)
    assert text.index("num_iterations") < text.index("versions.jax")


def test_settings_of_any_form_are_told():
    """A scorer's settings have mappings beside what has none."""
    values = {"settings": [{"a": 1}, None, {"a": 1}, [1, 2]], "all": [1, 2.5], "none": []}
    assert flat(values) == [
        ("settings.1.a", 1),
        ("settings.2", None),
        ("settings.3", "1, 2"),
        ("all", "1, 2.50"),
        ("none", ""),
    ]


def test_personas_are_told_apart_whatever_their_names(tmp_path):
    claims = make_claims(personas=("A\nB", "A B"))
    folder = make_run(tmp_path / "run", Bootstrap(num_iterations=2), claims)
    text = icmjax.report(folder).read_text()
    assert re.findall(r'data-persona="(\d)"', text) == ["0", "0", "1", "1"] * 2


def test_a_run_without_gold_says_nothing_of_it(tmp_path, open_page):
    folder = make_run(tmp_path / "run", Greedy(num_iterations=6), answers={0: 1, 1: 0})
    assert not (folder / "gold.jsonl").exists()
    path = icmjax.report(folder)
    page = open_page(path)
    assert "Calibration" not in page.locator("#figures h3").all_inner_texts()
    assert "gold" not in page.locator("main").inner_text().lower()
    # Answers are marked, and apart from them what they imply; they are the owner's alone to read.
    marks = [page.locator("#label-table tbody tr").nth(i).inner_text() for i in range(3)]
    assert ["answered" in marks[0], "held fast" in marks[1]] == [True, True]
    assert not re.search("answered|held fast", marks[2])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    page.locator("#by-kind").select_option("held")
    assert page.locator("#count").inner_text() == "2 of 8 claims"
    # A caller may know gold labels that the run does not keep. Those that were given do not count.
    page = open_page(icmjax.report(folder, GoldLabels(GOLD)))
    assert "over 6 labels" in page.locator("figcaption", has_text="calibration").inner_text()


def test_pairs_stand_side_by_side(runs, open_page):
    page = open_page(icmjax.report(runs("marginals")))
    pairs = page.locator("#pairs li")
    assert pairs.count() == NUM_CLAIMS // 2
    # Words that a newcomer does not know are explained where they stand.
    assert "it, at a cost" in page.locator("#pairs dl").inner_text()
    assert "soft rule kept" in pairs.nth(2).inner_text()
    told = page.locator(".numbers, #comparison").all_inner_texts()
    assert "how far probabilities are from the share that is right" in told[0]
    assert "asked of each claim alone" in told[1]
    sides = pairs.nth(2).locator(".side").all_inner_texts()
    assert ["Claim 4" in sides[0], "Claim 5" in sides[1]] == [True, True]
    boxes = [pairs.nth(2).locator(".side").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]


EVALUATION = {
    "model": "a toy",
    "claims": "held & out",
    "conditions": [
        {
            "condition": f"labels <{name}>",
            "num_groups": 16,
            "draws": [
                {"accuracy": a, "balanced_accuracy": a, "log_loss": 0.5, "num_claims": 32}
                for a in accuracies
            ],
        }
        for name, accuracies in (("random", [0.25, 0.75]), ("found", [0.8125]))
    ],
}


def test_evaluations_are_compared_with_their_intervals(tmp_path, open_page):
    folder = make_run(tmp_path / "run", Greedy(num_iterations=2))
    for name in ("evaluation-2.json", "evaluation.json", "evaluation-10.json"):
        (folder / name).write_text(json.dumps(EVALUATION))
    page = open_page(icmjax.report(folder))
    shown = page.locator("#comparison figure h3").all_inner_texts()
    names = [re.search(r"evaluation\S*", title)[0] for title in shown]
    assert names == ["evaluation.json", "evaluation-2.json", "evaluation-10.json"]
    cells = page.locator("#comparison figure").first.locator("tbody tr").all_inner_texts()
    low, high = share_interval(0.8125, 16)
    assert cells[1].split("\t")[:5] == [
        "labels <found>",
        "1",
        "32",
        "0.812",
        f"[{low:.3f}, {high:.3f}]",
    ]
    assert cells[0].split("\t")[3] == "0.500 ± 0.354"
    figure = page.locator("#comparison svg").first.inner_html()
    assert "labels &lt;found&gt;" in figure


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"conditions": []}',
        json.dumps(EVALUATION)[:-9],
        json.dumps(EVALUATION).replace("0.8125", "NaN"),
        json.dumps(EVALUATION).replace("0.8125", "1.5"),
        json.dumps(EVALUATION).replace('"num_groups": 16', '"num_groups": 0'),
        json.dumps(EVALUATION).replace('"log_loss"', '"loss"'),
    ],
)
def test_an_evaluation_that_is_none_is_named(tmp_path, content):
    folder = make_run(tmp_path / "run", Greedy(num_iterations=2))
    (folder / "evaluation.json").write_text(content)
    with pytest.raises(RunError, match=r"evaluation\.json[^$]*take it away"):
        icmjax.report(folder)
    assert not (folder / "report.html").exists()


def test_gold_that_was_changed_is_not_believed(tmp_path):
    folder = make_run(tmp_path / "run", Greedy(num_iterations=2), gold=GOLD)
    path = folder / "gold.jsonl"
    path.write_text(path.read_text().replace("1}", "0}"))
    with pytest.raises(RunError, match=r"gold\.jsonl"):
        icmjax.report(folder)


def test_the_curve_is_what_the_search_read(runs):
    run = icmjax.read_run(runs("icm"))
    curve = utility_curve(found_in(run, None))
    assert curve.unit == "tokens"
    assert curve.used[-1] == run.summary["num_tokens"]
    assert curve.best[-1] == pytest.approx(curve.chains.max())
    assert (np.diff(curve.best) >= 0).all()
    # A run that counted no tokens has passes.
    passes = utility_curve(found_in(run._replace(trace=run.trace | {"tokens": np.zeros(31)}), None))
    assert (passes.unit, passes.used[-1]) == ("passes", run.summary["diagnostics"]["num_passes"])


def test_a_curve_of_one_point_gives_way_to_what_there_is(runs):
    run = icmjax.read_run(runs("icm"))
    one = found_in(run._replace(trace={name: field[:1] for name, field in run.trace.items()}), None)
    assert [panel.title for panel in panels_of(one)] == ["Probability of every label"]
    trace = dict(run.trace)
    trace["num_labelled"] = np.minimum(trace["num_labelled"], NUM_CLAIMS - 1)
    titles = [panel.title for panel in panels_of(found_in(run._replace(trace=trace), None))]
    assert "Labelled claims against tokens" in titles
    assert "Utility against tokens" not in titles


def test_readings_are_what_the_passes_said(runs):
    run = icmjax.read_run(runs("marginals"))
    said = readings(found_in(run, None))
    scorer = planted_scorer(GOLD, coupling=0.3, bias=0.4)
    for labels, row in zip(run.trace["labels"][:, 0], said, strict=True):
        is_read = (labels < 0) | (labels >= 0).all()
        logp = np.asarray(scorer(labels))
        np.testing.assert_allclose(row[is_read], (logp[:, 1] - logp[:, 0])[is_read], atol=1e-5)
        assert np.isnan(row[~is_read]).all()
    assert not np.isnan(said[[0, -1]]).any()


def test_bins_of_calibration_by_hand(runs):
    bins = reliability(
        np.array([0.55, 0.58, 0.95, 1.0]), np.array([1, 0, 1, 1]), ["a", "a", "b", "c"]
    )
    assert [(each.num, each.share) for each in bins] == [(2, 0.5), (2, 1.0)]
    assert bins[0].interval == share_interval(0.5, 1)
    assert bins[1].interval == share_interval(1.0, 2)
    assert calibration_error(bins) == pytest.approx((2 * 0.065 + 2 * 0.025) / 4)
    run = icmjax.read_run(runs("marginals"))
    gold = GOLD.copy()
    gold[5:] = -1
    assert sum(each.num for each in calibration(found_in(run, GoldLabels(gold)))) == 5


def warned(run, gold=None):
    return warnings_of(run.manifest, run.summary, run.claims, found_in(run, gold))


def test_what_the_run_itself_shows_is_warned_of(runs):
    run = icmjax.read_run(runs("icm"))
    # The summary has all of them already, those of gold too, and none is said twice.
    assert run.summary["warnings"] == warned(run) == warned(run, gold_in(runs("icm"), run))
    for part in ("4 consistency groups", "not told from chance"):
        assert sum(part in text for text in warned(run)) == 1
    assert not any("No pair rule" in text for text in warned(run))
    run = run._replace(summary=run.summary | {"warnings": []})
    alike = run._replace(
        claims=make_claims(rule="none"),
        labels=np.ones_like(run.labels),
        summary=run.summary | {"num_inconsistent": 4, "diagnostics": {"max_r_hat_labels": 1.2}},
    )
    texts = warned(alike)
    parts = "No pair rule", "100% of the labels", "violate 4 pairs", "consistency groups"
    for part in (*parts, "do not agree"):
        assert any(part in text for text in texts), part
    # What is worse than one label for all is told from it, of however many groups.
    opposite = warned(run, GoldLabels(1 - run.labels))
    (text,) = [text for text in opposite if "The accuracy of" in text]
    assert "0 is worse than one label for all" in text
    assert "few" not in text
    # What the search said already is not said twice.
    recorded = "100% of the labels are the same one: the search may have collapsed."
    told = alike._replace(summary=alike.summary | {"warnings": [recorded]})
    texts = warned(told)
    assert sum("of the labels" in text for text in texts) == 1


def test_three_digits():
    cases = {
        0.5: "0.500", 0.99999: "1.00", 12.345: "12.3", 123.4: "123", 12345.6: "12,300",
        -4.5475: "−4.55", 0.0: "0", 999.6: "1,000", 1234567: "1,234,567", None: "–",
        float("inf"): "∞", True: "True", "text": "text",
    }  # fmt: skip
    assert {value: three_digits(value) for value in cases} == cases


def test_a_figure_is_safe_in_a_page_with_others(runs):
    panel = panels_of(found_in(icmjax.read_run(runs("icm")), None))[0]
    drawn = panel_svg(panel, "one")
    assert set(re.findall(r' id="(\w+?)-', drawn)) == {"one"}
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawn))
    assert used <= set(re.findall(r' id="([^"]+)"', drawn))
    assert not re.search("#[0-9a-f]{6}|<style|DejaVu", drawn)


@pytest.mark.parametrize("odd", ["\ufffe", "\uffff", "\x08"])
def test_what_xml_may_not_hold_is_in_no_figure(odd):
    """An option's name, in a legend, may hold it."""

    def draw(axes):
        axes.plot([0, 1], label=f"yes{odd}")
        axes.legend()

    drawn = panel_svg(Panel(f"title{odd}", f"caption{odd}", draw), "one")
    root = ElementTree.fromstring(drawn)
    assert odd not in drawn
    texts = [element.text for element in root.iter() if element.text]
    assert {"title\ufffd", "caption\ufffd", "yes\ufffd"} <= set(texts)


@pytest.mark.slow
def test_from_claims_to_the_page_on_the_command_line(tmp_path, open_page):
    claims, gold = icmjax.load_task("persona-world:norvania:0")
    kept = range(8)
    icmjax.write_claims(claims.select(kept), tmp_path / "claims.jsonl", gold.select(kept))
    run = tmp_path / "run"
    for arguments in (
        ("search", "--claims", tmp_path / "claims.jsonl", "--out", run, "--quiet"),
        ("evaluate", "--demos", run, "--claims", "persona-world:norvania:0:test"),
    ):
        words = [*map(str, arguments), "--model", "persona-world"]
        assert CliRunner().invoke(main, words).exit_code == 0
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.output == f"wrote {run / 'report.html'}\n"
    page = open_page(run / "report.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not serious_faults(page)
    assert "tokens a pass" in page.locator("#settings").text_content()
    assert "lm.config.num_layers" in page.locator("#settings details details").text_content()
    assert not page.locator("#settings details details dl").is_visible()
    assert page.locator("#comparison svg").count() == 1
