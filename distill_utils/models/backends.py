"""Run a summarizer in PyTorch or CTranslate2.

A backend is named by its library and the precision of its weights: ``pytorch-fp32``, ``pytorch-bf16``,
``ctranslate2-float32``, ``ctranslate2-int8`` and so on. All take the settings of ``model.generate``.
"""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.reading import Reading, recorded_reading
from distill_utils.data.tokenization import batches_by_length, beginnings
from distill_utils.models.checkpoint import load_model, positions
from distill_utils.models.generation import DEFAULT_TOKENS, InHalves, decoded, generate, steps
from distill_utils.models.shortlist import Shortlist, shortened
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import bf16_supported
from distill_utils.system.errors import UserError

#: Written by ``distill_utils.models.export`` beside the converted weights.
EXPORT_FILE, SHORTLIST_FILE = "export.json", "vmap.txt"
#: PyTorch's backends and the precision of their weights.
PRECISIONS = {"pytorch-fp32": torch.float32, "pytorch-bf16": torch.bfloat16}
#: Documents sorted together by length, so that batches have little padding. The first window is small, so that the
#: first summary comes soon.
FIRST_WINDOW, LAST_WINDOW = 64, 4096
#: Documents per call of a CTranslate2 thread. The keys and values of more do not fit a core's own cache: 16 were a tenth
#: slower than 8 with a model of 10 M parameters.
SHARE = 8
#: Token ids of documents, ``(documents, tokens)`` of any lengths.
Batch = Sequence[Sequence[int]]
#: Generation settings that are not translated for CTranslate2.
UNSUPPORTED = (
    "do_sample", "penalty_alpha", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty", "force_words_ids", "constraints", "sequence_bias", "encoder_repetition_penalty",
)  # fmt: skip


class Backend(ABC):
    """A loaded summarizer.

    Attributes:
        name: library and precision, such as ``ctranslate2-int8``.
        max_source_tokens: longer documents are truncated; None: no limit.
        reading: the form of documents that the model was trained on.
    """

    name: str
    reading = Reading()
    tokenizer: PreTrainedTokenizerBase
    max_source_tokens: int | None

    @abstractmethod
    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        """Summarize batches of documents.

        Args:
            batches: token ids of each document, including the tokenizer's special tokens.
            settings: as for ``model.generate``; they override the checkpoint's generation config.

        Yields:
            For each batch the token ids of its summaries, without start token and padding.
        """

    def summarize(self, documents: Iterable[str], batch_size: int = 64, **settings) -> Iterator[str]:
        """Yield the summaries of any texts, each first brought into the form that the model was trained on.

        They come in the order of the documents, which are read lazily; empty ones for empty documents.
        """
        yield from self.summarize_as_given(map(self.reading.applied, documents), batch_size, **settings)

    def summarize_as_given(self, documents: Iterable[str], batch_size: int = 64, **settings) -> Iterator[str]:
        """Yield the summaries of documents that are already in their form, such as a corpus's."""
        for window in _windows(documents):
            encoded = self.encode(window)
            given = [i for i, text in enumerate(window) if text.strip()]
            places = batches_by_length([len(encoded[i]) for i in given], batch_size)
            batches = [[given[place] for place in batch] for batch in places]
            summaries = [""] * len(window)
            outputs = self._write_all([[encoded[i] for i in batch] for batch in batches], **settings)
            for batch, ids in zip(batches, outputs, strict=True):
                for i, text in zip(batch, decoded(self.tokenizer, ids), strict=True):
                    summaries[i] = text
            yield from summaries

    def _write_all(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        """Write as :meth:`write` does, in smaller batches if need be."""
        return self.write(batches, **settings)

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        truncation = self.max_source_tokens is not None
        documents = beginnings(documents, self.tokenizer, self.max_source_tokens) if truncation else list(documents)
        return self.tokenizer(documents, max_length=self.max_source_tokens, truncation=truncation)["input_ids"]


def _windows(documents: Iterable[str]) -> Iterator[list[str]]:
    size, window = FIRST_WINDOW, []
    for document in documents:
        window.append(document)
        if len(window) == size:
            yield window
            size, window = min(2 * size, LAST_WINDOW), []
    if window:
        yield window


class PyTorch(Backend):
    """A model in PyTorch; with a shortlist, it writes a batch's candidates only."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_source_tokens: int | None = None,
        shortlist: Shortlist | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.shortlist = model.eval(), tokenizer, shortlist
        self.name = next(name for name, dtype in PRECISIONS.items() if dtype == model.dtype)
        self.reading = recorded_reading(model.config)
        self.max_source_tokens = max_source_tokens or positions(model.config, "encoder")

    @torch.inference_mode()
    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        for batch in batches:
            inputs = self.tokenizer.pad({"input_ids": list(batch)}, return_tensors="pt").to(self.model.device)
            with shortened(self.model, self.shortlist.candidates(batch)) if self.shortlist else nullcontext():
                outputs = generate(self.model, inputs, **settings)[:, 1:].tolist()  # synchronizes the accelerator
            yield [without_padding(ids, self.tokenizer.pad_token_id) for ids in outputs]

    def _write_all(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        return map(InHalves(lambda batch: next(iter(self.write([batch], **settings)))), batches)


def without_padding(ids: list[int], padding: int) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == padding:
        end -= 1
    return ids[:end]


class CTranslate2(Backend):
    """A folder created by ``distill_utils.models.export``.

    On a CPU each thread generates its own summaries, a few at a time, whatever the batch size. Threads that
    share a summary would wait for each other at every matrix product. With more OpenMP threads than cores in
    the process, PyTorch took more than twice as long, since OpenMP threads then sleep instead of spin (the
    benchmark ``beside``). CTranslate2 stops when as many hypotheses are finished as there are beams, as with
    ``early_stopping``; without it, transformers may search longer and find another summary.
    """

    def __init__(self, folder: str | Path, max_source_tokens: int | None = None) -> None:
        self.folder = Path(folder)
        try:
            exported = read_json(self.folder / EXPORT_FILE)
            self._own = GenerationConfig.from_pretrained(self.folder).to_dict()
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            vocabulary = len(json.loads((self.folder / "shared_vocabulary.json").read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"the export in {folder} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if len(self.tokenizer) > vocabulary:  # without an embedding of <mask>, as in load_model
            self.tokenizer.split_special_tokens = True
        self.name = f"ctranslate2-{exported['quantization']}"
        self.reading = recorded_reading(exported)
        self.max_source_tokens = max_source_tokens or exported["max_source_tokens"]
        self._threads = torch.get_num_threads()
        self._shortlist = (self.folder / SHORTLIST_FILE).is_file()

    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        arguments = ctranslate2_arguments({**self._own, **settings})
        names = self.tokenizer.convert_ids_to_tokens
        prefix, arguments["end_token"] = arguments.pop("first_token"), names(arguments["end_token"]) or None
        counts = [len(batch) for batch in batches]
        total = max(1, sum(counts))
        size = total if self._on_gpu else min(SHARE, -(-total // self._threads))
        pending = [
            self._translator.translate_batch(
                [names(list(ids)) for ids in share],
                target_prefix=[[names(prefix)]] * len(share) if prefix is not None else None,
                asynchronous=True, max_input_length=0, return_end_token=True, use_vmap=self._shortlist, **arguments,
            )
            for batch in batches
            for share in _shares(batch, size)
        ]  # fmt: skip
        outputs = (self.tokenizer.convert_tokens_to_ids(r.result().hypotheses[0]) for share in pending for r in share)
        for count in counts:
            yield list(islice(outputs, count))

    @cached_property
    def _on_gpu(self) -> bool:
        return import_ctranslate2().get_cuda_device_count() > 0

    @cached_property
    def _translator(self):
        threads = torch.get_num_threads()
        translator = import_ctranslate2().Translator(
            str(self.folder), device="cuda" if self._on_gpu else "cpu", inter_threads=1 if self._on_gpu else self._threads,
            intra_threads=1,
        )  # fmt: skip
        torch.set_num_threads(threads)  # loading changes OpenMP's number of threads, which PyTorch shares
        return translator


def _shares(batch: Batch, size: int) -> Iterator[Batch]:
    return (batch[i : i + size] for i in range(0, len(batch), size))


def ctranslate2_arguments(settings: Mapping[str, object]) -> dict[str, object]:
    """Translate settings of ``model.generate`` to arguments of ``translate_batch``.

    transformers counts lengths in steps, of which a forced end token takes the last; CTranslate2 counts the
    tokens before the end token. ``first_token`` is the id of a forced first token, ``end_token`` has those that end
    a summary. CTranslate2 scores a hypothesis truncated at the limit without the forced end token, transformers with it, so that another
    beam may win.

    Raises UserError if the settings require more than greedy or beam search.
    """
    for name in UNSUPPORTED:
        if settings.get(name):
            raise UserError(f"CTranslate2 is used for greedy and beam search only; the generation config has {name}")
    least, most = (steps(settings, side) for side in ("min", "max"))
    most = DEFAULT_TOKENS if most is None else most
    ends, forced = (token_ids(settings.get(name)) for name in ("eos_token_id", "forced_eos_token_id"))
    if ends and not {*forced} <= {*ends}:
        raise UserError(
            "CTranslate2 ends a summary as the generation config's eos_token_id; forced_eos_token_id is another"
        )
    forced_end = bool(forced) and least != most
    return {
        "beam_size": settings.get("num_beams") or 1,
        "length_penalty": 1.0 if settings.get("length_penalty") is None else settings["length_penalty"],
        "no_repeat_ngram_size": settings.get("no_repeat_ngram_size") or 0,
        "repetition_penalty": settings.get("repetition_penalty") or 1.0,
        "min_decoding_length": min(least or 0, most - forced_end),
        "max_decoding_length": most - forced_end,
        "first_token": settings.get("forced_bos_token_id"),
        "end_token": ends,
    }


def token_ids(setting: int | Sequence[int] | None) -> list[int]:
    """Return the ids of a setting that has one, several or none."""
    return [] if setting is None else [setting] if isinstance(setting, int) else [*setting]


def lacking_hardware(name: str) -> str:
    """Return why this machine does not support a backend; empty if it does.

    Raises UserError if CTranslate2 is not installed.
    """
    if name == "pytorch-bf16" and not bf16_supported():
        return "no hardware for bfloat16 (AVX512-BF16 or AMX): it would be emulated, up to 100 times slower"
    if name.startswith("ctranslate2"):
        gpus = import_ctranslate2().get_cuda_device_count()  # raises for other precisions, too
        if name == "ctranslate2-float16" and not gpus:
            return "no GPU: float16 weights would be computed in float32"
    return ""


def usable_backends(names: Iterable[str]) -> list[str]:
    """Return the backends that this machine supports; each other one is reported on standard output."""
    lacking = {name: lacking_hardware(name) for name in names}
    for name, reason in lacking.items():
        if reason:
            print(f"{name} is skipped: {reason}", flush=True)
    return [name for name, reason in lacking.items() if not reason]


def import_ctranslate2():
    """Import and configure CTranslate2, which is optional.

    Raises:
        UserError: if it is not installed.
    """
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        # By default CTranslate2 uses AVX2 except for matrix products, since older processors slow down with AVX-512.
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
    try:
        import ctranslate2
    except ImportError:
        raise UserError("CTranslate2 is not installed; install it: pip install 'distill-utils[ctranslate2]'") from None
    ctranslate2.set_log_level(logging.ERROR)  # no warnings about the compute precision
    return ctranslate2


def is_export(folder: str | Path) -> bool:
    """Return whether the folder was created by ``distill_utils.models.export``."""
    try:
        return "quantization" in read_json(Path(folder) / EXPORT_FILE) and (Path(folder) / "model.bin").is_file()
    except (OSError, ValueError, TypeError):
        return False


def load_backend(source: str | Path, runtime: str = "pytorch-fp32", max_source_tokens: int | None = None) -> Backend:
    """Load a summarizer from a checkpoint's folder or id on the Hub, or from an export's folder.

    Args:
        runtime: one of :data:`PRECISIONS`, for checkpoints; an export has its own.

    Raises:
        UserError: if it does not exist or cannot be loaded.
    """
    if is_export(source):
        return CTranslate2(source, max_source_tokens)
    model, tokenizer = load_model(source)
    return PyTorch(model.to(PRECISIONS[runtime]), tokenizer, max_source_tokens)
