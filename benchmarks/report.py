"""Render the benchmarks' results: figures, ``docs/results/training_cost.md`` and ``docs/results/serving.md``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import plots as benchmark_plots
from benchmarks.peers import OURS
from distill_utils import plots
from distill_utils.evaluation.shape_speeds import PUBLISHED_SPEEDUPS, WHOLE
from distill_utils.evaluation.speed import find
from distill_utils.report import shape_speeds
from distill_utils.report.publish import PAGES, bullets, generated
from distill_utils.report.sentences import machine_sentence
from distill_utils.report.tables import markdown_table, spread
from distill_utils.system.artefacts import read_json, write_text
from distill_utils.system.paths import ROOT

RESULTS = Path(__file__).parent / "results"
FIGURES = ROOT / "figures" / "benchmarks"

#: Seconds in which `distill compare` should compare two systems.
COMPARE_SECONDS = 60
#: Description and target of each ratio (None: no target).
NAMES: dict[str, tuple[str, float | None]] = {
    "time_to_95": ("wall time to 95 % of the teacher's validation ROUGE-L, median of three seeds", 3),
    "full_online": ("pairs per second, all parameters trained", 1.6),
    "full_cached": ("pairs per second, all parameters trained, teacher cached", 2),
    "frozen_online": ("pairs per second, encoder frozen on both sides", 2.5),
    "frozen_cached": ("pairs per second, encoder frozen, teacher cached", 3),
    "frozen_encoder_cached": ("pairs per second, encoder frozen, teacher and encoder outputs cached", 6),
    "sft_frozen": ("plain fine-tuning, encoder frozen, against a plain Seq2SeqTrainer: pairs per second", None),
    "sft_encoder_cached": ("the same, encoder outputs cached", None),
    "loss_memory": ("memory of the loss, 2,048 tokens × 50,265 entries, output projection frozen", 6),
    "loss_time": ("time of the loss, output projection frozen", 1),
    "loss_trained_memory": ("memory of the loss, output projection trained", None),
    "loss_trained_time": ("time of the loss, output projection trained", None),
    "full_size_examples": ("BART-large to 12-6, encoder frozen: pairs per second", 2.5),
    "full_size_memory": ("BART-large to 12-6, encoder frozen: memory with both models", 1.7),
    "full_size_cached_examples": ("BART-large to 12-6, teacher cached: pairs per second", None),
    "full_size_cached_memory": ("BART-large to 12-6, teacher cached: memory", None),
    "full_size_encoder_cached_examples": (
        "BART-large to 12-6, teacher and encoder outputs cached: pairs per second",
        None,
    ),
    "full_size_encoder_cached_memory": ("BART-large to 12-6, teacher and encoder outputs cached: memory", None),
    "beams": ("the teacher's beam search: this project's key-value cache against that of transformers", None),
    "bf16_over_fp32": ("bfloat16 against float32, both with this trainer", None),
}

#: Sections on training.
TRAINING = (
    "loss",
    "speed",
    "precision",
    "growth",
    "parts",
    "profile",
    "full_size",
    "beams",
    "quality",
    "time_to_95",
    "pairs_growth",
)


# -- training ----------------------------------------------------------------------------------------------


def training_page(captions: dict[str, str]) -> str:
    """Render ``docs/results/training_cost.md``."""
    summary = read_json(RESULTS / "summary.json")
    rows = [("name", "what is compared", "ours against textbook (range)", "target"), ["---", "---", "---:", "---"]]
    for name, (what, target) in NAMES.items():
        aim = "–" if target is None else f"≥ {target:g}"
        if name not in summary:
            rows.append((f"`{name}`", what, "**not measured**", aim))
            continue
        if target is not None:
            aim += f", {_aimed(summary[name]['spread'], target)}"
        note = f"; {summary[name]['note']}" if "note" in summary[name] else ""
        rows.append((f"`{name}`", what + note, _ratio(summary[name]), aim))
    parts = [
        "Ratios above 1 favour this trainer. A ratio of times is the median over five rounds in which both sides alternate (lowest to highest in brackets). "
        "A ratio of memory is one reading. Both sides have the same precision, α and T. Rows with a cache leave out the time to fill it, "
        "about one pass of the teacher over the data.",
        markdown_table(rows),
    ]
    if (RESULTS / "time_to_95.json").is_file():
        parts += ["## Time to quality", _time_to_95(read_json(RESULTS / "time_to_95.json"))]
    if (RESULTS / "quality.json").is_file():
        parts += ["## Quality after equal steps", _quality(read_json(RESULTS / "quality.json"))]
    if (RESULTS / "profile.json").is_file():
        parts += ["## What a step consists of", _profile(read_json(RESULTS / "profile.json"))]
    if (RESULTS / "pairs_growth.json").is_file():
        parts += ["## Growth with the number of pairs", _pairs_growth(read_json(RESULTS / "pairs_growth.json"))]
    others = [name for name in summary if "_against_" in name]
    missing = read_json(RESULTS / "loss.json")["left_out"] if others else {}
    if others:
        rows = [(n.rpartition("_")[2], *_what(n), _ratio(summary[n])) for n in others]
        heads = [("library", "what", "output projection", "ours against the library (range)"), ["---"] * 3 + ["---:"]]
        parts += ["## The loss against other libraries", markdown_table([*heads, *rows])]
        parts += [f"Left out: {'; '.join(f'{name} ({why})' for name, why in missing.items())}."] if missing else []
    parts += ["## Figures"]
    parts += [f"![{text}](../../figures/benchmarks/{name}.png)\n\n*{text}*" for name, text in captions.items()]
    machines: dict[str, list[str]] = {}
    for name in TRAINING:
        if (RESULTS / f"{name}.json").is_file():
            where = machine_sentence(read_json(RESULTS / f"{name}.json")["environment"])
            machines.setdefault(where, []).append(f"`{name}`")
    measured = bullets([f"{', '.join(names)}: {where}." for where, names in machines.items()])
    return generated(
        "Training cost: this trainer against a textbook trainer",
        "Time and memory of distillation with this trainer, relative to a trainer written as tutorials have it "
        "([textbook.py](../../benchmarks/textbook.py)).",
        "make bench",
        parts,
        f"{measured}\n\nAll numbers: [benchmarks/results](../../benchmarks/results).",
    )


def _profile(p: dict) -> str:
    """Show a step with all caches by kind of operation."""
    spent, usual = p["seconds_per_step"], p["without_profiler"]
    total = sum(spent.values())
    rows = [(kind, f"{1000 * s:.0f}", f"{100 * s / total:.0f} %") for kind, s in spent.items() if s]
    eager = (
        ""
        if spent.get("attention")
        else "Attention has no kernel of its own here: it is part of the matrix products and of the other operations. "
    )
    return (
        f"A step of {p['batch']} pairs with encoder and teacher cached, by PyTorch's profiler, medians over rounds. *Python* is what no "
        f"operation takes, and the data loader's and optimizer's own code. {eager}"
        f"Under the profiler a step takes {1000 * total:.0f} ms, without it {1000 * np.median(usual):.0f} ({1000 * min(usual):.0f} to {1000 * max(usual):.0f}).\n\n"
        + markdown_table([("kind", "ms per step", "share"), ("---", "---:", "---:"), *rows])
    )


def _aimed(rounds: list[float], target: float) -> str:
    """Return whether a target is reached: only if every round reaches it."""
    low, high = rounds
    return "reached" if low >= target else "**missed**" if high < target else "**not shown**: rounds lie on both sides"


def _ratio(r: dict) -> str:
    low, high = r["spread"]
    return f"{r['ratio']:.2f}×" + ("" if low == high else f" ({low:.2f} to {high:.2f})")


def _what(name: str) -> tuple[str, str]:
    return "memory" if "_memory_" in name else "time", "trained" if "trained" in name else "frozen"


def _quality(q: dict) -> str:
    v, rouge = q["verdict"], q["rougeL"]
    found = {"INCONCLUSIVE": "no significant difference", "BEATS": "ours is better", "NO BEATS": "ours is worse"}
    return (
        f"Both trainers ran {q['steps']} steps of {q['batch']} pairs with a frozen encoder and one seed. On {q['validation_pairs']:,} validation pairs, "
        f"our student has {rouge['ours']:.1f} ROUGE-L and the textbook's {rouge['textbook']:.1f}: {v['delta']:+.2f} (95 % interval {v['ci'][0]:+.2f} to "
        f"{v['ci'][1]:+.2f}), {found[v['verdict']]}. Training took {q['seconds']['ours']:.0f} s and {q['seconds']['textbook']:.0f} s."
    )


def _time_to_95(t: dict) -> str:
    """Render the recipes of both trainers and their times to the goal."""
    rows = [("trainer", "recipe", "seconds to the goal, by seed", "best ROUGE-L"), ["---", "---", "---", "---:"]]
    for way, recipe in t["recipes"].items():
        runs = [r for r in t["runs"] if r["way"] == way]
        seconds = ", ".join(f"{r['seconds']:.0f}" + ("" if r["reached"] else " (not reached)") for r in runs)
        hidden = f", hidden states with β = {recipe['beta']:g}" if "beta" in recipe else ""
        shown = f"batches of {recipe['per_device_train_batch_size']}, learning rate {recipe['learning_rate']:g}{hidden}"
        rows.append((way, shown, seconds, f"{max(score for r in runs for _, _, score in r['curve']):.1f}"))
    return (
        f"`time_to_95` compares recipes as well as trainers. The goal is {t['goal_rougeL']:.1f} ROUGE-L as the mean of two consecutive validations, on "
        f"{t['validation_pairs']} pairs that were not used to tune a recipe. The limit is {t['limit_seconds']} s.\n\n{markdown_table(rows)}"
    )


def rendered(sections: dict[str, tuple[str, Callable[[dict], str]]], folder: Path) -> tuple[list[str], str]:
    """Render the sections (title and function by file) whose results are in a folder; also return the machines."""
    found = {name: read_json(folder / f"{name}.json") for name in sections if (folder / f"{name}.json").is_file()}
    parts = []
    for name, results in found.items():
        title, render = sections[name]
        parts += [f"## {title}", render(results)]
    return parts, bullets([f"{sections[name][0]}: {machine_sentence(r['environment'])}." for name, r in found.items()])


# -- serving -----------------------------------------------------------------------------------------------


def serving_page() -> str:
    """Render ``docs/results/serving.md`` with the measured sections."""
    sections = {
        "summarize": ("Documents per second of `distill summarize`", _summarize),
        "repeats": ("Repeatability of the timings", _repeats),
        "beside": ("CTranslate2 and PyTorch in one process", _beside),
        "dynamic_int8": ("Dynamic int8 quantization in PyTorch", _dynamic_int8),
        "draft": ("The student as its teacher's draft", _draft),
        "shortlist": ("A shortlist of tokens", _shortlist),
        "large_shortlist": ("A shortlist at BART-large's size", _large_shortlist),
        "peers": ("Other libraries", _peers),
        "encoder": ("The encoder's share", _encoder),
        "documents_growth": ("Growth with the number of documents", _documents_growth),
        "compare_files": ("Comparing files of summaries", _compare_files),
        "shape_speeds": ("Shapes of BART-large in float32", _shape_speeds),
        "shape_speeds_bf16": ("Shapes of BART-large in bfloat16", _shape_speeds),
    }
    parts, measured = rendered(sections, RESULTS)
    return generated(
        "Serving speed",
        "Speed of summarizing outside the study: the command line, inference backends and shapes.",
        "make bench",
        parts,
        f"{measured}\n\nAll numbers: [benchmarks/results](../../benchmarks/results). The shapes are measured by `distill speed`.",
    )


def _summarize(r: dict) -> str:
    slowest = max(row["seconds"] for row in r["rows"])
    heads = [("system", "inference backend", "time, s", "documents/s", "speed-up"), ["---", "---"] + ["---:"] * 3]
    rows = [
        (row["system"], row["runtime"], f"{row['seconds']:.0f}", f"{row['documents_per_s']:.0f}", f"{slowest / row['seconds']:.1f}×")
        for row in sorted(r["rows"], key=lambda row: -row["seconds"])
    ]  # fmt: skip
    return (
        f"{r['documents']:,} documents, loading included, one run each. The student is {r['student']}. "
        f"{100 * r['same_summaries_as_pytorch']:.0f} % of its int8 summaries are identical to those in PyTorch.\n\n{markdown_table([*heads, *rows])}"
    )


def _compare_files(r: dict) -> str:
    seconds = f"{np.median(r['seconds']):.0f} s ({min(r['seconds']):.0f} to {max(r['seconds']):.0f} s)"
    return (
        f"`distill compare` with {r['systems']} systems of {r['pairs']:,} summaries each, as many as XSum's test split has, {r['words']} words long: {seconds}, "
        f"start included, {len(r['seconds'])} runs. The target, {COMPARE_SECONDS} s, is {_aimed([COMPARE_SECONDS / max(r['seconds']), COMPARE_SECONDS / min(r['seconds'])], 1)}."
    )


def _repeats(r: dict) -> str:
    sentences, agree = [], True
    for n in range(len(r["rows"][0]["again"])):
        ratios = {i: row["again"][n] / row["first"] for i, row in enumerate(r["rows"])}
        apart = sum(abs(np.log(ratio)) > np.log(1.1) for ratio in ratios.values())
        agree &= not apart
        far = r["rows"][max(ratios, key=lambda i: abs(np.log(ratios[i])))]
        load = far["load"]
        sentences.append(
            f"Repetition {n + 1}: {len(ratios) - apart} of {len(ratios)} speed-ups are within 10 % of the first run. The median ratio is "
            f"{np.median(list(ratios.values())):.2f}. The largest difference is {far['system']} at batches of {load['batch_size']} and {load['num_beams']} "
            f"beams: {far['first']:.2f}× and {far['again'][n]:.2f}×."
        )
    return (
        f"The speed notebook ran {len(sentences)} more times after the study's run. The target, all speed-ups (systems × loads) within 10 % of the first run, "
        f"is {'reached' if agree else '**missed**'}.\n\n{bullets(sentences)}"
    )


def _beside(r: dict) -> str:
    heads = [("batch size", "alone", "one thread per summary", "all threads per summary"), ["---:"] * 4]
    rows = [
        (f"{loads[0]['batch_size']}", *(f"{load['summaries_per_s']:.1f}" for load in loads))
        for loads in zip(*(row["loads"] for row in r["rows"]), strict=True)
    ]
    return (
        "Summaries per second of the teacher in pytorch-fp32: alone, alternating with CTranslate2 as this project runs it (one thread per summary), and "
        f"alternating with CTranslate2's default (all threads per summary).\n\n{markdown_table([*heads, *rows])}"
    )


def _dynamic_int8(r: dict) -> str:
    heads = [("batch size", "speed-up over float32 (range)"), ["---:", "---:"]]
    rows = [
        (f"{load['batch_size']}", _speedup(load))
        for load in r["speeds"]
    ]  # fmt: skip
    low, high = r["rougeL_change_ci"]
    return (
        f"The teacher's linear layers are quantized dynamically. ROUGE-L changes by {r['rougeL_change']:+.2f} (95 % interval {low:+.2f} to {high:+.2f}). The "
        f"study does not use this backend.\n\n{markdown_table([*heads, *rows])}"
    )


def _draft(r: dict) -> str:
    heads = [
        "draft",
        "tokens proposed",
        "same summaries",
        "proposals accepted",
        "passes of the teacher",
        "speed-up",
        "latency, ms",
    ]
    rows = [heads, ["---", *["---:"] * 6]]
    speeds = {name: loads[0] for name, loads in r["speeds"].items()}

    def timed(load: dict) -> list[str]:
        return [_speedup(load), f"{load['latency_ms']:.0f}"]

    for row in r["rows"]:
        share, same = f"{row['accepted_share']:.0%}", f"{row['same']:,} of {row['documents']:,}"
        speed = timed(speeds[f"{row['student']}, {row['proposed']} tokens"])
        rows.append([row["student"], str(row["proposed"]), same, share, f"{row['passes']:.1f}", *speed])
    drafted = {f"{row['student']}, {row['proposed']} tokens" for row in r["rows"]}
    rows += [[name, *["–"] * 4, *timed(load)] for name, load in speeds.items() if name not in drafted]
    for name, (load,) in r["beams"].items():
        speedup, latency = load["latency_ms"] / speeds["teacher"]["latency_ms"], f"{load['latency_ms']:.0f}"
        rows.append([f"{name}, {load['num_beams']} beams", *["–"] * 4, f"{1 / speedup:.2f}×", latency])
    return (
        f"Greedy summaries of one document at a time, {r['tokens']:.1f} tokens on average, {r['timed']} documents timed three times; speed-ups over the "
        "teacher's greedy search in PyTorch float32. *Own loop* is the same code without a draft, *transformers* its assisted generation, where the "
        f"student reads the document again and the number of proposals varies. Shares and passes are of as many documents as *same summaries* counts. Other "
        f"numbers of proposed tokens were tried with one student of each shape.\n\n{markdown_table(rows)}"
    )


SERVED = ("system", "speed-up, batch 1", "latency, ms", "speed-up, batches", "summaries/s", "change of ROUGE-L (95 % interval)")  # fmt: skip


def _shortlist(r: dict) -> str:
    covered = [("most frequent tokens", "candidates of a document", "share of the references' tokens"), ["---:"] * 3]
    covered += [(f"{c['fixed']:,}", f"{c['candidates']:,.0f}", f"{c['share']:.1%}") for c in r["covered"]]
    changes = {row["label"]: row for row in r["rows"]}
    rows = [(*SERVED, "one document at a time"), ["---", *["---:"] * 6]]
    for name, (single, batched) in r["speeds"].items():
        row = changes.get(name)
        both = [
            f"{row[what]:+.2f}{_range(row[f'{what}_ci'])}" if row else "–"
            for what in ("rougeL_change", "rougeL_change_alone")
        ]
        rows.append((name, *_timed(single, batched), *both))
    return (
        f"`distill export --shortlist N` lets a model write only the N most frequent tokens of the training summaries and the document's own, in lower "
        f"and upper case. The vocabulary has {r['vocabulary']:,}.\n\n{markdown_table(covered)}\n\nThe share is of the reference summaries of the "
        f"{r['pairs']:,} test pairs. Speed-ups are over the teacher in PyTorch float32, with {r['beams']} beams and {single['tokens']} tokens a summary, "
        f"and batches of {batched['batch_size']}. ROUGE-L is compared with the same model's in float32 with its whole vocabulary, in batches and one document at a time: "
        f"documents that are written together share their candidates.\n\n{markdown_table(rows)}"
    )


def _large_shortlist(r: dict) -> str:
    heads = (
        "system",
        "inference backend",
        "ms, batch 1",
        "speed-up",
        "of a step",
        "bound of a step",
        "speed-up, batches",
    )
    rows = [heads, ["---", "---", *["---:"] * 5]]
    steps = {}
    for row in r["rows"]:
        whole, first, batched = row["loads"]
        step = steps[row["runtime"], row["system"]] = (whole["latency_ms"] - first["latency_ms"]) / (
            whole["tokens"] - 1
        )
        faster = steps[row["runtime"], WHOLE] / step
        bound = r["bounds"][row["runtime"]][row["system"]]
        cells = (f"{whole['latency_ms']:,.0f}", _speedup(whole), f"{faster:.2f}×", f"{bound:.2f}×", _speedup(batched))
        rows.append((row["system"], row["runtime"], *cells))
    return (
        f"Random weights, {r['beams']} beams, {whole['tokens']} tokens a summary, {r['source_tokens']:.0f} tokens a document, batches of "
        f"{batched['batch_size']}; speed-ups over 12-12 in the same backend. With the shortlist a document has {r['candidates']:,.0f} candidates on average. "
        f"The bound is that of a decoding step at batch 1 that takes as long as reading its weights, keys and values.\n\n{markdown_table(rows)}"
    )


def _speedup(load: dict) -> str:
    return f"{load['speedup']:.2f}× ({load['speedup_spread'][0]:.2f} to {load['speedup_spread'][1]:.2f})"


def _peers(r: dict) -> str:
    changes = {row["system"]: row for row in r["rows"]}
    rows = [SERVED, ["---", *["---:"] * 5]]
    for name, loads in r["speeds"].items():
        change = f"{changes[name]['rougeL_change']:+.2f}"
        rows.append(
            (name, *_timed(*loads), change if name == OURS else change + _range(changes[name]["rougeL_change_ci"]))
        )
    single, batched = r["speeds"][OURS]
    others = {name: loads for name, loads in r["speeds"].items() if not name.startswith("ours")}
    sentences = []
    for which, what in (
        () if not others else ((0, "one document at a time"), (1, f"in batches of {batched['batch_size']}"))
    ):
        best = max((n for n in r["speeds"] if n not in others), key=lambda n: r["speeds"][n][which]["speedup"])
        fastest = max(others, key=lambda n: others[n][which]["speedup"])
        times = r["speeds"][best][which]["speedup"] / others[fastest][which]["speedup"]
        sentences.append(
            f"{what.capitalize()}, the fastest of ours ({best.removeprefix('ours, ')}) is {times:.2f}× as fast as {fastest}."
        )
    installed = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in r["rows"] if row["versions"]
    )
    left_out = "".join(f"\n\n{name} was left out: {reason}" for name, reason in r["failed"].items())
    return (
        f"{r['student']} with {r['beams']} beams and {single['tokens']} tokens a summary. Every system is a process of its own (ours excepted), gets "
        f"the same token ids, and they take turns. Speed-ups are over PyTorch float32 with this project's cache; ROUGE-L is of {r['pairs']:,} test "
        f"pairs, those of the shortlist written one by one, since the documents of a batch share their candidates. OpenVINO computes in float32. {' '.join(sentences)}\n\n{markdown_table(rows)}\n\nEnvironments: {'; '.join(installed)}.{left_out}"
    )


def _encoder(r: dict) -> str:
    heads = ("system", "ROUGE-L", "change (95 % interval)", "speed-up, batch 1", "latency, ms", "encoder, % of the time", "speed-up, batches", "encoder, % of the time")  # fmt: skip
    rows = [heads, ["---", *["---:"] * 7]]
    for row in r["rows"]:
        single, batched = (find(r["speeds"][row["system"]], size, r["beams"], r["tokens"]) for size in (1, r["batch"]))
        change = f"{row['rougeL_change']:+.2f}{_range(row['rougeL_change_ci'])}"
        alone, together = (f"{100 * share:.0f} %" for share in row["encoder_shares"])
        cells = _speedup(single), f"{single['latency_ms']:.0f}", alone, _speedup(batched), together
        rows.append((row["system"], f"{row['rougeL']:.1f}", "–" if row is r["rows"][0] else change, *cells))
    first, *_ = r["batching"].values()
    ways = [("documents", "seconds (range)", "speed-up"), ["---", "---:", "---:"]]
    for name, seconds in r["batching"].items():
        faster = np.median([a / b for a, b in zip(first, seconds, strict=True)])
        ways.append((name, f"{np.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})", f"{faster:.2f}×"))
    return (
        f"Students of other shapes and shorter documents against {r['rows'][0]['system']}, in CTranslate2 with {r['beams']} beams, {r['tokens']} tokens a "
        f"summary and batches of {r['batch']}; documents of at most {r['source_tokens']} tokens unless the row says otherwise. ROUGE-L is of {r['pairs']:,} test "
        f"pairs, with summaries of their own length. All students: method `{r['method']}`, {r['steps']} steps, one seed.\n\n{markdown_table(rows)}\n\nHow {r['documents']:,} of the documents are put "
        f"together, in batches of {r['batch']} or of {r['batch_tokens']:,} tokens, with summaries of their own length. Unless a row says otherwise, each thread "
        f"has batches of its own, so that one encodes while another decodes.\n\n{markdown_table(ways)}"
    )


def _documents_growth(r: dict) -> str:
    return (
        f"`distill summarize` with the int8 export of {r['student']}, loading included, one run each. Memory is what no file backs. The marginal time is that of the documents by "
        f"which a file is longer than the one above it.\n\n{_growth(r['rows'], 'documents')}"
    )


def _pairs_growth(r: dict) -> str:
    return (
        "`distill train` of a tiny student for 20 steps, so that reading, tokenizing, caching and sorting the pairs takes the time; loading included, "
        "one run each. Teacher states and encoder outputs are cached for every pair. Memory is what no file backs, so caches that are read from disk "
        "do not count. The marginal time is that of the pairs by which a row has more "
        f"than the one above it.\n\n{_growth(r['rows'], 'pairs')}"
    )


def _growth(rows: list[dict], what: str) -> str:
    """Render time and memory over counts."""
    lines = [(what, "time, s", f"marginal time, ms per {what.removesuffix('s')}", "peak memory, GB"), ["---:"] * 4]
    for i, row in enumerate(rows):
        marginal = "–"
        if i:
            before = rows[i - 1]
            marginal = f"{1000 * (row['seconds'] - before['seconds']) / (row[what] - before[what]):.2f}"
        lines.append((f"{row[what]:,}", f"{row['seconds']:.0f}", marginal, f"{row['peak_bytes'] / 1e9:.2f}"))
    return markdown_table(lines)


def _timed(single: dict, batched: dict) -> list[str]:
    """Return cells: speed-up and latency at batch 1, speed-up and throughput in batches."""
    return [_speedup(single), f"{single['latency_ms']:.0f}", _speedup(batched), f"{batched['summaries_per_s']:.0f}"]


def _range(interval: list[float]) -> str:
    return f" ({interval[0]:+.2f} to {interval[1]:+.2f})"


def _shape_speeds(r: dict) -> str:
    beams, tokens = r["generation"]["num_beams"], r["generation"]["max_new_tokens"]
    return "\n\n".join([
        f"Random weights, {beams} beams, {tokens} tokens per summary, articles of {r['corpus']['name']} ({r['corpus']['source_tokens']:.0f} tokens on average). "
        "Speed-ups are over 12-12 in the same backend. The published speed-ups are DistilBART's, on one GPU with summaries of their own length.",
        shape_speeds.table(r), _against_published(r), *shape_speeds.explanation(r),
    ])  # fmt: skip


def _against_published(r: dict) -> str:
    sentences = []
    for runtime in dict.fromkeys(row["runtime"] for row in r["rows"]):
        for shape in ("12-6", "12-3"):
            row = next((x for x in r["rows"] if (x["shape"], x["runtime"]) == (shape, runtime)), None)
            if row:
                ours = find(row["loads"], 1, r["generation"]["num_beams"], r["generation"]["max_new_tokens"])
                published = PUBLISHED_SPEEDUPS[shape]
                verdict = _aimed(ours["speedup_spread"], published)
                times = spread(ours, "speedup", ".3f", "×")
                sentences.append(f"{shape} in {runtime}: {times} of the published {published:.2f}×, {verdict}.")
    return f"The target is the published speed-up:\n\n{bullets(sentences)}"


# -- publishing --------------------------------------------------------------------------------------------


def draw() -> dict[str, str]:
    """Write the figures; return their captions by name."""
    captions = {}
    for name, make in (
        ("growth", lambda d: benchmark_plots.cost_growth(d["rows"])),
        ("parts", lambda d: benchmark_plots.step_parts(d["seconds_per_step"])),
    ):
        path = RESULTS / f"{name}.json"
        if path.is_file():
            figure, captions[name] = make(read_json(path))
            plots.save_in(FIGURES, name, figure)
    return captions


def publish() -> None:
    write_text(PAGES / "training_cost.md", training_page(draw()))
    write_text(PAGES / "serving.md", serving_page())


if __name__ == "__main__":
    publish()
