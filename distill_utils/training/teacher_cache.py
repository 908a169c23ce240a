"""What the teacher says about the training pairs, computed once: a study enters, memory-mapped Arrow columns leave.

Under ``runs/<study>/teacher_outputs/`` in parts of :data:`PART` pairs, each written whole, shared out among processes
under torchrun and kept when the rest is interrupted. Nothing here depends on the temperature.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.tokenization import tokenize
from distill_utils.models.generation import summarize
from distill_utils.models.output_head import without_head
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.system.distributed import is_main, my_share, wait_for_all
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress
from distill_utils.training.batching import Collator
from distill_utils.training.losses import IGNORED

PART = 4096
BATCH = 64
SECONDS_FILE = "seconds.json"


def teacher_states(prepared: Prepared, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The teacher's last decoder states at every target position: ``teacher_states``, flat (labels × d), float16.

    With the teacher's projection they are its whole distribution, at any temperature.

    Raises UserError if the disk has no room for them.
    """

    def states(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        kept = batch.pop("labels") != IGNORED
        with without_head(teacher):
            return teacher(**batch, use_cache=False).logits, kept

    return _states(prepared, teacher, tokenizer, "states", "teacher_states", states)


def encoder_states(prepared: Prepared, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The encoder's last states of the training documents: ``encoder_states``, flat (source tokens × d), float16.

    Raises UserError if the disk has no room for them.
    """

    def states(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        read = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return teacher.get_encoder()(**read).last_hidden_state, read["attention_mask"].bool()

    return _states(prepared, teacher, tokenizer, "encoder", "encoder_states", states)


def _states(prepared: Prepared, teacher, tokenizer, kind: str, column: str, states: Callable) -> Dataset:
    """A column with the states that ``states`` gives for a batch, ``(pairs, tokens, d)``, at the tokens of its mask."""
    pairs = tokenize(prepared.corpus["train"], tokenizer, prepared.study.corpus)

    def make(part: Dataset) -> Dataset:
        rows: list[np.ndarray | None] = [None] * len(part)
        for chosen, batch in _batches(part, teacher, tokenizer):
            found, kept = states(batch)
            for i, own in zip(chosen, found[kept].half().cpu().split(kept.sum(1).tolist()), strict=True):
                rows[i] = own.flatten().numpy()
        return Dataset.from_dict({column: rows}, features=Features({column: List(Value("float16"))}))

    lengths = pairs["length"] if kind == "encoder" else map(len, pairs["labels"])
    sizes = [length * teacher.config.d_model * 2 for length in lengths]
    return _parts(prepared, Outputs(kind, teacher.dtype, make, sizes=sizes), pairs)


def pseudo_labels(
    prepared: Prepared,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: Sequence[int] | None = None,
) -> Dataset:
    """The teacher's beam-search ``summary`` of training documents, by the study's generation settings.

    Args:
        chosen: which training pairs; None: all.
    """
    study, train = prepared.study, prepared.corpus["train"]
    arguments = study.generation.arguments()
    if study.distillation.pseudo_label_beams:
        arguments["num_beams"] = study.distillation.pseudo_label_beams

    def make(pairs: Dataset) -> Dataset:
        written = summarize(
            teacher, tokenizer, pairs["document"], max_source_tokens=study.corpus.max_source_tokens,
            batch_size=study.generation.batch_size, desc="pseudo-labels", shared=False, **arguments,
        )  # fmt: skip
        return Dataset.from_dict({"summary": written})

    if chosen is not None:
        train = train.select(chosen)
    depends_on = [code_fingerprint("models.generation"), arguments, study.generation.batch_size, list(chosen or ())]
    return _parts(prepared, Outputs("summaries", teacher.dtype, make, depends_on), train)


def seconds_of(outputs: Dataset) -> float:
    """What the making of these outputs took, over all processes and sessions."""
    folders = {Path(file["filename"]).parent for file in outputs.cache_files}
    return sum(read_json(folder / SECONDS_FILE) for folder in folders)


@dataclass(frozen=True)
class Outputs:
    """One kind of output: how it is made of pairs, what else its key depends on, and the bytes of every pair's."""

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
        code_fingerprint("data", "training.teacher_cache"), *outputs.depends_on,
    )  # fmt: skip
    ranges = [range(start, min(start + PART, len(pairs))) for start in range(0, len(pairs), PART)]
    folders = [_folder(study) / f"{kind}-{key}" / f"part-{i:05d}" for i in range(len(ranges))]
    missing = [i for i, folder in enumerate(folders) if not is_current(folder, key)]
    wait_for_all()  # all processes must see the same parts missing
    if missing and sizes:
        _check_room(study, kind, sum(sizes[i] for part in missing for i in ranges[part]))
        wait_for_all()  # before the first of them takes room
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
    folder = _folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"the teacher's outputs ({kind}) take {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; free some space or train "
            "without distillation.cache_teacher and distillation.cache_encoder"
        )
    if is_main():
        print(f"the teacher's outputs ({kind}): {size / 1e9:.2f} GB in {folder}", file=sys.stderr)


def _folder(study: Study) -> Path:
    return study.folder / "teacher_outputs"


def _batches(
    pairs: Dataset, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Which pairs, and their batch on the teacher's device; longest first."""
    collate = Collator(tokenizer, teacher)
    order = np.lexsort(([len(labels) for labels in pairs["labels"]], pairs["length"]))[::-1].tolist()
    starts = range(0, len(order), BATCH)
    for start in progress(starts, desc="teacher outputs", unit="batch") if is_main() else starts:
        chosen = order[start : start + BATCH]
        batch = collate(pairs.select(chosen).to_list())
        yield chosen, {name: tensor.to(teacher.device) for name, tensor in batch.items()}
