"""The panels of a run's figures: which ones there is something to show in, and what they draw."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.ticker
import numpy as np

from icmjax.errors import printable
from icmjax.runs.curves import (
    Found,
    calibration,
    has_readings,
    label_shares,
    num_steps_of,
    quantiles_by_pass,
    readings,
    used_by_step,
    utility_curve,
)
from icmjax.runs.facts import three_digits
from icmjax.statistics import calibration_error

INK, MUTED, GRID = "#222222", "#767676", "#dddddd"
BLUE, RED = "#4477aa", "#cc3311"
SERIES = (RED, BLUE, "#228833", "#997700", "#aa3377", "#33788e")  # by label option
MARKERS = "ovs^DP"
STYLES = ("--", "-", ":", "-.")
MAX_NAME = 24  # characters of an option in a legend; the table has all of it
MAX_LINE = 36  # characters of a legend's line


class Panel(NamedTuple):
    """One figure: its title, what it says in a sentence or two, and how it is drawn."""

    title: str
    caption: str
    draw_fn: Callable[[matplotlib.axes.Axes], None]


def panels_of(found: Found) -> list[Panel]:
    """The panels that there is something to show in."""
    makers = (_utility, _readings, _labelled, _shares, _rungs, _certainty, _calibration)
    return [panel for panel in (make(found) for make in makers) if panel is not None]


def option_name(found: Found, option: int) -> str:
    """A label option as figures write it."""
    return textwrap.shorten(printable(found.options[option], keep=""), MAX_NAME, placeholder="…")


def mixing_text(diagnostics: Mapping[str, Any]) -> str:
    """What is known of ESS, R-hat and round trips, in one line; "" for nothing."""
    said = {
        "ess_utility": "ESS of U",
        "r_hat_utility": "R-hat of U",
        "num_round_trips": "round trips",
        "min_ess_labels": "lowest ESS of labels",
        "max_r_hat_labels": "highest R-hat of labels",
        "num_disagreeing_claims": "claims that chains disagree on",
    }
    known = [(text, diagnostics.get(name)) for name, text in said.items()]
    return ", ".join(f"{text} {three_digits(x)}" for text, x in known if x is not None)


def legend_above(axes: matplotlib.axes.Axes, *entries: Sequence[Any]) -> None:
    """A legend that hides no data; of all that has a name, or of handles and their names."""
    handles, names = entries or axes.get_legend_handles_labels()
    num_columns = len(names) if sum(map(len, names)) < MAX_LINE else 2
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=num_columns)


def _utility(found: Found) -> Panel | None:
    curve = utility_curve(found)
    if curve is None:
        return None

    def draw(axes: matplotlib.axes.Axes) -> None:
        lines = axes.plot(curve.used, curve.chains, color=MUTED, linewidth=0.9, alpha=0.6)
        (best,) = axes.plot(curve.used, curve.best, color=BLUE, linewidth=1.8)
        axes.plot(curve.used[-1:], curve.best[-1:], "o", color=BLUE, markersize=4)
        name = "coldest rung" if "cold_labels" in found.trace else "each chain"
        legend_above(axes, [best, lines[0]], ["best so far", name])
        axes.set(xlabel=curve.unit, ylabel="utility U")
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))

    first, last = (three_digits(float(curve.best[step])) for step in (0, -1))
    caption = f"The best U went from {first} to {last} in {curve.used[-1]:,} {curve.unit}."
    return Panel(f"Utility against {curve.unit}", caption, draw)


def _readings(found: Found) -> Panel | None:
    if not has_readings(found):
        return None
    values, is_binary = readings(found), len(found.options) == 2
    passes = np.arange(1, len(values) + 1)
    bias = float(found.diagnostics.get("bias", 0.0))

    def draw(axes: matplotlib.axes.Axes) -> None:
        axes.axhline(0, color=GRID, linewidth=1)
        if bias:
            axes.axhline(bias, color=MUTED, linewidth=1, linestyle="--", label="border")
        of_one_kind = found.labels if is_binary else np.ones_like(found.labels)
        for option in np.unique(of_one_kind).tolist():
            low, middle, high = quantiles_by_pass(values[:, of_one_kind == option]).T
            color, marker = SERIES[option], MARKERS[option]
            axes.fill_between(passes, low, high, color=color, alpha=0.2, linewidth=0)
            name = f"labelled {option_name(found, option)}" if is_binary else "all claims"
            axes.plot(passes, middle, color=color, marker=marker, markersize=3.5, label=name)
        legend_above(axes)
        of = option_name(found, 1) if is_binary else "the label found"
        axes.set(xlabel="pass", ylabel=f"log-odds of {of}, nats")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    caption = (
        "Log-odds of the claims that each pass reads: pass 1 shows no label that was found, the "
        "last one all others, those between a few. Lines are medians over claims, bands hold the "
        "middle 80 % of them."
    )
    if bias:
        caption += (
            " The border is where labels change over: not at 0, to take off a label that the model "
            "favours."
        )
    return Panel("What each pass said", caption, draw)


def _labelled(found: Found) -> Panel | None:
    """How many claims had a label, where U has no curve."""
    if utility_curve(found) is not None or has_readings(found) or num_steps_of(found) < 2:
        return None
    used, unit = used_by_step(found.trace)
    counts = found.trace["num_labelled"].reshape(len(used), -1)

    def draw(axes: matplotlib.axes.Axes) -> None:
        axes.plot(used, counts.max(axis=1), color=BLUE, marker="o", markersize=3.5)
        axes.set(xlabel=unit, ylabel="claims with a label", ylim=(0, None))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    caption = "U is compared between whole labellings alone, and fewer than two steps had one."
    return Panel(f"Labelled claims against {unit}", caption, draw)


def _shares(found: Found) -> Panel | None:
    shares = label_shares(found)
    if has_readings(found) or shares is None or len(shares) < 2:
        return None
    used, unit = used_by_step(found.trace)
    is_binary = len(found.options) == 2

    def draw(axes: matplotlib.axes.Axes) -> None:
        for option in [1] if is_binary else range(len(found.options)):
            style = STYLES[option % len(STYLES)]
            name = f"labelled {option_name(found, option)}"
            color = SERIES[option % len(SERIES)]
            axes.plot(used, shares[:, option], color=color, linestyle=style, label=name)
        legend_above(axes)
        axes.set(ylim=(-0.02, 1.02), xlabel=unit, ylabel="share of claims")
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))

    end = ", ".join(
        f"{three_digits(float(share))} {option_name(found, option)}"
        for option, share in enumerate(shares[-1])
    )
    caption = f"The share of claims with each label, over all chains; at the end {end}."
    return Panel("Mix of labels", caption, draw)


def _rungs(found: Found) -> Panel | None:
    diagnostics = found.diagnostics
    if not diagnostics.get("swap_rates") or len(diagnostics["acceptance_rates"]) < 2:
        return None
    betas = np.array(diagnostics["inverse_temperatures"])[diagnostics["best_chain"]]
    temperatures, swaps = 1 / betas, diagnostics["swap_rates"]

    def draw(axes: matplotlib.axes.Axes) -> None:
        accepted = diagnostics["acceptance_rates"]
        axes.plot(temperatures, accepted, "o-", color=BLUE, markersize=4, label="moves accepted")
        between = np.sqrt(temperatures[:-1] * temperatures[1:])
        axes.plot(between, swaps, "s--", color=RED, markersize=4, label="swaps with next rung")
        legend_above(axes)
        axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="temperature", ylabel="rate")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.3g"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())

    caption = (
        f"{len(temperatures)} rungs; the rarest swap has a rate of {three_digits(min(swaps))}. "
        f"How well it mixed: {mixing_text(diagnostics)}."
    )
    return Panel("Swaps and moves by temperature", caption, draw)


def _certainty(found: Found) -> Panel:
    is_binary = len(found.options) == 2
    shown = found.marginals[:, 1] if is_binary else found.confidence
    order = np.argsort(-shown, kind="stable")
    is_known = found.is_judged
    is_right = found.labels == found.gold
    if is_known.any():
        kinds = {
            "right": (is_known & is_right, BLUE, "o"),
            "wrong": (is_known & ~is_right, RED, "X"),
        }
        kinds["gold not known"] = ~is_known & ~found.is_held, MUTED, "o"
    else:
        kinds = {
            f"labelled {option_name(found, y)}": (
                (found.labels == y) & ~found.is_held,
                SERIES[y % len(SERIES)],
                MARKERS[y % len(MARKERS)],
            )
            for y in range(len(found.options))
        }
    kinds["held fast"] = found.is_held, INK, "s"

    def draw(axes: matplotlib.axes.Axes) -> None:
        axes.axhline(0.5, color=GRID, linewidth=1)
        for name, (is_kind, color, marker) in kinds.items():
            places = np.flatnonzero(is_kind[order])
            if len(places):
                points = shown[order][places]
                axes.plot(places + 1, points, marker, color=color, markersize=4.5, label=name)
        legend_above(axes)
        of = option_name(found, 1) if is_binary else "the label found"
        axes.set(ylim=(-0.04, 1.04), xlabel="claims, sorted", ylabel=f"probability of {of}")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    num_sure = int((found.confidence >= 0.8).sum())
    caption = f"{num_sure} of {len(shown)} labels have a probability of 0.8 or more."
    return Panel("Probability of every label", caption, draw)


def _calibration(found: Found) -> Panel | None:
    bins = calibration(found)
    if not bins:
        return None
    num = sum(each.num for each in bins)
    error = calibration_error(bins)

    def draw(axes: matplotlib.axes.Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
        confidence = np.array([each.confidence for each in bins])
        shares = np.array([each.share for each in bins])
        reach = np.abs(np.array([each.interval for each in bins]).T - shares)
        axes.errorbar(
            confidence,
            shares,
            yerr=reach,
            fmt="o",
            color=BLUE,
            markersize=4.5,
            clip_on=False,
            capsize=2,
            elinewidth=1,
            label=f"labels, ECE {three_digits(error)}",
        )
        for each in bins:
            axes.annotate(
                str(each.num),
                (each.confidence, -0.09),
                ha="center",
                va="center",
                color=MUTED,
                fontsize="small",
            )
        legend_above(axes)
        axes.set(xlim=(-0.02, 1.04), ylim=(-0.15, 1.04))
        axes.set(xlabel="probability of the label", ylabel="share that is right")

    caption = (
        "On the line, labels are right as often as their probability says. Expected calibration "
        f"error (ECE), the mean distance to it: {three_digits(error)}, over {num} labels in bins "
        "of 0.1. Bars are 95 % Wilson intervals, each consistency group counted once; below stand "
        "the claims in each bin."
    )
    return Panel("Calibration", caption, draw)
