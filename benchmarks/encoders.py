"""What makes the encoder cheaper, which is most of the time once the decoder is small."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.serving import ROUNDS, rouge_l
from distill_utils.evaluation.speed import Load, measure_speed, parts
from distill_utils.metrics.significance import compare
from distill_utils.models.backends import Backend, Batch, CTranslate2, ctranslate2_arguments, import_ctranslate2
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import planned, timed
from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError
from distill_utils.system.progress import progress

#: Tokens of a document that the study's own student reads, beside the study's limit.
SOURCES = (96, 64, 48)
#: Documents that are written together in the comparison of batches, and tokens of a batch by tokens.
TOGETHER, BATCH, BATCH_TOKENS = 512, 64, 4096


class _Shortened(CTranslate2):
    """An export that reads at most so many tokens of a document, whoever encoded it."""

    def __init__(self, folder: Path, limit: int) -> None:
        super().__init__(folder, limit)

    def write(self, batches: Sequence[Batch], **settings):
        limit = self.max_source_tokens
        cut = [[ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in batch] for batch in batches]
        return super().write(cut, **settings)


def encoder(study: Study) -> dict:
    """Time int8 exports of students with fewer encoder layers or shorter documents, at equal length; score what they write.

    Changes of ROUGE-L are against the study's own student in int8.
    """
    prepared = Prepared(study)
    test = prepared.corpus["test"]
    method = study.evidence.shapes_method  # all with the same number of steps and pairs
    students = {
        run.student: run
        for run in timed(planned(study))
        if run.method == method and run.group != "budgets" and (run.folder / "config.json").is_file()
    }
    own = students.get(study.distillation.student)
    if own is None or len(students) < 2:
        raise UserError(
            "encoder compares students of several shapes: distill run docstrings_shapes, then make bench SECTIONS=encoder STUDY=docstrings_shapes"
        )
    teacher, _ = prepared.load_teacher()
    limit, settings = study.corpus.max_source_tokens, generation_settings(study, teacher)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: export(run.folder, Path(temporary) / name, "int8") for name, run in students.items()}
        reference = f"{own.student}, int8"
        systems: dict[str, Backend] = {reference: CTranslate2(folders[own.student], limit)}
        systems |= {f"{name}, int8": CTranslate2(folders[name], limit) for name in students if name != own.student}
        for tokens in SOURCES:
            systems[f"{own.student}, int8, {tokens} tokens read"] = _Shortened(folders[own.student], tokens)
        float32 = CTranslate2(export(own.folder, Path(temporary) / "float32"), limit)
        systems[f"{own.student}, float32"] = float32
        scores = {name: rouge_l(study, system, test, settings) for name, system in systems.items()}
        changes = {name: compare(name, reference, "rougeL", found, scores[reference]) for name, found in scores.items()}
        sources, beams, tokens = float32.encode(list(test["document"])), settings["num_beams"], study.speed.tokens
        loads = [Load(size, beams, max(16, size), n) for size in (1, BATCH) for n in (tokens, 1)]
        speeds = measure_speed(systems, sources[:BATCH], loads, reference=reference, repeats=ROUNDS, **settings)
        batches = _batches(systems[reference], list(test["document"][:TOGETHER]), settings)
    return {
        "pairs": len(test), "beams": beams, "tokens": tokens, "source_tokens": limit, "batch": BATCH, "batch_tokens": BATCH_TOKENS, "speeds": speeds,
        "rows": [
            {
                "system": name, "rougeL": float(scores[name].mean()), "rougeL_change": change.delta, "rougeL_change_ci": list(change.ci),
                "encoder_shares": [parts(speeds[name], size, beams, tokens)["encoder_share"] for size in (1, BATCH)],
            }
            for name, change in changes.items()
        ],
        "method": method, "steps": study.distillation.steps, "documents": min(TOGETHER, len(test)), "batching": batches,
    }  # fmt: skip


def _batches(system: CTranslate2, documents: list[str], settings: dict) -> dict[str, list[float]]:
    """Return the seconds of each round by the way in which documents are put together; the ways take turns.

    The last is that of :class:`CTranslate2`; the others hand whole batches to the library.
    """
    sources, threads = system.encode(documents), torch.get_num_threads()
    ordered = sorted(sources, key=len, reverse=True)
    loaded = {
        workers: import_ctranslate2().Translator(
            str(system.folder), device="cpu", inter_threads=workers, intra_threads=threads // workers
        )
        for workers in (1, threads)
    }
    torch.set_num_threads(threads)  # loading changes it
    arguments = ctranslate2_arguments({**system._own, **settings})
    del arguments["first_token"]
    arguments["end_token"] = system.tokenizer.convert_ids_to_tokens(arguments["end_token"])

    def whole(workers: int, batches: list[Batch]) -> None:
        names = [[system.tokenizer.convert_ids_to_tokens(list(ids)) for ids in batch] for batch in batches]
        pending = [
            loaded[workers].translate_batch(batch, asynchronous=True, max_input_length=0, **arguments)
            for batch in names
        ]
        for result in (result for batch in pending for result in batch):
            result.result()

    def shares(_: int, batches: list[Batch]) -> None:
        for _ in system.write(batches, **settings):
            pass

    ways = {
        "as they come": (whole, threads, _fixed(sources)),
        "by length": (whole, threads, _fixed(ordered)),
        "by length, batches of equal tokens": (whole, threads, _by_tokens(ordered)),
        "by length, all threads on one batch": (whole, 1, _fixed(ordered)),
        "by length, eight at a time, as this project does": (shares, threads, _fixed(ordered)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in progress(range(ROUNDS + 1), desc="batches", unit="round"):
        for name, (way, workers, batches) in ways.items():
            started = time.perf_counter()
            way(workers, batches if turn else batches[:1])
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _fixed(sources: Batch) -> list[Batch]:
    return [sources[i : i + BATCH] for i in range(0, len(sources), BATCH)]


def _by_tokens(ordered: Batch) -> list[Batch]:
    """Return batches of at most :data:`BATCH_TOKENS` tokens, padding included; ``ordered``: the longest first."""
    batches: list[Batch] = []
    width = 0
    for ids in ordered:
        if not batches or (len(batches[-1]) + 1) * width > BATCH_TOKENS:
            batches.append([])
            width = len(ids)
        batches[-1].append(ids)
    return batches
