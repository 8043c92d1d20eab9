"""Tables and figures of what was measured."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np

from icmjax.errors import RunError, printable
from icmjax.files import write_bytes
from icmjax.search import SearchResult
from icmjax.steering import Condition

METRICS = ("accuracy", "balanced_accuracy", "log_loss")


def comparison_table(conditions: Sequence[Condition]) -> str:
    """Conditions by metrics as aligned text; lines below it say of what n, interval and ± are."""
    rows: list[tuple[str, ...]] = [
        ("condition", "draws", "n", METRICS[0], "95 % interval", *METRICS[1:])
    ]
    for condition in conditions:
        accuracy, *others = (_cell(condition, metric) for metric in METRICS)
        low, high = condition.accuracy_interval
        counts = str(len(condition.draws)), str(condition.num_claims)
        rows.append((condition.name, *counts, accuracy, f"[{low:.3f}, {high:.3f}]", *others))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    num_groups = conditions[0].num_groups
    lines.append(
        f"n: claims. interval: Wilson's, of the accuracy; the claims' {num_groups} consistency "
        "groups count once each."
    )
    drawn = [condition.name for condition in conditions if len(condition.draws) > 1]
    if drawn:
        lines.append(f"±: standard deviation over the draws of {', '.join(drawn)}.")
    return "\n".join(lines)


def _cell(condition: Condition, metric: str) -> str:
    spread = condition.spread(metric)
    text = f"{condition.mean(metric):.3f}"
    return text if spread is None else f"{text} ± {spread:.3f}"


def plot_comparison(conditions: Sequence[Condition], path: pathlib.Path, title: str = "") -> None:
    """Bars of held-out accuracy by condition with its 95 % interval, as a PNG.

    Raises:
      RunError: the file cannot be written.
    """
    figure = matplotlib.figure.Figure(
        figsize=(6.4, 0.5 * len(conditions) + 1.2), layout="constrained"
    )
    axes = figure.subplots()
    names = [condition.name for condition in conditions]
    means = np.array([condition.mean("accuracy") for condition in conditions])
    intervals = np.array([condition.accuracy_interval for condition in conditions])
    reach = np.abs(intervals.T - means)
    bars = axes.barh(names, means, xerr=reach, color="#4477aa", ecolor="#222222")
    axes.bar_label(bars, [f"{mean:.2f}" for mean in means], padding=3)
    axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel="held-out accuracy, 95 % Wilson interval")
    axes.set_title(printable(title, keep=""), parse_math=False)
    _write(figure, path)


def plot_search(
    result: SearchResult, path: pathlib.Path, title: str = ""
) -> matplotlib.figure.Figure:
    """How a search went, as a PNG: U by tokens, the mix of labels, acceptance and swaps, certainty.

    The third panel is by rung where there are any, and says how well the search mixed.
    """
    figure = matplotlib.figure.Figure(figsize=(9.6, 6.4), layout="constrained")
    by_tokens, by_label, by_rung, by_claim = figure.subplots(2, 2).ravel()
    _plot_utility(by_tokens, result)
    is_tempered = hasattr(result.trace, "cold_labels")
    labels = result.trace.cold_labels if is_tempered else result.trace.labels
    for option in range(result.marginals.shape[1]):
        by_label.plot(np.mean(labels == option, axis=(1, 2)), label=f"label {option}")
    by_label.axhline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
    by_label.legend(frameon=False)
    by_label.set(ylim=(-0.02, 1.02), xlabel="step", ylabel="share of claims")
    _plot_rates(by_rung, result)
    by_claim.plot(np.sort(result.marginals[:, -1])[::-1], ".", color="#4477aa")
    by_claim.set(ylim=(-0.02, 1.02), xlabel="claims, sorted", ylabel="marginal of the last label")
    # A path may hold dollar signs, between which matplotlib would read formulas.
    figure.suptitle(printable(title, keep=""), parse_math=False)
    _write(figure, path)
    return figure


def _write(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    """Write a figure as PNG; a run error where the file cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue(), error=RunError)


def _plot_utility(axes: matplotlib.axes.Axes, result: SearchResult) -> None:
    """U of every chain, of the coldest rung where there are rungs, and the best so far."""
    trace, num_steps = result.trace, len(result.trace.utility)
    is_counted = bool(result.tokens.any())
    used = np.cumsum(
        result.tokens if is_counted else trace.num_passes.reshape(num_steps, -1).sum(1)
    )
    chains = trace.utility.reshape(num_steps, trace.utility.shape[1], -1)[:, :, 0]
    # U of fewer labelled claims is not comparable.
    is_full = trace.num_labelled.reshape(num_steps, -1).min(axis=1) == len(result.labels)
    used, chains = used[is_full], chains[is_full]
    marker = "o" if len(used) == 1 else None  # of which there is no line to draw
    axes.plot(used, chains, color="#bbbbbb", linewidth=1, marker=marker)
    if hasattr(trace, "best_utility"):
        best = trace.best_utility[is_full].max(axis=1)
    else:
        best = np.maximum.accumulate(chains.max(axis=1))
    axes.plot(used, best, color="#4477aa", label="best so far", marker=marker)
    axes.legend(frameon=False)
    axes.set(xlabel="tokens" if is_counted else "passes", ylabel="U")


def _plot_rates(axes: matplotlib.axes.Axes, result: SearchResult) -> None:
    """Acceptance and swap rates by temperature; one bar where there are no rungs."""
    diagnostics = result.diagnostics
    axes.set_title(_mixing_text(diagnostics), fontsize="small")
    if "swap_rates" not in diagnostics:
        axes.bar(["accepted"], [diagnostics["acceptance_rate"]], color="#4477aa", width=0.3)
        axes.set(ylim=(0, 1), ylabel="rate")
        return
    temperatures = 1 / np.array(diagnostics["inverse_temperatures"])[diagnostics["best_chain"]]
    axes.plot(temperatures, diagnostics["acceptance_rates"], "o-", label="moves accepted")
    between = np.sqrt(temperatures[:-1] * temperatures[1:])
    axes.plot(between, diagnostics["swap_rates"], "s--", label="swaps with the next rung")
    axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="temperature", ylabel="rate")
    axes.legend(frameon=False)


def _mixing_text(diagnostics: dict[str, Any]) -> str:
    """What is known of ESS, R-hat and round trips, in two lines."""
    said = {
        "ess_utility": "ESS of U",
        "r_hat_utility": "R-hat of U",
        "num_round_trips": "round trips",
        "min_ess_labels": "\nlowest ESS of labels",
        "max_r_hat_labels": "highest R-hat",
        "num_disagreeing_claims": "claims that chains disagree on",
    }
    return ", ".join(
        f"{text} {'–' if diagnostics[name] is None else f'{diagnostics[name]:.3g}'}"
        for name, text in said.items()
        if name in diagnostics
    )
