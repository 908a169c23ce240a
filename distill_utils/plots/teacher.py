"""Plot the teacher: ROUGE beside the baselines, by group, and its softened distributions (notebook 02)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from distill_utils.plots.style import BLUE, COLOURS, HATCHES, WIDTH, new_figure, styled


@styled
def system_bars(
    means: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Draw ROUGE-1, -2 and -L of systems with 95 % intervals."""
    kinds = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    figure, axis = new_figure(2.3)
    width = 0.8 / len(means)
    for i, name in enumerate(means):
        x = np.arange(len(kinds)) + (i - (len(means) - 1) / 2) * width
        values = np.array([means[name][k] for k in kinds])
        bounds = np.array([intervals[name][k] for k in kinds]).T
        axis.bar(
            x, values, 0.92 * width, yerr=np.abs(bounds - values), label=name, color=COLOURS[i % 5], hatch=HATCHES[(i + i // 5) % 5],
            edgecolor="white", error_kw={"linewidth": 0.8},
        )  # fmt: skip
    axis.set_xticks(np.arange(len(kinds)), kinds.values())
    axis.set_ylabel("F1 (points)")
    axis.set_ylim(0, 1.35 * max(max(m[k] for k in kinds) for m in means.values()) + 0.1)
    axis.legend(ncols=2)
    return figure


def rouge_bars(means: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]]):
    """Draw :func:`system_bars`; the caption compares the first system with the others."""
    figure = system_bars(means, intervals)
    first, *others = means
    best = max(others, key=lambda name: means[name]["rougeL"])
    lead = means[first]["rougeL"] - means[best]["rougeL"]
    return figure, (
        f"The {first} reaches {means[first]['rougeL']:.1f} ROUGE-L, {abs(lead):.1f} points {'above' if lead >= 0 else 'below'} "
        f"the best baseline ({best}, {means[best]['rougeL']:.1f}). Error bars are 95 % intervals over the test pairs."
    )


@styled
def rouge_by_group(groups: Mapping[str, Sequence[float]], label: str) -> tuple[Figure, str]:
    """Draw mean ROUGE-L ± 1.96 standard errors per group of test pairs; groups of fewer than two are left out."""
    groups = {name: scores for name, scores in groups.items() if len(scores) > 1}
    figure, axis = new_figure(0.7 + 0.19 * max(3, len(groups)))
    names = list(groups)[::-1]
    means = np.array([np.mean(groups[n]) for n in names])
    errors = np.array([1.96 * np.std(groups[n]) / np.sqrt(len(groups[n])) for n in names])
    axis.errorbar(means, np.arange(len(names)), xerr=errors, fmt="o", color=BLUE, linewidth=0.8)
    axis.set_yticks(np.arange(len(names)), [f"{n} ({len(groups[n])})" for n in names])
    axis.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axis.set_xlabel("ROUGE-L (points)")
    axis.set_ylabel(label)
    if not groups:
        return figure, f"No group of test pairs by {label} has two or more members."
    best, worst = names[int(np.argmax(means))], names[int(np.argmin(means))]
    return figure, (
        f"By {label}, ROUGE-L is highest for {best} ({means.max():.1f}) and lowest for {worst} ({means.min():.1f}). "
        "The number of test pairs is in brackets; error bars are ±1.96 standard errors."
    )


@styled
def temperatures(
    tokens: Sequence[str],
    by_temperature: Mapping[float, Sequence[float]],
    entropies: Mapping[float, float],
    mean_entropies: Mapping[float, float],
    vocabulary: int,
) -> tuple[Figure, str]:
    """Draw the teacher's most probable next tokens, one panel per temperature.

    Args:
        by_temperature: the probabilities of ``tokens`` at each temperature.
        entropies: of the whole distribution, in nats; ``mean_entropies``: over many positions.
    """
    figure, axes = new_figure(2.1, columns=len(by_temperature), width=2 * WIDTH, sharey=True)
    for axis, (temperature, probabilities) in zip(np.atleast_1d(axes), by_temperature.items(), strict=True):
        axis.barh(np.arange(len(tokens))[::-1], probabilities, color=BLUE)
        axis.set_yticks(np.arange(len(tokens))[::-1], tokens)
        axis.set_title(f"T = {temperature:g}: entropy {entropies[temperature]:.2f} nats")
        axis.set_xscale("log")
        axis.set_xlim(1e-5, 1)
        axis.set_xticks([1e-4, 1e-2, 1])
        axis.set_xlabel("probability (log scale)")
        axis.grid(axis="y", visible=False)
    first, last = min(by_temperature), max(by_temperature)
    falls = ", ".join(f"{shown[0]:.2g} at T = {temperature:g}" for temperature, shown in by_temperature.items())
    return figure, (
        f"One next-token distribution at several temperatures (log scale). The probability of the most probable token is {falls}; the mean entropy over "
        f"the positions of the test summaries rises from {mean_entropies[first]:.2f} to {mean_entropies[last]:.2f} nats. "
        f"With all {vocabulary:,} tokens equally probable, it would be {np.log(vocabulary):.2f}: a higher T shows the alternatives but flattens the "
        "differences between them."
    )
