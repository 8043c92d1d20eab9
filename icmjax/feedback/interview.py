"""One round of questions to a person: what is asked and answered, and what becomes of it."""

import pathlib
import threading
from typing import Any, Literal

from icmjax.claims import BINARY_OPTIONS
from icmjax.errors import Fault, InputError
from icmjax.feedback.asking import Questions
from icmjax.feedback.questionnaire import Questionnaire

Phase = Literal["asking", "searching", "done", "nothing", "failed"]
Reply = int | Literal["unsure", "skip"]  # an option, or none
COMMANDS = ("back", "unsure", "skip")  # typed by their first letters too


class Interview:
    """Questions, the replies so far, and the search after them; for several threads.

    A page or a terminal replies. Whoever asks waits for the last reply, searches, and tells.
    """

    def __init__(self, name: str, asked: Questions, file: Questionnaire):
        """Begin a round; the file has all of its questions.

        Args:
          name: of the run, for people.
        """
        self.name, self.asked, self._file = name, asked, file
        self.replies: list[Reply | None] = [None] * len(asked.questions)
        self._phase: Phase = "asking"
        self._told: dict[str, Any] = {}
        self.report: pathlib.Path | None = None  # the page of the new run
        self._lock = threading.Lock()
        self._is_through, self._is_closed = threading.Event(), threading.Event()

    @property
    def folder(self) -> pathlib.Path:
        """Where the file of the questions is."""
        return self._file.path.parent

    @property
    def options(self) -> tuple[str, ...]:
        """What can be answered."""
        return self._file.claims.options

    @property
    def order(self) -> list[int]:
        """The options as they are shown: True before False, others as they are."""
        numbers = list(range(len(self.options)))
        return numbers[::-1] if self.options == BINARY_OPTIONS else numbers

    @property
    def keys(self) -> dict[str, int]:
        """The options by what is typed for them: a number, or a letter that is theirs alone.

        The number is the place, unless options are numbers themselves. A letter is all of a name,
        or its first one, which gives way to such a name and to commands.
        """
        if any(name.isdecimal() for name in self._names):
            return self._names
        keys = {str(place): option for place, option in enumerate(self.order, start=1)}
        keys |= {name: option for name, option in self._names.items() if len(name) == 1}
        first = [option.strip().lower()[:1] for option in self.options]
        taken = {*keys, *(command[0] for command in COMMANDS)}
        for option, letter in enumerate(first):
            if letter.isalpha() and letter not in taken and first.count(letter) == 1:
                keys[letter] = option
        return keys

    @property
    def _names(self) -> dict[str, int]:
        """The options by name, in small letters; not those that differ by their case alone."""
        names = [option.strip().lower() for option in self.options]
        return {name: option for option, name in enumerate(names) if names.count(name) == 1}

    @property
    def commands(self) -> dict[str, str]:
        """Commands by what is typed for them: the letter and the word that no option is called."""
        taken = {*self.keys, *(option.strip().lower() for option in self.options)}
        typed: dict[str, str] = {}
        for command in COMMANDS:
            free = [text for text in (command[0], command) if text not in taken]
            typed |= dict.fromkeys(free or [f"/{command}"], command)
        return typed

    def meant(self, text: str) -> int | str | None:
        """What somebody means who types a text: an option, a command, or nothing."""
        exact = {name.strip(): option for option, name in enumerate(self.options)}
        if text.strip() in exact:
            return exact[text.strip()]
        known: dict[str, int | str] = {**self.commands, **self.keys, **self._names}
        return known.get(text.strip().lower())

    @property
    def num_labels(self) -> int:
        """How many questions of this round have a label, whoever wrote it into the file."""
        asked = {question.claim_index for question in self.asked.questions}
        return len(asked.intersection(self._file.answered))

    def reply(self, number: Any, reply: Any) -> None:
        """Keep the reply to a question in the file; the last one ends the round.

        Args:
          number: of the question, from 0.
          reply: the index of an option; "unsure", after which nobody asks again; or "skip".

        Raises:
          InputError: there is no such question or option, or the round is over.
          ClaimsError: somebody wrote another label into the file meanwhile; the reply does not
            count.
          RunError: the file cannot be written; the reply does not count.
        """
        is_option = type(reply) is int and 0 <= reply < len(self.options)
        faults = []
        if type(number) is not int or not 0 <= number < len(self.replies):
            rule, remedy = "A reply is to a question of the round.", "reload the page"
            faults.append(Fault(rule, repr(number), "question", remedy))
        if not is_option and reply not in ("unsure", "skip"):
            rule, remedy = "A reply is an option, unsure or skip.", "reload the page"
            faults.append(Fault(rule, repr(reply), "reply", remedy))
        if faults:
            raise InputError(faults)
        with self._lock:
            if self._phase != "asking":
                rule, remedy = "Replies come before the search.", "ask again, of the new run"
                raise InputError(Fault(rule, self._phase, "reply", remedy))
            label = reply if isinstance(reply, int) else None
            self._file.give(self.asked.questions[number].claim_index, label, reply == "unsure")
            self._file.write()
            self.replies[number] = reply
            if None not in self.replies:
                self._phase = "searching" if self.num_labels else "nothing"
                self._is_through.set()

    def tell(self, phase: Phase, **told: Any) -> None:
        """Say where the search is: `num_steps` of `num_all`, a `message`, or `changes`."""
        with self._lock:
            self._phase, self._told = phase, told

    def state(self) -> dict[str, Any]:
        """All that a page shows, as JSON."""
        with self._lock:
            return {
                "name": self.name,
                "options": list(self.options),
                "order": self.order,
                "keys": self.keys,
                "commands": self.commands,
                "about": self.asked.about,
                "questions": [
                    {
                        "persona": question.claim.persona,
                        "question": question.claim.question,
                        "choice": question.claim.choice,
                        "choice_2": question.claim.choice_2,
                        "why": question.why,
                        "measure": question.measure,
                        "said": question.said,
                        "reply": reply,
                    }
                    for question, reply in zip(self.asked.questions, self.replies, strict=True)
                ],
                "phase": self._phase,
                "has_report": self.report is not None,
                **self._told,
            }

    def wait(self) -> bool:
        """Wait for the last reply; whether there is anything to search with."""
        self._is_through.wait()
        return self._phase != "nothing"

    def close(self) -> None:
        """Let go of whoever waits for the person to have read what became of it."""
        self._is_closed.set()

    def wait_for_close(self) -> None:
        """Wait until the person has read what became of it."""
        self._is_closed.wait()
