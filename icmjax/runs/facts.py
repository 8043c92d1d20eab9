"""What a page says of its run in words and numbers, before it shows any figure."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from icmjax.errors import printable
from icmjax.runs.curves import Found, calibration, has_readings, readings
from icmjax.runs.reading import RunRecord
from icmjax.statistics import calibration_error, share_interval

INTERNAL = "lm.config."  # what a scorer's settings have of the model's own configuration
SURE = 0.8  # probability from which on a label is called sure
ECE = "expected calibration error (ECE): how far probabilities are from the share that is right; "
ECE += "0 is best"
PREDICTABILITY = "log-probability of a label, given all others; 0 is best, in nats"


class Accuracy(NamedTuple):
    """Agreement with gold of one way to label the run's own claims."""

    name: str
    accuracy: float
    interval: tuple[float, float] | None  # 95 %, each consistency group counted once
    note: str  # what these labels are, for who does not know the name


def three_digits(value: Any) -> str:
    """A number for people: three significant digits, whole numbers in full, "–" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(rounded := float(f"{value:.3g}")) >= 1000:
        text = f"{rounded:,.0f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if value else "0"
    return text.replace("-", "−")


def algorithm_of(manifest: Mapping[str, Any]) -> str:
    """The name of the algorithm's class; "" where a library's caller recorded none."""
    return str(manifest["configuration"].get("algorithm", {}).get("name", ""))


def sentences(run: RunRecord, found: Found) -> tuple[str, str]:
    """What was asked, and what was found."""
    configuration, summary = run.manifest["configuration"], run.summary
    options = [f"“{printable(option, keep='')}”" for option in run.claims.options]
    of = ", ".join(persona for persona in run.claims.personas if persona)
    asked = f"Asked: which of {' and '.join([', '.join(options[:-1]), options[-1]])} fits each of "
    asked += f"{three_digits(len(run.claims))} claims" + (f" of {of}" if of else "")
    by = run.manifest.get("options", {}).get("algorithm") or algorithm_of(run.manifest)
    asked += f", by {by} with the model {configuration.get('model') or 'of the scorer'}."
    counts = np.bincount(run.labels, minlength=len(options))
    said = [f"{option} for {num:,}" for option, num in zip(options, counts.tolist(), strict=True)]
    num_sure = int((found.confidence >= SURE).sum())
    told = f"Found: {', '.join(said)}, of which {num_sure:,} at a probability of {SURE} or more"
    own = own_accuracy(found)
    if own is not None and own.interval is not None:
        low, high = map(three_digits, own.interval)
        told += f"; {three_digits(own.accuracy)} of the labels agree with gold "
        told += f"(95 % interval {low} to {high})"
    elif summary.get("accuracy") is not None:
        told += f"; {three_digits(summary['accuracy'])} of the labels agree with gold"
    return printable(asked, keep=""), printable(f"{told}.", keep="")


def own_accuracy(found: Found) -> Accuracy | None:
    """How many found labels are gold; None where no gold label is known."""
    return _accuracy("labels of this run", found.labels, found, "what the search found")


def accuracies(found: Found) -> list[Accuracy]:
    """The found labels beside what can be had without a search; empty without gold labels."""
    own = own_accuracy(found)
    if own is None:
        return []
    counts = np.bincount(found.gold[found.is_judged], minlength=len(found.options))
    constant = np.full_like(found.gold, counts.argmax())
    commonest = printable(found.options[int(counts.argmax())], keep="")
    of_all = _accuracy(f"“{commonest}” for all", constant, found, "the commonest gold label alone")
    even = Accuracy("an even guess", 1 / len(found.options), None, "what chance reaches")
    return list(filter(None, [own, *_of_first_pass(found), of_all, even]))


def _of_first_pass(found: Found) -> list[Accuracy | None]:
    """What the model said before it was shown any label that was found, where that is known."""
    if not (has_readings(found) and len(found.options) == 2):
        return []
    first = readings(found)[0]
    border = float(found.diagnostics.get("bias", 0.0))
    is_read = found._replace(is_held=found.is_held | np.isnan(first))
    if found.is_held.any():
        name, note = "given labels alone", "the model is shown the given labels, and none else"
    else:
        name, note = "zero-shot", "the model is asked of each claim alone, and shown no label"
    rows = [_accuracy(name, (first > 0).astype(np.int8), is_read, note)]
    if border:
        option = printable(found.options[1], keep="")
        moved = f"the same, but “{option}” begins at log-odds of {three_digits(border)}, not at 0: "
        moved += "this takes off a label that the model favours"
        labels = (first > border).astype(np.int8)
        rows.append(_accuracy(f"{name}, border moved", labels, is_read, moved))
    return rows


def _accuracy(name: str, labels: np.ndarray, found: Found, note: str) -> Accuracy | None:
    index = np.flatnonzero(found.is_judged)
    if not len(index):
        return None
    share = float(np.mean((labels == found.gold)[index]))
    interval = share_interval(share, len(np.unique(found.group_index[index])))
    return Accuracy(name, share, interval, note)


def key_numbers(run: RunRecord, found: Found) -> list[tuple[str, Any, str]]:
    """The run's numbers: name, value, and what it is."""
    summary, diagnostics = run.summary, found.diagnostics
    bins = calibration(found)
    own = own_accuracy(found)
    # Of readings none is turned down.
    acceptance = None if has_readings(found) else diagnostics.get("acceptance_rate")
    numbers = [
        (
            "accuracy",
            own.accuracy if own else summary.get("accuracy"),
            "share of labels that agree with gold",
        ),
        ("calibration error", calibration_error(bins) if bins else None, ECE),
        ("utility U", summary.get("utility"), "alpha · mutual predictability − violated pairs"),
        ("mutual predictability", summary.get("mutual_predictability"), PREDICTABILITY),
        ("violated pairs", summary.get("num_inconsistent"), f"of {len(run.claims.rules.pairs):,}"),
        ("acceptance", acceptance, "share of moves that were accepted"),
        ("ESS of U", diagnostics.get("ess_utility"), "steps that are worth independent ones"),
        ("R-hat of U", diagnostics.get("r_hat_utility"), "near 1 where chains agree"),
        ("lowest ESS of labels", diagnostics.get("min_ess_labels"), "over claims"),
        ("highest R-hat of labels", diagnostics.get("max_r_hat_labels"), "over claims"),
        ("round trips", diagnostics.get("num_round_trips"), "hottest to coldest rung"),
        ("passes", diagnostics.get("num_passes"), "over the claims"),
        ("tokens", summary.get("num_tokens"), "read by the model"),
        ("seconds", summary.get("wall_seconds"), str(summary.get("device", ""))),
    ]
    return [(name, value, note) for name, value, note in numbers if value is not None]


class Settings(NamedTuple):
    """How a run was made, by dotted names."""

    tables: list[tuple[str, list[tuple[str, Any]]]]  # by heading, what somebody may choose first
    internals: list[tuple[str, Any]]  # of the model, which nobody chooses


def settings_of_run(run: RunRecord) -> Settings:
    """The options and the algorithm, then the sessions, the claims and the scorer."""
    configuration, manifest = run.manifest["configuration"], run.manifest
    options = manifest.get("options", {})
    given = flat({name: value for name, value in options.items() if value is not None})
    left_out = [name for name, value in options.items() if value is None]
    if left_out:
        given.append(("not given", ", ".join(left_out)))
    tables = [
        ("Options of the command", given),
        ("Algorithm", flat(configuration.get("algorithm", {}))),
    ]
    sessions = manifest.get("sessions", [])
    for number, session in enumerate(sessions, start=1):
        heading = "Session" if len(sessions) == 1 else f"Session {number}"
        tables.append((heading, flat(session)))
    claims = [*flat(configuration.get("claims", {})), ("rule", run.claims.describe())]
    scorer = flat(configuration.get("scorer", {}))
    internals = [(name, value) for name, value in scorer if INTERNAL in name]
    own = [(name, value) for name, value in scorer if INTERNAL not in name]
    tables += [("Claims", claims), ("Scorer", own)]
    return Settings([(heading, rows) for heading, rows in tables if rows], internals)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings within settings by dotted names; equal ones in a list once."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
            distinct = [each for n, each in enumerate(value) if each not in value[:n]]
            rows += flat({str(n): each for n, each in enumerate(distinct, 1)}, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            rows.append((f"{prefix}{name}", ", ".join(map(three_digits, value))))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
