"""The page that asks: by keyboard, to nobody but its own browser, and nothing is lost."""

import http.client
import json
import stat
from types import SimpleNamespace

import numpy as np
import pytest
from browsers import open_browser, serious_faults

from icmjax.claims import GoldLabels, claims_from_rows
from icmjax.errors import InputError
from icmjax.feedback import (
    Interview,
    Questionnaire,
    ask,
    changes_between,
    leading_file,
    read_answers,
    serve_page,
)
from icmjax.feedback.server import MAX_BODY

HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> {{ 7 * 7 }}"
ROWS = [
    {"question": "What of trade?", "choice": choice, "consistency_id": index, "persona": HOSTILE}
    for index, choice in enumerate(("Trade helps", HOSTILE, "Taxes help", "Dams help"))
]


def make_interview(folder, budget=3, options=None):
    """Questions about what a search has labelled: its first option, at .9 each."""
    claims = claims_from_rows(ROWS, rule="none", options=options)
    file = Questionnaire(folder / "questions.jsonl", claims)
    num_options = len(claims.options)
    marginals = np.full((len(claims), num_options), 0.1 / (num_options - 1))
    marginals[:, 0] = 0.9
    found = SimpleNamespace(
        labels=np.zeros(len(claims), np.int8), marginals=marginals, label_log_probs=None
    )
    known = {"first": file.open, "without": file.closed, "found": found}
    asked = ask(None, claims, budget, "random", **known)
    file.add(asked.questions)
    file.write()
    return Interview(HOSTILE, asked, file), claims


def kept(folder):
    lines = (folder / "questions.jsonl").read_text().splitlines()
    return [(row["label"], row.get("is_unsure", False)) for row in map(json.loads, lines)]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text))
    yield page
    context.close()


def at(page, number):
    page.wait_for_selector(f"#heading:has-text('Question {number} of 3')")


def test_a_round_by_keyboard(page, tmp_path):
    interview, claims = make_interview(tmp_path)
    with serve_page(interview) as server:
        page.goto(server.url)
        at(page, 1)
        assert serious_faults(page) == []
        assert page.inner_text("#options").split() == ["True", "1", "T", "False", "2", "F"]
        assert page.is_disabled("#back")
        page.keyboard.press("t")
        at(page, 2)
        assert kept(tmp_path) == [("True", False), (None, False), (None, False)]
        page.keyboard.press("b")
        at(page, 1)
        assert page.inner_text("#options button[aria-pressed=true] span") == "True"
        page.keyboard.press("2")
        at(page, 2)
        assert kept(tmp_path)[0] == ("False", False)
        page.keyboard.press("u")
        at(page, 3)
        page.reload()
        at(page, 3)  # where it was, and what was said stays
        assert page.inner_text("#count") == "2 of 3 done"
        assert page.is_visible("#last")
        page.keyboard.press("s")
        page.wait_for_selector("#searching:not([hidden])")
        assert kept(tmp_path) == [("False", False), (None, True), (None, False)]
        assert interview.wait()
        assert serious_faults(page) == []
        interview.tell("searching", num_steps=7, num_all=18)
        page.wait_for_selector("#steps-said:has-text('7 of 18 steps')")
        show_the_end(page, interview, claims, tmp_path)
        page.click("#close")
        page.wait_for_selector("#over:not([hidden])")
        interview.wait_for_close()
    assert page.evaluate("window.ran") is None
    assert page.faults == []


def show_the_end(page, interview, claims, folder):
    """Two labels turned, one of them by an answer; the report's scripts are kept apart."""
    before, after = np.array([1, 1, 0, 0], np.int8), np.array([0, 0, 0, 0], np.int8)
    clamped = np.array([0, -1, -1, -1], np.int8)
    gold = GoldLabels(np.array([0, 0, 1, -1], np.int8))
    interview.report = folder / "report.html"
    interview.report.write_text(
        "<p>the report</p><script>fetch('reply', {method: 'POST'})</script>"
    )
    changes = changes_between(claims, before, after, clamped, gold)
    interview.tell("done", changes=changes, warnings=[HOSTILE])
    page.wait_for_selector("#done:not([hidden])")
    assert serious_faults(page) == []
    assert "2 of 4 labels turned, 1 of them by the search" in page.inner_text("#summary")
    assert "True → False, by your answers" in page.inner_text("#turned li >> nth=0")
    assert HOSTILE in page.inner_text("#turned li >> nth=1")
    shares = [row.split("\t") for row in page.inner_text("#shares").splitlines()]
    assert shares == [["False", "50 %", "100 %"], ["True", "50 %", "0 %"], ["right", "0 %", "50 %"]]
    with page.expect_popup() as opened:
        page.click("#report a")
    assert opened.value.inner_text("p") == "the report"
    assert opened.value.evaluate("window.origin") == "null"


def test_it_reads_well_on_a_desk(browser, tmp_path):
    interview, _ = make_interview(tmp_path)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    with serve_page(interview) as server:
        page.goto(server.url)
        at(page, 1)
        assert serious_faults(page) == []
        width = "document.documentElement.scrollWidth"
        for size in (1280, 390, 320):
            page.set_viewport_size({"width": size, "height": 800})
            assert page.evaluate(width) <= size
        # What the search said would sway an answer: it is there for whoever asks for it.
        assert not page.is_visible("#said")
        page.focus("#said-part summary")
        page.keyboard.press("Enter")
        said = "The search labelled it False, at a probability of 90%."
        assert (page.is_visible("#said"), page.inner_text("#said")) == (True, said)
        assert serious_faults(page) == []
        page.click("#unsure")
        at(page, 2)
        assert not page.is_visible("#said")
        page.click("#options button >> nth=1")
        at(page, 3)
    assert kept(tmp_path) == [(None, True), ("False", False), (None, False)]
    page.keyboard.press("t")  # the server is gone
    page.wait_for_selector("#problem:has-text('is saved')")
    page.close()


def test_letters_that_are_options_are_no_commands(page, tmp_path):
    interview, _ = make_interview(tmp_path, options=("A", "B", "C", "S"))
    with serve_page(interview) as server:
        page.goto(server.url)
        at(page, 1)
        shown = page.inner_text(".others").split()
        assert shown == ["Back", "Unsure", "U", "Skip"]
        page.keyboard.press("b")
        at(page, 2)
        page.keyboard.press("s")
        at(page, 3)
        page.keyboard.press("ArrowLeft")
        at(page, 2)
        page.keyboard.press("u")
        at(page, 3)
    assert kept(tmp_path) == [("B", False), (None, True), (None, False)]


@pytest.mark.parametrize(
    ("options", "commands", "meant"),
    [
        (
            ("A", "B", "C", "D"),
            {"back": "back", "u": "unsure", "unsure": "unsure", "s": "skip", "skip": "skip"},
            {"b": 1, "B": 1, " d ": 3, "back": "back", "u": "unsure", "1": 0, "e": None},
        ),
        (
            ("Skip", "unsure", "S"),
            {"b": "back", "back": "back", "u": "unsure", "/skip": "skip"},
            {"s": 2, "skip": 0, "SKIP": 0, "unsure": 1, "u": "unsure", "/skip": "skip"},
        ),
        (
            ("yes", "Yes", "YES"),
            {letter[:n]: letter for letter in ("back", "unsure", "skip") for n in (1, 9)},
            {"yes": 0, "Yes": 1, "YES": 2, "yEs": None, "y": None, "2": 1},
        ),
    ],
)
def test_what_is_typed_means_one_thing(tmp_path, options, commands, meant):
    interview, _ = make_interview(tmp_path, options=options)
    assert interview.commands == interview.state()["commands"] == commands
    assert {text: interview.meant(text) for text in meant} == meant


def test_a_look_that_fails_is_no_end(page, tmp_path):
    interview, _ = make_interview(tmp_path)
    for number in range(3):
        interview.reply(number, 1)
    num_looks = 0

    def fail_twice(route):
        nonlocal num_looks
        num_looks += 1
        route.abort() if num_looks in (2, 3) else route.continue_()

    page.route("**/state", fail_twice)
    with serve_page(interview) as server:
        page.goto(server.url)
        page.wait_for_selector("#searching:not([hidden])")
        page.wait_for_timeout(1200)
        interview.tell("failed", message="a breach")
        page.wait_for_selector("#over-heading:has-text('refused')")
    assert num_looks > 3


def test_a_round_without_an_answer_searches_nothing(page, tmp_path):
    interview, _ = make_interview(tmp_path)
    with serve_page(interview) as server:
        page.goto(server.url)
        for number in (1, 2, 3):
            at(page, number)
            page.keyboard.press("s")
        page.wait_for_selector("#over-heading:has-text('Nothing to search with')")
        assert not interview.wait()


def test_what_refuses_the_search_is_shown(page, tmp_path):
    interview, _ = make_interview(tmp_path)
    for number in range(3):
        interview.reply(number, 1)
    with serve_page(interview) as server:
        page.goto(server.url)
        interview.tell("failed", message=f"Answers go together.\n  found: {HOSTILE}")
        page.wait_for_selector("#over-heading:has-text('refused')")
        assert HOSTILE in page.inner_text("#problem")
        assert page.evaluate("window.ran") is None


class Asked:
    """A page that is served, and requests that a browser would not make."""

    def __init__(self, server, interview):
        self.server, self.interview = server, interview

    def request(self, method, place, body=None, **headers):
        server = self.server
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        known = {"Host": server.hosts[0], "Origin": f"http://{server.hosts[0]}"} | headers
        sent = {name: value for name, value in known.items() if value is not None}
        connection.request(method, place, body, sent)
        response = connection.getresponse()
        response.text = response.read().decode()
        connection.close()
        return response

    def reply(self, body=b'{"question": 0, "reply": 1}', **headers):
        return self.request("POST", f"/{self.server.token}/reply", body, **headers)


@pytest.fixture
def served(tmp_path):
    interview, _ = make_interview(tmp_path)
    with serve_page(interview) as server:
        yield Asked(server, interview)


def test_others_are_refused(served):
    token, port = served.server.token, served.server.server_port
    assert served.server.server_address[0] == "127.0.0.1"
    for place in ("", "state", "ask.js", "ask.css", "icon.svg"):
        assert served.request("GET", f"/{token}/{place}").status == 200
        for other in (
            f"/{token[:-1]}/{place}",
            f"/{place}",
            f"/{token}x/{place}",
            "//",
        ):
            assert served.request("GET", other).status == 403, other
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert served.request("GET", f"/{token}/state", Host=host).status == 403, host
        assert served.reply(Host=host).status == 403
    assert served.request("GET", f"/{token}/state", Host=f"localhost:{port}").status == 200
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        None,
    ):
        assert served.reply(Origin=origin).status == 403, origin
        assert served.request("POST", f"/{token}/close", b"{}", Origin=origin).status == 403
    assert served.interview.replies == [None] * 3
    assert served.reply().status == 200
    assert served.interview.replies[0] == 1


def test_what_a_browser_is_opened_with_says_nothing_to_others(page, tmp_path):
    interview, _ = make_interview(tmp_path)
    before = set(tmp_path.iterdir())
    with serve_page(interview) as server, leading_file(server.url, interview.folder) as address:
        (path,) = set(tmp_path.iterdir()) - before
        assert address == path.as_uri()
        assert server.token not in address
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        page.goto(address)
        at(page, 1)
        assert page.url == server.url
    assert set(tmp_path.iterdir()) == before


def test_a_reply_is_small_and_means_something(served, tmp_path):
    assert served.reply(b"x" * (MAX_BODY + 1)).status == 413
    assert served.reply(**{"Content-Length": str(10**12)}, body=b"").status == 413
    assert served.reply(**{"Content-Length": "-1"}, body=b"").status == 411
    for body in (b"", b"[", b"[]", b"[" * 4000, b"\xff", b'{"question": 1}'):
        assert served.reply(body).status == 400, body
    for question, reply in (
        (3, 1),
        (-1, 1),
        (0, 2),
        (0, -1),
        (0, True),
        ("0", 1),
        (0, "True"),
        (0, []),
    ):
        body = json.dumps({"question": question, "reply": reply}).encode()
        response = served.reply(body)
        assert response.status == 400, body
        assert "to do:" in json.loads(response.text)["error"]
    assert served.request("POST", f"/{served.server.token}/state", b"{}").status == 404
    assert served.request("GET", f"/{served.server.token}/report.html").status == 404
    assert served.request("GET", f"/{served.server.token}/../setup.cfg").status == 404
    assert served.request("PUT", f"/{served.server.token}/reply", b"{}").status == 501
    assert kept(tmp_path) == [(None, False)] * 3


def test_nothing_is_kept_and_nothing_comes_from_outside(served):
    token = served.server.token
    for place in (f"/{token}/", f"/{token}/state", "/"):
        headers = served.request("GET", place).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["Server"].strip() == "icmjax"
    page = served.request("GET", f"/{token}/").text
    assert "<script>window" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_replies_after_the_last_one_are_refused(served):
    for number in range(3):
        assert served.reply(json.dumps({"question": number, "reply": 0}).encode()).status == 200
    response = served.reply()
    assert response.status == 400
    assert "before the search" in response.text


def test_a_second_round_keeps_the_first(tmp_path):
    path = tmp_path / "questions.jsonl"
    interview, claims = make_interview(tmp_path)
    interview.reply(0, 1)
    interview.reply(1, "unsure")
    interview.reply(2, "skip")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"note": "mine"}) + "\n" for row in rows))
    again, _ = make_interview(tmp_path, budget=2)
    # The one that was skipped is asked first, then the one that nobody asked about.
    assert again.asked.questions[0].claim.id == rows[2]["id"]
    assert again.asked.questions[1].claim.id not in {row["id"] for row in rows}
    again.reply(1, 0)
    assert kept(tmp_path) == [("True", False), (None, True), (None, False), ("False", False)]
    lines = path.read_text().splitlines()
    assert [json.loads(line).get("note") for line in lines] == ["mine"] * 3 + [None]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    answers = read_answers(str(path), claims)
    assert sorted(answers.tolist()) == [-1, -1, 0, 1]  # what nobody knew is free


def test_a_reply_that_cannot_be_saved_does_not_count(served, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.unlink()
    path.mkdir()
    response = served.reply()
    assert response.status == 400
    assert "a directory" in response.text
    assert served.interview.replies == [None] * 3
    path.rmdir()
    assert served.reply(b'{"question": 1, "reply": "skip"}').status == 200
    assert kept(tmp_path) == [(None, False)] * 3  # nor does it come back later


def write_label(folder, number, label):
    """As a person does who edits the file while the page is open."""
    path = folder / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= {"label": label, "note": "mine"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_label_that_is_written_while_the_page_is_open_stays(tmp_path):
    interview, _ = make_interview(tmp_path)
    write_label(tmp_path, 0, "True")
    interview.reply(1, 0)
    assert [label for label, _ in kept(tmp_path)] == ["True", "False", None]
    assert "mine" in (tmp_path / "questions.jsonl").read_text()
    write_label(tmp_path, 2, "False")
    interview.reply(2, "skip")
    assert [label for label, _ in kept(tmp_path)] == ["True", "False", "False"]


def test_two_labels_of_one_claim_are_both_said(tmp_path):
    interview, _ = make_interview(tmp_path)
    interview.reply(0, 1)
    write_label(tmp_path, 0, "False")
    with pytest.raises(InputError, match="True, and False that somebody wrote meanwhile"):
        interview.reply(0, 1)
    interview.reply(0, 0)  # as the file does
    interview.reply(0, 1)  # which is this person's own change
    assert kept(tmp_path)[0] == ("True", False)


def test_labels_in_the_file_are_searched_with(tmp_path):
    interview, _ = make_interview(tmp_path)
    write_label(tmp_path, 0, "True")
    for number in range(3):
        interview.reply(number, "skip")
    assert interview.wait()


def test_two_that_add_questions_lose_none(tmp_path):
    path = tmp_path / "questions.jsonl"
    _, claims = make_interview(tmp_path, budget=1)
    one, other = Questionnaire(path, claims), Questionnaire(path, claims)
    questions = ask(None, claims, 3, "random", without=one.open).questions
    for file, first in ((one, 0), (other, 1)):
        file.add(questions[first : first + 2])
        file.write()
    one.give(questions[0].claim_index, 1)
    one.write()
    assert [label for label, _ in kept(tmp_path)] == [None, "True", None, None]


def test_a_file_that_is_taken_away_is_written_anew(tmp_path):
    interview, _ = make_interview(tmp_path)
    interview.reply(0, 1)
    (tmp_path / "questions.jsonl").unlink()
    interview.reply(1, 0)
    assert [label for label, _ in kept(tmp_path)] == ["True", "False", None]


@pytest.mark.parametrize(
    ("options", "order", "keys"),
    [
        (("False", "True"), [1, 0], {"1": 1, "2": 0, "t": 1, "f": 0}),
        (("Agree", "Unsure", "Against"), [0, 1, 2], {"1": 0, "2": 1, "3": 2}),
        (("0", "1", "10"), [0, 1, 2], {"0": 0, "1": 1, "10": 2}),
        (("A", "B", "S"), [0, 1, 2], {"1": 0, "2": 1, "3": 2, "a": 0, "b": 1, "s": 2}),
        (("a", "A", "Tea", "t"), [0, 1, 2, 3], {"1": 0, "2": 1, "3": 2, "4": 3, "t": 3}),
    ],
)
def test_what_is_typed_for_an_option(tmp_path, options, order, keys):
    interview, _ = make_interview(tmp_path, options=options)
    assert interview.order == order
    assert interview.keys == keys
