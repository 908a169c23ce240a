"""Draw the figures of a study.

Each function returns a matplotlib figure and a caption computed from the same numbers. All figures fit one or two columns of a
paper, stay readable in greyscale (lightness, markers, hatches) and use a palette for colour-blind readers (Okabe & Ito 2008).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from distill_utils.artefacts import whole_file
from distill_utils.results import GOAL_RETENTION, trained_students
from distill_utils.speed import find
from distill_utils.study import Study

if TYPE_CHECKING:
    from distill_utils.explore import BatchLoss, Position

WIDTH = 3.3  # inches, one column of a two-column paper
BLUE, ORANGE, GREEN, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, SKY, GREY)
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "d")
#: matplotlib's settings are global, and a notebook's controls redraw in another thread.
DRAWING = threading.RLock()
FILLS = ("full", "none", "left", "top")
LINES = ("-", "--", "-.", ":")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}

#: Novel n-grams in XSum's summaries, in percent (Narayan et al. 2018, arXiv 1808.08745), by the paper's own
#: tokenization; a test compares `novel_ngrams` on real rows with them.
XSUM_NOVEL_NGRAMS = {1: 35.76, 2: 83.45, 3: 95.50, 4: 98.49}


def save(study: Study, name: str, figure: Figure) -> None:
    """Write ``figures/<study>/<name>`` as PNG (300 dpi) and PDF."""
    save_in(study.figures_folder, name, figure)


def save_in(folder: Path, name: str, figure: Figure) -> None:
    for suffix in ("png", "pdf"):
        with whole_file(folder / f"{name}.{suffix}") as temporary, DRAWING, rc_context(STYLE):
            figure.savefig(temporary, metadata={"CreationDate": None} if suffix == "pdf" else None)


def _new(height: float, columns: int = 1, rows: int = 1, width: float = WIDTH, **subplots):
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(rows, columns, **subplots)


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with numbers such as 20, 50 and 100 instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _styled(function):
    """Apply the style while drawing: matplotlib reads some settings when it creates an artist."""

    def draw(*args, **kwargs):
        with DRAWING, rc_context(STYLE):
            return function(*args, **kwargs)

    draw.__doc__, draw.__name__ = function.__doc__, function.__name__
    return draw


# -- 01: the corpus --------------------------------------------------------------------------------------


@_styled
def lengths(source: Sequence[int], target: Sequence[int], max_source: int, max_target: int) -> tuple[Figure, str]:
    """Draw histograms of document and summary lengths in tokens, with the study's limits."""
    figure, axes = _new(2.0, columns=2)
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


@_styled
def novelty(measured: Mapping[int, float]) -> tuple[Figure, str]:
    """Draw the share of novel n-grams in the summaries beside the published share of XSum."""
    figure, axis = _new(2.0)
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


@_styled
def packages(counts: Mapping[str, int]) -> tuple[Figure, str]:
    """Draw the number of pairs of each package: the largest twelve, and all others together."""
    shown = 12
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    top = ordered[:shown]
    if rest := sum(count for _, count in ordered[shown:]):
        top.append((f"{len(ordered) - shown} others", rest))
    figure, axis = _new(0.4 + 0.17 * len(top))
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


# -- 02: the teacher -------------------------------------------------------------------------------------


@_styled
def rouge_bars(means: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]]):
    """Draw ROUGE-1, -2 and -L of several systems with 95 % intervals; the caption compares the first with the others."""
    kinds = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    figure, axis = _new(2.3)
    width = 0.8 / len(means)
    for i, name in enumerate(means):
        x = np.arange(len(kinds)) + (i - (len(means) - 1) / 2) * width
        values = np.array([means[name][k] for k in kinds])
        bounds = np.array([intervals[name][k] for k in kinds]).T
        axis.bar(
            x, values, 0.92 * width, yerr=np.abs(bounds - values), label=name, color=COLOURS[i % 5], hatch=HATCHES[i % 5],
            edgecolor="white", error_kw={"linewidth": 0.8},
        )  # fmt: skip
    axis.set_xticks(np.arange(len(kinds)), kinds.values())
    axis.set_ylabel("F1 (points)")
    axis.set_ylim(0, 1.35 * max(max(m[k] for k in kinds) for m in means.values()) + 0.1)
    axis.legend(ncols=2)
    first, *others = means
    best = max(others, key=lambda name: means[name]["rougeL"])
    lead = means[first]["rougeL"] - means[best]["rougeL"]
    return figure, (
        f"The {first} reaches {means[first]['rougeL']:.1f} ROUGE-L, {abs(lead):.1f} points {'above' if lead >= 0 else 'below'} "
        f"the best baseline ({best}, {means[best]['rougeL']:.1f}). Error bars are 95 % intervals over the test pairs."
    )


@_styled
def rouge_by_group(groups: Mapping[str, Sequence[float]], label: str) -> tuple[Figure, str]:
    """Draw mean ROUGE-L ± 1.96 standard errors per group of test pairs."""
    figure, axis = _new(0.7 + 0.19 * max(3, len(groups)))
    names = list(groups)[::-1]
    means = np.array([np.mean(groups[n]) for n in names])
    errors = np.array([1.96 * np.std(groups[n]) / np.sqrt(len(groups[n])) for n in names])
    axis.errorbar(means, np.arange(len(names)), xerr=errors, fmt="o", color=BLUE, linewidth=0.8)
    axis.set_yticks(np.arange(len(names)), [f"{n} ({len(groups[n])})" for n in names])
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlabel("ROUGE-L (points)")
    axis.set_ylabel(label)
    best, worst = names[int(np.argmax(means))], names[int(np.argmin(means))]
    return figure, (
        f"By {label}, ROUGE-L is highest for {best} ({means.max():.1f}) and lowest for {worst} ({means.min():.1f}). "
        "The number of test pairs is in brackets; error bars are ±1.96 standard errors."
    )


@_styled
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
    figure, axes = _new(2.1, columns=len(by_temperature), width=2 * WIDTH, sharey=True)
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


# -- 03: distillation ------------------------------------------------------------------------------------


@_styled
def training_curves(logs: Mapping[str, Sequence[Mapping]]) -> tuple[Figure, str]:
    """Draw training losses, validation loss and validation ROUGE-L over steps, per method.

    Args:
        logs: the Trainer's log history of each method.
    """
    figure, (training, loss, rouge) = _new(2.5, columns=3, width=2 * WIDTH)
    final = {}
    for i, (name, log) in enumerate(logs.items()):
        steps = [e["step"] for e in log if "hard_loss" in e]
        training.plot(
            steps,
            [e["hard_loss"] for e in log if "hard_loss" in e],
            LINES[i % 4],
            color=COLOURS[i % 5],
            label=f"{name}: hard",
        )
        soft = [e["soft_loss"] for e in log if "hard_loss" in e]
        if any(soft):
            training.plot(steps, soft, ":", color=COLOURS[i % 5], label=f"{name}: soft")
        evaluations = [e for e in log if "eval_rougeL" in e]
        x = [e["step"] for e in evaluations]
        settings = {"color": COLOURS[i % 5], "marker": MARKERS[i % 12], "label": name, "linestyle": LINES[i % 4]}
        loss.plot(x, [e["eval_loss"] for e in evaluations], **settings)
        rouge.plot(x, [e["eval_rougeL"] for e in evaluations], **settings)
        if evaluations:
            final[name] = evaluations[-1]
    for axis, label in (
        (training, "training loss (nats/token)"),
        (loss, "validation loss (nats/token)"),
        (rouge, "validation ROUGE-L (points)"),
    ):
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if axis.has_data():  # above the panel, where no curve runs
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    if not final:
        return figure, "Training losses over steps; there was no validation."
    ends = "; ".join(
        f"{name} ends at loss {e['eval_loss']:.2f} and ROUGE-L {e['eval_rougeL']:.1f}" for name, e in final.items()
    )
    return (
        figure,
        f"Training and validation over steps. On the validation split, {ends}. The validation loss is the cross-entropy with the references for every method; the training loss jumps because a batch holds pairs of similar length.",
    )


# -- 04: the trade-off ---------------------------------------------------------------------------------------


@_styled
def quality(results: Mapping) -> tuple[Figure, str]:
    """Draw ROUGE-L with its interval for every system of the main comparison, the seeds, and 95 % of the teacher's ROUGE-L."""
    systems = [s for s in results["systems"] if s["group"] not in ("shapes", "pairs", "runtimes")][::-1]
    figure, axis = _new(0.6 + 0.22 * len(systems))
    teacher = next(s for s in systems if s["method"] == "teacher")
    for y, s in enumerate(systems):
        trained = s["method"] not in ("baseline", "copy")
        low, high = s["rougeL_ci"]
        axis.errorbar(
            s["rougeL"], y, xerr=[[max(0, s["rougeL"] - low)], [max(0, high - s["rougeL"])]], color=BLUE if trained else GREY,
            fmt="D" if s["method"] == "teacher" else "o" if trained else "s", linewidth=0.8,
        )  # fmt: skip
        if len(s["rougeL_by_seed"]) > 1:
            axis.plot(s["rougeL_by_seed"], [y - 0.3] * len(s["rougeL_by_seed"]), "|", color="black", markersize=5)
    axis.axvline(GOAL_RETENTION * teacher["rougeL"], color="black", linestyle="--", linewidth=0.8)
    axis.set_yticks(range(len(systems)), [s["name"] for s in systems])
    axis.set_ylim(-0.6, len(systems) - 0.4)
    axis.set_xlim(left=0)
    axis.set_xlabel("ROUGE-L (points)")
    reached = [s["name"] for s in trained_students(results) if s["rougeL"] >= GOAL_RETENTION * teacher["rougeL"]]
    listed = ", ".join(reached) if reached else "no student"
    seeds = max(len(s["rougeL_by_seed"]) for s in systems)
    several = f" (strokes: the {seeds} seeds of each student)" if seeds > 1 else ""
    return figure, (
        f"ROUGE-L on {results['corpus']['test']:,} test pairs with 95 % intervals{several}; the dashed line is {100 * GOAL_RETENTION:.0f} % "
        f"of the teacher's {teacher['rougeL']:.1f}. At or above it: {listed}."
    )


@_styled
def speed_quality(results: Mapping) -> tuple[Figure, str]:
    """Draw retention of ROUGE-L against the speed-up at batch size 1, with the best student of each shape."""
    figure, axis = _new(2.6)
    points = frontier(results)
    for i, s in enumerate(points):
        kept, (low, high) = (
            100 * s["retention_rougeL"],
            (100 * x for x in s["retention_rougeL_ci"] or [s["retention_rougeL"]] * 2),
        )
        slow, fast = s["speedup_spread"]
        label = f"{s['name']} ({s['parameters'] / 1e6:.1f} M)"
        axis.errorbar(
            s["speedup"], kept, yerr=[[max(0, kept - low)], [max(0, high - kept)]],
            xerr=[[max(0, s["speedup"] - slow)], [max(0, fast - s["speedup"])]],
            fmt=MARKERS[i % 12], color=COLOURS[i % 5], label=label, linewidth=0.8,
        )  # fmt: skip
    axis.axhline(
        100 * GOAL_RETENTION, color="black", linestyle="--", linewidth=0.8, label=f"{100 * GOAL_RETENTION:.0f} %"
    )
    axis.set_xlabel("speed-up over the teacher at batch size 1 (×)")
    axis.set_ylabel("ROUGE-L retained (%)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=6)
    sentences = " ".join(
        f"{s['name']}: {s['speedup']:.2f}× as fast with {100 * s['retention_rougeL']:.1f} % of the teacher's ROUGE-L."
        for s in points
        if s["method"] != "teacher"
    )
    beams = points[0]["num_beams"] if points else 0
    return (
        figure,
        f"Quality against speed ({beams} beams); the dashed line is the goal. {sentences} Error bars: 95 % interval (vertical), range over rounds (horizontal).",
    )


def frontier(results: Mapping) -> list[dict]:
    """Return the teacher and the timed students; if the study trained other shapes, only the best student of each shape."""
    timed = [
        s for s in results["systems"]
        if s["speedup"] is not None and s["retention_rougeL"] is not None and s["group"] != "runtimes"
    ]  # fmt: skip
    if not any(s["group"] == "shapes" for s in timed):
        return timed
    best: dict[tuple, dict] = {}
    for s in timed:
        shape = (s["method"] == "teacher", s["encoder_layers"], s["decoder_layers"])
        if shape not in best or s["rougeL"] > best[shape]["rougeL"]:
            best[shape] = s
    return sorted(best.values(), key=lambda s: -s["parameters"])


@_styled
def runtimes(results: Mapping) -> tuple[Figure, str]:
    """Draw ROUGE-L against throughput for all systems and inference backends, with the Pareto front as a line."""
    beams, size, tokens = _forced(results)
    systems = [s for s in results["systems"] if s.get("parts")]
    rate = {s["name"]: find(s["speeds"], size, beams, tokens) for s in systems}
    figure, axis = _new(2.9)
    kinds = list(dict.fromkeys(s["runtime"] for s in systems))
    for s in systems:
        speed, (low, high) = rate[s["name"]], s["rougeL_ci"]
        least, most = speed["summaries_per_s_spread"]
        axis.errorbar(
            speed["summaries_per_s"], s["rougeL"], yerr=[[max(0, s["rougeL"] - low)], [max(0, high - s["rougeL"])]],
            xerr=[[max(0, speed["summaries_per_s"] - least)], [max(0, most - speed["summaries_per_s"])]],
            fmt=MARKERS[kinds.index(s["runtime"]) % 5], color=GREY if s["method"] == "teacher" else BLUE, linewidth=0.8,
            markerfacecolor="white" if s["method"] == "teacher" else BLUE,
        )  # fmt: skip
    best = unbeaten([(rate[s["name"]]["summaries_per_s"], s["rougeL"]) for s in systems])
    axis.plot(*zip(*best, strict=True), color="black", linewidth=0.8, zorder=0)
    teacher = next(s for s in systems if s["method"] == "teacher" and s["runtime"] == "pytorch-fp32")
    axis.axhline(GOAL_RETENTION * teacher["rougeL"], color="black", linestyle="--", linewidth=0.8)
    for kind, marker in zip(kinds, MARKERS, strict=False):
        axis.plot([], [], marker, color="black", markerfacecolor="white", label=kind)
    student = next((s for s in systems if s["method"] != "teacher"), None)
    axis.plot([], [], "o", color=GREY, markerfacecolor="white", label="teacher (hollow)")
    if student:
        axis.plot([], [], "o", color=BLUE, label=f"{student.get('of', student['name'])} (filled)")
    axis.set_xscale("log")
    _plain_ticks(axis.xaxis)
    axis.set_xlabel(f"summaries per second (batch size {size})")
    axis.set_ylabel("ROUGE-L (points)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=6)
    fastest = max(systems, key=lambda s: rate[s["name"]]["summaries_per_s"])
    return figure, (
        f"ROUGE-L against throughput with {beams} beams and {tokens} tokens per summary. No system is better and faster than one on the "
        f"line; the dashed line is {100 * GOAL_RETENTION:.0f} % of the teacher's ROUGE-L. The fastest, {fastest['name']}, writes "
        f"{rate[fastest['name']]['summaries_per_s']:.0f} summaries per second, {rate[fastest['name']]['speedup']:.1f}× as many as the "
        f"teacher in pytorch-fp32, at {fastest['rougeL']:.1f} points. Error bars: 95 % interval (vertical), range over rounds (horizontal)."
    )


@_styled
def batches_and_beams(results: Mapping) -> tuple[Figure, str]:
    """Draw throughput over batch sizes and over beams, with summaries of one length."""
    beams, size, tokens = _forced(results)
    systems = [s for s in results["systems"] if s.get("parts")]
    kinds = list(dict.fromkeys(s["runtime"] for s in systems))
    figure, (left, right) = _new(2.9, columns=2, sharey=True)
    for axis, key, label in ((left, "batch_size", "batch size"), (right, "num_beams", "beams")):
        fixed = ("num_beams", beams) if key == "batch_size" else ("batch_size", size)
        for s in systems:
            rows = [m for m in s["speeds"] if m["tokens"] == tokens and m[fixed[0]] == fixed[1]]
            rows = sorted({m[key]: m for m in rows}.values(), key=lambda m: m[key])
            teacher, kind = s["method"] == "teacher", kinds.index(s["runtime"])
            axis.plot(
                [m[key] for m in rows], [m["summaries_per_s"] for m in rows], LINES[teacher] + MARKERS[kind % 12], color=COLOURS[kind % 5],
                markerfacecolor="white" if teacher else COLOURS[kind % 5], label=f"{s.get('of', s['name'])}, {s['runtime']}" if axis is left else None,
            )  # fmt: skip
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
        axis.set_xscale("log", base=2)
        ticks = sorted({m[key] for s in systems for m in s["speeds"] if m["tokens"] == tokens})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set_xlabel(label)
    left.set_ylabel("summaries per second")
    figure.legend(loc="outside lower center", ncols=2, fontsize=6)
    gains = {s["name"]: find(s["speeds"], size, beams, tokens)["summaries_per_s"] / find(s["speeds"], 1, beams, tokens)["summaries_per_s"] for s in systems}  # fmt: skip
    most = max(gains, key=gains.get)
    return figure, (
        f"Throughput with {tokens} tokens per summary, over batch sizes with {beams} beams (left) and over beams with batch size {size} (right). "
        f"Batch size {size} helps {most} most: {gains[most]:.1f}× the throughput of batch size 1."
    )


def _forced(results: Mapping) -> tuple[int, int, int]:
    """Return beams, batch size and summary length of the comparison between inference backends."""
    speed = results["settings"]["speed"]
    return results["generation"]["num_beams"], speed["batch_size"], speed["tokens"]


def unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front: the points that no other one equals or exceeds in both coordinates, from left to right."""
    return sorted(p for p in set(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points))


# -- 04: the evidence --------------------------------------------------------------------------------------


@_styled
def sweep(results: Mapping) -> tuple[Figure, str]:
    """Draw a map of ROUGE-L over α and T."""
    rows = results["sweep"]
    plain = next((r for r in rows if r["alpha"] == 1), None)
    alphas, scales = (sorted({r[key] for r in rows}) for key in ("alpha", "temperature"))
    # α = 1 was trained at a single temperature: T does not matter there.
    grid = np.array(
        [[next(r["rougeL"] for r in rows if r["alpha"] == a and (a == 1 or r["temperature"] == t)) for t in scales] for a in alphas]
    )  # fmt: skip
    figure, axis = _new(0.9 + 0.32 * len(alphas))
    image = axis.imshow(grid, cmap="Greys", aspect="auto", vmin=grid.min() - 0.5 * np.ptp(grid) - 0.1)
    for y, alpha in enumerate(alphas):
        for x in range(len(scales)):
            dark = grid[y, x] > grid.min() + 0.25 * np.ptp(grid)
            if alpha < 1 or x == len(scales) // 2:
                axis.text(
                    x, y, f"{grid[y, x]:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=7
                )
    axis.grid(visible=False)
    axis.set_xticks(range(len(scales)), [f"{t:g}" for t in scales])
    axis.set_yticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    axis.set_xlabel("temperature T")
    axis.set_ylabel("α (1: hard loss only)")
    figure.colorbar(image, label="ROUGE-L (points)")
    best = max(rows, key=lambda r: r["rougeL"])
    worst = min(rows, key=lambda r: r["rougeL"])
    told = [v for v in results["verdicts"] if v["family"] == "sweep" and v["metric"] == "rougeL"]
    better, worse = (sum(v["verdict"] == word for v in told) for word in ("BEATS", "NO BEATS"))
    against = (
        f" Of {len(told)} settings, {better} are significantly better than α = 1 and {worse} significantly worse."
        if plain
        else ""
    )
    return figure, (
        f"{results['settings']['evidence']['sweep_steps']} steps of kd per α and T, greedy summaries of {rows[0]['examples']:,} validation "
        f"pairs: the best is α = {best['alpha']:g}, T = {best['temperature']:g} with {best['rougeL']:.1f} "
        f"(95 % interval {best['rougeL_ci'][0]:.1f} to {best['rougeL_ci'][1]:.1f}), the worst α = {worst['alpha']:g}, T = {worst['temperature']:g} with {worst['rougeL']:.1f}.{against}"
    )


@_styled
def learning_curve(results: Mapping) -> tuple[Figure, str]:
    """Draw retention of ROUGE-L against the number of training pairs, per method."""
    figure, axis = _new(2.2)
    few = [s for s in results["systems"] if s["group"] == "pairs"]
    told = []
    for i, method in enumerate(dict.fromkeys(s["method"] for s in few)):
        own = [s for s in results["systems"] if s["method"] == method and s["group"] in ("pairs", "main")]
        own = sorted((s for s in own if s["retention_rougeL_ci"]), key=lambda s: s["training_pairs"])
        if not own:
            continue
        kept = np.array([100 * s["retention_rougeL"] for s in own])
        bounds = 100 * np.array([s["retention_rougeL_ci"] for s in own]).T
        axis.errorbar(
            [s["training_pairs"] for s in own], kept, yerr=np.abs(bounds - kept), color=COLOURS[i % 5], marker=MARKERS[i % 5],
            linestyle=LINES[i % 4], label=method, capsize=2,
        )  # fmt: skip
        told.append(
            f"{method} retains {kept[0]:.1f} % with {own[0]['training_pairs']:,} pairs and {kept[-1]:.1f} % with {own[-1]['training_pairs']:,}"
        )
    axis.set_xscale("log")
    shown = sorted({s["training_pairs"] for s in few} | {s["training_pairs"] for s in results["systems"] if s["group"] == "main" and s.get("training_pairs")})  # fmt: skip
    axis.set_xticks(shown, [f"{pairs:,}" for pairs in shown])
    axis.minorticks_off()
    axis.set_xlabel("training pairs (log scale)")
    axis.set_ylabel("ROUGE-L retained (%)")
    if told:
        axis.legend()
    return (
        figure,
        f"Retention by the number of training pairs, at the same number of steps: {'; '.join(told)}. Error bars are 95 % intervals.",
    )


@_styled
def reliability(results: Mapping) -> tuple[Figure, str]:
    """Draw next-token accuracy against confidence (a reliability diagram), per system with a calibration."""
    systems = [s for s in results["systems"] if s.get("calibration")]
    figure, axis = _new(2.9)
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    for i, s in enumerate(systems):
        bins = s["calibration"]["bins"]
        axis.plot(
            [b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=COLOURS[i % 5], marker=MARKERS[i % 12],
            linestyle=LINES[i % 4], markersize=3, label=f"{s['name']}: {100 * s['calibration']['ece']:.1f} %",
        )  # fmt: skip
    axis.set_xlabel("confidence in the most probable token")
    axis.set_ylabel("accuracy")
    axis.legend(
        title="expected calibration error", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, title_fontsize=7
    )
    order = sorted(systems, key=lambda s: s["calibration"]["ece"])
    sure = sum(s["calibration"]["confidence"] > s["calibration"]["accuracy"] for s in systems)
    return figure, (
        f"Below the diagonal, a model is overconfident; on average, {sure} of {len(systems)} are. The best calibrated is {order[0]['name']} (error "
        f"{100 * order[0]['calibration']['ece']:.1f} %), the worst {order[-1]['name']} ({100 * order[-1]['calibration']['ece']:.1f} %)."
    )


@_styled
def wins_and_losses(results: Mapping) -> tuple[Figure, str]:
    """Draw the ROUGE-L difference between the best student and its teacher for every test pair, sorted."""
    ahead = np.array(results["examples"]["ahead"])
    figure, axis = _new(2.0)
    share = 100 * np.arange(1, len(ahead) + 1) / len(ahead)
    axis.fill_between(share, ahead, where=ahead >= 0, color=BLUE, step="mid")
    axis.fill_between(
        share, ahead, where=ahead <= 0, color=ORANGE, hatch="///", edgecolor="white", linewidth=0, step="mid"
    )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xlabel("test pairs, sorted by difference (%)")
    axis.set_ylabel("student − teacher\n(ROUGE-L, points)")
    better, worse = (100 * float(np.mean(x)) for x in (ahead > 0, ahead < 0))
    return figure, (
        f"{results['examples']['student']} scores higher than its teacher in {better:.0f} % of the test pairs, lower in {worse:.0f} % and the same in "
        f"{100 - better - worse:.0f} %; the mean difference is {ahead.mean():+.2f} points."
    )


# -- benchmarks: the cost of a step -------------------------------------------------------------------------

WAYS = {"textbook": (ORANGE, "s", "--"), "ours": (BLUE, "o", "-")}


@_styled
def cost_growth(rows: Sequence[Mapping]) -> tuple[Figure, str]:
    """Draw time and memory of a step over batch size, lengths and vocabulary, for the textbook trainer and ours."""
    labels = {
        "batch": "batch size (pairs)", "source": "source tokens", "target": "target tokens", "vocabulary": "vocabulary (thousands)",
    }  # fmt: skip
    figure, axes = _new(3.4, columns=4, rows=2, width=2 * WIDTH, sharey="row")
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


@_styled
def step_parts(shares: Mapping[str, Mapping[str, float]]) -> tuple[Figure, str]:
    """Draw the time breakdown of a step in milliseconds, for the textbook trainer and ours."""
    names = ["encoder", "teacher decoder", "student decoder", "loss", "backward", "data", "optimizer and rest"]
    figure, axis = _new(2.4, width=1.4 * WIDTH)
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


# -- interactive plots -----------------------------------------------------------------------------------


@_styled
def position(at: Position, temperature: float, names: tuple[str, str]) -> tuple[Figure, str]:
    """Draw the most probable next tokens of two models at one position and temperature; ``names``: teacher, student."""
    figure, axis = _new(2.6, width=1.5 * WIDTH)
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
    said = f"After {at.before!r} the" if at.before else "The"
    begins = f"{said} reference {'goes on' if at.before else 'begins'} with {at.wanted!r}."
    return figure, (
        f"{begins} Bars: next-token probabilities at T = {temperature:g}. Entropy: {names[0]} {at.teacher_entropy:.2f}, {names[1]} "
        f"{at.student_entropy:.2f} nats; KL({names[0]} ‖ {names[1]}) {at.kl:.3f} nats; soft loss of the position, T² · KL, {at.soft:.3f}."
    )


@_styled
def loss_settings(batch: BatchLoss, alpha: float, temperature: float) -> tuple[Figure, str]:
    """Draw the loss and its terms over T and the gradient norm over α, with the chosen setting marked."""
    figure, axes = _new(2.2, columns=2, width=2 * WIDTH)
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


@_styled
def trade(points: Sequence[Mapping], metric: str, load: str) -> tuple[Figure, str]:
    """Draw quality against throughput, a point per system and inference backend, with the Pareto front as a line."""
    figure, axis = _new(2.9, width=1.5 * WIDTH)
    told_as = metric.replace("rouge", "ROUGE-")
    kinds, names = (list(dict.fromkeys(p[key] for p in points)) for key in ("runtime", "name"))
    for i, p in enumerate(points):
        axis.plot(
            p["summaries_per_s"], p["quality"], MARKERS[kinds.index(p["runtime"]) % 12], color=COLOURS[names.index(p["name"]) % 5],
            fillstyle=FILLS[names.index(p["name"]) // 5 % 4],             label=f"{p['name']}, {p['runtime']}", gid=f"point-{i}",
        )  # fmt: skip
    if points:
        best = unbeaten([(p["summaries_per_s"], p["quality"]) for p in points])
        axis.plot(*zip(*best, strict=True), color="black", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=6)
    axis.set_xlabel(f"summaries per second ({load})")
    axis.set_ylabel(f"{told_as} (points)")
    fastest = max(points, key=lambda p: p["summaries_per_s"], default=None)
    told = (
        f" Fastest: {fastest['name']} in {fastest['runtime']}, {fastest['summaries_per_s']:.1f} summaries per second with {fastest['quality']:.1f} points."
        if fastest
        else ""
    )
    return figure, f"{told_as} against throughput ({load}); no system is better and faster than one on the line.{told}"


def _plain(text: str) -> str:
    """Escape dollar signs, which matplotlib reads as formulas."""
    return text.replace("$", r"\$")
