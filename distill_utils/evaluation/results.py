"""Read ``results.json`` and select its systems and warnings."""

from __future__ import annotations

from distill_utils.studies.settings import METHODS, Study
from distill_utils.system.artefacts import read_record
from distill_utils.system.errors import UserError

#: Methods of trained students.
TRAINED = ("ready", *(name for name, method in METHODS.items() if method.trained))
GOAL_RETENTION = 0.95
SAME = 0.25  # warn if a larger fraction of the summaries is identical
FEW_PAIRS = 100  # warn if there are fewer test pairs
LOOKUP_APART = 2  # ROUGE-L points; warn if a lookup comes closer to the teacher
MANY_CLOSE = 0.25  # warn if a larger fraction of the test documents has a close training document


def load_results(study: Study) -> dict:
    """Load the results; raises UserError if they do not exist or are damaged."""
    if not study.results_file.is_file():
        raise UserError(f"{study.name} has no results yet; run notebook 04_speed_rouge_analysis first")
    return read_record(study.results_file, f"distill run {study.file} regenerates it")


def warnings(results: dict) -> list[str]:
    """Return warnings about problems that make the results unreliable."""
    found = [results["teacher_check"]["warning"]] if results["teacher_check"]["warning"] else []
    settings, test = results["settings"]["distillation"], results["corpus"]["test"]
    if test < FEW_PAIRS:
        found.append(f"only {test} test pairs: the intervals are wide; use a larger test split")
    found += lookup_warnings(results)
    baselines = [s for s in results["systems"] if s["method"] == "baseline"]
    lead = max(baselines, key=lambda s: s["rougeL"], default=None)
    for s in trained_students(results):
        if s.get("identical_share", 0) > SAME:
            share = 100 * s["identical_share"]
            found.append(
                f"{s['name']} writes the same summary for {share:.0f} % of the documents: it ignores its input"
            )
        if lead and s["rougeL"] < lead["rougeL"]:
            found.append(
                f"{s['name']} has {s['rougeL']:.1f} ROUGE-L, less than the baseline {lead['name']} with {lead['rougeL']:.1f}"
            )
        if s.get("soft_loss_rose"):
            found.append(
                f"the soft loss of {s['name']} rose in the last third of its training; lower the learning rate"
            )
    if settings["warmup_steps"] >= settings["steps"] and set(settings["methods"]) - {"copy"}:
        found.append(
            f"distillation.warmup_steps ({settings['warmup_steps']}) is not less than distillation.steps ({settings['steps']})"
        )
    return found


def lookup_warnings(results: dict) -> list[str]:
    """Warn if looking up training documents nearly passes the test."""
    teacher, found = teacher_system(results), []
    lookup = next((s for s in results["systems"] if s["name"] == "lookup"), None)
    bad_teacher = results["teacher_check"]["warning"]  # anything comes close to it
    if lookup and lookup["rougeL"] > teacher["rougeL"] - LOOKUP_APART and not bad_teacher:
        found.append(
            f"this test measures memory: the summary of the most similar training document has {lookup['rougeL']:.1f} ROUGE-L, "
            f"the teacher {teacher['rougeL']:.1f}; split the data so that no source of texts is in two splits"
        )
    close = results.get("lookup", {"close_share": 0})
    if close["close_share"] > MANY_CLOSE:
        found.append(
            f"this test measures memory: {100 * close['close_share']:.0f} % of the test documents have a training document with a "
            f"cosine similarity of at least {close['threshold']} (tf–idf); split the data so that no source of texts is in two splits"
        )
    return found


def trained_students(results: dict) -> list[dict]:
    """Return the trained and pretrained students of the main comparison and of the budgets."""
    return [s for s in results["systems"] if s["group"] in ("main", "budgets") and s["method"] in TRAINED]


def has_budget(system: dict) -> bool:
    """Return whether a system is one of several budgets of steps: trained for a number of them on the same pairs."""
    return system.get("budget", system["group"] == "budgets")


def reaches(student: dict, share: float) -> bool | None:
    """Return whether a student keeps at least ``share`` of the teacher's ROUGE-L beyond chance.

    None: undecided, since the interval contains the share or there is none.
    """
    low, high = student["retention_rougeL_ci"] or (0.0, float("inf"))
    return True if low >= share else False if high < share else None


def teacher_system(results: dict) -> dict:
    return next(s for s in results["systems"] if s["method"] == "teacher")
