"""What the hosts of a search agree on between its blocks; a host alone sends nothing.

Hosts are the processes of `jax.distributed`. Their programs may wait for one another, so that all
go on from one step, take blocks of one length, and end at one border.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from icmjax.search.base import RunStore

SERVICE = "jax_enable_preemption_service"

# JAX's preemption service names the border at which all hosts stop by its number, one more than the
# last that any host has asked about: a count that began anew with each search might pass it by.
_borders = itertools.count(1)


def least(number: int) -> int:
    """The least of the numbers that the hosts have."""
    if jax.process_count() == 1:
        return number
    return int(np.min(multihost_utils.process_allgather(np.int32(number))))


def listens_for_preemption() -> bool:
    """Whether JAX itself takes SIGTERM, as it does by default once hosts are connected."""
    return jax.distributed.is_initialized() and bool(getattr(jax.config, SERVICE))


def is_asked_to_stop(stop_fn: Callable[[], bool] | None) -> bool:
    """Whether the search ends at this border: all hosts do where one of them was asked to."""
    is_asked = stop_fn is not None and stop_fn()
    if listens_for_preemption():
        is_asked |= multihost_utils.reached_preemption_sync_point(next(_borders))
    return least(int(not is_asked)) == 0


def restore(run: RunStore, like: Any) -> tuple[Any, list[dict[str, np.ndarray]], Any] | None:
    """What `run` restores of the last state that all hosts have; None where one of them has none.

    A host saves before it waits for the others, so that they are one state apart at most: of the
    two that each keeps one is on all.
    """
    restored = run.restore(like)
    while True:
        num_steps = 0 if restored is None else int(np.max(restored[0].num_steps))
        earliest = least(num_steps)
        if least(-num_steps) == -earliest:
            return restored
        restored = run.restore(like, earliest)
