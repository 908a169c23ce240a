"""Plot the corpus: lengths, novel n-grams, packages (notebook 01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from distill_utils.plots.style import BLUE, ORANGE, new_figure, styled

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
def packages(counts: Mapping[str, int]) -> tuple[Figure, str]:
    """Draw the number of pairs of each package: the largest twelve, and all others together."""
    shown = 12
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    top = ordered[:shown]
    if rest := sum(count for _, count in ordered[shown:]):
        top.append((f"{len(ordered) - shown} others", rest))
    figure, axis = new_figure(0.4 + 0.17 * len(top))
    names, values = zip(*reversed(top), strict=True)
    axis.barh(names, values, color=BLUE)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("pairs")
    share = 100 * sum(v for _, v in ordered[:3]) / sum(counts.values())
    leading = ", ".join(name for name, _ in ordered[:3])
    return (
        figure,
        f"{len(ordered)} packages contribute {sum(counts.values()):,} pairs; the largest ({leading}) contribute {share:.0f} % of them.",
    )


@styled
def similarities(values: Sequence[float], close: float) -> tuple[Figure, str]:
    """Draw the similarity of test documents to their nearest training document; ``close``: the threshold for a close one."""
    figure, axis = new_figure(2.0)
    axis.hist(values, bins=np.linspace(0, 1, 41), color=BLUE)
    axis.axvline(close, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("cosine similarity to the nearest training document")
    axis.set_ylabel("test documents")
    share = 100 * float((np.asarray(values) >= close).mean())
    return figure, (
        f"Similarity of each test document to its nearest training document (tf–idf). The median is {np.median(values):.2f}; "
        f"{share:.1f} % of the test documents have a training document with a similarity of at least {close} (dashed)."
    )
