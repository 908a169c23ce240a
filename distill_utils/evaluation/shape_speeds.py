"""Time shapes of BART-large with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from distill_utils.data.corpus import corpus_name
from distill_utils.evaluation.speed import Load, measure_speed, parts
from distill_utils.models.backends import PRECISIONS, Backend, PyTorch, load_backend, usable_backends
from distill_utils.models.checkpoint import parameter_count
from distill_utils.models.export import export
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.settings import RUNTIMES, parse_shape
from distill_utils.system.artefacts import write_json
from distill_utils.system.environment import environment
from distill_utils.system.errors import UserError
from distill_utils.system.progress import progress

#: Published speed-ups over bart-large-xsum on XSum with one GPU, from DistilBART's model cards.
PUBLISHED_SPEEDUPS = {"12-6": 1.68, "9-6": 1.68, "12-3": 2.16, "6-6": 1.73, "12-1": 2.54}
WHOLE = "12-12"
FILE = "shape_speeds.json"


def measure_shapes(
    prepared: Prepared, shapes: Sequence[str], runtimes: Sequence[str], *, documents: int, batch_size: int, repeats: int
) -> dict:
    """Time shapes of BART-large and the full model in each inference backend; also writes ``shape_speeds.json``.

    Args:
        prepared: of the study ``full_size``, with a tokenizer and texts; its beams and summary length are used.
        shapes: encoder and decoder layers and, if there are fewer, feed-forward units: ``E-D`` or ``E-D-F``.
        documents: number timed at batch size 1; with larger batches, the same number but at least one batch.

    Returns:
        ``rows``, one per shape and backend: ``parameters``, ``loads`` (:func:`distill_utils.evaluation.speed.measure_speed`,
        with speed-ups over the full model in the same backend) and ``parts`` by batch size; and the setting.

    Raises UserError if a shape is invalid, or a backend unknown or not supported by this hardware.
    """
    study = prepared.study
    known = (*PRECISIONS, *RUNTIMES[1:])
    if unknown := [runtime for runtime in runtimes if runtime not in known]:
        raise UserError(f"unknown inference backend {unknown[0]!r}; choose from: {', '.join(known)}")
    runtimes = usable_backends(runtimes)
    if not runtimes:
        raise UserError("this hardware supports none of these inference backends; use pytorch-fp32")
    shapes = list(dict.fromkeys((WHOLE, *shapes)))
    for shape in shapes:
        parse_shape(shape)
    beams, tokens = study.generation.num_beams, study.generation.max_new_tokens
    settings = {k: v for k, v in study.generation.arguments().items() if not k.endswith("_new_tokens")}
    loads = [Load(size, beams, max(documents, size), n) for size in dict.fromkeys((1, batch_size)) for n in (tokens, 1)]
    rows, sources, parameters = [], None, {}
    for runtime in runtimes:
        systems = _systems(prepared, shapes, runtime, parameters)
        sources = systems[WHOLE].encode(prepared.corpus["test"]["document"][: max(documents, batch_size)])
        measured = measure_speed(systems, sources, loads, reference=WHOLE, repeats=repeats, **settings)
        for shape in shapes:
            split = {str(size): parts(measured[shape], size, beams, tokens) for size in dict.fromkeys((1, batch_size))}
            rows.append({"shape": shape, "runtime": runtime, "parameters": parameters[shape], "loads": measured[shape], "parts": split})  # fmt: skip
        del systems
    results = {
        "environment": environment(),
        "corpus": {"name": corpus_name(study), "source_tokens": float(np.mean([len(ids) for ids in sources]))},
        "generation": study.generation.arguments(),
        "batch_size": batch_size,
        "repeats": repeats,
        "rows": rows,
    }
    write_json(study.folder / FILE, results)
    shutil.rmtree(study.folder / "shapes", ignore_errors=True)  # gigabytes
    return results


def _systems(prepared: Prepared, shapes: Sequence[str], runtime: str, parameters: dict[str, int]) -> dict[str, Backend]:
    study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
    limit, systems = study.corpus.max_source_tokens, {}
    for shape in progress(shapes, desc=f"shapes in {runtime}", unit="shape"):
        model = teacher if shape == WHOLE else make_student(teacher, *parse_shape(shape))
        parameters[shape] = parameter_count(model)
        if runtime in PRECISIONS:
            systems[shape] = PyTorch(model.to(PRECISIONS[runtime]) if shape != WHOLE else model, tokenizer, limit)
            continue
        checkpoint = study.folder / "shapes" / shape
        model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        exported = export(checkpoint, study.folder / "shapes" / f"{shape}-{runtime}", runtime.partition("-")[2])
        shutil.rmtree(checkpoint)  # over a gigabyte
        systems[shape] = load_backend(exported, runtime, limit)
    if runtime in PRECISIONS:  # last, because the others are copied from it
        systems[WHOLE] = PyTorch(teacher.to(PRECISIONS[runtime]), tokenizer, limit)
    return systems
