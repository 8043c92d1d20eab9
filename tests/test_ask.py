"""`icmjax ask`: a person answers on a page or in the terminal, and the search goes on."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request

import click
import jax
import numpy as np
import pytest
from browsers import open_browser, serious_faults
from click.testing import CliRunner
from commands import invoke, read_rows
from scorers import table_scorer

import icmjax
from icmjax.claims import claims_from_rows, write_claims
from icmjax.cli import ask as ask_command
from icmjax.cli import interviews
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.persona_world import make_task, make_world

NUM_CLAIMS = 8
NO_SHARES = {"shares": [], "accuracy": None}


def search(folder, *options):
    model = "--model", "persona-world", "--claims", folder / "claims.jsonl"
    result = invoke("search", *model, "--out", folder / "run", "--quiet", *options)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of the bundled model over a few claims of a group that it never read of."""
    folder = tmp_path_factory.mktemp("ask")
    task = make_task(make_world(), "ilvania", 0, num_claims=NUM_CLAIMS)
    write_claims(task.claims, folder / "claims.jsonl", task.gold)
    search(folder, "--algorithm", "bootstrap", "--iterations", 3)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.slow
def test_the_terminal_asks_and_searches(run):
    before = {row["id"]: row["label"] for row in read_rows(run / "labels.jsonl")}
    result = invoke("ask", run, "--budget", 3, "--terminal", stdin="what\nb\nt\nb\n2\nunsure\ns\n")
    assert result.exit_code == 0, result.output
    first, second, third = read_rows(run / "questions.jsonl")
    assert (first["label"], second["label"], third["label"]) == ("False", None, None)
    assert (second.get("is_unsure"), third.get("is_unsure")) == (True, None)
    assert "no such answer" in result.output
    assert result.stderr.startswith("loading persona-world; the questions follow\n")
    assert "search: step" in result.stderr
    assert "tokens a pass" not in result.stderr  # the search is short
    assert "+.035 [.018, .056]" in result.output  # what is known of the default
    assert re.search(r"the model is (nearly undecided|unsure|fairly sure|sure) here", result.output)
    # A label that is read first sways the answer: it is told after it, and of none that is skipped.
    told = r"Without examples the model says \w+ \d+%.*The search labelled it \w+, at a probability"
    rounds = re.split(r"(?m)^[123] of 3", result.output)[1:]
    is_told = [bool(re.search(rf"back: \w+\n{told}", text)) for text in rounds]
    assert is_told == [False, True, False, True, True, False]  # b, t, b, 2, unsure, s
    after = {row["id"]: row["label"] for row in read_rows(run / "answered" / "labels.jsonl")}
    assert after[first["id"]] == 0
    given = {row["id"] for row in read_rows(run / "answered" / "answers.jsonl") if row["is_answer"]}
    assert given == {first["id"]}  # unsure and skipped claims are free
    num_turned = sum(before[id_] != after[id_] for id_ in before)
    assert f"{num_turned} of {NUM_CLAIMS} labels turned; 2 are held fast" in result.output
    assert f"of the {NUM_CLAIMS - 2} labels that the search was free to choose" in result.output
    assert (run / "answered" / "report.html").exists()


@pytest.mark.slow
def test_a_round_that_is_cut_off_goes_on(run):
    result = invoke("ask", run, "--budget", 2, "--terminal", "--selector", "margin", stdin="1\n")
    assert result.exit_code == 130
    assert "1 of 2 questions done" in result.stderr
    first, second = read_rows(run / "questions.jsonl")
    assert (first["label"], second["label"]) == ("True", None)
    assert not (run / "answered").exists()
    options = "--selector", "random", "--terminal"
    result = invoke("ask", run, "--budget", 2, *options, stdin="\x04")
    assert result.exit_code == 130
    rows = read_rows(run / "questions.jsonl")
    assert rows[:2] == [first, second]
    assert len(rows) == 3  # the open one counts, so that one is new
    assert "1 of 2" in result.output
    assert result.output.index(second["choice"]) < result.output.index("s skip")


def test_nobody_else_writes_the_questions_meanwhile(run):
    with icmjax.runs.lock(run):
        result = invoke("ask", run, "--budget", 1, "--terminal", "--selector", "margin")
    assert result.exit_code == 2
    assert "One process at a time" in result.output
    assert not (run / "questions.jsonl").exists()


def test_questions_in_the_folder_are_written_by_one_process(run, tmp_path):
    words = "ask", run, "--budget", 1, "--selector", "margin", "--out"
    with icmjax.runs.lock(run):
        result = invoke(*words, run / "mine.jsonl")
        assert result.exit_code == 2
        assert "One process at a time" in result.output
        assert not (run / "mine.jsonl").exists()
        assert invoke(*words, tmp_path / "mine.jsonl").exit_code == 0


def test_the_terminal_shows_what_holds(tmp_path):
    rows = [{"question": "", "choice": f"claim {n}", "consistency_id": n} for n in range(2)]
    claims = claims_from_rows(rows, rule="none", options=("A", "B", "Skip"))
    file = icmjax.feedback.Questionnaire(tmp_path / "questions.jsonl", claims)
    asked = icmjax.ask(None, claims, 2, "random")
    file.add(asked.questions)
    file.write()
    interview = icmjax.feedback.Interview("a run", asked, file)

    @click.command
    def command():
        interviews.ask_in_terminal(interview, interview.wait)

    interview.tell("asking", changes={"num_claims": 2, "turned": [], "num_given": 1} | NO_SHARES)
    result = CliRunner().invoke(command, input="b\nback\nB\ns\n", catch_exceptions=False)
    choices = "1 or A, 2 or B, 3 or Skip, u unsure, s not now, back: "
    assert result.output.count(choices) == 4
    assert [row["label"] for row in read_rows(file.path)] == ["B", None]


def test_a_label_that_is_written_while_questions_are_chosen_stays(run, monkeypatch):
    path = run / "questions.jsonl"
    words = "ask", run, "--budget", 1, "--selector", "margin", "--out", path
    assert invoke(*words).exit_code == 0
    choose = icmjax.ask

    def choose_slowly(*arguments, **options):
        path.write_text(path.read_text().replace("null", '"True"'))
        return choose(*arguments, **options)

    monkeypatch.setattr(icmjax, "ask", choose_slowly)
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "kept 1 earlier questions, 1 of them answered" in result.output
    assert [row["label"] for row in read_rows(path)] == ["True", None]


def test_the_terminal_says_that_the_file_has_another_answer(run, monkeypatch):
    path = run / "questions.jsonl"
    prompt = interviews.click.prompt

    def prompt_slowly(*arguments, **options):
        path.write_text(path.read_text().replace('"label": null', '"label": "False"'))
        return prompt(*arguments, **options)

    monkeypatch.setattr(interviews.click, "prompt", prompt_slowly)
    words = "--budget", 1, "--selector", "margin", "--terminal"
    result = invoke("ask", run, *words, stdin="t\n\x04")
    assert result.exit_code == 130
    assert "True, and False that somebody wrote meanwhile" in result.stderr
    assert [row["label"] for row in read_rows(path)] == ["False"]


def test_without_an_answer_nothing_is_searched(run):
    options = "--selector", "margin", "--terminal"
    result = invoke("ask", run, "--budget", 2, *options, stdin="s\nu\n")
    assert result.exit_code == 0, result.output
    assert "nothing to search with" in result.output
    assert not (run / "answered").exists()
    result = invoke("answer", run, "--labels", run / "questions.jsonl")
    assert result.exit_code == 2
    assert "has a label" in result.output


def test_questions_go_by_file(run, tmp_path):
    path = tmp_path / "questions.csv"
    options = "--out", path, "--selector", "margin"
    assert invoke("ask", run, "--budget", 2, *options).exit_code == 0
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["label"] == second["label"] == ""
    path.write_text(
        path.read_text().replace(f",,{first['uncertainty']}", f",True,{first['uncertainty']}")
    )
    result = invoke("ask", run, "--budget", 1, *options)
    assert result.exit_code == 0, result.output
    assert "kept 2 earlier questions, 1 of them answered" in result.output
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[:2] == [first | {"label": "True"}, second]
    assert len({row["consistency_id"] for row in rows}) == 3
    assert not (run / "questions.jsonl").exists()
    for wrong in (("--out", tmp_path / "q.xlsx"), ("--out", path, "--terminal")):
        result = invoke("ask", run, "--budget", 1, *wrong)
        assert result.exit_code == 2
        assert "to do:" in result.output


@pytest.mark.parametrize("status", [0, 2])
def test_a_round_that_is_over_ends_with_its_own_status(run, monkeypatch, status):
    """Whoever reads the page after the search may end the command, and keeps nobody from asking."""
    interview_class = icmjax.feedback.Interview

    def wait(interview):
        interview.reply(0, 1)
        return True

    def search(this, interview, file):
        if status:
            raise InputError(Fault("A rule.", "a breach", "the answers", "another one"))
        interview.tell("done")

    def wait_for_close(interview):
        with icmjax.runs.lock(run):
            raise KeyboardInterrupt

    opened = []
    monkeypatch.setattr(interviews, "has_screen", lambda: True)
    monkeypatch.setattr(interviews.webbrowser, "open", opened.append)
    monkeypatch.setattr(interview_class, "wait", wait)
    monkeypatch.setattr(interview_class, "wait_for_close", wait_for_close)
    monkeypatch.setattr(ask_command.Round, "search", search)
    result = invoke("ask", run, "--budget", 1, "--selector", "margin")
    assert result.exit_code == status, result.output
    assert "interrupted" not in result.output
    assert "answer 1 question at\n" in result.output
    assert ("A rule." in result.stderr) == bool(status)
    assert "loading" not in result.stderr  # by the margin no model is asked which claims
    assert opened[0].startswith(f"{run.as_uri()}/ask-")
    assert not list(run.glob("ask-*"))


class Person(threading.Thread):
    """Reads the page of a command in this process, in a browser, and answers by keyboard."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.urls, self.seen = folder, [], {}
        self.has_url = threading.Event()

    def open(self, url):
        self.urls.append(url)
        self.has_url.set()

    def run(self):
        try:
            assert self.has_url.wait(120)
            with open_browser() as browser:
                page = browser.new_page()
                page.set_default_timeout(120_000)
                page.goto(self.urls[0])
                page.wait_for_selector("#heading:has-text('Question 1 of 2')")
                page.keyboard.press("f")
                page.wait_for_selector("#heading:has-text('Question 2 of 2')")
                self.seen["said"] = page.is_visible("#said"), page.text_content("#said")
                page.keyboard.press("t")
                page.wait_for_selector("#searching:not([hidden])")
                page.wait_for_selector("#done:not([hidden])")
                self.seen |= {
                    "faults": serious_faults(page),
                    "summary": page.inner_text("#summary"),
                }
                with page.expect_popup() as opened:
                    page.click("#report a")
                self.seen["report"] = opened.value.inner_text("body")
                page.click("#close")
                page.wait_for_selector("#over:not([hidden])")
        except BaseException as error:  # or the command would wait for ever
            self.seen["error"] = error
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_person_answers_on_the_page(made, tmp_path, monkeypatch):
    """By the default search, and in its default way."""
    with open_browser():
        pass  # skips where there is none
    shutil.copy(made / "claims.jsonl", tmp_path)
    search(tmp_path, "--iterations", 5)
    run = tmp_path / "run"
    person = Person(run)
    monkeypatch.setattr(interviews, "has_screen", lambda: True)
    monkeypatch.setattr(interviews.webbrowser, "open", person.open)
    person.start()
    result = invoke("ask", run, "--budget", 2)
    person.join(60)
    assert "error" not in person.seen, person.seen["error"]
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("loading persona-world; the page's address follows\n")
    printed = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", result.output)[0]
    assert printed.split("/")[3] not in person.urls[0]  # a browser's own words are seen by all
    assert person.urls[0].startswith("file://")
    assert not list(run.glob("ask-*"))
    assert [row["label"] for row in read_rows(run / "questions.jsonl")] == ["False", "True"]
    is_said, said = person.seen["said"]
    assert (is_said, "The search labelled it" in said) == (False, True)
    assert f"of {NUM_CLAIMS} labels turned" in person.seen["summary"]
    assert "4 are held fast" in person.seen["summary"]
    assert person.seen["faults"] == []
    assert "answered" in person.seen["report"]
    assert (run / "answered" / "summary.json").exists()


# What starts the tests may ignore Ctrl-C, which its children would inherit.
STARTS = """
import signal
from icmjax.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


class Command:
    """`icmjax ask` as a process of its own, whose page is answered by requests."""

    def __init__(self, run):
        words = "ask", str(run), "--budget", "2", "--selector", "margin"
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTS, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = [self.process.stdout.readline(), self.process.stdout.readline()]
        self.url = lines[1].strip()
        assert self.url.startswith("http://127.0.0.1:"), lines

    def reply(self, question, reply):
        body = json.dumps({"question": question, "reply": reply}).encode()
        origin = re.match(r"http://[^/]+", self.url)[0]
        request = urllib.request.Request(self.url + "reply", body, {"Origin": origin})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def end(self, number):
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@pytest.fixture
def command(run):
    command = Command(run)
    yield command
    command.process.kill()
    command.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_keeps_the_answers(run, command, number):
    """Without a terminal it says the address too, and waits there for a person."""
    assert command.reply(0, 1)["phase"] == "asking"
    status, output = command.end(number)
    assert [row["label"] for row in read_rows(run / "questions.jsonl")] == ["True", None]
    assert status == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "1 of 2 questions done" in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_a_search_that_is_interrupted_says_how_to_go_on(run, command):
    for question in range(2):
        assert command.reply(question, 1)["phase"] == ("searching" if question else "asking")
    for line in command.process.stdout:
        if "search:" in line or "decoder calls" in line:
            break
    status, output = command.end(signal.SIGINT)
    assert status == 130
    assert "interrupted" in output
    assert f"the answers are in {run / 'questions.jsonl'}" in output
    assert [row["label"] for row in read_rows(run / "questions.jsonl")] == ["True", "True"]


def one_sided(num_claims=10):
    """Zero-shot log-odds of which nearly all are above 0, and none is near it."""
    rows = [
        {"question": "", "choice": f"claim {n}", "consistency_id": n} for n in range(num_claims)
    ]
    log_odds = np.linspace(1.0, 6.0, num_claims).astype(np.float32)
    log_odds[-3:] += 4.0  # two clusters, with the border between the 7th and the 8th
    logp = -np.logaddexp(0, np.stack([log_odds, -log_odds], axis=-1)).astype(np.float32)
    return claims_from_rows(rows, rule="none"), log_odds, lambda labels: jax.numpy.asarray(logp)


def test_a_one_sided_model_is_asked_about_at_its_border():
    claims, log_odds, scorer = one_sided()
    raw = icmjax.ask(scorer, claims, 1)
    assert raw.selector == "zero_shot_entropy"
    assert raw.questions[0].claim_index == 0  # the one that it least doubts to be False
    taken_off = icmjax.ask(scorer, claims, 1, algorithm=icmjax.Marginals())
    assert taken_off.selector == "unbiased_entropy"
    border = (log_odds[6] + log_odds[7]) / 2
    assert taken_off.questions[0].claim_index == np.abs(log_odds - border).argmin() != 0
    assert "no difference" in taken_off.about
    left = icmjax.ask(scorer, claims, 1, algorithm=icmjax.Marginals(bias="none"))
    assert left.selector == "zero_shot_entropy"
    (known,) = icmjax.ask(scorer, claims, 1, algorithm=icmjax.Marginals(balance=0.5)).questions
    assert known.claim_index in (4, 5)
    few, _, scorer_of_few = one_sided(4)
    with pytest.raises(InputError, match="8 binary claims"):
        icmjax.ask(scorer_of_few, few, 1, "unbiased_entropy")


def test_a_budget_counts_the_open_questions_too():
    rows = [{"question": "", "choice": f"claim {n}", "consistency_id": n // 2} for n in range(8)]
    claims = claims_from_rows(rows, rule="none")
    options = {"first": [0, 2, 4]}
    indices = [q.claim_index for q in icmjax.ask(None, claims, 4, "random", **options).questions]
    assert indices[:3] == [0, 2, 4]
    assert indices[3] in (6, 7)
    with pytest.raises(InputError, match=r"3 open ones and 1 groups .*\n.*\n.*choose 1 to 4"):
        icmjax.ask(None, claims, 5, "random", **options)
    for budget in (0, -1):
        for first in ([0, 2, 4], []):
            with pytest.raises(InputError, match="choose 1 to 4"):
                icmjax.ask(None, claims, budget, "random", first=first)


def test_a_budget_below_one_is_refused_before_anything_is_read():
    for budget in (0, -1):
        result = invoke("ask", "no/such/folder", "--budget", budget)
        assert result.exit_code == 2
        assert "A budget is one question or more." in result.output
        assert "no/such" not in result.output


@pytest.mark.slow
def test_the_library_asks_and_answers():
    scorer = table_scorer(0, 6)
    rows = [{"question": "", "choice": f"claim {n}", "consistency_id": n // 2} for n in range(6)]
    claims = claims_from_rows(rows, rule="exactly_one_true")
    algorithm, key = icmjax.Bootstrap(), jax.random.key(0)
    found = icmjax.run_search(scorer, claims.rules, algorithm, key, progress=False)
    asked = icmjax.ask(scorer, claims, 2, found=found, algorithm=algorithm)
    told = {
        question.claim.id: 1 - found.labels[question.claim_index] for question in asked.questions
    }
    told = {id_: bool(label) for id_, label in told.items()}
    result = icmjax.answer(scorer, claims, told, algorithm, key, progress=False)
    for question in asked.questions:
        assert result.labels[question.claim_index] == told[question.claim.id]
        assert result.labels[question.claim_index ^ 1] == 1 - told[question.claim.id]
    with pytest.raises(ClaimsError, match="claim 'x'") as caught:
        icmjax.answer(scorer, claims, {"x": 1, claims.claims[0].id: "perhaps"}, algorithm, key)
    assert len(caught.value.faults) == 2
    with pytest.raises(InputError, match="all 6 labels are answers, or follow from them"):
        icmjax.answer(scorer, claims, {str(n): 1 for n in range(0, 6, 2)}, algorithm, key)
    # Two labels that are as likely as one another, and an answer that is worth nothing.
    even = table_scorer(0, 6, coupling=0.0, bias=0.0)
    found = found._replace(label_log_probs=np.asarray(even(found.labels)))
    (asked,) = icmjax.ask(even, claims, 1, "margin", found=found).questions
    assert asked.measure == "Its two likeliest labels are 0.00 nats apart."
    options = {"found": found, "algorithm": icmjax.ICM()}
    (asked,) = icmjax.ask(even, claims, 1, "expected_gain", **options).questions
    assert asked.why.startswith("No gain is expected")
    for selector in ("zero_shot_entropy", "expected_gain"):
        with pytest.raises(InputError, match="has a scorer"):
            icmjax.ask(None, claims, 1, selector)
    with pytest.raises(InputError, match="labels of a search"):
        icmjax.ask(scorer, claims, 1, "expected_gain")
    with pytest.raises(InputError, match="A selector is known"):
        icmjax.ask(scorer, claims, 1, "luck")
