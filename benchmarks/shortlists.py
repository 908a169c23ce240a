"""Restrict models to shortlists of tokens: what these cover, what they cost in ROUGE, and what they gain in speed."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.serving import ROUNDS, rouge_l
from distill_utils.evaluation.backends_speed import best_student
from distill_utils.evaluation.roofline import WEIGHTS, work
from distill_utils.evaluation.shape_speeds import WHOLE
from distill_utils.evaluation.speed import Load, measure_speed
from distill_utils.metrics.significance import compare
from distill_utils.models.backends import (
    PRECISIONS,
    SHORTLIST_FILE,
    Backend,
    Batch,
    CTranslate2,
    PyTorch,
    usable_backends,
)
from distill_utils.models.checkpoint import load_model
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.models.shortlist import Shortlist
from distill_utils.models.student import make_student
from distill_utils.studies.settings import Study, parse_shape
from distill_utils.system.artefacts import write_text
from distill_utils.system.errors import UserError

#: Most frequent tokens of the training summaries.
SHORTLISTS = (1000, 2000, 4000, 8000)
#: Documents a batch.
BATCH = 64
#: At BART-large's size, for speed alone: its byte-pair tokens are sorted by frequency.
LARGE = 8000
LARGE_RUNTIMES = ("pytorch-fp32", "pytorch-bf16", "ctranslate2-int8")
#: Documents, of which the larger number is a batch.
LARGE_DOCUMENTS = (4, 8)


def shortlist(study: Study) -> dict:
    """Restrict teacher and best student to shortlists: which tokens they cover, ROUGE-L on the test split, and speed.

    Speeds are over the teacher in PyTorch float32, at equal length; changes of ROUGE-L over the same model's in float32 with
    its whole vocabulary.
    """
    prepared = Prepared(study)
    best, (teacher, tokenizer) = best_student(prepared), prepared.load_teacher()
    if best is None:
        raise UserError("there is no trained student; run: make study")
    limit, settings = study.corpus.max_source_tokens, generation_settings(study, teacher)
    test, summaries = prepared.corpus["test"], list(prepared.corpus["train"]["summary"])
    lists = {n: Shortlist.of(tokenizer, summaries, n) for n in SHORTLISTS}
    plain = PyTorch(teacher, tokenizer, limit)
    sources = plain.encode(list(test["document"]))
    rows, systems = [], {"teacher, pytorch-fp32": plain}
    with tempfile.TemporaryDirectory() as temporary:
        for name, folder in (("teacher", prepared.teacher_folder), (best.name, best.folder)):
            exact = CTranslate2(export(folder, Path(temporary) / name.replace(" ", "-") / "float32"), limit)
            whole = rouge_l(study, exact, test, settings)
            for n in (0, *SHORTLISTS):
                target = Path(temporary) / name.replace(" ", "-") / f"int8-{n}"
                label = f"{name}, int8" + (f", {n:,} tokens" if n else "")
                system = systems[label] = CTranslate2(
                    export(folder, target, "int8", summaries=summaries, shortlist=n), limit
                )
                row = {"system": name, "tokens": n, "label": label}
                for what, size in (("rougeL_change", BATCH), ("rougeL_change_alone", 1)):
                    change = compare(label, name, "rougeL", rouge_l(study, system, test, settings, size), whole)
                    row |= {what: change.delta, f"{what}_ci": list(change.ci)}
                rows.append(row)
        student, _ = load_model(best.folder)
        systems[f"{best.name}, pytorch-fp32"] = PyTorch(student, tokenizer, limit)
        label = f"{best.name}, pytorch-fp32, {max(SHORTLISTS):,} tokens"
        systems[label] = PyTorch(student, tokenizer, limit, lists[max(SHORTLISTS)])
        loads = [Load(size, settings["num_beams"], BATCH, study.speed.tokens) for size in (1, BATCH)]
        few = sources[:BATCH]
        speeds = measure_speed(systems, few, loads, reference="teacher, pytorch-fp32", repeats=ROUNDS, **settings)
    return {
        "student": best.name, "vocabulary": len(tokenizer), "pairs": len(test), "beams": settings["num_beams"],
        "covered": [_covered(allowed, sources, test["summary"]) for allowed in lists.values()], "rows": rows, "speeds": speeds,
    }  # fmt: skip


def _covered(allowed: Shortlist, sources: Batch, summaries: Iterable[str]) -> dict:
    """Return the share of the references' tokens that a shortlist has, and its mean size, each document by itself."""
    written = allowed.tokenizer(text_target=[*summaries], add_special_tokens=False)["input_ids"]
    own = [set(allowed.candidates([ids])) for ids in sources]
    found = sum(token in candidates for candidates, ids in zip(own, written, strict=True) for token in ids)
    return {
        "fixed": len(allowed.fixed),
        "share": found / sum(map(len, written)),
        "candidates": float(np.mean([len(candidates) for candidates in own])),
    }


def large_shortlist(study: Study) -> dict:
    """Time 12-12, 12-6 and 12-6 with a shortlist at BART-large's size, with random weights and summaries of equal length.

    ``bounds`` has the speed-ups over 12-12 of a decoding step at batch 1 whose time is that of reading its weights, keys and values.
    """
    prepared, shape = Prepared(study), study.distillation.student
    teacher, tokenizer = prepared.load_teacher()
    models = {WHOLE: teacher, shape: make_student(teacher, *parse_shape(shape))}
    short, allowed = f"{shape}, {LARGE:,} tokens", Shortlist(tokenizer, range(LARGE))
    beams, tokens = study.generation.num_beams, study.generation.max_new_tokens
    settings = {k: v for k, v in study.generation.arguments().items() if not k.endswith("_new_tokens")}
    alone, batch = LARGE_DOCUMENTS
    loads = [Load(1, beams, alone, tokens), Load(1, beams, alone, 1), Load(batch, beams, batch, tokens)]
    documents, limit = prepared.corpus["test"]["document"][:batch], study.corpus.max_source_tokens
    rows, bounds = [], {}
    for runtime in usable_backends(LARGE_RUNTIMES):
        with tempfile.TemporaryDirectory() as temporary:
            if runtime in PRECISIONS:
                systems = {
                    name: PyTorch(model.to(PRECISIONS[runtime]), tokenizer, limit) for name, model in models.items()
                }
                systems[short] = PyTorch(models[shape], tokenizer, limit, allowed)
            else:
                systems = _exported(models, tokenizer, limit, Path(temporary), runtime)
                folder = shutil.copytree(systems[shape].folder, Path(temporary) / "short")
                write_text(folder / SHORTLIST_FILE, allowed.ctranslate2_map())
                systems[short] = CTranslate2(folder, limit)
            sources = systems[WHOLE].encode(documents)
            speeds = measure_speed(systems, sources, loads, reference=WHOLE, repeats=3, **settings)
        rows += [{"system": name, "runtime": runtime, "loads": found} for name, found in speeds.items()]
        kept = {
            WHOLE: len(tokenizer),
            shape: len(tokenizer),
            short: np.mean([len(allowed.candidates([ids])) for ids in sources[:alone]]),
        }
        length = float(np.mean([len(ids) for ids in sources[:alone]]))
        read = {}
        for name, vocabulary in kept.items():
            config = copy.deepcopy(models[shape if name == short else name].config)
            config.vocab_size = round(vocabulary)
            read[name] = work(config, 1, length, beams, tokens, WEIGHTS[runtime][0]).step_bytes
        bounds[runtime] = {name: read[WHOLE] / own for name, own in read.items()}
    return {
        "beams": beams, "source_tokens": length, "candidates": float(kept[short]), "rows": rows, "bounds": bounds,
    }  # fmt: skip


def _exported(models: dict, tokenizer, limit: int, folder: Path, runtime: str) -> dict[str, Backend]:
    systems = {}
    for name, model in models.items():
        model.save_pretrained(folder / "checkpoint")
        tokenizer.save_pretrained(folder / "checkpoint")
        systems[name] = CTranslate2(export(folder / "checkpoint", folder / name, runtime.partition("-")[2]), limit)
        shutil.rmtree(folder / "checkpoint")  # over a gigabyte
    return systems
