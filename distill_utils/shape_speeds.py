"""How fast BART's shapes are at full size: a tokenizer and texts enter, speed-ups beside the published ones leave.

Speed does not depend on what weights say, as long as every summary has the same length: so random weights will do, and nothing has to
be fetched. ``distill speed`` times every shape in turn on the same articles.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from distill_utils.artefacts import write_json
from distill_utils.corpora import corpus_name, load_corpus
from distill_utils.environment import environment
from distill_utils.errors import UserError
from distill_utils.export import export
from distill_utils.models import load_teacher, make_student, parameter_count
from distill_utils.progress import progress
from distill_utils.report import markdown_table
from distill_utils.runtimes import PRECISIONS, PyTorch, Runtime, load_runtime, usable_runtimes
from distill_utils.speed import Load, find, measure_speed, parts
from distill_utils.study import RUNTIMES, Study, parse_shape

#: DistilBART's model cards: milliseconds per summary on XSum, one GPU; the first is bart-large-xsum.
PUBLISHED_MS = {"12-12": 229, "12-6": 137, "9-6": 136, "12-3": 106, "6-6": 132, "12-1": 90}
WHOLE = "12-12"
FILE = "shape_speeds.json"


def measure_shapes(
    study: Study, shapes: Sequence[str], runtimes: Sequence[str], *, documents: int, batch_size: int, repeats: int
) -> dict:
    """Time the shapes, and the whole model that speed-ups are relative to, in each runtime.

    Args:
        study: ``full_size``, with a tokenizer and texts; its beams and forced length are used.
        shapes: ``E-D`` each.
        documents: one at a time in each round; in batches as many, and at least one batch.

    Returns:
        ``rows``, one per shape and runtime: ``parameters``, ``loads`` (see :func:`distill_utils.speed.measure_speed`; speed-ups are over
        the whole model in the same runtime) and ``parts`` at batch 1 and in batches; and what they were measured on. Also written
        to ``shape_speeds.json`` in the study's folder.

    Raises:
        UserError: a shape that the whole model does not have, or an unknown runtime.
    """
    known = (*PRECISIONS, *RUNTIMES[1:])
    if unknown := [runtime for runtime in runtimes if runtime not in known]:
        raise UserError(f"there is no runtime {unknown[0]!r}; there are: {', '.join(known)}")
    runtimes = usable_runtimes(runtimes)
    if not runtimes:
        raise UserError("this machine has hardware for none of these runtimes; take pytorch-fp32")
    shapes = list(dict.fromkeys((WHOLE, *shapes)))
    for shape in shapes:
        parse_shape(shape)
    beams, tokens = study.generation.num_beams, study.generation.max_new_tokens
    settings = {k: v for k, v in study.generation.arguments().items() if not k.endswith("_new_tokens")}
    loads = [Load(size, beams, max(documents, size), n) for size in dict.fromkeys((1, batch_size)) for n in (tokens, 1)]
    rows, sources, parameters = [], None, {}
    for runtime in runtimes:
        systems = _systems(study, shapes, runtime, parameters)
        sources = systems[WHOLE].encode(load_corpus(study)["test"]["document"][: max(documents, batch_size)])
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
        "published_ms": PUBLISHED_MS,
        "rows": rows,
    }
    write_json(study.folder / FILE, results)
    shutil.rmtree(study.folder / "shapes", ignore_errors=True)  # gigabytes
    return results


def _systems(study: Study, shapes: Sequence[str], runtime: str, parameters: dict[str, int]) -> dict[str, Runtime]:
    teacher, tokenizer = load_teacher(study)
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
        shutil.rmtree(checkpoint)  # a gigabyte and more
        systems[shape] = load_runtime(exported, runtime, limit)
    if runtime in PRECISIONS:  # last, since the others are copied from it
        systems[WHOLE] = PyTorch(teacher.to(PRECISIONS[runtime]), tokenizer, limit)
    return systems


def table(results: dict) -> str:
    """The measurements in Markdown, beside the published speed-ups."""
    beams, tokens, size = (*(results["generation"][k] for k in ("num_beams", "max_new_tokens")), results["batch_size"])
    rows = [
        ("shape", "M params", "inference backend", "ms, batch 1", "speed-up", f"speed-up, batches of {size}", "encoder, % of the time, batch 1", "published speed-up"),
        ["---"] + ["---:"] * 7,
    ]  # fmt: skip
    for r in results["rows"]:
        single, batched = (find(r["loads"], n, beams, tokens) for n in (1, size))
        published = PUBLISHED_MS.get(r["shape"])
        rows.append([
            r["shape"], f"{r['parameters'] / 1e6:.1f}", r["runtime"], f"{single['latency_ms']:,.0f}", _ratio(single), _ratio(batched),
            f"{100 * r['parts']['1']['encoder_share']:.0f} %", f"{PUBLISHED_MS[WHOLE] / published:.2f}×" if published else "–",
        ])  # fmt: skip
    return markdown_table(rows)


def _ratio(measured: dict) -> str:
    low, high = measured["speedup_spread"]
    return f"{measured['speedup']:.2f}× ({low:.2f} to {high:.2f})"


def explanation(results: dict) -> list[str]:
    """The time breakdown at batch 1, and so what fewer decoder layers can save: a paragraph per backend."""
    paragraphs = []
    for runtime in dict.fromkeys(r["runtime"] for r in results["rows"]):
        rows = {r["shape"]: r["parts"]["1"] for r in results["rows"] if r["runtime"] == runtime}
        whole = rows[WHOLE]
        faster = ", ".join(
            f"{whole['step_ms'] / p['step_ms']:.2f}× ({shape})" for shape, p in rows.items() if shape != WHOLE
        )
        paragraph = (
            f"Time breakdown in {runtime} at batch 1: the encoder and the decoder's keys and values of the article take {whole['encoder_ms']:,.0f} ms, "
            f"{100 * whole['encoder_share']:.0f} % of a {WHOLE} summary's time. Fewer decoder layers hardly shorten this part. The speed-up of a decoding step "
            f"alone is {faster}."
        )
        layers = [parse_shape(shape)[1] for shape in rows]
        if len(set(layers)) > 1:
            each, always = np.polyfit(layers, [part["step_ms"] for part in rows.values()], 1)
            paragraph += (
                f" By a least-squares fit over the shapes, a step takes {always:.0f} ms independent of the layers (output projection, beam search) and "
                f"{each:.1f} ms per layer."
            )
        paragraphs.append(paragraph)
    return paragraphs
