"""Draw the plots of the widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from distill_utils.notebook.explore import BatchLoss, Position
from distill_utils.plots.style import (
    BLUE,
    COLOURS,
    FILLS,
    GREEN,
    MARKERS,
    ORANGE,
    WIDTH,
    new_figure,
    plain_ticks,
    styled,
)
from distill_utils.plots.tradeoff import unbeaten


@styled
def position(at: Position, temperature: float, names: tuple[str, str]) -> tuple[Figure, str]:
    """Draw the most probable next tokens of two models at one position and temperature; ``names``: teacher, student."""
    figure, axis = new_figure(2.6, width=1.5 * WIDTH)
    y = np.arange(len(at.tokens))[::-1]
    ours = axis.barh(y - 0.2, at.student, 0.38, color=ORANGE, hatch="///", edgecolor="white", label=names[1], zorder=2)
    theirs = axis.barh(y + 0.2, at.teacher, 0.38, color=BLUE, label=names[0], zorder=2)
    for bars in (theirs, ours):
        axis.bar_label(bars, fmt="{:.2g}", padding=2, fontsize=6)
    axis.set_yticks(y, [_plain(repr(token)) for token in at.tokens])
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"probability at T = {temperature:g}")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower right")
    start = f"After {at.before!r} the" if at.before else "The"
    begins = f"{start} reference {'goes on' if at.before else 'begins'} with {at.wanted!r}."
    return figure, (
        f"{begins} Bars: next-token probabilities at T = {temperature:g}. Entropy: {names[0]} {at.teacher_entropy:.2f}, {names[1]} "
        f"{at.student_entropy:.2f} nats; KL({names[0]} ‖ {names[1]}) {at.kl:.3f} nats; soft loss of the position, T² · KL, {at.soft:.3f}."
    )


@styled
def loss_settings(batch: BatchLoss, alpha: float, temperature: float) -> tuple[Figure, str]:
    """Draw the loss and its terms over T and the gradient norm over α, with the chosen setting marked."""
    figure, axes = new_figure(2.2, columns=2, width=2 * WIDTH)
    scales = batch.temperatures
    over = [batch.at(alpha, t) for t in scales]
    for values, name, line, colour in (
        ([o.hard for o in over], "L_hard", "--", ORANGE), ([o.soft for o in over], "L_soft", ":", GREEN), ([o.total for o in over], "L", "-", BLUE),
    ):  # fmt: skip
        axes[0].plot(scales, values, line, color=colour, label=name)
    now = batch.at(alpha, temperature)
    axes[0].plot([temperature], [now.total], "o", color="black")
    axes[0].set_xlabel("temperature T")
    axes[0].set_ylabel(f"loss at α = {alpha:g} (nats/token)")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    alphas = np.linspace(0, 1, 41)
    axes[1].plot(alphas, [batch.at(a, temperature).gradient_norm for a in alphas], color=BLUE)
    axes[1].plot([alpha], [now.gradient_norm], "o", color="black")
    axes[1].set_xlabel("α (1: hard loss only)")
    axes[1].set_ylabel(f"gradient norm at T = {temperature:g}")
    axes[1].set_ylim(bottom=0)
    return figure, (
        f"α = {alpha:g}, T = {temperature:g}: L = {alpha:g} · {now.hard:.3f} + {1 - alpha:.2g} · {now.soft:.3f} = {now.total:.3f} nats per token; gradient "
        f"norm {now.gradient_norm:.2f}. Computed on a batch of training pairs with the untrained student."
    )


@styled
def trade(points: Sequence[Mapping], metric: str, load: str) -> tuple[Figure, str]:
    """Draw quality against throughput, a point per system and inference backend, with the Pareto front as a line."""
    figure, axis = new_figure(2.9, width=1.5 * WIDTH)
    label = metric.replace("rouge", "ROUGE-")
    kinds, names = (list(dict.fromkeys(p[key] for p in points)) for key in ("runtime", "name"))
    for i, p in enumerate(points):
        axis.plot(
            p["summaries_per_s"], p["quality"], MARKERS[kinds.index(p["runtime"]) % 12], color=COLOURS[names.index(p["name"]) % 5],
            fillstyle=FILLS[names.index(p["name"]) // 5 % 4], label=f"{p['name']}, {p['runtime']}", gid=f"point-{i}",
        )  # fmt: skip
    if points:
        best = unbeaten([(p["summaries_per_s"], p["quality"]) for p in points])
        axis.plot(*zip(*best, strict=True), color="black", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        plain_ticks(axis.xaxis)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=6)
    axis.set_xlabel(f"summaries per second ({load})")
    axis.set_ylabel(f"{label} (points)")
    fastest = max(points, key=lambda p: p["summaries_per_s"], default=None)
    note = (
        f" Fastest: {fastest['name']} in {fastest['runtime']}, {fastest['summaries_per_s']:.1f} summaries per second with {fastest['quality']:.1f} points."
        if fastest
        else ""
    )
    return figure, f"{label} against throughput ({load}); no system is better and faster than one on the line.{note}"


def _plain(text: str) -> str:
    """Escape dollar signs, which matplotlib reads as formulas."""
    return text.replace("$", r"\$")
