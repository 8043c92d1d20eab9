"""SIGTERM while a command searches: the block ends, and the next session goes on from there."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import icmjax

PREEMPTED = 143  # as shells count it: 128 and the number of the signal


@contextlib.contextmanager
def notices_sigterm() -> Iterator[Callable[[], bool]]:
    """Hands over a function that says whether SIGTERM has come; a second one ends the process.

    Where JAX takes the signal, to tell all hosts of it, it is left to JAX, which the search asks.
    """
    has_come = False

    def notice(number: int, frame: Any) -> None:
        nonlocal has_come
        has_come = True
        # Whenever a process dies, what its run holds is whole.
        signal.signal(number, signal.SIG_DFL)

    if icmjax.search.listens_for_preemption():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield lambda: has_come
    finally:
        # None is a handler that Python did not install, and cannot bring back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
