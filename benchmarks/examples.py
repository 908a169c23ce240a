"""Have teacher and student summarize ten docstrings of no package: `python -m benchmarks.examples [STUDY]`.

Writes `docs/results/examples.md` from a finished study. The summaries stand there as they come, good and bad.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from distill_utils.evaluation.results import load_results, trained_students
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.backends import load_backend
from distill_utils.models.prepared import Prepared
from distill_utils.report.publish import PAGES, generated
from distill_utils.report.sentences import machine_sentence
from distill_utils.report.tables import markdown_table
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import planned
from distill_utils.system.artefacts import write_text
from distill_utils.system.environment import environment
from distill_utils.system.safe_text import as_markdown

TEXTS = Path(__file__).parent / "ten_docstrings.toml"


def main(name: str = "docstrings") -> None:
    prepared = Prepared(load_study(name))
    study, results = prepared.study, load_results(prepared.study)
    best = max(trained_students(results), key=lambda s: s["rougeL"])
    run = next(run for run in planned(study) if run.name == best["name"])
    given = tomllib.loads(TEXTS.read_text("utf-8"))["docstring"]
    documents = [f"{d['name']}\n{' '.join(d['details'].split())}" for d in given]
    references = [d["summary"] for d in given]
    written = {}
    for who, folder in (("teacher", prepared.teacher_folder), (best["name"], run.folder)):
        backend = load_backend(folder, "pytorch-fp32", study.corpus.max_source_tokens)
        written[who] = list(backend.summarize(documents, study.generation.batch_size, **results["generation"]))
    parts = []
    for i, d in enumerate(given):
        rows = [("by", "summary", "ROUGE-L"), ["---", "---", "---:"], ("author", as_markdown(references[i]), "–")]
        for who, texts in written.items():
            score = rouge_scores([texts[i]], [references[i]])["rougeL"][0]
            rows.append((who, as_markdown(texts[i]), f"{score:.0f}"))
        parts += [f"## `{d['name']}`", " ".join(d["details"].split()), markdown_table(rows)]
    what = (
        "Ten docstrings that were written for this study and are in no package, with the summaries of teacher and best student as they come. "
        "The texts are in [`benchmarks/ten_docstrings.toml`](../../benchmarks/ten_docstrings.toml)."
    )
    page = generated(
        "Ten docstrings from elsewhere",
        what,
        "python -m benchmarks.examples",
        parts,
        f"{machine_sentence(environment())}.",
    )
    write_text(PAGES / "examples.md", page)


if __name__ == "__main__":
    main(*sys.argv[1:])
