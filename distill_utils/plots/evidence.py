"""Plot the ablations: sweep, training-set size, calibration, wins and losses (notebook 04)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from distill_utils.evaluation.results import GOAL_RETENTION, has_budget
from distill_utils.plots.style import BLUE, COLOURS, LINES, MARKERS, ORANGE, new_figure, plain_ticks, styled
from distill_utils.studies.settings import student_label


@styled
def sweep(results: Mapping) -> tuple[Figure, str]:
    """Draw a map of ROUGE-L over α and T."""
    rows = results["sweep"]
    plain = next((r for r in rows if r["alpha"] == 1), None)
    alphas, scales = (sorted({r[key] for r in rows}) for key in ("alpha", "temperature"))
    # α = 1 was trained at one temperature, because T has no effect there.
    grid = np.array(
        [[next(r["rougeL"] for r in rows if r["alpha"] == a and (a == 1 or r["temperature"] == t)) for t in scales] for a in alphas]
    )  # fmt: skip
    figure, axis = new_figure(0.9 + 0.32 * len(alphas))
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
    verdicts = [v for v in results["verdicts"] if v["family"] == "sweep" and v["metric"] == "rougeL"]
    better, worse = (sum(v["verdict"] == word for v in verdicts) for word in ("BEATS", "NO BEATS"))
    against = (
        f" Of {len(verdicts)} settings, {better} are significantly better than α = 1 and {worse} significantly worse."
        if plain
        else ""
    )
    return figure, (
        f"{results['settings']['evidence']['sweep_steps']} steps of kd per α and T, greedy summaries of {rows[0]['examples']:,} validation "
        f"pairs: the best is α = {best['alpha']:g}, T = {best['temperature']:g} with {best['rougeL']:.1f} "
        f"(95 % interval {best['rougeL_ci'][0]:.1f} to {best['rougeL_ci'][1]:.1f}), the worst α = {worst['alpha']:g}, T = {worst['temperature']:g} with {worst['rougeL']:.1f}.{against}"
    )


@styled
def learning_curve(results: Mapping) -> tuple[Figure, str]:
    """Draw retention of ROUGE-L against the number of training pairs, per method."""
    figure, axis = new_figure(2.2)
    few = [s for s in results["systems"] if s["group"] == "pairs"]
    ends = []
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
        ends.append(
            f"{method} retains {kept[0]:.1f} % with {own[0]['training_pairs']:,} pairs and {kept[-1]:.1f} % with {own[-1]['training_pairs']:,}"
        )
    axis.set_xscale("log")
    shown = sorted({s["training_pairs"] for s in few} | {s["training_pairs"] for s in results["systems"] if s["group"] == "main" and s.get("training_pairs")})  # fmt: skip
    axis.set_xticks(shown, [f"{pairs:,}" for pairs in shown])
    axis.minorticks_off()
    axis.set_xlabel("training pairs (log scale)")
    axis.set_ylabel("ROUGE-L retained (%)")
    if ends:
        axis.legend()
    return (
        figure,
        f"Retention by the number of training pairs, at the same number of steps: {'; '.join(ends)}. Error bars are 95 % intervals.",
    )


@styled
def budgets(results: Mapping) -> tuple[Figure, str]:
    """Draw ROUGE-L over the optimizer steps, and over the time with the teacher's work, per method."""
    teacher = next(s for s in results["systems"] if s["method"] == "teacher")
    systems = [s for s in results["systems"] if has_budget(s)]
    shape = student_label(results["settings"]["distillation"]["student"])
    systems = [s for s in systems if s["name"].startswith(f"{shape} ")]
    figure, axes = new_figure(2.9, columns=2, sharey=True)
    for i, method in enumerate(dict.fromkeys(s["method"] for s in systems)):
        own = sorted((s for s in systems if s["method"] == method), key=lambda s: s["training_steps"])
        scores, bounds = np.array([s["rougeL"] for s in own]), np.array([s["rougeL_ci"] for s in own]).T
        minutes = [s["cost_seconds"] / 60 for s in own]
        for axis, x in zip(axes, ([s["training_steps"] for s in own], minutes), strict=True):
            axis.errorbar(
                x, scores, yerr=np.abs(bounds - scores), color=COLOURS[i % 5], marker=MARKERS[i % 5], linestyle=LINES[i % 4],
                label=method if axis is axes[0] else None, capsize=2,
            )  # fmt: skip
    for axis, label in zip(axes, ("optimizer steps", "minutes in total"), strict=True):
        axis.axhline(GOAL_RETENTION * teacher["rougeL"], color="black", linestyle="--", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlabel(label)
    steps = sorted({s["training_steps"] for s in systems})
    axes[0].set_xticks(steps, [f"{n / 1000:g}k" if n >= 1000 else str(n) for n in steps])
    axes[0].minorticks_off()
    plain_ticks(axes[1].xaxis)
    axes[0].set_ylabel("ROUGE-L (points)")
    figure.legend(loc="outside lower center", ncols=4)
    best = max(systems, key=lambda s: s["rougeL"])
    return figure, (
        f"ROUGE-L by the budget of training, on all training pairs: optimizer steps (left) and time on this machine with everything that the "
        f"teacher did (right). Error bars are 95 % intervals; the dashed line is {100 * GOAL_RETENTION:.0f} % of the teacher's ROUGE-L. "
        f"{best['name']} has most, {best['rougeL']:.1f} after {best['cost_seconds'] / 60:.1f} minutes."
    )


@styled
def reliability(results: Mapping) -> tuple[Figure, str]:
    """Draw next-token accuracy against confidence (a reliability diagram), per system with a calibration."""
    systems = [s for s in results["systems"] if s.get("calibration")]
    figure, axis = new_figure(2.9)
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


@styled
def wins_and_losses(results: Mapping) -> tuple[Figure, str]:
    """Draw the ROUGE-L difference between the best student and its teacher for every test pair, sorted."""
    ahead = np.array(results["examples"]["ahead"])
    figure, axis = new_figure(2.0)
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
