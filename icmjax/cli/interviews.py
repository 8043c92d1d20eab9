"""Questions asked on a page or in the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.spelling import as_options
from icmjax.errors import InputError, printable

if TYPE_CHECKING:
    from icmjax.feedback import Interview

# Commands as they are explained where an option has their name.
MEANINGS = {"unsure": "nobody knows", "skip": "not now", "back": "the one before"}
NOTHING = "no question has an answer: there is nothing to search with"


def ask_on_page(
    interview: Interview,
    search_fn: Callable[[], None],
    let_go_fn: Callable[[], None],
    opens_browser: bool,
) -> None:
    """Serve the page until the person ends it there; the search runs in this thread.

    Args:
      search_fn: searches with the answers, and tells the interview.
      let_go_fn: called after the search, so that others may ask while somebody reads the page.
      opens_browser: whether a browser is opened, where there is one to see.
    """
    with icmjax.feedback.serve_page(interview) as server, contextlib.ExitStack() as opened:
        num = len(interview.replies)
        click.echo(f"answer {num} question{'s' if num > 1 else ''} at\n  {server.url}")
        click.echo("Every answer is saved at once. Ctrl-C ends it, and loses none.")
        if opens_browser and has_screen():
            leading = icmjax.feedback.leading_file(server.url, interview.folder)
            webbrowser.open(opened.enter_context(leading))
        is_refused = False
        if not interview.wait():
            click.echo(NOTHING)
        else:
            try:
                search_fn()
            except InputError as error:
                is_refused = True
                message = str(as_options(error))
                interview.tell("failed", message=message)
                click.echo(f"error: {message}", err=True)
        with contextlib.suppress(KeyboardInterrupt):  # all is done, and saved
            let_go_fn()
            click.echo("The page says what came of it, until it is ended there or by Ctrl-C here.")
            interview.wait_for_close()
    if is_refused:
        sys.exit(2)


def has_screen() -> bool:
    """Whether somebody sees a browser that is opened: a console's would take the terminal."""
    is_watched = sys.stdout.isatty()
    is_graphical = sys.platform == "darwin" or "DISPLAY" in os.environ
    return is_watched and (is_graphical or "WAYLAND_DISPLAY" in os.environ)


def ask_in_terminal(interview: Interview, search_fn: Callable[[], None]) -> None:
    """Ask by prompts, search, and print what changed.

    Raises:
      KeyboardInterrupt: Ctrl-C, or the input ends before the last answer.
    """
    click.echo(interview.asked.about)
    number = 0
    while None in interview.replies:
        given = _prompt(interview, number)
        if given is None:
            number = max(number - 1, 0)
            continue
        try:
            interview.reply(number, given)
        except InputError as error:  # the file holds another answer: as on the page, once more
            click.echo(f"error: {error}", err=True)
            continue
        said = interview.asked.questions[number].said
        if said and given != "skip":  # what is skipped may be asked again
            click.echo(printable(said, keep=""))
        is_last = number + 1 == len(interview.replies)
        open_ones = [place for place, reply in enumerate(interview.replies) if reply is None]
        number = min(open_ones, default=0) if is_last else number + 1
    if not interview.wait():
        click.echo(NOTHING)
        return
    search_fn()
    for line in lines_of(interview.state()["changes"]):
        click.echo(printable(line, keep=""))


def _prompt(interview: Interview, number: int) -> Any:
    """A reply to one question, asked for until it is one; None to go back."""
    question, replies = interview.asked.questions[number], interview.replies
    claim, options = question.claim, interview.options
    persona = f", {claim.persona}" if claim.persona else ""
    texts = [f"\n{number + 1} of {len(replies)}{persona}", claim.question, claim.choice]
    texts += [] if claim.choice_2 is None else ["rather than", claim.choice_2]
    for text in [*texts, f"({question.why} {question.measure}".rstrip() + ")"]:
        if text.strip():
            click.echo(printable(text))
    shown = []
    for option in interview.order:
        keys = [key for key, other in interview.keys.items() if other == option]
        name = options[option]
        shown.append(" or ".join([*(key for key in keys if key != name.strip().lower()), name]))
    for command, meaning in MEANINGS.items():
        typed = [text for text, other in interview.commands.items() if other == command]
        shown.append(" ".join(typed if command in typed else [*typed, meaning]))
    choices = printable(", ".join(shown), keep="")
    while True:
        try:
            meant = interview.meant(click.prompt(choices, prompt_suffix=": "))
        except click.Abort:
            raise KeyboardInterrupt from None
        if meant is not None:
            return None if meant == "back" else meant
        click.echo("no such answer")


def lines_of(changes: Mapping[str, Any]) -> list[str]:
    """What a search with answers changed, in lines."""
    num_all, turned = changes["num_claims"], changes["turned"]
    lines = [f"{len(turned)} of {num_all} labels turned; {changes['num_given']} are held fast"]
    for change in turned:
        by = "by the answers" if change["is_given"] else "by the search"
        lines.append(f"  {change['before']} -> {change['after']}, {by}: {change['claim']}")
    for share in changes["shares"]:
        before, after = (share[name] / num_all for name in ("before", "after"))
        lines.append(f"{share['option']}: {before:.0%} of the labels before, {after:.0%} now")
    accuracy = changes["accuracy"]
    if accuracy is not None:
        before, after = (f"{accuracy[name]:.0%}" for name in ("before", "after"))
        lines.append(
            f"right: {before} before, {after} now, of the {accuracy['num_claims']} labels that the "
            "search was free to choose"
        )
    return lines
