"""Read ``results.json``, and find its systems and warnings."""

from __future__ import annotations

from distill_utils.studies.settings import METHODS, Study
from distill_utils.system.artefacts import read_record
from distill_utils.system.errors import UserError

#: Methods whose students are compared with the teacher.
TRAINED = ("ready", *(name for name, method in METHODS.items() if method.trained))
GOAL_RETENTION = 0.95
SAME = 0.25  # of the summaries being one and the same is warned of
FEW_PAIRS = 100  # fewer test pairs than this are warned of


def load_results(study: Study) -> dict:
    """Raises UserError where notebook 04 has not written them yet, or they are not as it wrote them."""
    if not study.results_file.is_file():
        raise UserError(f"{study.name} has no results yet; run notebook 04_speed_rouge_analysis first")
    return read_record(study.results_file, f"distill run {study.file} writes it anew")


def warnings(results: dict) -> list[str]:
    """What a reader of the results has to know before believing them."""
    found = [results["teacher_check"]["warning"]] if results["teacher_check"]["warning"] else []
    settings, test = results["settings"]["distillation"], results["corpus"]["test"]
    if test < FEW_PAIRS:
        found.append(
            f"there are only {test} test pairs: the intervals are wide, and differences need a larger test split"
        )
    lead = next((s for s in results["systems"] if s["method"] == "baseline"), None)
    for s in trained_students(results):
        if s.get("identical_share", 0) > SAME:
            found.append(
                f"{s['name']} writes one and the same summary for {100 * s['identical_share']:.0f} % of the documents: it does not look at them"
            )
        if lead and s["rougeL"] < lead["rougeL"]:
            found.append(
                f"{s['name']} has {s['rougeL']:.1f} ROUGE-L, less than {lead['name']} with {lead['rougeL']:.1f}: nothing useful was learned"
            )
        if s.get("soft_loss_rose"):
            found.append(
                f"the soft loss of {s['name']} rose in the last third of its training: a lower learning rate may help"
            )
    if settings["warmup_steps"] >= settings["steps"] and set(settings["methods"]) - {"copy"}:
        found.append(
            f"the learning rate rises for {settings['warmup_steps']} steps (distillation.warmup_steps) and training has only {settings['steps']}"
        )
    return found


def trained_students(results: dict) -> list[dict]:
    """Students of the main comparison that were trained: by the study, or before it; and those trained longer."""
    return [s for s in results["systems"] if s["group"] in ("main", "longer") and s["method"] in TRAINED]


def teacher_system(results: dict) -> dict:
    return next(s for s in results["systems"] if s["method"] == "teacher")
