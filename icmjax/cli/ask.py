"""`icmjax ask`: ask a human about the claims that matter most, and search with the answers."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.answer import (
    QUESTIONS,
    changes_of,
    default_target,
    questions_beside,
    search_with_answers,
)
from icmjax.cli.commands import INTERRUPTED
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, recorded_options
from icmjax.cli.interviews import ask_in_terminal, ask_on_page
from icmjax.cli.labelling import Place, algorithm_of
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import SELECTORS, ModelOptions, ScorerOptions, recorded
from icmjax.cli.output import say
from icmjax.cli.preemption import PREEMPTED
from icmjax.cli.program import NAME, as_called
from icmjax.cli.search import says_how_to_go_on
from icmjax.errors import Fault, InputError, printable

if TYPE_CHECKING:
    from icmjax import LanguageModel
    from icmjax.feedback import Interview, Questionnaire, Questions
    from icmjax.runs import RunRecord


class Round:
    """A round of questions about the claims of a run."""

    def __init__(self, folder: str, machine: Machine):
        self.folder, self.machine = folder, machine
        self.run: RunRecord = icmjax.read_run(folder)

    @functools.cached_property
    def lm(self) -> LanguageModel:
        """The run's model, read when it is first needed, and kept for the search."""
        options = recorded_options(self.run, self.folder)
        return recorded(ModelOptions, options).load(self.machine.mesh)

    def choose(
        self,
        budget: int,
        selector: str | None,
        seed: int,
        first: Sequence[int],
        without: Sequence[int],
        what_follows: str,
    ) -> Questions:
        """The claims to ask about, some of them first, without the groups of others.

        Args:
          what_follows: in words, for who waits until the model is read.
        """
        import jax

        claims = self.run.claims
        reads = None if selector is None else icmjax.feedback.READS[selector]
        scorer = algorithm = None
        if selector is None or reads in icmjax.feedback.NEEDS_MODEL:
            options = recorded_options(self.run, self.folder)
            model = recorded(ModelOptions, options)
            # A large model takes minutes, in which nothing else is said.
            say(f"loading {model.model}; {what_follows}")
            algorithm = algorithm_of(options)
            scoring = recorded(ScorerOptions, options)
            scorer = scoring.make(self.lm, claims, model.template, self.machine)
        return icmjax.ask(
            scorer,
            claims,
            budget,
            selector,
            found=self.run,
            algorithm=algorithm,
            clamped=clamped_labels(self.run),
            first=first,
            without=without,
            rng_key=jax.random.key(seed),
        )

    def search(self, interview: Interview, file: Questionnaire) -> None:
        """Search with the answers of a file held fast, and tell the interview what changed."""
        target = default_target(pathlib.Path(self.folder))
        words = ["answer", self.folder, "--labels", str(file.path), "--out", str(target)]

        def tell(num_steps: int, num_all: int) -> None:
            interview.tell("searching", num_steps=num_steps, num_all=num_all)

        place = Place(str(target), False, False, shlex.join([NAME, *words]), tell_fn=tell)
        with says_how_to_go_on(place) as stop_fn:
            answers = icmjax.feedback.read_answers(str(file.path), self.run.claims)
            new = search_with_answers(
                self.run,
                self.folder,
                answers,
                str(file.path),
                place,
                self.machine,
                stop_fn,
                vars(self).get("lm"),
            )
        self._tell_changes(interview, target, new)

    def _tell_changes(self, interview: Interview, target: pathlib.Path, new: RunRecord) -> None:
        page = icmjax.report(target)
        click.echo(printable(f"wrote {page}"))
        interview.report = page
        turned_by = icmjax.runs.turned_by(new.summary, new.claims, new.labels)
        warnings = [*new.summary["warnings"], *turned_by]
        interview.tell("done", changes=changes_of(self.run, new, self.folder), warnings=warnings)


@click.command("ask")
@click.argument("folder", type=click.Path())
@click.option("--budget", type=int, required=True, help="How many claims to ask about.")
@click.option(
    "--selector",
    type=click.Choice(SELECTORS),
    help="What makes a claim worth asking about. By default zero_shot_entropy: four such answers "
    "add +.035 [.018, .056] to held-out accuracy over four about random claims (p .005; rare and "
    "unseen groups of the bundled model). Where the model says one label of nearly all claims, and "
    "the search took that off, unbiased_entropy. On real models none has been shown to be better.",
)
@click.option("--seed", default=0, show_default=True, help="Of the selector random.")
@click.option("--terminal", is_flag=True, help="Ask in the terminal instead of on a page.")
@click.option("--no-browser", is_flag=True, help="Print the address of the page, open no browser.")
@click.option(
    "--out",
    type=click.Path(),
    help="Ask nothing: write the questions to this file, JSONL or CSV, for `icmjax answer`.",
)
@reports_faults
@machine_options
def command(
    folder: str,
    budget: int,
    selector: str | None,
    seed: int,
    terminal: bool,
    no_browser: bool,
    out: str | None,
    machine: Machine,
) -> None:
    """Ask a human about the claims of a run that matter most, then search with the answers.

    A page on this machine asks, one claim at a time. Its address is printed, and a browser is
    opened where there is one and the output is a terminal. Each answer is kept at once, in
    FOLDER/questions.jsonl. After the last one the search runs again with the answers held fast,
    into FOLDER/answered, and the page shows what changed.

    Answers of earlier rounds stay. Questions that are still open come first, and count. With --out
    neither what was answered in the folder nor what nobody knew is asked again.
    """
    if out is not None and (terminal or no_browser):
        rule, remedy = "Questions are written to a file or asked.", "leave one of the options out"
        found = "--terminal" if terminal else "--no-browser"
        raise InputError(Fault(rule, f"--out and {found}", "--out", remedy))
    this = Round(folder, machine)
    if out is not None:
        is_within = pathlib.Path(folder).resolve() in pathlib.Path(out).resolve().parents
        with icmjax.runs.lock(pathlib.Path(folder)) if is_within else contextlib.nullcontext():
            _write(this, budget, selector, seed, out)
        return
    recorded_options(this.run, folder)  # without which there is no search after the answers
    with contextlib.ExitStack() as held:
        held.enter_context(icmjax.runs.lock(pathlib.Path(folder)))
        file = icmjax.feedback.Questionnaire(pathlib.Path(folder) / QUESTIONS, this.run.claims)
        follows = "the questions follow" if terminal else "the page's address follows"
        asked = this.choose(budget, selector, seed, file.open, file.closed, follows)
        file.add(asked.questions)
        file.write()
        name = printable(pathlib.Path(folder).resolve().name, keep="")
        interview = icmjax.feedback.Interview(name, asked, file)
        search_fn = functools.partial(this.search, interview, file)
        with _says_what_is_saved(interview, file, folder):
            if terminal:
                ask_in_terminal(interview, search_fn)
            else:
                ask_on_page(interview, search_fn, held.close, opens_browser=not no_browser)


@contextlib.contextmanager
def _says_what_is_saved(interview: Interview, file: Questionnaire, folder: str) -> Iterator[None]:
    """Let Ctrl-C end the command with status 130, and a line that says what was saved."""
    try:
        yield
    except KeyboardInterrupt:
        num = sum(reply is not None for reply in interview.replies)
        kept = f"{num} of {len(interview.replies)} questions done, answers saved in {file.path}"
        again = as_called(sys.argv[1:])
        click.echo(
            printable(f"\ninterrupted; {kept}; open ones come first in\n  {again}"), err=True
        )
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, PREEMPTED):  # the search, which has said what it kept
            answer = as_called(["answer", folder, "--labels", str(file.path)])
            click.echo(printable(f"the answers are in {file.path}, for\n  {answer}"), err=True)
        raise


def _write(this: Round, budget: int, selector: str | None, seed: int, out: str) -> None:
    """Write the questions to a file; those that are there stay, answered or not."""
    file = icmjax.feedback.Questionnaire(out, this.run.claims)
    own = questions_beside(this.folder, out)
    known = [] if own is None else icmjax.feedback.Questionnaire(own, this.run.claims).closed
    closed = [*file.open, *file.closed, *known]
    asked = this.choose(budget, selector, seed, [], closed, "the questions follow")
    rows = file.add(asked.questions)
    file.write()
    num_kept, num_answered = len(file) - len(rows), len(file.answered)
    for row in rows:
        claim = printable(f"{row['question']} {row['choice']}".rstrip(), keep="")
        click.echo(f"{row['uncertainty']:.3f}  {claim}")
    if num_kept:
        click.echo(f"kept {num_kept} earlier questions, {num_answered} of them answered")
    if known:
        click.echo(printable(f"not asked again: {len(known)}, which {own} has replies to"))
    answer = as_called(["answer", this.folder, "--labels", out])
    click.echo(asked.about)
    click.echo(printable(f"wrote {out}: set the labels, then {answer}"))
