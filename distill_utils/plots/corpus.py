"""Plot the corpus: lengths, novel n-grams, packages (notebook 01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from distill_utils.plots.style import BLUE, GREEN, ORANGE, new_figure, styled

#: Novel n-grams in XSum's summaries in % (Narayan et al. 2018, arXiv 1808.08745), with the paper's tokenization.
XSUM_NOVEL_NGRAMS = {1: 35.76, 2: 83.45, 3: 95.50, 4: 98.49}


@styled
def lengths(source: Sequence[int], target: Sequence[int], max_source: int, max_target: int) -> tuple[Figure, str]:
    """Draw histograms of document and summary lengths in tokens, with the study's limits."""
    figure, axes = new_figure(2.0, columns=2)
    cut = []
    for axis, tokens, limit, name, colour in zip(
        axes, (source, target), (max_source, max_target), ("document", "summary"), (BLUE, ORANGE), strict=True
    ):
        tokens = np.asarray(tokens)
        top = max(np.percentile(tokens, 97), 1.1 * limit)
        axis.hist(np.clip(tokens, 0, top), bins=30, color=colour)
        axis.axvline(limit, color="black", linestyle="--", linewidth=1)
        axis.set_xlabel(f"{name} (tokens)")
        cut.append((name, 100 * float((tokens > limit).mean()), float(np.median(tokens)), limit))
    axes[0].set_ylabel("pairs")
    caption = "Lengths with the study's limits (dashed); the last bar counts all longer texts. " + " ".join(
        f"The median {name} has {median:.0f} tokens, and {share:.1f} % are truncated at {limit}."
        for name, share, median, limit in cut
    )
    return figure, caption


@styled
def novelty(measured: Mapping[int, float]) -> tuple[Figure, str]:
    """Draw the share of novel n-grams in the summaries beside the published share of XSum."""
    figure, axis = new_figure(2.0)
    x = np.arange(len(measured))
    axis.bar(x - 0.2, list(measured.values()), 0.38, color=BLUE, label="this corpus")
    axis.bar(
        x + 0.2, [XSUM_NOVEL_NGRAMS[n] for n in measured], 0.38, color=ORANGE, hatch="///", edgecolor="white",
        label="XSum (published)",
    )  # fmt: skip
    axis.set_xticks(x, [f"{n}-grams" for n in measured])
    axis.set_ylabel("novel in summary (%)")
    axis.set_ylim(0, 100)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    more = "more" if measured[2] > XSUM_NOVEL_NGRAMS[2] else "less"
    return figure, (
        f"{measured[1]:.0f} % of the summaries' words and {measured[2]:.0f} % of their bigrams do not occur in the document; in "
        f"XSum, {XSUM_NOVEL_NGRAMS[1]:.0f} % and {XSUM_NOVEL_NGRAMS[2]:.0f} % (published). By bigrams, this corpus is {more} abstractive."
    )


@styled
def packages(counts: Mapping[str, Mapping[str, int]]) -> tuple[Figure, str]:
    """Draw the number of pairs of each package: the largest sixteen, and all others together.

    Args:
        counts: pairs by split and package.
    """
    shown = 16
    ordered = sorted(((n, name, split) for split, own in counts.items() for name, n in own.items()), reverse=True)
    figure, axis = new_figure(0.4 + 0.17 * (shown + 1))
    for split, colour in zip(counts, (BLUE, ORANGE, GREEN), strict=True):
        bars = [(i, n) for i, (n, _, own) in enumerate(ordered[:shown]) if own == split]
        rest = sum(n for n, _, own in ordered[shown:] if own == split)
        axis.barh([i for i, _ in bars], [n for _, n in bars], color=colour, label=split)
        if rest:
            left = sum(n for n, _, own in ordered[shown:] if [*counts].index(own) < [*counts].index(split))
            axis.barh(len(ordered[:shown]), rest, left=left, color=colour)
    names = [name for _, name, _ in ordered[:shown]]
    names += [f"{len(ordered) - shown} others"] if ordered[shown:] else []
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("pairs")
    axis.legend(loc="lower right")
    parts = []
    for split, own in counts.items():
        largest = max(own, key=own.get)
        share = 100 * own[largest] / sum(own.values())
        parts.append(
            f"{split}: {sum(own.values()):,} pairs of {len(own)} packages, {share:.0f} % of them from {largest}"
        )
    return figure, f"Pairs per package, coloured by split. {'; '.join(parts)}."


@styled
def similarities(values: Sequence[float], close: float) -> tuple[Figure, str]:
    """Draw the similarity of test documents to their nearest training document; ``close``: the threshold for a close one."""
    figure, axis = new_figure(2.0)
    axis.hist(values, bins=np.linspace(0, 1, 41), color=BLUE)
    axis.axvline(close, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("similarity to the nearest training document")
    axis.set_ylabel("test documents")
    share = 100 * float((np.asarray(values) >= close).mean())
    return figure, (
        f"Similarity of each test document to its nearest training document (tf–idf). The median is {np.median(values):.2f}; "
        f"{share:.1f} % of the test documents have a training document with a similarity of at least {close} (dashed)."
    )
