"""Collect what the default study takes on each kind of machine: `python -m benchmarks.machines [RESULTS ...]`.

Adds the given runs' `results.json` to `benchmarks/results/machines.json`, one per kind of processor, and writes
`docs/results/machines.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import RESULTS
from distill_utils.evaluation.results import trained_students
from distill_utils.report.publish import PAGES, generated, published_results
from distill_utils.report.sentences import machine_sentence
from distill_utils.report.tables import kept, markdown_table
from distill_utils.system.artefacts import read_json, write_json, write_text

FILE = RESULTS / "machines.json"
FIELDS = (
    "name",
    "method",
    "retention_rougeL",
    "retention_rougeL_ci",
    "training_steps",
    "training_seconds",
    "teacher_seconds",
)
BUDGETS = "docstrings_budgets"


def kind(run: dict) -> str:
    e = run["environment"]
    return f"{e['processor']}, {', '.join(e['instructions'])}, {e['threads']} threads"


def added(runs: list[dict], results: dict) -> list[dict]:
    """Return the runs with that of ``results``, which replaces an earlier one of the same kind of processor."""
    if "training" not in {part["part"] for part in results["time"]} or "cache_bytes" not in results:
        raise SystemExit("give the results of a run that trained its students, without an interruption")
    run = {name: results[name] for name in ("environment", "time", "peak_memory_bytes", "cache_bytes")}
    run["students"] = [{name: s[name] for name in FIELDS} for s in trained_students(results)]
    return [*(other for other in runs if kind(other) != kind(run)), run]


def page(runs: list[dict], budgets: dict | None) -> str:
    parts = ["## Time by part", _times(runs)]
    if budgets:
        parts += ["## How long do I have to train?", *_curve(runs, budgets)]
    what = (
        "What the default study takes, without setting it up, on each kind of processor that it was run on. Processors without a feature can be "
        "emulated: the variables `ONEDNN_MAX_CPU_ISA=AVX2`, `ATEN_CPU_CAPABILITY=avx2` and `CT2_FORCE_CPU_ISA=AVX2` restrict a newer one to AVX2."
    )
    measured = "\n".join(f"- {machine_sentence(run['environment'])}." for run in runs)
    return generated("The default study on other machines", what, "python -m benchmarks.machines", parts, measured)


def _times(runs: list[dict]) -> str:
    rows = [["", *map(kind, runs)], ["---", *["---:"] * len(runs)]]
    names = list(dict.fromkeys(part["part"] for run in runs for part in run["time"]))
    spent = [{part["part"]: part["seconds"] / 60 for part in run["time"]} for run in runs]
    rows += [[f"{name}, min", *(f"{own.get(name, 0):.1f}" for own in spent)] for name in names]
    rows.append(["**in all, min**", *(f"**{sum(own.values()):.1f}**" for own in spent)])
    rows.append(["forecast, min", *(f"{sum(part['expected_s'] for part in run['time']) / 60:.1f}" for run in runs)])
    rows.append(["peak memory, GB", *(f"{run['peak_memory_bytes'] / 1e9:.1f}" for run in runs)])
    rows.append(["disk for caches, GB", *(f"{run['cache_bytes'] / 1e9:.1f}" for run in runs)])
    for name in dict.fromkeys(s["name"] for run in runs for s in run["students"]):
        own = [next((s for s in run["students"] if s["name"] == name), None) for run in runs]
        rows.append([f"ROUGE-L kept by {name}", *(kept(s) if s else "–" for s in own)])
    return markdown_table(rows)


def _curve(runs: list[dict], budgets: dict) -> list[str]:
    """ROUGE-L kept for each number of steps, and what these steps take on each machine."""
    students = [s for s in budgets["systems"] if s["group"] == "budgets"]
    measured = next((run for run in runs if kind(run) == kind(budgets)), None)
    if measured is None:
        return ["The default study was not run on the machine of [how long to train](docstrings_budgets.md)."]
    heads = ["student", "ROUGE-L kept", *(f"training on {kind(run)}, min" for run in runs)]
    rows = [heads, ["---", *["---:"] * (1 + len(runs))]]
    for s in students:
        seconds = [
            next((t["training_seconds"] for t in run["students"] if t["method"] == s["method"]), None)
            for run in (measured, *runs)
        ]
        minutes = [
            f"{s['training_seconds'] * other / seconds[0] / 60:.1f}" if other and seconds[0] else "–"
            for other in seconds[1:]
        ]
        rows.append([s["name"], kept(s), *minutes])
    about = (
        f"ROUGE-L and the minutes of the first machine of the same kind are those of [how long to train]({BUDGETS}.md), whose trainings saw all "
        f"{students[0]['training_pairs']:,} pairs. Other machines' minutes are these times the ratio of the two machines' times for the method in "
        "the default study. The teacher's cache is not in them."
    )
    return [about, markdown_table(rows)]


def main(files: list[str]) -> None:
    runs = read_json(FILE) if FILE.is_file() else []
    for file in files:
        runs = added(runs, read_json(Path(file)))
    write_json(FILE, runs)
    budgets = published_results(BUDGETS)
    write_text(PAGES / "machines.md", page(runs, read_json(budgets) if budgets.is_file() else None))


if __name__ == "__main__":
    main(sys.argv[1:])
