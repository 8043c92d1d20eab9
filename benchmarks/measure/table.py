"""The benchmark's table and plot."""

from pathlib import Path

import click

COLUMNS = {
    "engine": ("engine", "{}"),
    "method": ("method", "{}"),
    "num_claims": ("N", "{}"),
    "compile_seconds": ("compile s", "{:.1f}"),
    "pass_seconds": ("pass s", "{:.3f}"),
    "times_tree": ("× tree", "{:.2f}"),
    "tokens": ("tokens", "{}"),
    "padded_tokens": ("padded", "{}"),
    "kappa": ("κ", "{:.1f}"),
    "flops_per_second": ("GFLOP/s", "{:.1f}"),
    "roofline_share": ("roofline", "{:.0%}"),
    "peak_bytes": ("peak MiB", "{:.0f}"),
    "note": ("", "{}"),
}
SCALES = {"flops_per_second": 1e9, "peak_bytes": 2**20}


def print_table(rows: list[dict]) -> None:
    """Print rows, blanks where a row does not measure something."""
    lines = [[title for title, _ in COLUMNS.values()]]
    for row in rows:
        cells = []
        for name, (_, form) in COLUMNS.items():
            value = row.get(name)
            if value is not None and name in SCALES:
                value /= SCALES[name]
            cells.append("" if value is None else form.format(value))
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        click.echo("  ".join(map(str.ljust, cells, widths)).rstrip())


def write_plot(rows: list[dict], path: Path) -> None:
    """Plot seconds and tokens of a pass against N, a line an engine and method."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    names = dict.fromkeys((row["engine"], row["method"]) for row in rows)
    quantities = (("pass_seconds", "seconds a pass"), ("tokens", "tokens a pass"))
    for axis, (field, title) in zip(axes, quantities, strict=True):
        for name in names:
            points = [
                (row["num_claims"], row[field])
                for row in rows
                if (row["engine"], row["method"]) == name and row.get(field)
            ]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=", ".join(name))
        axis.set(xlabel="claims N", ylabel=title)
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(path)
    pyplot.close(figure)
