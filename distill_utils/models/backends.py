"""What runs a summarizer: token ids of documents enter, token ids of summaries leave, from PyTorch or from CTranslate2.

A runtime is named by its library and the precision of its weights: ``pytorch-fp32``, ``pytorch-bf16``,
``ctranslate2-float32``, ``ctranslate2-int8`` and so on. All take the settings of ``model.generate`` by its names.
"""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.tokenization import beginnings
from distill_utils.models.checkpoint import load_model
from distill_utils.models.generation import generate
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import bf16_supported
from distill_utils.system.errors import UserError

#: Written by ``distill_utils.models.export`` beside the converted weights.
EXPORT_FILE = "export.json"
#: PyTorch's runtimes and the precision of their weights.
PRECISIONS = {"pytorch-fp32": torch.float32, "pytorch-bf16": torch.bfloat16}
#: Documents that are sorted by length together, so that a batch holds texts of about one length: at first few, since
#: somebody waits for the first summary.
FIRST_WINDOW, LAST_WINDOW = 64, 4096
#: Documents that a thread of CTranslate2 is given at once. The keys and values of more do not stay in a core's own cache: 16 were
#: a tenth slower than 8 with a model of 10 M parameters.
SHARE = 8
#: Token ids of documents, ``(documents, tokens)`` of any lengths.
Batch = Sequence[Sequence[int]]
#: What a generation config may ask for and CTranslate2 is not given.
OTHER_SEARCHES = (
    "do_sample", "penalty_alpha", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty", "force_words_ids", "constraints", "sequence_bias",
)  # fmt: skip


class Backend(ABC):
    """A summarizer that is ready to write.

    Attributes:
        name: library and precision, such as ``ctranslate2-int8``.
        tokenizer: its tokenizer.
        max_source_tokens: longer documents are cut; None: none are.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    max_source_tokens: int | None

    @abstractmethod
    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        """Summaries of batches of documents, batch by batch.

        Args:
            batches: token ids of each document, with the special tokens that the tokenizer adds.
            settings: as ``model.generate`` takes them, over the checkpoint's own.

        Yields:
            For every batch the token ids of its summaries, with their end token where there is one, without start token and padding.
        """

    def summarize(self, documents: Iterable[str], batch_size: int = 64, **settings) -> Iterator[str]:
        """Summaries in the order of the documents, which may be a stream: they are read as they are needed.

        A document without text gets an empty summary.
        """
        for window in _windows(documents):
            encoded = self.encode(window)
            order = sorted((i for i, text in enumerate(window) if text.strip()), key=lambda i: -len(encoded[i]))
            places = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            summaries = [""] * len(window)
            written = self.write([[encoded[i] for i in place] for place in places], **settings)
            for place, ids in zip(places, written, strict=True):
                for i, text in zip(place, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                    summaries[i] = text.strip()
            yield from summaries

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        cut = self.max_source_tokens is not None
        documents = beginnings(documents, self.tokenizer, self.max_source_tokens) if cut else list(documents)
        return self.tokenizer(documents, max_length=self.max_source_tokens, truncation=cut)["input_ids"]


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
    """A model of transformers."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_source_tokens: int | None = None
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name = next(name for name, dtype in PRECISIONS.items() if dtype == model.dtype)
        self.max_source_tokens = max_source_tokens or getattr(model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        for batch in batches:
            inputs = self.tokenizer.pad({"input_ids": list(batch)}, return_tensors="pt").to(self.model.device)
            written = generate(self.model, inputs, **settings)[:, 1:].tolist()  # waits for the accelerator, too
            yield [_without_padding(ids, self.tokenizer.pad_token_id) for ids in written]


def _without_padding(ids: list[int], padding: int) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == padding:
        end -= 1
    return ids[:end]


class CTranslate2(Backend):
    """A folder that ``distill_utils.models.export`` made.

    On a CPU each thread writes summaries of its own, a few at a time, whatever the size of the batches; a single document is one thread's.
    Threads that share a summary would wait for each other at every matrix. Worse, OpenMP, which PyTorch uses too, lets threads sleep
    instead of spin once a process has more of them than cores: PyTorch then took more than twice as long (the benchmark ``beside``).
    CTranslate2 ends a search when as many summaries are finished as there are beams, as ``early_stopping`` does; a checkpoint without
    ``early_stopping`` may go on for longer in transformers, and find another summary.
    """

    def __init__(self, folder: str | Path, max_source_tokens: int | None = None) -> None:
        self.folder = Path(folder)
        try:
            made = read_json(self.folder / EXPORT_FILE)
            self._own = GenerationConfig.from_pretrained(self.folder).to_dict()
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            vocabulary = len(json.loads((self.folder / "shared_vocabulary.json").read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"the export in {folder} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if len(self.tokenizer) > vocabulary:  # as models.load_model does where there is no row for <mask>
            self.tokenizer.split_special_tokens = True
        self.name = f"ctranslate2-{made['quantization']}"
        self.max_source_tokens = max_source_tokens or made["max_source_tokens"]
        self._threads = torch.get_num_threads()

    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        arguments = ctranslate2_arguments({**self._own, **settings})
        names = self.tokenizer.convert_ids_to_tokens
        prefix = arguments.pop("first_token")
        counts = [len(batch) for batch in batches]
        waiting = [
            self._translator.translate_batch(
                [names(list(ids)) for ids in share],
                target_prefix=[[names(prefix)]] * len(share) if prefix is not None else None,
                asynchronous=True, max_input_length=0, return_end_token=True, **arguments,
            )
            for batch in batches
            for share in _shares(batch, self._share(sum(counts)))
        ]  # fmt: skip
        written = (self.tokenizer.convert_tokens_to_ids(r.result().hypotheses[0]) for share in waiting for r in share)
        for count in counts:
            yield list(islice(written, count))

    def _share(self, documents: int) -> int:
        """How many documents a thread is given at once."""
        if self._on_gpu:
            return max(1, documents)
        return max(1, min(SHARE, -(-documents // self._threads)))

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
        torch.set_num_threads(threads)  # loading sets OpenMP's number, which is PyTorch's, too
        return translator


def _shares(batch: Batch, size: int) -> Iterator[Batch]:
    return (batch[i : i + size] for i in range(0, len(batch), size))


def ctranslate2_arguments(settings: Mapping[str, object]) -> dict[str, object]:
    """What ``translate_batch`` has to be given to search as ``model.generate`` does with these settings.

    Lengths are counted in steps by transformers, of which the forced end token takes the last one; CTranslate2 counts tokens
    before the end token. ``first_token`` is the id of a token that every summary has to begin with. A summary that is cut at the
    limit is scored without the forced end token here and with it there: where a beam was cut, another one may win.

    Raises UserError if they ask for more than greedy or beam search.
    """
    for name in OTHER_SEARCHES:
        if settings.get(name):
            raise UserError(f"CTranslate2 runs plain greedy and beam search here; the generation config has {name}")
    least, most = (_steps(settings, side) for side in ("min", "max"))
    most = 20 if most is None else most  # what transformers takes where nothing is said
    forced_end = settings.get("forced_eos_token_id") is not None and least != most
    return {
        "beam_size": settings.get("num_beams") or 1,
        "length_penalty": 1.0 if settings.get("length_penalty") is None else settings["length_penalty"],
        "no_repeat_ngram_size": settings.get("no_repeat_ngram_size") or 0,
        "repetition_penalty": settings.get("repetition_penalty") or 1.0,
        "min_decoding_length": min(least or 0, most),
        "max_decoding_length": most - forced_end,
        "first_token": settings.get("forced_bos_token_id"),
    }


def _steps(settings: Mapping[str, object], side: str) -> int | None:
    """A length limit in steps; ``min_length`` and ``max_length`` count the start token, too, and yield to the others."""
    if settings.get(f"{side}_new_tokens") is not None:
        return settings[f"{side}_new_tokens"]
    length = settings.get(f"{side}_length")
    return max(0, length - 1) if length else None


def lacking_hardware(name: str) -> str:
    """Why this machine cannot serve a runtime as its name says; empty where it can.

    Raises UserError if CTranslate2 is not installed.
    """
    if name == "pytorch-bf16" and not bf16_supported():
        return "no hardware for bfloat16 (AVX512-BF16 or AMX): it would be emulated, up to 100 times slower"
    if name.startswith("ctranslate2"):
        gpus = import_ctranslate2().get_cuda_device_count()
        if name == "ctranslate2-float16" and not gpus:
            return "no GPU: float16 weights would be computed in float32"
    return ""


def usable_backends(names: Iterable[str]) -> list[str]:
    """The runtimes that this machine has hardware for; a line on standard output names each other one."""
    lacking = {name: lacking_hardware(name) for name in names}
    for name, reason in lacking.items():
        if reason:
            print(f"{name} is skipped: {reason}", flush=True)
    return [name for name, reason in lacking.items() if not reason]


def import_ctranslate2():
    """The library, which is optional. Raises UserError if it is not installed."""
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        # By itself CTranslate2 takes AVX2 for all but the matrices, because older processors slowed down at wider instructions.
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
    try:
        import ctranslate2
    except ImportError:
        raise UserError("CTranslate2 is not installed; install it: pip install 'distill-utils[ctranslate2]'") from None
    ctranslate2.set_log_level(logging.ERROR)  # that it computes in another precision than the weights' is no news
    return ctranslate2


def is_export(folder: str | Path) -> bool:
    """Whether ``distill_utils.models.export`` made the folder."""
    try:
        return "quantization" in read_json(Path(folder) / EXPORT_FILE) and (Path(folder) / "model.bin").is_file()
    except (OSError, ValueError, TypeError):
        return False


def load_backend(source: str | Path, runtime: str = "pytorch-fp32", max_source_tokens: int | None = None) -> Backend:
    """A checkpoint's folder or id, or an export's folder, ready to write. Raises UserError if there is none.

    Args:
        runtime: of a checkpoint, one of :data:`PRECISIONS`; an export has its own.
    """
    if is_export(source):
        return CTranslate2(source, max_source_tokens)
    model, tokenizer = load_model(source)
    return PyTorch(model.to(PRECISIONS[runtime]), tokenizer, max_source_tokens)
