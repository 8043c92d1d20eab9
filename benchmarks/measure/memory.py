"""Peak memory: what the compiler plans, and what the process or the device reports."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The most bytes above what was in use at the start; None where nothing reports it."""

    num_bytes: int | None = None


@contextlib.contextmanager
def watch_peak() -> Iterator[Peak]:
    """Measure the peak while the block runs: the device's own count, or the resident set."""
    peak, device = Peak(), jax.devices()[0]
    statistics = device.memory_stats()
    if statistics:
        yield peak
        peak.num_bytes = device.memory_stats()["peak_bytes_in_use"] - statistics["bytes_in_use"]
    elif os.access(CLEAR, os.W_OK):
        CLEAR.write_text("5")  # sets the peak of the resident set to its present size
        before = _resident("VmRSS")
        yield peak
        peak.num_bytes = _resident("VmHWM") - before
    else:
        yield peak


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
