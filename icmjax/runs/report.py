"""Tables and figures of what was measured."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np

from icmjax.search import SearchResult
from icmjax.steering import Condition

METRICS = ("accuracy", "balanced_accuracy", "log_loss")


def comparison_table(conditions: Sequence[Condition]) -> str:
    """Conditions by metrics as aligned text; the spread over draws stands after ±."""
    rows: list[tuple[str, ...]] = [("condition", "draws", *METRICS)]
    for condition in conditions:
        cells = []
        for metric in METRICS:
            spread = condition.spread(metric)
            text = f"{condition.mean(metric):.3f}"
            cells.append(text if spread is None else f"{text} ± {spread:.3f}")
        rows.append((condition.name, str(len(condition.draws)), *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def plot_comparison(conditions: Sequence[Condition], path: pathlib.Path, title: str = "") -> None:
    """Bars of held-out accuracy by condition, with the spread over draws, as a PNG."""
    figure = matplotlib.figure.Figure(
        figsize=(6.4, 0.5 * len(conditions) + 1.2), layout="constrained"
    )
    axes = figure.subplots()
    names = [condition.name for condition in conditions]
    means = [condition.mean("accuracy") for condition in conditions]
    spreads = [condition.spread("accuracy") or 0.0 for condition in conditions]
    bars = axes.barh(names, means, xerr=spreads, color="#4477aa", ecolor="#222222")
    axes.bar_label(bars, [f"{mean:.2f}" for mean in means], padding=3)
    axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.08), xlabel="held-out accuracy", title=title)
    figure.savefig(path, dpi=120)


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
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return figure


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
    axes.plot(used, chains, color="#bbbbbb", linewidth=1)
    if hasattr(trace, "best_utility"):
        best = trace.best_utility[is_full].max(axis=1)
    else:
        best = np.maximum.accumulate(chains.max(axis=1))
    axes.plot(used, best, color="#4477aa", label="best so far")
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
