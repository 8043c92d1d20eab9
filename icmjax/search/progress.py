"""How far a search is, told at least every five seconds, also while one step runs."""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

INTERVAL = 5.0  # seconds, between two lines
REFRESH = 1.0  # seconds, between two looks of a bar on a terminal

logger = logging.getLogger("icmjax")


class Progress:
    """Steps taken, U, tokens per second and time left: a bar on a terminal, lines elsewhere.

    A rate is of this session after its first block, in which programs are compiled. The lines go
    to the logger `icmjax` too, at the level INFO.

    Args:
      num_steps: that the search is expected to take.
      num_taken: steps of earlier sessions.
      num_tokens: tokens of earlier sessions.
      expected_tokens: of the whole search; None where that is not known, and then the time that is
        left is told by steps.
      is_shown: on stderr.
    """

    def __init__(
        self,
        num_steps: int,
        num_taken: int,
        num_tokens: int,
        expected_tokens: int | None,
        is_shown: bool,
        file: TextIO | None = None,
    ) -> None:
        self.num_steps, self.num_taken, self.num_tokens = num_steps, num_taken, num_tokens
        self.expected_tokens, self.is_shown = expected_tokens, is_shown
        self.file = sys.stderr if file is None else file
        self.said: Mapping[str, str] = {}
        self.started = time.perf_counter()
        self.compiled: tuple[float, int, int] | None = None  # when, and steps and tokens by then
        self._is_over, self._told = threading.Event(), 0.0
        self._lock = threading.Lock()
        self._bar: Any = None
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        """Start to tell."""
        if self.is_shown and self.file.isatty():
            self._bar = tqdm(
                total=self.num_steps,
                initial=self.num_taken,
                desc="search",
                file=self.file,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| step {n_fmt} of {total_fmt}{postfix}",
            )
        self._ticker.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Tell where it ended, and keep still."""
        self._is_over.set()
        self._ticker.join()
        if self.compiled is not None:
            self._show()
        if self._bar is not None:
            self._bar.close()

    def update(self, num_taken: int, num_tokens: int, said: Mapping[str, str]) -> None:
        """A block is done.

        Args:
          num_taken: steps of the whole search so far.
          num_tokens: tokens of the whole search so far.
          said: what the last block says of the search, by name.
        """
        now = time.perf_counter()
        with self._lock:
            self.num_taken, self.num_tokens, self.said = num_taken, num_tokens, said
            self.num_steps = max(self.num_steps, num_taken)
            if self.compiled is None:
                self.compiled = now, num_taken, num_tokens
        if self._bar is not None or now - self._told >= INTERVAL:
            self._show()

    def line(self) -> str:
        """All that is told, but for the steps: time, and what the last block said."""
        now = time.perf_counter()
        words = [f"{name} {value}" for name, value in self.said.items()]
        if self.compiled is None:
            return ", ".join([*words, "first step, with compilation", _time(now - self.started)])
        since, first_step, first_token = self.compiled
        seconds = now - since
        tokens, steps = self.num_tokens - first_token, self.num_taken - first_step
        if tokens > 0:
            words.append(f"{tokens / seconds:,.0f} tokens/s")
        words.append(_time(now - self.started))
        if self.num_taken >= self.num_steps:
            return ", ".join(words)
        if self.expected_tokens is not None and tokens > 0:
            left = (self.expected_tokens - self.num_tokens) / tokens
        elif steps > 0:
            left = (self.num_steps - self.num_taken) / steps
        else:
            return ", ".join(words)
        return ", ".join([*words, f"about {_time(max(left, 0) * seconds)} left"])

    def _tick(self) -> None:
        while not self._is_over.wait(REFRESH if self._bar is not None else INTERVAL):
            self._show()

    def _show(self) -> None:
        with self._lock:
            line, now = self.line(), time.perf_counter()
            if self._bar is not None:
                self._bar.n, self._bar.total = self.num_taken, self.num_steps
                self._bar.set_postfix_str(line, refresh=True)
            if now - self._told < INTERVAL and not self._is_over.is_set():
                return
            self._told = now
            text = f"search: step {self.num_taken} of {self.num_steps}, {line}"
            if self.is_shown and self._bar is None:
                print(text, file=self.file, flush=True)
            logger.info("%s", text)


def _time(seconds: float) -> str:
    """Seconds for people: 75 → "1:15 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
