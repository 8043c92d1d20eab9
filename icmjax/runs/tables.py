"""Tables of what was measured, as text."""

from collections.abc import Sequence

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
