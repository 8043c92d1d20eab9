"""Messages of faults: four lines each, without characters that steer a terminal."""

import copy
import pickle

import click
import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import icmjax
from icmjax.cli.spelling import as_options
from icmjax.errors import ClaimsError, Fault, InputError, printable

ESCAPES = ["\x1b[31m", "\x9b2J", "\x07", "\r", "\x00", "\x7f", "\u202e", "\ud800"]


@pytest.mark.parametrize("escape", ESCAPES)
def test_escapes_are_spelt_out(escape):
    assert printable(f"a{escape}b") == f"a{escape}b".encode("unicode_escape").decode()


def test_other_text_stays_as_it_is():
    text = "ünïcödé 日本 👩‍👩‍👧 \\ 'quotes' \"both\"\tand\nlines"
    assert printable(text) == text
    assert printable("a\tb\nc", keep="") == "a\\tb\\nc"


anything = st.text(st.characters() | st.sampled_from("\x1b\x9b\x85\r\n\u2028\u202e\ud800"))


@given(anything, anything, anything, anything)
def test_a_fault_has_four_lines_that_any_terminal_can_show(rule, found, where, remedy):
    message = str(Fault(rule, found, where, remedy))
    assert len(message.splitlines()) == 4
    message.encode()
    assert not set("\x1b\x9b\r\u202e") & set(message)


def test_faults_of_one_cause_are_shown_together_and_other_causes_each():
    many = [Fault("Texts are texts.", f"int {n}", f"a.csv:{n}", "mend it") for n in range(20)]
    error = InputError([*many[:10], Fault("Ids are distinct.", "'7'", "b", "rename"), *many[10:]])
    assert str(error).split("\n") == [
        "expected: Texts are texts.",
        *(line for n in range(3) for line in (f"  found: int {n}", f"  where: a.csv:{n}")),
        "  and 17 more",
        "  to do: mend it",
        *("expected: Ids are distinct.", "  found: '7'", "  where: b", "  to do: rename"),
    ]
    assert len(error.faults) == 21


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=1, max_size=80))
def test_every_fault_is_shown_or_counted(drawn):
    faults = [Fault(f"Rule {rule}.", "x", "y", f"remedy {remedy}") for rule, remedy in drawn]
    lines = str(InputError(faults)).split("\n")
    num_shown = sum(line.startswith("  found: ") for line in lines)
    counted = [int(line.split()[2]) for line in lines if line.startswith("... and ")]
    counted += [int(line.split()[1]) for line in lines if line.startswith("  and ")]
    assert num_shown + sum(counted) == len(faults)
    assert sum(line.startswith("expected: Rule") for line in lines) == min(20, len(set(drawn)))


@pytest.mark.parametrize(
    ("in_python", "as_option"),
    [
        ('or rule="none" to go without', "or --rule none to go without"),
        ("leave `batch_size` out", "leave --batch-size out"),
        ("fewer claims (limit=8 fits)", "fewer claims (--limit 8 fits)"),
        ("complete it with resume=True", "complete it with --resume"),
        ('options=("No", "Yes")', "--options No,Yes"),
        ('columns={"claim": "my text"}', "--columns 'claim=my text'"),
        (r'columns={"claim": "a, \"b\" {c}"}', """--columns '"claim=a, ""b"" {c}"'"""),
        ("each by itself (`load_personas`)", "each by itself (--personas all)"),
        ("`num_replicas` must be even", "--replicas must be even"),
        ("complete it with resume=True.", "complete it with --resume."),
        ("by `icmjax answer options=a.csv --resume`", "by `icmjax answer options=a.csv --resume`"),
        # What a user's own files hold is no argument.
        (r'the file has columns={"a": "\q"}', r'the file has columns={"a": "\q"}'),
        ("see what data/persona=Peru/ holds", "see what data/persona=Peru/ holds"),
        ("set `label` in mine.csv, query=4,model=2", "set `label` in mine.csv, query=4,model=2"),
    ],
)
def test_a_command_spells_arguments_as_options(in_python, as_option):
    given = ClaimsError([Fault(in_python, 'a claim: rule="none"', "a.csv:limit", in_python)])
    told = as_options(given)
    assert type(told) is ClaimsError
    assert told.faults == (Fault(as_option, 'a claim: rule="none"', "a.csv:limit", as_option),)


def test_an_argument_that_is_a_place_is_an_option_there():
    said = {
        "ParallelTempering(num_replicas=...)": "--replicas",
        "batch_size = 9": "--batch-size 9",
        'form="arviz"': "--format arviz",
        "clamped, claim 3": "--clamp, claim 3",
        "persona-world:GROUP:SEED": "persona-world:GROUP:SEED",
    }
    error = InputError([Fault("r", "x", where, "d") for where in said])
    assert [fault.where for fault in as_options(error).faults] == list(said.values())


@pytest.mark.parametrize("place", ["template", "budget: line 3", "persona=Peru/rule=a.csv:3"])
def test_a_file_that_is_called_as_an_argument_stays_a_file(place):
    context = click.Context(click.Command("check"))
    context.params = {"source": place.partition(":")[0] + "/"}
    with context:
        (fault,) = as_options(InputError(Fault("r", 'rule="none"', place, "d"))).faults
    assert fault == Fault("r", 'rule="none"', place, "d")


def test_errors_travel_between_processes():
    error = ClaimsError([Fault("r", "f", "w", "d"), Fault("R", "F", "W", "D")])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.faults, str(again)) == (type(error), error.faults, str(error))
    assert copy.copy(error).faults == error.faults


LM = object.__new__(icmjax.LanguageModel)  # of which nothing is read
CLAIMS = icmjax.claims_from_rows([{"claim": "Rice helps"}, {"claim": "Tea helps"}])


def search(rules, algorithm):
    return icmjax.run_search(None, rules, algorithm, jax.random.key(0))


KINDS = {
    "columns": (lambda: icmjax.load_claims("a.csv", columns="choice=opinion"), '{"choice":'),
    "gold": (lambda: icmjax.load_gold("a.csv", columns="choice=opinion"), '{"choice":'),
    "a model's name": (lambda: icmjax.make_scorer("persona-world", CLAIMS), "icmjax.load_lm("),
    "a file": (lambda: icmjax.make_scorer(LM, "own.txt"), "icmjax.load_claims("),
    "a file, of a part": (lambda: icmjax.make_subset_scorer(LM, "a.txt", 1), "icmjax.load_claims("),
    "claims": (lambda: search(CLAIMS, icmjax.Marginals()), "give claims.rules"),
    "a class": (lambda: search(CLAIMS.rules, icmjax.Gibbs), "give icmjax.Gibbs()"),
    "a name": (lambda: search(CLAIMS.rules, "marginals"), "give icmjax.Marginals()"),
    "a name, of several": (
        lambda: icmjax.search_together([None], [CLAIMS.rules], "icm", [jax.random.key(0)]),
        "give icmjax.Marginals()",
    ),
    "no field": (lambda: icmjax.Marginals(iterations=4), "did you mean num_iterations?"),
    "no field, of a part": (lambda: icmjax.ParallelTempering(temperature=1.0), "choose of"),
}


@pytest.mark.parametrize("case", KINDS)
def test_arguments_of_another_kind_are_told_what_to_give(case):
    call, remedy = KINDS[case]
    with pytest.raises(InputError) as caught:
        call()
    (fault,) = caught.value.faults
    assert remedy in fault.remedy
