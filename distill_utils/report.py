"""Results for people: ``results.json`` enters, tables, sentences and the README's block leave."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from distill_utils.artefacts import write_json, write_text
from distill_utils.errors import UserError
from distill_utils.results import GOAL_RETENTION, load_results, teacher_system, trained_students
from distill_utils.study import ROOT, Study, load_study

README = ROOT / "README.md"
COLUMNS = (
    "system",
    "M params",
    "MB",
    "ROUGE-1",
    "ROUGE-2",
    "ROUGE-L (95 % interval)",
    "retention",
    "latency, ms",
    "summaries/s",
    "speed-up",
)


def results_table(results: dict) -> str:
    """The study's table in Markdown, a row per system, with spreads."""
    rows = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1)]
    rows += [_row(system) for system in results["systems"]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(s: dict) -> list[str]:
    timed = s["latency_ms"] is not None
    return [
        s["name"],
        f"{s['parameters'] / 1e6:.1f}" if s["parameters"] else "–",
        f"{s['size_bytes'] / 1e6:.1f}" if s["size_bytes"] else "–",
        f"{s['rouge1']:.1f}",
        f"{s['rouge2']:.1f}",
        f"{s['rougeL']:.1f} ({s['rougeL_ci'][0]:.1f}–{s['rougeL_ci'][1]:.1f})",
        f"{100 * s['retention_rougeL']:.1f} %" if s["retention_rougeL"] is not None else "–",
        f"{s['latency_ms']:.0f} ({s['latency_ms_spread'][0]:.0f}–{s['latency_ms_spread'][1]:.0f})" if timed else "–",
        f"{s['summaries_per_s']:.1f} ({s['summaries_per_s_spread'][0]:.1f}–{s['summaries_per_s_spread'][1]:.1f})"
        if timed
        else "–",
        f"{s['speedup']:.2f}× ({s['speedup_spread'][0]:.2f}–{s['speedup_spread'][1]:.2f})" if timed else "–",
    ]


def goal_sentence(results: dict) -> str:
    """For every trained student, whether it keeps 95 % of the teacher's ROUGE-L, as its interval allows to say."""
    teacher, students = teacher_system(results), trained_students(results)
    if not students:
        return "No student was trained: there is nothing to compare."
    if not teacher["rougeL"]:
        return "The teacher scores nothing: there is nothing that a student could keep."
    return " ".join(_goal(student, teacher) for student in students)


def _goal(student: dict, teacher: dict) -> str:
    kept = f"{student['rougeL']:.1f} of {teacher['rougeL']:.1f} points, {100 * student['retention_rougeL']:.1f} %"
    if student["retention_rougeL_ci"] is None:
        return f"What the {student['name']} student keeps of the teacher's ROUGE-L, {kept}, has no interval: there are too few test pairs."
    low, high = student["retention_rougeL_ci"]
    verdict = "may or may not keep"
    if low >= GOAL_RETENTION:
        verdict = "keeps"
    elif high < GOAL_RETENTION:
        verdict = "does not keep"
    return (
        f"The {student['name']} student {verdict} over {100 * GOAL_RETENTION:.0f} % of the teacher's ROUGE-L: "
        f"{kept} (95 % interval {100 * low:.1f}–{100 * high:.1f} %)."
    )


def speed_sentence(results: dict) -> str:
    """What the students gain."""
    teacher, students = teacher_system(results), [s for s in trained_students(results) if s["speedup"] is not None]
    if not students:
        return "Speed was not measured."
    size = students[0]["parameters"]
    gains = "; ".join(
        f"{s['name']} {s['speedup']:.2f}× ({s['speedup_spread'][0]:.2f}–{s['speedup_spread'][1]:.2f} over the rounds), "
        f"in batches {s['batch_speedup']:.2f}× ({s['batch_speedup_spread'][0]:.2f}–{s['batch_speedup_spread'][1]:.2f})"
        for s in students
    )
    return (
        f"A student has {size / 1e6:.1f} M parameters, {teacher['parameters'] / size:.2f}× fewer than the teacher's "
        f"{teacher['parameters'] / 1e6:.1f} M. Speed-up at batch 1 with {students[0]['num_beams']} beams: {gains}."
    )


def verdict_sentences(results: dict, metric: str = "rougeL") -> list[str]:
    """One sentence per comparison, worded by its interval."""
    label = {"rougeL": "ROUGE-L", "rouge2": "ROUGE-2"}[metric]
    words = {"BEATS": "beats", "NO BEATS": "is beaten by", "INCONCLUSIVE": "cannot be told from"}
    return [
        f"{v['a']} {words[v['verdict']]} {v['b']} by {label}: {v['delta']:+.2f} points (95 % interval {v['ci'][0]:+.2f} to {v['ci'][1]:+.2f})."
        for v in results["verdicts"]
        if v["metric"] == metric
    ]


def readme_block(results: dict) -> str:
    """The README's results: sentences, table, and what they were measured on."""
    e, c = results["environment"], results["corpus"]
    methods = [
        v
        for v in verdict_sentences(results)
        if v.startswith(tuple(s["name"] for s in trained_students(results))) and "copy" not in v
    ]
    return "\n\n".join(
        [
            f"{goal_sentence(results)} {speed_sentence(results)}",
            results_table(results),
            "\n".join(f"- {sentence}" for sentence in methods),
            f"Measured on {e['cores']} cores ({e['processor']}, {e['threads']} threads), torch {e['packages']['torch']}, "
            f"transformers {e['packages']['transformers']}, commit {e['commit'][:10] or 'unknown'}"
            f"{' with changes' if e['modified'] else ''}; {c['test']:,} test pairs, one seed, float32 inference. "
            "Intervals resample the test pairs only: another seed would move the students, too, by an amount that this run does not measure. Latency is the median over "
            "documents with 10th–90th percentile; throughput and speed-up are medians over rounds with least and most.",
        ]
    )


def render_readme(text: str, study: str, results: dict) -> str:
    """``text`` with the study's results between its two markers."""
    return replace_block(text, study, readme_block(results))


def replace_block(text: str, study: str, block: str) -> str:
    """``text`` with what stands between the study's two markers replaced."""
    begin, end = f"<!-- results:{study} -->", f"<!-- /results:{study} -->"
    if begin not in text or end not in text:
        raise UserError(f"README.md has no block between {begin} and {end}")
    return re.sub(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{block}\n{end}", text, flags=re.DOTALL
    )


def published_results(study_name: str) -> Path:
    """The results file of the reference run that README and figures show."""
    return ROOT / "figures" / study_name / "results.json"


def publish(study: Study) -> None:
    """Make the study's last run its reference run: copy ``results.json``, render the README."""
    results = load_results(study)
    if results["settings"] != study.settings():
        raise UserError(
            f"the last run of {study.name} had other settings than its study file; run it without --set first"
        )
    text = render_readme(README.read_text("utf-8"), study.name, results)
    write_json(published_results(study.name), results)
    write_text(README, text)


if __name__ == "__main__":  # make figures
    try:
        publish(load_study(sys.argv[1]))
    except UserError as error:
        sys.exit(f"{error}")
