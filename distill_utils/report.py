"""Results for people: ``results.json`` enters, tables, sentences and the README's block leave."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from distill_utils.artefacts import write_json, write_text
from distill_utils.errors import UserError
from distill_utils.results import GOAL_RETENTION, load_results, teacher_system, trained_students
from distill_utils.speed import find
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
    "latency, ms (batch 1)",
    "speed-up (batch 1)",
    "summaries/s (batches)",
)
RUNTIMES_COLUMNS = (
    "system",
    "runtime",
    "MB on disk",
    "load, s",
    "peak memory, MB",
    "latency, ms (median; p90; p99)",
    "summaries/s in batches",
    "× the teacher in pytorch-fp32",
    "encoder's share",
    "of the limit, batch 1; batches",
    "same summaries, %",
    "ROUGE-L change",
)
METHODS_COLUMNS = (
    "system",
    "seeds",
    "steps",
    "training, s",
    "teacher, s",
    "length ÷ reference",
    "novel bigrams, %",
    "repeated bigrams, %",
    "is the reference, %",
    "ROUGE-L to teacher",
    "loss, nats/token",
    "calibration error, %",
)
#: A comparison's verdict in words.
VERDICTS = {"BEATS": "beats", "NO BEATS": "is beaten by", "INCONCLUSIVE": "cannot be told from"}
#: What is expected of the best student with half the decoder layers, and of the best with at most half the parameters.
HALF_DECODER, HALF_DECODER_AT_LEAST, HALF_SIZE = 0.99, 0.97, 0.95


def results_table(results: dict) -> str:
    """The study's table in Markdown, a row per system, with spreads."""
    rows = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1)]
    rows += [_row(s, results["corpus"]["test"]) for s in results["systems"] if s["group"] not in ("pairs", "runtimes")]
    return _table(rows)


def methods_table(results: dict) -> str:
    """What the students of the main comparison cost and what their summaries are like, beside teacher and references."""
    rows = [METHODS_COLUMNS, ["---"] + ["---:"] * (len(METHODS_COLUMNS) - 1)]
    for s in results["systems"]:
        if s["group"] not in ("teacher", "main", "longer"):
            continue
        student, calibration = s["method"] not in ("teacher", "ready"), s["calibration"]
        rows.append([
            s["name"],
            str(s["seeds"]) if student else "–",
            f"{s['training_steps']:,}" if student else "–",
            f"{s['training_seconds']:.0f}" if student else "–",
            f"{sum(s['teacher_seconds'].values()):.0f}" if student else "–",
            f"{s['length_ratio']:.2f}",
            f"{s['novel_bigrams']:.0f}",
            f"{s['repeated_bigrams']:.1f}",
            f"{s['reference_share']:.1f}",
            f"{s['teacher_agreement']:.1f}" if "teacher_agreement" in s else "–",
            f"{calibration['nll']:.2f}" if calibration else "–",
            f"{100 * calibration['ece']:.1f}" if calibration else "–",
        ])  # fmt: skip
    return _table(rows)


def runtimes_table(results: dict) -> str:
    """Teacher and best student in every runtime, with summaries of one length."""
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    rows = [RUNTIMES_COLUMNS, ["---", "---"] + ["---:"] * (len(RUNTIMES_COLUMNS) - 2)]
    for s in results["systems"]:
        if not s.get("parts"):
            continue
        single, batched = (find(s["speeds"], size, beams, speed["tokens"]) for size in (1, speed["batch_size"]))
        own, (alone, together) = s["footprint"], (s["parts"][0], s["parts"][-1])
        peak, same = own["peak_memory_bytes"], s.get("identical_to_float32")
        rows.append([
            s.get("of", s["name"]),
            s["runtime"],
            f"{own['disk_bytes'] / 1e6:.1f}",
            f"{own['load_seconds']:.2f}",
            f"{peak / 1e6:.0f}" if peak else "–",
            f"{single['latency_ms']:.0f}; {single['latency_ms_p90']:.0f}; {single['latency_ms_p99']:.0f}",
            _spread(batched, "summaries_per_s", ".1f"),
            _spread(batched, "speedup", ".2f"),
            f"{100 * together['encoder_share']:.0f} %" if "encoder_share" in together else "–",
            "; ".join(f"{100 * p['share_of_limit']:.0f} % ({p['bound']})" if "bound" in p else "–" for p in (alone, together)),
            f"{same:.1f}" if same is not None else "–",
            f"{s['rougeL_change']:+.2f} ({s['rougeL_change_ci'][0]:+.2f} to {s['rougeL_change_ci'][1]:+.2f})" if same is not None else "–",
        ])  # fmt: skip
    return _table(rows)


def _spread(measured: dict, name: str, form: str) -> str:
    low, high = measured[f"{name}_spread"]
    return f"{measured[name]:{form}} ({low:{form}}–{high:{form}})"


def runtime_sentences(results: dict) -> list[str]:
    """How much faster the student is in each runtime than the teacher in PyTorch's float32, what the runtime costs, and what is lost in all."""
    teacher = teacher_system(results)
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    sentences = []
    for s in results["systems"]:
        if s["group"] != "runtimes" or s["method"] == "teacher":
            continue
        fast = find(s["speeds"], speed["batch_size"], beams, speed["tokens"])
        low, high = s["rougeL_change_ci"]
        cost = (
            "costs it no ROUGE-L that could be seen"
            if low <= 0 <= high
            else f"{'brings' if low > 0 else 'costs'} it ROUGE-L"
        )
        sentences.append(
            f"{s['of']} in {s['runtime']} writes {fast['speedup']:.1f}× ({fast['speedup_spread'][0]:.1f}–{fast['speedup_spread'][1]:.1f}) as many "
            f"summaries a second as the teacher in pytorch-fp32 (batches of {speed['batch_size']}, {beams} beams, {speed['tokens']} tokens each). "
            f"The runtime {cost}: {s['rougeL_change']:+.2f} against itself in pytorch-fp32 (95 % interval {low:+.2f} to {high:+.2f}); with "
            f"{s['rougeL']:.1f} it stays {teacher['rougeL'] - s['rougeL']:.1f} points below the teacher's {teacher['rougeL']:.1f}."
        )
    return sentences


def runtimes_paragraphs(results: dict) -> list[str]:
    """Table and sentences; none where the study has no other runtime."""
    skipped = [f"{name} was skipped: {why}." for name, why in results.get("skipped_runtimes", {}).items()]
    if not any(s.get("parts") for s in results["systems"]):
        return skipped
    return [
        runtimes_table(results),
        *skipped,
        *runtime_sentences(results),
        batches_sentence(results),
        layers_or_runtime(results),
    ]


def layers_or_runtime(results: dict) -> str:
    """What fewer layers gain and lose, and what a faster runtime gains and loses; empty where no other runtime was timed."""
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    found = {(s["method"] == "teacher", s["runtime"]): s for s in results["systems"] if s.get("parts")}
    rates = {
        key: find(s["speeds"], speed["batch_size"], beams, speed["tokens"])["summaries_per_s"]
        for key, s in found.items()
    }
    runtimes = [runtime for teachers, runtime in found if teachers and (False, runtime) in found]
    if len(runtimes) < 2:
        return ""
    usual = "pytorch-fp32"
    fastest = max(runtimes, key=lambda runtime: rates[True, runtime])
    teacher, student, served = found[True, usual], found[False, usual], found[True, fastest]
    low, high = served["rougeL_change_ci"]
    seen = "none that could be seen" if low <= 0 <= high else f"{-served['rougeL_change']:.1f}"
    return (
        f"**Fewer layers or another runtime?** At equal lengths {student.get('of', student['name'])} writes {rates[False, usual] / rates[True, usual]:.2f}× as many summaries a "
        f"second as the teacher in {usual}, for {teacher['rougeL'] - student['rougeL']:.1f} points of ROUGE-L; the unchanged teacher in {fastest} writes "
        f"{rates[True, fastest] / rates[True, usual]:.2f}× as many, for {seen}. In {fastest} itself the student is {rates[False, fastest] / rates[True, fastest]:.2f}× as fast "
        "as the teacher: change the runtime first, and distil if that last factor is worth the points."
    )


def batches_sentence(results: dict) -> str:
    """The fastest of all against the teacher in PyTorch's float32, in batches of the same size and each in its best."""
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    timed = {
        s["name"]: {
            m["batch_size"]: m for m in s["speeds"] if (m["num_beams"], m["tokens"]) == (beams, speed["tokens"])
        }
        for s in results["systems"]
        if s.get("parts")
    }
    best = {name: max(m["summaries_per_s"] for m in sizes.values()) for name, sizes in timed.items()}
    name = max(best, key=best.get)
    told = (f"{size}: {m['speedup']:.1f}×" for size, m in sorted(timed[name].items()))
    return (
        f"{name} against the teacher in pytorch-fp32, by batch size: {', '.join(told)}; each in its best batches "
        f"{best[name] / best['teacher']:.1f}× ({best[name]:.0f} and {best['teacher']:.0f} summaries a second)."
    )


def speed_rows(speeds: dict[str, list[dict]]) -> list[dict]:
    """A row per system and load with summaries as long as the system likes, for a notebook's table."""
    rows = []
    for name, measured in speeds.items():
        for m in measured:
            if m["tokens"] is not None:
                continue
            rows.append({"system": name, "beams": m["num_beams"], "batch": m["batch_size"]})
            if "latency_ms" in m:
                rows[-1] |= {"latency (ms)": _spread(m, "latency_ms", ".0f"), "p99 (ms)": f"{m['latency_ms_p99']:.0f}"}
            rows[-1] |= {"summaries/s": _spread(m, "summaries_per_s", ".1f"), "speed-up": _spread(m, "speedup", ".2f")}
            rows[-1] |= {"tokens per summary": m["summary_tokens"]}
    return rows


def _table(rows: list) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(s: dict, pairs: int) -> list[str]:
    timed = s["latency_ms"] is not None
    return [
        s["name"] + (f" ({s['examples']:,} pairs)" if s["examples"] < pairs else ""),
        f"{s['parameters'] / 1e6:.1f}" if s["parameters"] else "–",
        f"{s['size_bytes'] / 1e6:.1f}" if s["size_bytes"] else "–",
        f"{s['rouge1']:.1f}",
        f"{s['rouge2']:.1f}",
        f"{s['rougeL']:.1f} ({s['rougeL_ci'][0]:.1f}–{s['rougeL_ci'][1]:.1f})",
        f"{100 * s['retention_rougeL']:.1f} %" if s["retention_rougeL"] is not None else "–",
        f"{s['latency_ms']:.0f} ({s['latency_ms_spread'][0]:.0f}–{s['latency_ms_spread'][1]:.0f})" if timed else "–",
        f"{s['speedup']:.2f}× ({s['speedup_spread'][0]:.2f}–{s['speedup_spread'][1]:.2f})" if timed else "–",
        f"{s['summaries_per_s']:.1f} ({s['summaries_per_s_spread'][0]:.1f}–{s['summaries_per_s_spread'][1]:.1f})"
        if timed
        else "–",
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


def verdict_sentences(results: dict, metric: str = "rougeL", family: str = "main") -> list[str]:
    """One sentence per comparison, worded by its interval (with Holm's correction for the other comparisons)."""
    label = {"rougeL": "ROUGE-L", "rouge2": "ROUGE-2"}[metric]
    return [
        f"{v['a']} {VERDICTS[v['verdict']]} {v['b']} by {label}: {v['delta']:+.2f} points (95 % interval {v['ci'][0]:+.2f} to {v['ci'][1]:+.2f}"
        + (f"; corrected {v['family_ci'][0]:+.2f} to {v['family_ci'][1]:+.2f}" if v["comparisons"] > 1 else "")
        + ")."
        for v in results["verdicts"]
        if v["metric"] == metric and v["family"] == family
    ]


def luck_sentence(results: dict) -> str:
    """What the intervals cover, and how small a difference they can show."""
    seeds = max((s.get("seeds", 1) for s in trained_students(results)), default=1)
    covered = (
        f"Intervals cover the choice of test pairs and, by the {seeds} seeds of a method, the luck of training"
        if seeds > 1
        else "One seed per method was trained: intervals resample the test pairs alone, not the luck of training"
    )
    visible = results["visible_rougeL"]
    shown = (
        f"; a true difference of {visible:.1f} ROUGE-L between two students would be found four times in five"
        if visible
        else ""
    )
    return f"{covered}{shown}, before Holm's correction over the comparisons of a table, which the verdicts follow."


def published_sentences(results: dict) -> list[str]:
    """Whether kd and pl are ahead of sft by as much ROUGE-2 as was published for XSum."""
    methods = {s["method"]: s["name"] for s in results["systems"] if s["group"] == "main"}
    sentences = []
    for method in ("kd", "pl"):
        pair = {methods.get(method), methods.get("sft")}
        found = [
            v
            for v in results["verdicts"]
            if v["metric"] == "rouge2" and {v["a"], v["b"]} == pair and v["family"] == "main"
        ]
        for v in found:
            sign = 1 if v["a"] == methods[method] else -1
            low, high = sorted(sign * x for x in v["ci"])
            holds = "holds here" if low >= 1 else "does not hold here" if high < 1 else "is left open by the interval"
            sentences.append(
                f"That {method} is ahead of sft by 1 to 2 ROUGE-2, as published for XSum (Shleifer & Rush 2020), {holds}: "
                f"{sign * v['delta']:+.2f} (95 % interval {low:+.2f} to {high:+.2f})."
            )
    return sentences


def aim_sentences(results: dict) -> list[str]:
    """How the best students of two kinds stand to what is expected of them."""
    teacher = teacher_system(results)
    students = [
        s for s in results["systems"]
        if s["group"] in ("main", "longer", "shapes") and s["retention_rougeL_ci"] and s["method"] not in ("copy", "ready")
    ]  # fmt: skip
    aims = (
        ("half the decoder layers", HALF_DECODER, lambda s: 2 * s["decoder_layers"] == teacher["decoder_layers"] and s["encoder_layers"] == teacher["encoder_layers"]),
        ("at most half the parameters", HALF_SIZE, lambda s: 2 * s["parameters"] <= teacher["parameters"]),
    )  # fmt: skip
    sentences = []
    for kind, aim, fits in aims:
        best = max((s for s in students if fits(s)), key=lambda s: s["retention_rougeL"], default=None)
        if best is None:
            continue
        low, high = best["retention_rougeL_ci"]
        reached = best["retention_rougeL"] >= aim and (aim == HALF_SIZE or low >= HALF_DECODER_AT_LEAST)
        sentences.append(
            f"The best student with {kind}, {best['name']}, keeps {100 * best['retention_rougeL']:.1f} % of the teacher's ROUGE-L "
            f"({100 * low:.1f}–{100 * high:.1f} %{', trained once' if best['seeds'] == 1 else ''}); the aim of {100 * aim:.0f} % is {'reached' if reached else '**missed**'}."
        )
    return sentences


def readme_block(results: dict) -> str:
    """The README's results: sentences, table, and what they were measured on."""
    e, c = results["environment"], results["corpus"]
    methods = [
        v
        for v in verdict_sentences(results)
        if v.startswith(tuple(s["name"] for s in trained_students(results)))
        and " copy" not in v
        and " scratch" not in v
    ]
    evidence = (
        [*aim_sentences(results), *published_sentences(results)] if results["settings"]["evidence"]["seeds"] > 1 else []
    )
    return "\n\n".join(
        [
            f"{goal_sentence(results)} {speed_sentence(results)}",
            *([" ".join(evidence)] if evidence else []),
            results_table(results),
            methods_table(results),
            *runtimes_paragraphs(results),
            "\n".join(f"- {sentence}" for sentence in methods),
            f"Measured on {e['cores']} cores ({e['processor']}, {e['threads']} threads), torch {e['packages']['torch']}, "
            f"transformers {e['packages']['transformers']}, commit {e['commit'][:10] or 'unknown'}"
            f"{' with changes' if e['modified'] else ''}; {c['test']:,} test pairs, float32 inference. "
            f"{luck_sentence(results)} Latency is the median over "
            "documents with 10th–90th percentile; throughput and speed-up are medians over rounds with least and most. "
            "*teacher, s* is what the teacher did beforehand for a student (pseudo-labels, cached outputs), counted in full for each; what it does in every step "
            "is a part of *training, s*.",
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
