"""Searches of several units at once, as one device program, for experiments written one by one.

Units run in threads that take turns, so that what a unit does is as ordered as it is alone. A unit
that comes to a search waits there. When all that are left wait, their searches run: those of one
shape and algorithm together, the others alone.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from icmjax.claims import PairRules
from icmjax.errors import InputError
from icmjax.search import (
    Algorithm,
    Scorer,
    SearchResult,
    have_one_shape,
    run_search,
    search_together,
    start,
)

_local = threading.local()


class _Request:
    """A search that a unit waits for."""

    def __init__(self, *arguments: Any) -> None:
        self.scorer, self.rules, self.algorithm, self.rng_key, self.clamped = arguments
        # Clamped claims may change the shapes; and what is at fault is raised in its own unit.
        self.state = start(*arguments)[1]
        self.result: SearchResult | None = None
        self.error: InputError | None = None

    def goes_with(self, other: "_Request") -> bool:
        """Whether the two can be one program."""
        return self.algorithm == other.algorithm and have_one_shape(
            [(each.scorer, each.rules, each.state) for each in (self, other)]
        )


def search(
    scorer: Scorer,
    rules: PairRules,
    algorithm: Algorithm,
    rng_key: jax.Array,
    clamped: np.ndarray | None = None,
) -> SearchResult:
    """As `icmjax.run_search`; inside of `run_together`, with the searches of the other units."""
    gathering = getattr(_local, "gathering", None)
    if gathering is None:
        return run_search(scorer, rules, algorithm, rng_key, clamped=clamped, progress=False)
    return gathering.wait_for(_Request(scorer, rules, algorithm, rng_key, clamped))


def run_together(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the functions return, their searches done together; the first error of one is raised."""
    if len(functions) == 1:
        return [functions[0]()]
    return _Gathering(functions).run()


class _Gathering:
    """Threads of which one runs at a time, and their searches."""

    def __init__(self, functions: Sequence[Callable[[], Any]]) -> None:
        self.functions = functions
        self.results: list[Any] = [None] * len(functions)
        self.errors: list[BaseException | None] = [None] * len(functions)
        self.requests: list[_Request | None] = [None] * len(functions)
        self.turns = [threading.Semaphore(0) for _ in functions]
        self.is_back = threading.Semaphore(0)

    def run(self) -> list[Any]:
        threads = [
            threading.Thread(target=self._run_one, args=(index,), daemon=True)
            for index in range(len(self.functions))
        ]
        for thread in threads:
            thread.start()
        running = list(range(len(threads)))
        while running:
            for index in running:
                self.turns[index].release()
                self.is_back.acquire()
            running = [index for index in running if self.requests[index] is not None]
            self._search_all([self.requests[index] for index in running])
        for error in self.errors:
            if error is not None:
                raise error
        return self.results

    def _run_one(self, index: int) -> None:
        _local.gathering, _local.index = self, index
        self.turns[index].acquire()
        try:
            self.results[index] = self.functions[index]()
        except BaseException as error:  # raised again by `run`, in the thread that called it
            self.errors[index] = error
        self.requests[index] = None
        self.is_back.release()

    def wait_for(self, request: _Request) -> SearchResult:
        self.requests[_local.index] = request
        self.is_back.release()
        self.turns[_local.index].acquire()
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    @staticmethod
    def _search_all(requests: Sequence[_Request | None]) -> None:
        groups: list[list[_Request]] = []
        for request in requests:
            assert request is not None
            fitting = next((group for group in groups if group[0].goes_with(request)), None)
            groups.append([request]) if fitting is None else fitting.append(request)
        for group in groups:
            first = group[0]
            try:
                found = (
                    [
                        run_search(
                            first.scorer,
                            first.rules,
                            first.algorithm,
                            first.rng_key,
                            clamped=first.clamped,
                            progress=False,
                        )
                    ]
                    if len(group) == 1
                    else search_together(
                        [each.scorer for each in group],
                        [each.rules for each in group],
                        [each.algorithm for each in group],
                        [each.rng_key for each in group],
                        clamped=[each.clamped for each in group],
                    )
                )
            except InputError as error:
                for each in group:
                    each.error = error
            else:
                for each, result in zip(group, found, strict=True):
                    each.result = result
