"""State the findings of a study's results in sentences, worded by their intervals."""

from __future__ import annotations

from distill_utils.evaluation.budgets import references
from distill_utils.evaluation.results import (
    GOAL_RETENTION,
    has_budget,
    reaches,
    teacher_system,
    trained_students,
)
from distill_utils.evaluation.speed import find
from distill_utils.report.tables import VERDICTS, fixed_length, kept, runtimes_table, spread

#: Targets for the best student with half the decoder layers, and for the best with at most half the parameters: the
#: retention, and what its whole interval lies above.
HALF_DECODER, HALF_SIZE = (0.995, 0.98), (0.975, 0.95)


def runtime_sentences(results: dict) -> list[str]:
    """State the student's speed-up in each inference backend and the backend's effect on ROUGE-L."""
    teacher, sentences = teacher_system(results), []
    for s in results["systems"]:
        if s["group"] != "runtimes" or s["method"] == "teacher":
            continue
        if s["rougeL_change_ci"]:
            low, high = s["rougeL_change_ci"]
            change = (
                "causes no significant change in"
                if low <= 0 <= high
                else f"significantly {'raises' if low > 0 else 'lowers'}"
            )
            effect = (
                f"The backend {change} ROUGE-L: {s['rougeL_change']:+.2f} (95 % interval {low:+.2f} to {high:+.2f})."
            )
        else:
            effect = f"This backend wrote the scored summaries; {s['identical_to_float32']:.0f} % of the first ones equal those of pytorch-fp32."
        student = next(o for o in results["systems"] if o["name"] == s["of"])
        first_seed = (
            f" (its first seed's; {student['rougeL']:.1f} is the mean of {student['seeds']})"
            if student.get("seeds", 1) > 1
            else ""
        )
        sentences.append(
            f"{s['of']} in {s['runtime']} writes {spread(fixed_length(s, results), 'speedup', '.1f', '×')} as many summaries per second as the teacher in "
            f"pytorch-fp32. {effect} "
            f"The student's ROUGE-L is {s['rougeL']:.1f} in this backend{first_seed}; the teacher's is {teacher['rougeL']:.1f} in pytorch-fp32."
        )
    return sentences


def runtimes_paragraphs(results: dict) -> list[str]:
    """Return table and sentences; only the skipped backends if no other backend was measured."""
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
    """Compare fewer layers with a faster inference backend; empty if only one backend was timed."""
    found = {(s["method"] == "teacher", s["runtime"]): s for s in results["systems"] if s.get("parts")}
    speedups = {key: fixed_length(s, results)["speedup"] for key, s in found.items()}
    runtimes = [runtime for teachers, runtime in found if teachers and (False, runtime) in found]
    if len(runtimes) < 2:
        return ""
    usual = "pytorch-fp32"
    fastest = max(runtimes, key=lambda runtime: speedups[True, runtime])
    student, served = found[False, usual], found[True, fastest]
    name, interval = student.get("of", student["name"]), served["rougeL_change_ci"]
    change = f"with {served['identical_to_float32']:.0f} % of the first summaries identical"
    if interval:
        change = f"with a change of {served['rougeL_change']:+.1f} ROUGE-L"
        if interval[0] <= 0 <= interval[1]:
            change = "with no significant change in ROUGE-L"
    return (
        f"**A smaller student or a faster backend?** {name} in {usual} writes {speedups[False, usual]:.2f}× as many summaries per second as the "
        f"teacher in {usual}{_beside_teacher(name, results)}. The unchanged teacher in {fastest} writes "
        f"{speedups[True, fastest]:.2f}× as many, {change}. In {fastest}, {name} is {speedups[False, fastest] / speedups[True, fastest]:.2f}× as fast "
        "as the teacher. Change the backend first; distil if this last factor is worth training a student."
    )


def _beside_teacher(name: str, results: dict) -> str:
    """State a student's difference to its teacher by its verdict; empty if the two were not compared."""
    for v in results["verdicts"]:
        if (v["a"], v["b"], v["metric"], v["family"]) == (name, "teacher", "rougeL", "main"):
            words = {"BEATS": "significantly higher", "NO BEATS": "significantly lower"}
            return (
                f"; its ROUGE-L is {words.get(v['verdict'], 'not significantly different')} ({v['delta']:+.2f} points)"
            )
    return ""


def batches_sentence(results: dict) -> str:
    """State the speed-up of the fastest system by batch size; empty if only one batch size was timed."""
    if not has_grid(results):
        return ""
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
    by_size = ", ".join(f"{m['speedup']:.1f}× at {size}" for size, m in sorted(timed[name].items()))
    return (
        f"Speed-up of {name} over the teacher in pytorch-fp32 by batch size: {by_size}. With the best batch size of each it is "
        f"{best[name] / best['teacher']:.1f}× ({best[name]:.0f} and {best['teacher']:.0f} summaries per second)."
    )


def has_grid(results: dict) -> bool:
    """Return whether the inference backends were timed with more batch sizes or beams than the study's own."""
    served = next((s for s in results["systems"] if s.get("parts")), None)
    tokens = results["settings"]["speed"]["tokens"]
    return (
        served is not None
        and len({(m["batch_size"], m["num_beams"]) for m in served["speeds"] if m["tokens"] == tokens}) > 2
    )


def goal_sentence(results: dict) -> str:
    return " ".join(goal_sentences(results))


def goal_sentences(results: dict) -> list[str]:
    """State each trained student's retention of ROUGE-L and whether its interval reaches the goal."""
    teacher, students = teacher_system(results), trained_students(results)
    if not students:
        return ["No student was trained, so there is no comparison."]
    if not teacher["rougeL"]:
        return ["The teacher's ROUGE-L is 0, so a student has nothing to keep."]
    return [_goal(student, teacher) for student in students]


def _goal(student: dict, teacher: dict) -> str:
    goal = f"the goal of {100 * GOAL_RETENTION:.0f} %"
    verdicts = {
        True: f"It reaches {goal}.",
        False: f"It misses {goal}.",
        None: f"Whether it reaches {goal} is undecided.",
    }
    verdict = verdicts[reaches(student, GOAL_RETENTION)]
    if not student["retention_rougeL_ci"]:
        verdict = "There are too few test pairs for an interval."
    return f"{student['name']} keeps {kept(student)} of the teacher's ROUGE-L, {student['rougeL']:.1f} of {teacher['rougeL']:.1f} points. {verdict}"


def speed_sentence(results: dict) -> str:
    """State parameters and speed-ups of the timed students: at equal lengths where they were measured, then at natural ones."""
    teacher, students = teacher_system(results), trained_students(results)
    students = [s for s in students if s["speedup"] is not None and not s.get("timed_as")]
    if not students:
        return "Speed was not measured."
    size = students[0]["parameters"]
    return (
        f"{students[0]['name']} has {size / 1e6:.1f} M parameters, {teacher['parameters'] / size:.2f}× fewer than the teacher's "
        f"{teacher['parameters'] / 1e6:.1f} M. Speed-ups with {students[0]['num_beams']} beams (range over the rounds): "
        f"{'; '.join(_speedups(s, teacher, results) for s in students)}."
    )


def _speedups(s: dict, teacher: dict, results: dict) -> str:
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    natural = f"{spread(s, 'speedup', '.2f', '×')} at batch 1 and {spread(s, 'batch_speedup', '.2f', '×')} in batches"
    lengths = f"{s['summary_tokens']:.1f} tokens, the teacher's {teacher['summary_tokens']:.1f}"
    single, batched = (find(s.get("speeds") or [], size, beams, speed["tokens"]) for size in (1, speed["batch_size"]))
    if not single or not batched:
        return f"{s['name']} {natural}, at natural lengths ({lengths})"
    equal = (
        f"{spread(single, 'speedup', '.2f', '×')} at batch 1 and {spread(batched, 'speedup', '.2f', '×')} in batches"
    )
    return f"{s['name']} {equal}, with {speed['tokens']} tokens per summary; {natural} at natural lengths ({lengths})"


def verdict_sentences(results: dict, metric: str = "rougeL", family: str = "main") -> list[str]:
    """State each comparison by its family-wise interval (Holm)."""
    label = {"rougeL": "ROUGE-L", "rouge2": "ROUGE-2"}[metric]
    return [
        f"{v['a']} {VERDICTS[v['verdict']]} {v['b']}: {v['delta']:+.2f} {label} (95 % interval {v['ci'][0]:+.2f} to {v['ci'][1]:+.2f}"
        + (
            f"; family-wise 95 % interval (Holm) {v['family_ci'][0]:+.2f} to {v['family_ci'][1]:+.2f}"
            if v["comparisons"] > 1
            else ""
        )
        + ")."
        for v in results["verdicts"]
        if v["metric"] == metric and v["family"] == family
    ]


def budget_sentences(results: dict, metric: str = "rougeL") -> list[str]:
    """State at which budgets each method is better or worse than its references: at equal steps, equal time, or no longer."""
    known = {s["name"]: s for s in results["systems"]}
    budgets = {name for name, s in known.items() if has_budget(s)}
    sentences = []
    for family, unit in (
        ("equal steps", "With the same number of steps, "),
        ("equal time", "With the same time, the teacher's included, "),
        ("best in time", ""),
    ):
        found: dict[tuple[str, str], list[dict]] = {}
        for v in results["verdicts"]:
            other = known[v["b"]]["method"] if v["b"] in known else v["b"].partition(" ")[0]  # "sft in the time of …"
            in_main = v["family"] == "main" and {v["a"], v["b"]} <= budgets and family == "equal steps"
            in_main = in_main and other in references(known[v["a"]]["method"])
            if v["metric"] == metric and (v["family"] == family or in_main):
                found.setdefault((v["a"].partition(",")[0], other), []).append(v)
        for (student, other), own in found.items():
            own.sort(key=lambda v: known[v["a"]]["training_steps"])
            steps = [f"{known[v['a']]['training_steps']:,}" for v in own]
            each = "; ".join(
                f"{n} steps {v['delta']:+.2f} ({v['family_ci'][0]:+.2f} to {v['family_ci'][1]:+.2f})"
                for n, v in zip(steps, own, strict=True)
            )
            named = {
                word: _listed([n for n, v in zip(steps, own, strict=True) if v["verdict"] == verdict])
                for word, verdict in (("better", "BEATS"), ("worse", "NO BEATS"))
            }
            finding = " and ".join(f"significantly {word} at {at} steps" for word, at in named.items() if at)
            than = "plain fine-tuning" if other == "sft" else other
            if family == "best in time":
                than = f"the {than} with the lowest validation loss among those that took no longer, the teacher's time included"
            sentences.append(
                f"{unit}{student} is {finding or 'neither significantly better nor worse'} than {than}. "
                f"ROUGE-L difference (family-wise 95 % interval): {each}."
            )
    return sentences


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def crossing_sentences(results: dict) -> list[str]:
    """State from what time on each method leads its references."""

    def minutes(seconds: float) -> str:
        return f"{seconds / 60:.1f}"

    sentences = []
    for c in results.get("crossings", ()):  # results of earlier versions have none
        than = "plain fine-tuning" if c["b"] == "sft" else c["b"]
        first, last = c["range"]
        low, high = (
            "the start" if bound == first else "after the end" if bound is None else minutes(bound) for bound in c["ci"]
        )
        lead = (
            f"does not lead {than} at the end"
            if c["seconds"] is None
            else f"leads {than} at all times"
            if c["seconds"] == first
            else f"leads {than} from {minutes(c['seconds'])} minutes on"
        )
        sentences.append(
            f"Between {minutes(first)} and {minutes(last)} minutes, {c['a']} {lead} "
            + (
                "(so do 95 % of the resamples)."
                if low == high
                else f"(95 % interval of the crossing: {low} to {high})."
            )
        )
    return sentences


def beyond_sentence(results: dict) -> str:
    """Name the students without a comparison at equal time; empty if there are none."""
    compared = {v["a"] for v in results["verdicts"] if v["family"] == "equal time"}
    missing = [
        s["name"] for s in results["systems"]
        if compared and has_budget(s) and references(s["method"]) and s["name"] not in compared
    ]  # fmt: skip
    if not missing:
        return ""
    return f"Not compared at equal time, since no plain fine-tuning took as long or as short: {', '.join(missing)}. "


def luck_sentence(results: dict) -> str:
    """State what the intervals cover and the minimum detectable difference."""
    seeds = max((s.get("seeds", 1) for s in trained_students(results)), default=1)
    covered = (
        f"The intervals cover the choice of test pairs and, from {seeds} seeds per method, the variance between training seeds."
        if seeds > 1
        else "The intervals cover the choice of test pairs, not the variance between training seeds: each method was trained with one seed."
    )
    visible = results["visible_rougeL"]
    detectable = (
        f" The minimum detectable difference (80 % power) between two students is {visible:.1f} ROUGE-L in one comparison."
        if visible
        else ""
    )
    return f"{covered}{detectable} The verdicts use the family-wise intervals, which are at least as wide."


def aim_sentences(results: dict) -> list[str]:
    """State whether the best students of two kinds, among those that summarized most test pairs, reach their targets."""
    teacher = teacher_system(results)
    students = [
        s for s in results["systems"]
        if s["group"] in ("main", "budgets", "shapes") and s["retention_rougeL_ci"] and s["method"] not in ("copy", "ready")
    ]  # fmt: skip
    aims = (
        ("half the decoder layers", HALF_DECODER, lambda s: 2 * s["decoder_layers"] == teacher["decoder_layers"] and s["encoder_layers"] == teacher["encoder_layers"] and s.get("inner_width") == teacher.get("inner_width")),
        ("at most half the parameters", HALF_SIZE, lambda s: 2 * s["parameters"] <= teacher["parameters"]),
    )  # fmt: skip
    sentences = []
    for kind, (aim, above), fits in aims:
        best = max((s for s in students if fits(s)), key=lambda s: (s["examples"], s["retention_rougeL"]), default=None)
        if best is None:
            continue
        is_missed = False in (reaches(best, aim), reaches(best, above))
        is_reached = best["retention_rougeL"] >= aim and reaches(best, above)
        found = "reached" if is_reached else "**missed**" if is_missed else f"**not shown**: {_why_open(best, aim)}"
        sentences.append(
            f"The best student with {kind}, {best['name']}, keeps {kept(best)} of the teacher's ROUGE-L{', with one seed' if best['seeds'] == 1 else ''}. "
            f"The target, {100 * aim:g} % with the whole interval above {100 * above:g} %, is {found}."
        )
    return sentences


def _why_open(student: dict, aim: float) -> str:
    if student["retention_rougeL"] < aim:
        return f"the interval contains it, but {100 * student['retention_rougeL']:.1f} % is less"
    return f"the interval reaches down to {100 * student['retention_rougeL_ci'][0]:.1f} %"


def time_sentence(results: dict) -> str:
    """State the time of the run, its longest parts, its memory and caches; empty for results of an earlier version."""
    if not (parts := results.get("time")):
        return ""
    total, expected = (sum(p[key] for p in parts) for key in ("seconds", "expected_s"))
    longest = sorted(parts, key=lambda p: -p["seconds"])[:4]
    named = ", ".join(f"{p['part']} {p['seconds'] / 60:.1f}" for p in longest)
    memory, cache = results.get("peak_memory_bytes"), results.get("cache_bytes", 0)
    room = (
        f" Its processes had up to {memory / 1e9:.1f} GB of memory, helpers not counted, and {cache / 1e9:.1f} GB of disk for caches."
        if memory
        else ""
    )
    return f"The run took {total / 60:.0f} minutes (forecast: {expected / 60:.0f}): {named} minutes and other parts.{room} "


def machine_sentence(environment: dict) -> str:
    """State machine, versions and commit of a measurement."""
    e = environment
    processor = ", ".join([e["processor"], *e.get("instructions", [])])
    machine = e["gpu"] or f"{e['cores']} CPU cores ({processor}, {e['threads']} threads)"
    changes = " with uncommitted changes" if e["modified"] else ""
    return f"{machine}, torch {e['packages']['torch']}, transformers {e['packages']['transformers']}, commit {e['commit'][:10] or 'unknown'}{changes}"
