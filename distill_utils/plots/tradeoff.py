"""Plot quality against speed (notebook 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from distill_utils.evaluation.results import GOAL_RETENTION, trained_students
from distill_utils.evaluation.speed import find
from distill_utils.plots.style import BLUE, COLOURS, GREY, LINES, MARKERS, new_figure, plain_ticks, styled


@styled
def quality(results: Mapping) -> tuple[Figure, str]:
    """Draw ROUGE-L with its interval for every system of the main comparison, the seeds, and 95 % of the teacher's ROUGE-L."""
    systems = [s for s in results["systems"] if s["group"] not in ("shapes", "pairs", "runtimes")][::-1]
    figure, axis = new_figure(0.6 + 0.22 * len(systems))
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


@styled
def speed_quality(results: Mapping) -> tuple[Figure, str]:
    """Draw retention of ROUGE-L against the speed-up at batch size 1, with the best student of each shape."""
    figure, axis = new_figure(2.6)
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
        shape = (s["method"] == "teacher", s["encoder_layers"], s["decoder_layers"], s.get("inner_width"))
        if shape not in best or s["rougeL"] > best[shape]["rougeL"]:
            best[shape] = s
    return sorted(best.values(), key=lambda s: -s["parameters"])


@styled
def runtimes(results: Mapping) -> tuple[Figure, str]:
    """Draw ROUGE-L against throughput for all systems and inference backends, with the Pareto front as a line."""
    beams, size, tokens = _forced(results)
    systems = [s for s in results["systems"] if s.get("parts")]
    rate = {s["name"]: find(s["speeds"], size, beams, tokens) for s in systems}
    figure, axis = new_figure(2.9)
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
    plain_ticks(axis.xaxis)
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


@styled
def batches_and_beams(results: Mapping) -> tuple[Figure, str]:
    """Draw throughput over batch sizes and over beams, with summaries of one length."""
    beams, size, tokens = _forced(results)
    systems = [s for s in results["systems"] if s.get("parts")]
    kinds = list(dict.fromkeys(s["runtime"] for s in systems))
    figure, (left, right) = new_figure(2.9, columns=2, sharey=True)
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
        plain_ticks(axis.yaxis)
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
