"""The benchmarks' results for people: ``benchmarks/results`` enters, figures and the README's block leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import serving
from distill_utils import figures, shape_speeds
from distill_utils.artefacts import read_json, write_text
from distill_utils.report import README, replace_block
from distill_utils.speed import find
from distill_utils.study import ROOT

RESULTS = Path(__file__).parent / "results"
FIGURES = ROOT / "figures" / "benchmarks"

#: What each name is, and the bar that it was to clear (None: measured without one).
NAMES: dict[str, tuple[str, float | None]] = {
    "time_to_95": ("wall time to 95 % of the teacher's validation ROUGE-L, median of three seeds", 3),
    "full_online": ("pairs per second, all parameters trained", 1.6),
    "full_cached": ("the same, teacher from cache", 2),
    "frozen_online": ("pairs per second, encoder frozen on both sides", 2.5),
    "frozen_cached": ("the same, teacher from cache", 3),
    "frozen_encoder_cached": ("the same, the encoder's outputs cached too", 6),
    "loss_memory": ("memory of the loss alone, 2,048 tokens × 50,265 entries, student's projection frozen", 6),
    "loss_time": ("time of the loss alone", 1),
    "loss_trained_memory": ("memory of the loss alone, projection trained", None),
    "loss_trained_time": ("time of the loss alone, projection trained", None),
    "full_size_examples": ("bart-large to 12-6, encoder frozen: pairs per second", 2.5),
    "full_size_memory": ("bart-large to 12-6: memory, both models included", 1.7),
    "full_size_cached_examples": ("the same, teacher from cache: pairs per second", None),
    "full_size_cached_memory": ("the same, teacher from cache: memory", None),
    "full_size_encoder_cached_examples": ("the same, the encoder's outputs cached too: pairs per second", None),
    "full_size_encoder_cached_memory": ("the same, the encoder's outputs cached too: memory", None),
    "beams": (
        "the teacher's beam search: the document's keys and values left in place, against the library's cache",
        None,
    ),
    "bf16_over_fp32": ("bfloat16 over float32, ours on both sides", None),
}

#: Sections that tell how fast summaries come, and not how fast students are trained.
SERVING = (*serving.SECTIONS, "shape_speeds", "shape_speeds_bf16")


def block() -> str:
    """The table, what it was measured on, and whether each bar was cleared."""
    summary = read_json(RESULTS / "summary.json")
    rows = ["| name | what | ours against textbook (spread) | aim |", "| --- | --- | ---: | --- |"]
    for name, (what, bar) in NAMES.items():
        aim = "–" if bar is None else f"≥ {bar:g}"
        if name not in summary:
            rows.append(f"| `{name}` | {what} | **not measured** | {aim} |")
            continue
        if bar is not None:
            aim += ", reached" if summary[name]["ratio"] >= bar else ", **missed**"
        note = f"; {summary[name]['note']}" if "note" in summary[name] else ""
        rows.append(f"| `{name}` | {what}{note} | {_ratio(summary[name])} | {aim} |")
    lines = ["\n".join(rows)]
    if (RESULTS / "time_to_95.json").is_file():
        lines.append(_time_to_95(read_json(RESULTS / "time_to_95.json")))
    others = [name for name in summary if "_against_" in name]
    if others:
        told = (f"{_ratio(summary[n])} against {n.rpartition('_')[2]} ({_what(n)})" for n in others)
        lines.append(f"The loss alone against other libraries': {'; '.join(told)}.")
    if (RESULTS / "quality.json").is_file():
        q = read_json(RESULTS / "quality.json")
        v, rouge = q["verdict"], q["rougeL"]
        found = {
            "INCONCLUSIVE": "no difference that the interval shows", "BEATS": "ours is better", "NO BEATS": "ours is worse",
        }[v["verdict"]]  # fmt: skip
        lines.append(
            f"Quality: after {q['steps']} steps of {q['batch']} pairs, encoder frozen, the student of ours has {rouge['ours']:.1f} ROUGE-L on "
            f"{q['validation_pairs']:,} validation pairs and the textbook's {rouge['textbook']:.1f}, {v['delta']:+.2f} "
            f"({v['ci'][0]:+.2f} to {v['ci'][1]:+.2f}, one seed each): {found}. Training took {q['seconds']['ours']:.0f} and {q['seconds']['textbook']:.0f} s."
        )
    measured = {}
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem not in ("summary", *SERVING):
            measured.setdefault(_machine(read_json(path)["environment"]), []).append(path.stem)
    told = "; ".join(f"{', '.join(names)} on {where}" for where, names in measured.items())
    lines.append(
        f"Measured: {told}. A ratio of times is the median over "
        "five rounds of both sides in turn (least to most in brackets), one of memory is a single reading. Both sides have the same "
        "precision, α and T. The rows from cache leave out the making of the cache, which takes about one pass of the teacher."
    )
    return "\n\n".join(lines)


def serving_block() -> str:
    """What ``benchmarks.serving`` found, as far as it was run."""
    found = {name: read_json(RESULTS / f"{name}.json") for name in SERVING if (RESULTS / f"{name}.json").is_file()}
    told = {
        "repeats": _repeats, "beside": _beside, "summarize": _summarize, "dynamic_int8": _dynamic_int8,
        "shape_speeds": _shape_speeds, "shape_speeds_bf16": _shape_speeds,
    }  # fmt: skip
    return "\n\n".join(f"{told[name](r)} (Measured on {_machine(r['environment'])}.)" for name, r in found.items())


def _machine(e: dict) -> str:
    changed = " with changes" if e["modified"] else ""
    machine = e["gpu"] or f"{e['cores']} cores ({e['processor']})"
    return f"{machine}, torch {e['packages']['torch']}, commit {e['commit'][:10]}{changed}"


def _repeats(r: dict) -> str:
    told, agree = [], True
    for n in range(len(r["rows"][0]["again"])):
        ratios = {i: row["again"][n] / row["first"] for i, row in enumerate(r["rows"])}
        apart = sum(abs(np.log(ratio)) > np.log(1.1) for ratio in ratios.values())
        agree &= not apart
        far = r["rows"][max(ratios, key=lambda i: abs(np.log(ratios[i])))]
        load = far["load"]
        told.append(
            f"{len(ratios) - apart} of {len(ratios)} are within 10 % of the first's (median ratio {np.median(list(ratios.values())):.2f}; farthest: {far['system']}, "
            f"batches of {load['batch_size']}, beams {load['num_beams']}, {far['first']:.2f}× and {far['again'][n]:.2f}×)"
        )
    return (
        f"**Do the timings repeat?** The speed notebook was run again after the study's run, {len(told)} times. Of its speed-ups (systems × loads), {'; then '.join(told)}. "
        f"The aim, all within 10 %, is {'reached' if agree else '**missed**'}."
    )


def _summarize(r: dict) -> str:
    slowest = max(row["seconds"] for row in r["rows"])
    rows = [
        f"{row['system']} in {row['runtime']} {row['seconds']:.0f} s ({row['documents_per_s']:.0f} a second, {slowest / row['seconds']:.1f}×)"
        for row in sorted(r["rows"], key=lambda row: -row["seconds"])
    ]
    return (
        f"**{r['documents']:,} documents through `distill summarize`**, loading included, once each: {'; '.join(rows)}. The student is {r['student']}; "
        f"{100 * r['same_summaries_as_pytorch']:.0f} % of its int8 summaries are PyTorch's to the letter."
    )


def _beside(r: dict) -> str:
    alone, ours, default = (row["loads"] for row in r["rows"])
    told = [
        f"in batches of {a['batch_size']} it writes {a['summaries_per_s']:.1f} summaries a second alone, {b['summaries_per_s']:.1f} beside ours and "
        f"{c['summaries_per_s']:.1f} beside the other"
        for a, b, c in zip(alone, ours, default, strict=True)
    ]
    return (
        "**Does CTranslate2 slow PyTorch down in one process?** The teacher in pytorch-fp32 by itself, taking turns with CTranslate2 as it runs here (a "
        f"thread a summary), and taking turns with it where all threads share a summary: {'; '.join(told)}."
    )


def _dynamic_int8(r: dict) -> str:
    told = []
    for load in r["speeds"]:
        low, high = load["speedup_spread"]
        told.append(f"{load['speedup']:.2f}× ({low:.2f}–{high:.2f}) in batches of {load['batch_size']}")
    low, high = r["rougeL_change_ci"]
    return (
        f"**PyTorch's own int8** (dynamic quantization of the teacher's matrices) is {', '.join(told)} as fast as its float32, for "
        f"{r['rougeL_change']:+.2f} ROUGE-L ({low:+.2f} to {high:+.2f}). It is no runtime of the study."
    )


def _shape_speeds(r: dict) -> str:
    beams, tokens = r["generation"]["num_beams"], r["generation"]["max_new_tokens"]
    return (
        f"**BART-large's shapes with random weights**, {beams} beams, every summary {tokens} tokens, articles of {r['corpus']['name']} ({r['corpus']['source_tokens']:.0f} tokens on "
        "average), each speed-up over 12-12 in the same runtime, beside DistilBART's published ones (one GPU, natural lengths):\n\n"
        + "\n\n".join([shape_speeds.table(r), _against_published(r), *shape_speeds.explanation(r)])
    )


def _against_published(r: dict) -> str:
    told = []
    for runtime in dict.fromkeys(row["runtime"] for row in r["rows"]):
        for shape in ("12-6", "12-3"):
            row = next((x for x in r["rows"] if (x["shape"], x["runtime"]) == (shape, runtime)), None)
            if row:
                ours = find(row["loads"], 1, r["generation"]["num_beams"], r["generation"]["max_new_tokens"])["speedup"]
                published = r["published_ms"]["12-12"] / r["published_ms"][shape]
                verdict = "reached" if ours >= published else "**not reached**"
                told.append(f"{shape} in {runtime} {ours:.2f}× of {published:.2f}×, {verdict}")
    return f"The aim, as much faster as published: {'; '.join(told)}."


def _time_to_95(t: dict) -> str:
    """Both ways' recipes and what they reached."""
    told = []
    for way, recipe in t["recipes"].items():
        runs = [r for r in t["runs"] if r["way"] == way]
        seconds = ", ".join(f"{r['seconds']:.0f} s" + ("" if r["reached"] else " (stopped)") for r in runs)
        most = max(score for r in runs for _, _, score in r["curve"])
        hidden = f", hidden states with β = {recipe['beta']:g}" if "beta" in recipe else ""
        told.append(
            f"{way} (batches of {recipe['per_device_train_batch_size']}, learning rate {recipe['learning_rate']:g}{hidden}) took {seconds} and "
            f"had {most:.1f} at its best"
        )
    return (
        f"`time_to_95` compares recipes as well as trainers: the goal was {t['goal_rougeL']:.1f} ROUGE-L, as the mean of two validations in a row "
        f"on {t['validation_pairs']} pairs that no recipe was tried on, with a limit of {t['limit_seconds']} s. With three seeds, {'; '.join(told)}."
    )


def _ratio(r: dict) -> str:
    low, high = r["spread"]
    return f"{r['ratio']:.2f}×" + ("" if low == high else f" ({low:.2f}–{high:.2f})")


def _what(name: str) -> str:
    return f"{'memory' if '_memory_' in name else 'time'}, projection {'trained' if 'trained' in name else 'frozen'}"


def draw() -> dict[str, str]:
    """Writes the figures; name → caption."""
    captions = {}
    for name, make in (
        ("growth", lambda d: figures.cost_growth(d["rows"])),
        ("parts", lambda d: figures.step_parts(d["seconds_per_step"])),
    ):
        path = RESULTS / f"{name}.json"
        if path.is_file():
            figure, captions[name] = make(read_json(path))
            figures.save_in(FIGURES, name, figure)
    return captions


def publish() -> None:
    captions = draw()
    shown = "\n\n".join(
        f"![{caption}](figures/benchmarks/{name}.png)\n\n*{caption}*" for name, caption in captions.items()
    )
    text = replace_block(README.read_text("utf-8"), "benchmarks", f"{block()}\n\n{shown}")
    write_text(README, replace_block(text, "serving", serving_block()))


if __name__ == "__main__":
    publish()
