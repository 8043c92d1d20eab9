"""Tables and figures of what was measured."""

import pathlib
from collections.abc import Sequence

import matplotlib.axes
import matplotlib.figure
import numpy as np

from icmjax.comparison import Condition
from icmjax.search import SearchResult

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

    The second panel has the share of labelled claims where a trace does not keep their labels; the
    third is by rung where there are any.
    """
    figure = matplotlib.figure.Figure(figsize=(9.6, 6.4), layout="constrained")
    by_tokens, by_label, by_rung, by_claim = figure.subplots(2, 2).ravel()
    _plot_utility(by_tokens, result)
    labels = getattr(result.trace, "cold_labels", getattr(result.trace, "labels", None))
    if labels is not None:
        for option in range(result.marginals.shape[1]):
            shares = np.mean(labels == option, axis=(1, 2))
            by_label.plot(shares, label=f"label {option}")
        by_label.axhline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
    else:
        shares = result.trace.num_labelled.mean(axis=1) / len(result.labels)
        by_label.plot(shares, color="#4477aa", label="labelled")
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
    per_step = getattr(trace, "num_passes", np.ones((num_steps, 1)))
    passes = np.cumsum(per_step.sum(axis=tuple(range(1, per_step.ndim))))
    num_tokens = result.diagnostics["num_tokens"]
    is_counted = num_tokens > 0
    used = passes / passes[-1] * (num_tokens if is_counted else result.diagnostics["num_passes"])
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
    if "swap_rates" not in diagnostics:
        axes.bar(["accepted"], [diagnostics["acceptance_rate"]], color="#4477aa", width=0.3)
        axes.set(ylim=(0, 1), ylabel="rate")
        return
    temperatures = 1 / np.array(diagnostics["inverse_temperatures"])[diagnostics["best_chain"]]
    axes.plot(temperatures, diagnostics["acceptance_rates"], "o-", label="moves accepted")
    between = np.sqrt(temperatures[:-1] * temperatures[1:])
    axes.plot(between, diagnostics["swap_rates"], "s--", label="swaps with the next rung")
    axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="temperature", ylabel="rate")
    said = {"ESS of U": diagnostics["ess_utility"], "R-hat of U": diagnostics["r_hat_utility"]}
    numbers = [f"{name} {'–' if value is None else f'{value:.3g}'}" for name, value in said.items()]
    trips = f"{diagnostics['num_round_trips']} round trips"
    axes.set_title(", ".join([trips, *numbers]), fontsize="medium")
    axes.legend(frameon=False)
