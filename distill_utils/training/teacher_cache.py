"""Compute the teacher's hidden states and pseudo-labels once and cache them as memory-mapped Arrow columns.

They are stored under ``runs/<study>/teacher_outputs/`` in parts of :data:`PART` pairs. Each part is written
atomically, and torchrun's processes split the parts. The cache does not depend on the temperature.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from distill_utils.data.tokenization import batches_by_length, tokenize
from distill_utils.models.generation import summarize
from distill_utils.models.output_head import without_head
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.system.distributed import is_main, my_share, wait_for_all
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress
from distill_utils.system.run_time import spending
from distill_utils.training.batching import Collator
from distill_utils.training.losses import IGNORED

PART = 2048  # more takes more memory
BATCH = 64
SECONDS_FILE = "seconds.json"


def teacher_states(
    prepared: Prepared,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: Sequence[int] | None = None,
    *,
    inner: Sequence[int] = (),
    encoded: Dataset | None = None,
) -> Dataset:
    """Cache decoder states at every target position: ``teacher_states``, flat (labels × layers · d), float16.

    The teacher's projection turns the last layer's states, which come last, into its distribution at any temperature.

    Args:
        chosen: rising indices of the training pairs; None: all.
        inner: rising indices of decoder layers before the last one, whose outputs are cached, too.
        encoded: :func:`encoder_states` of the same pairs, so that the encoder need not run again.

    Raises UserError if the disk space is insufficient.
    """
    hidden = {"output_hidden_states": True} if inner else {}

    def states(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        kept = batch.pop("labels") != IGNORED
        if encoded is not None:
            given = BaseModelOutput(last_hidden_state=batch.pop("encoder_states").to(teacher.dtype))
            batch = {name: value for name, value in batch.items() if name != "input_ids"} | {"encoder_outputs": given}
        with without_head(teacher):
            outputs = teacher(**batch, use_cache=False, **hidden)
        # The first states are the embeddings; the head's input need not be the last layer's output.
        return torch.cat([*(outputs.decoder_hidden_states[1 + i] for i in inner), outputs.logits], -1), kept

    pairs = _tokenized(prepared, tokenizer, chosen)
    sizes = [len(labels) * (len(inner) + 1) * teacher.config.d_model * 2 for labels in pairs["labels"]]
    make = partial(_made, teacher, tokenizer, "teacher_states", states)
    depends_on = [list(inner), encoded is not None, list(chosen or ())]
    if encoded is not None:
        pairs = concatenate_datasets([pairs, encoded], axis=1)
    return _parts(prepared, Outputs("states", teacher.dtype, make, depends_on, sizes), pairs)


def encoder_states(
    prepared: Prepared,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: Sequence[int] | None = None,
) -> Dataset:
    """Cache the encoder's last states of the documents: ``encoder_states``, flat (source tokens × d), float16.

    Args:
        chosen: rising indices of the training pairs; None: all.

    Raises:
        UserError: if the disk space is insufficient.
    """

    def states(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        read = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return teacher.get_encoder()(**read).last_hidden_state, read["attention_mask"].bool()

    pairs = _tokenized(prepared, tokenizer, chosen)
    sizes = [length * teacher.config.d_model * 2 for length in pairs["length"]]
    make = partial(_made, teacher, tokenizer, "encoder_states", states)
    return _parts(prepared, Outputs("encoder", teacher.dtype, make, [list(chosen or ())], sizes), pairs)


def _tokenized(prepared: Prepared, tokenizer, chosen: Sequence[int] | None) -> Dataset:
    pairs = tokenize(prepared.corpus["train"], tokenizer, prepared.study.corpus)
    return pairs if chosen is None else pairs.select(chosen)


def _made(teacher, tokenizer, column: str, states: Callable, part: Dataset) -> Dataset:
    """Return a column with the states that ``states`` gives for a batch, ``(pairs, tokens, width)``, at the tokens of its mask."""
    rows: list[np.ndarray | None] = [None] * len(part)
    for chosen, batch in _batches(part, teacher, tokenizer):
        found, kept = states(batch)
        stored = found[kept].half()
        if not stored.isfinite().all():
            raise UserError(
                "the teacher's hidden states are not finite in float16, the precision of the teacher cache; set distillation.cache_teacher='' and "
                "distillation.cache_encoder=false"
            )
        for i, own in zip(chosen, stored.cpu().split(kept.sum(1).tolist()), strict=True):
            rows[i] = own.flatten().numpy()
    # A list of arrays would become a list of Python numbers on its way into Arrow: a dozen times the memory.
    ends = pyarrow.array(np.cumsum([0, *map(len, rows)]))
    return Dataset.from_dict({column: pyarrow.LargeListArray.from_arrays(ends, pyarrow.array(np.concatenate(rows)))})


def pseudo_labels(
    prepared: Prepared,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: Sequence[int] | None = None,
) -> Dataset:
    """Generate the teacher's ``summary`` of training documents by beam search with the study's settings.

    Args:
        chosen: indices of the training pairs; None: all.
    """
    study, train = prepared.study, prepared.corpus["train"]
    arguments = study.generation.arguments()
    if study.distillation.pseudo_label_beams:
        arguments["num_beams"] = study.distillation.pseudo_label_beams

    factors, batch_size = study.distillation.pseudo_label_attention, study.generation.batch_size

    def make(pairs: Dataset) -> Dataset:
        documents, written, desc = pairs["document"], [""] * len(pairs), "pseudo-labels"
        batches, chosen_factors = [range(len(pairs))], factors
        if len(factors) > 1:  # a factor for every batch of documents of one length
            batches, desc = batches_by_length([len(text) for text in documents], batch_size), None
            drawn = np.random.default_rng(int(fingerprint(pairs["id"][0]), 16))
            chosen_factors = drawn.uniform(min(factors), max(factors), len(batches)).tolist()
            batches = progress(batches, desc="pseudo-labels", unit="batch") if is_main() else batches
        for batch, factor in zip(batches, chosen_factors, strict=True):
            with softer_attention(teacher, factor):
                texts = summarize(
                    teacher, tokenizer, [documents[i] for i in batch], max_source_tokens=study.corpus.max_source_tokens,
                    batch_size=batch_size, desc=desc, shared=False, **arguments,
                )  # fmt: skip
            for i, text in zip(batch, texts, strict=True):
                written[i] = text
        return Dataset.from_dict({"summary": written})

    if chosen is not None:
        train = train.select(chosen)
    depends_on = [code_fingerprint("models.generation"), arguments, batch_size, list(chosen or ()), factors]
    return _parts(prepared, Outputs("summaries", teacher.dtype, make, depends_on), train)


@contextmanager
def softer_attention(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """Divide the scores of all the model's attentions by a factor while the context is open.

    PLATE (Zhang et al. 2022, arXiv 2106.03441): pseudo-labels that a teacher writes so are shorter, copy less, and
    were better for students. Scores are linear in the queries, so the projections of the queries are divided.

    Raises UserError if the model has none, or adds relative positions to its scores, as T5 does.
    """
    queries = [module for name, module in model.named_modules() if name.endswith("q_proj")]
    if factor != 1 and not queries:
        raise UserError("setting 'distillation.pseudo_label_attention' does not serve this teacher; leave it at 1")
    kept = [(p, p.detach().clone()) for q in queries for p in q.parameters()] if factor != 1 else []
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                parameter /= factor
        yield
    finally:
        with torch.no_grad():
            for parameter, own in kept:
                parameter.copy_(own)


def seconds_of(outputs: Dataset) -> float:
    """Return the time in seconds to compute these outputs, summed over processes and sessions."""
    folders = {Path(file["filename"]).parent for file in outputs.cache_files}
    return sum(read_json(folder / SECONDS_FILE) for folder in folders)


@dataclass(frozen=True)
class Outputs:
    """Compute the missing parts of one kind of output and return all, in the order of the pairs.

    Args:
        sizes: bytes per pair; if given, the disk space is checked first.
    """

    kind: str
    precision: torch.dtype
    make: Callable[[Dataset], Dataset]
    depends_on: Sequence[object] = ()
    sizes: Sequence[int] = ()


def _parts(prepared: Prepared, outputs: Outputs, pairs: Dataset) -> Dataset:
    """All parts of one kind of output, made where they are missing; in the pairs' order."""
    study, kind, sizes = prepared.study, outputs.kind, outputs.sizes
    key = fingerprint(
        kind, prepared.teacher_hash, prepared.texts_key, str(outputs.precision),
        code_fingerprint("data", "training.teacher_cache", "training.batching"), *outputs.depends_on,
    )  # fmt: skip
    ranges = [range(start, min(start + PART, len(pairs))) for start in range(0, len(pairs), PART)]
    folders = [cache_folder(study) / f"{kind}-{key}" / f"part-{i:05d}" for i in range(len(ranges))]
    missing = [i for i, folder in enumerate(folders) if not is_current(folder, key)]
    wait_for_all()  # all processes must find the same parts missing
    if missing and sizes:
        _check_room(study, kind, sum(sizes[i] for part in missing for i in ranges[part]))
        wait_for_all()  # check before the first process writes
    with spending("teacher cache", kind) if missing else nullcontext():
        for i in my_share(missing):
            started = time.monotonic()
            with torch.inference_mode():
                part = outputs.make(pairs.select(ranges[i]))
            with whole_folder(folders[i], key) as temporary:
                part.save_to_disk(temporary)
                write_json(temporary / SECONDS_FILE, time.monotonic() - started)
    wait_for_all()
    return concatenate_datasets([Dataset.load_from_disk(folder) for folder in folders])


def _check_room(study: Study, kind: str, size: int) -> None:
    folder = cache_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"the teacher cache ({kind}) needs {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; free disk space or set "
            "distillation.cache_teacher='' and distillation.cache_encoder=false"
        )
    if is_main():
        print(f"teacher cache ({kind}): {size / 1e9:.2f} GB in {folder}", file=sys.stderr)


def cache_folder(study: Study) -> Path:
    return study.folder / "teacher_outputs"


def _batches(
    pairs: Dataset, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield indices of pairs and their batch on the teacher's device, longest first."""
    collate, read = Collator(tokenizer, teacher), pairs.with_format("numpy")
    order = np.lexsort(([len(labels) for labels in pairs["labels"]], pairs["length"]))[::-1].tolist()
    starts = range(0, len(order), BATCH)
    for start in progress(starts, desc="teacher cache", unit="batch") if is_main() else starts:
        chosen = order[start : start + BATCH]
        batch = collate([read[i] for i in chosen])
        yield chosen, {name: tensor.to(teacher.device) for name, tensor in batch.items()}
