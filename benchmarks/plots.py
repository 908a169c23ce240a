"""Plot what a distillation step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distill_utils.plots.style import BLUE, GREEN, HATCHES, ORANGE, SKY, WIDTH, new_figure, styled

WAYS = {"textbook": (ORANGE, "s", "--"), "ours": (BLUE, "o", "-")}


@styled
def cost_growth(rows: Sequence[Mapping]) -> tuple[Figure, str]:
    """Draw time and memory of a step over batch size, lengths and vocabulary, for the textbook trainer and ours."""
    labels = {
        "batch": "batch size (pairs)", "source": "source tokens", "target": "target tokens", "vocabulary": "vocabulary (thousands)",
    }  # fmt: skip
    figure, axes = new_figure(3.4, columns=4, rows=2, width=2 * WIDTH, sharey="row")
    growth = []
    for (axis_name, label), (above, below) in zip(labels.items(), axes.T, strict=True):
        for way, (colour, marker, line) in WAYS.items():
            own = [r for r in rows if r["axis"] == axis_name and r["way"] == way]
            x = [r["value"] / (1000 if axis_name == "vocabulary" else 1) for r in own]
            ms = [1000 * float(np.median(r["step_seconds"])) for r in own]
            above.plot(x, ms, color=colour, marker=marker, linestyle=line, label=way)
            below.plot(x, [r["peak_bytes"] / 1e6 for r in own], color=colour, marker=marker, linestyle=line)
            if way == "ours":
                growth.append(f"{label} {x[0]:g} to {x[-1]:g}: {ms[-1] / ms[0]:.1f}×")
        below.set_xlabel(label)
    for axis in axes.flat:  # once all is drawn: a limit stops the scale from growing
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0][0].set_ylabel("time of a step (ms)")
    axes[1][0].set_ylabel("memory of a step (MB)")
    axes[0][0].legend()
    return figure, (
        "Cost of a distillation step with a frozen encoder; all texts of a batch have the same length, so sorting by length has no effect. "
        f"The time of ours grows with {'; '.join(growth)}."
    )


@styled
def step_parts(shares: Mapping[str, Mapping[str, float]]) -> tuple[Figure, str]:
    """Draw the time breakdown of a step in milliseconds, for the textbook trainer and ours."""
    names = ["encoder", "teacher decoder", "student decoder", "loss", "backward", "data", "optimizer and rest"]
    figure, axis = new_figure(2.4, width=1.4 * WIDTH)
    rows = list(shares)
    fills = ["#222222", "#555555", SKY, ORANGE, BLUE, GREEN, "#dddddd"]
    left = np.zeros(len(rows))
    for i, name in enumerate(names):
        width = np.array([1000 * shares[row].get(name, 0) for row in rows])
        axis.barh(
            range(len(rows)), width, left=left, label=name, color=fills[i], hatch=HATCHES[i % 5] if i > 1 else "",
            edgecolor="black", linewidth=0.4,
        )  # fmt: skip
        left += width
    axis.set_yticks(range(len(rows)), [row.replace("_", ", ").replace("full", "all trained") for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel("time of a step (ms)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=3)
    spent = "; ".join(f"{row.replace('_', ', ')} {total:.0f} ms" for row, total in zip(rows, left, strict=True))
    return (
        figure,
        f"Time breakdown of a step: {spent}. Frozen: the encoder is not trained; full: all parameters are trained.",
    )
