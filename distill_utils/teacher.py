"""Training a teacher: a study enters, a checkpoint folder leaves.

From a checkpoint (``teacher.base``) it is fine-tuned. A compact BART from nothing takes two phases, as BART itself was made (Lewis et al. 2019, arXiv 1910.13461): denoising by text
infilling, which teaches the decoder the corpus's language and to copy, then fine-tuning on pairs.
From random weights, fine-tuning alone learns to write one sentence for every input.

Everything that a compact BART learns from, tokenizer included, is training text: no docstring whose summary
falls into another split, and no near duplicate of a document that does.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BartTokenizer, DataCollatorForSeq2Seq, TrainerCallback

from distill_utils.artefacts import is_current, locked, read_json, whole_folder, write_json, write_key, write_text
from distill_utils.bart import new_bart, train_tokenizer
from distill_utils.corpora import corpus_name, corpus_statistics, load_corpus, tokenize, training_docstrings
from distill_utils.docstrings import Docstring, normalized, rejection
from distill_utils.environment import bf16_supported, gpu_name, processor_name
from distill_utils.errors import UserError
from distill_utils.evaluation import baselines, evaluate_model, evaluate_texts
from distill_utils.hub import is_hub_id
from distill_utils.models import check_lengths, checkpoint_folder, checkpoint_hash, load_model, parameter_count
from distill_utils.optimizers import MuonWithAdamW
from distill_utils.processes import as_main_says, gather, is_main, main_process_first, share_of_batch, world_size
from distill_utils.significance import mean_interval
from distill_utils.study import PhaseSettings, Study, fingerprint, located
from distill_utils.trainer import DistillationTrainer, DistillationTrainingArguments

RECIPE_FILE = "recipe.json"
log = logging.getLogger(__name__)


# -- phase 1: denoising --------------------------------------------------------------------------------


def infill(
    ids: np.ndarray, mask_id: int, rng: np.random.Generator, ratio: float = 0.3, mean_span: float = 3.0
) -> np.ndarray:
    """BART's text infilling: spans that cover ``ratio`` of the tokens are each replaced by one mask.

    Span lengths are Poisson(``mean_span``) but at least 1: the original's empty spans, which insert a
    mask where nothing is missing, are left out.

    Args:
        ids: ``(length,)`` token ids without special tokens.
        mask_id: the id that stands for a span.
    """
    length = len(ids)
    hidden = np.zeros(length, bool)
    budget = round(ratio * length)
    while (left := budget - int(hidden.sum())) > 0:
        span = min(max(1, int(rng.poisson(mean_span))), left)
        start = int(rng.integers(0, length - span + 1))
        hidden[start : start + span] = True
    opens_span = hidden & ~np.concatenate([[False], hidden[:-1]])
    return np.where(opens_span, mask_id, ids)[~hidden | opens_span]


class DenoisingWindows(torch.utils.data.Dataset):
    """Windows of the token stream with the target they came from; window i is always the same."""

    def __init__(self, stream: np.ndarray, tokenizer: BartTokenizer, window: int, size: int, seed: int) -> None:
        self.stream, self.window, self.size, self.seed = stream, window, size, seed
        self.bos, self.eos, self.mask = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        rng = np.random.default_rng((self.seed, index))
        start = int(rng.integers(0, len(self.stream) - self.window + 1))
        ids = self.stream[start : start + self.window]
        source = [self.bos, *infill(ids, self.mask, rng).tolist(), self.eos]
        return {
            "input_ids": source,
            "attention_mask": [1] * len(source),
            "labels": [self.bos, *ids.tolist(), self.eos],
        }


def token_stream(docstrings: list[Docstring], tokenizer: BartTokenizer) -> np.ndarray:
    """All texts after one another, each ended by ``</s>``: ``(tokens,)``, int32."""
    texts = [f"{d.name}{d.signature}\n{d.summary} {d.details}".rstrip() for d in docstrings]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return np.concatenate([np.asarray([*ids, tokenizer.eos_token_id], np.int32) for ids in encoded])


# -- phase 2: pairs ------------------------------------------------------------------------------------


def finetuning_pairs(study: Study, docstrings: list[Docstring]) -> Dataset:
    """The corpus's training pairs, and docstrings whose details are too short to be a test of summarizing.

    The latter teach what a name and a signature say; they are about as many.
    """
    pairs = load_corpus(study)["train"]
    documents, summaries = list(pairs["document"]), list(pairs["summary"])
    filters, per_summary = study.corpus.filters, Counter()
    for d in docstrings:
        summary = normalized(d.summary)
        if rejection(d, filters) == "details too short" and per_summary[summary] < filters.max_pairs_per_summary:
            per_summary[summary] += 1
            documents.append(d.document)
            summaries.append(d.summary)
    return Dataset.from_dict({"document": documents, "summary": summaries})


# -- the whole recipe ----------------------------------------------------------------------------------


def train_teacher(study: Study, destination: Path) -> dict:
    """From random weights: tokenizer, denoising, fine-tuning, averaging, test; returns the recipe as it ran.

    Resumes from the last checkpoint under ``runs/<study>/teacher_training``. ``destination`` gets
    the model in bfloat16, the tokenizer, the generation config, ``recipe.json`` and a model card.
    """
    work = study.folder / "teacher_training"
    work.mkdir(parents=True, exist_ok=True)
    docstrings = training_docstrings(study)
    tokenizer = _tokenizer(study, docstrings, work / "tokenizer")
    torch.manual_seed(study.seed)
    model = new_bart(study, tokenizer)
    log.info("%s training docstrings, %.1f M parameters", len(docstrings), parameter_count(model) / 1e6)
    t = study.teacher
    shape = [
        t.encoder_layers,
        t.decoder_layers,
        t.d_model,
        t.attention_heads,
        t.vocabulary,
        model.config.max_position_embeddings,
    ]
    key = fingerprint(
        shape,
        [d.id for d in docstrings],
        t.denoising_window,
        t.weight_decay,
        study.seed,
        study.corpus.max_source_tokens,
        t.denoising.model_dump(),
    )
    stream = token_stream(docstrings, tokenizer)
    windows = DenoisingWindows(
        stream, tokenizer, t.denoising_window, t.denoising.steps * t.denoising.batch_size, study.seed
    )
    log.info("denoising: %.1f M tokens of text", len(stream) / 1e6)
    optimizer = MuonWithAdamW(model, t.denoising.learning_rate, t.weight_decay)
    denoising = _run_phase(study, "denoising", t.denoising, model, tokenizer, windows, None, key, optimizer)
    recipe = {"training_docstrings": len(docstrings), "denoising_tokens": len(stream), "denoising": denoising}
    optimizer = MuonWithAdamW(model, t.finetuning.learning_rate, t.weight_decay)
    pairs = finetuning_pairs(study, docstrings)
    recipe |= _finetune(study, model, tokenizer, pairs, fingerprint(key, t.finetuning.model_dump()), optimizer)
    model = model.to(torch.bfloat16).float().eval()  # what is tested is what is shipped and later loaded
    model.set_attn_implementation("sdpa")
    return _finish(study, destination, model, tokenizer, recipe, torch.bfloat16)


def finetune_teacher(study: Study, destination: Path) -> dict:
    """From ``teacher.base``: fine-tuning on the study's training pairs with AdamW, test; returns the recipe as it ran.

    Resumes like :func:`train_teacher` and leaves the same files, the model in float32. Under torchrun
    all processes train together.
    """
    t = study.teacher
    with main_process_first():
        base = checkpoint_folder(t.base, record=study.hub_record, setting="teacher.base")
        model, tokenizer = load_model(base)
        check_lengths(study, model)
        pairs = load_corpus(study)["train"]
    model.generation_config.update(**t.generation.arguments())
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        raise UserError(f"[teacher.generation] cannot be: {' '.join(str(error).split())[:200]}") from None
    key = fingerprint(
        checkpoint_hash(base), corpus_statistics(study)["fingerprint"], study.corpus.max_source_tokens,
        study.corpus.max_target_tokens, t.weight_decay, study.seed, t.finetuning.model_dump(),
    )  # fmt: skip
    recipe = {"base": t.base, **_finetune(study, model, tokenizer, pairs, key, None)}
    model.generation_config.update(**t.generation.arguments())
    return _finish(study, destination, model.eval(), tokenizer, recipe, torch.float32)


def _finetune(study: Study, model, tokenizer, pairs: Dataset, key: str, optimizer) -> dict:
    held_out = load_corpus(study)["validation"]
    with main_process_first():
        validation = tokenize(held_out.select(range(min(1000, len(held_out)))), tokenizer, study.corpus)
        pairs = tokenize(pairs, tokenizer, study.corpus)
    log.info("fine-tuning: %s pairs", len(pairs))
    phase = study.teacher.finetuning
    report = _run_phase(study, "finetuning", phase, model, tokenizer, pairs, validation, key, optimizer)
    averaged = _average_if_better(study, model, validation, tokenizer, study.folder / "teacher_training" / "finetuning")
    return {"finetuning_pairs": len(pairs), "finetuning": report, **averaged}


def _finish(study: Study, destination: Path, model, tokenizer, recipe: dict, dtype: torch.dtype) -> dict:
    """Test the teacher, complete its recipe, write its folder."""
    evaluation = evaluate_model(study, "teacher", model, tokenizer, fingerprint(recipe))
    test = load_corpus(study)["test"]
    recipe = {
        "study": study.name,
        "settings": study.settings()["teacher"],
        "corpus": corpus_name(study),
        "corpus_fingerprint": corpus_statistics(study)["fingerprint"],
        "shape": [model.config.encoder_layers, model.config.decoder_layers, model.config.d_model],
        "parameters": parameter_count(model),
        "machine": {
            "processor": processor_name(), "cores": os.cpu_count(), "torch": torch.__version__, "gpu": gpu_name(),
            "processes": world_size(),
        },
        **recipe,
        "test_pairs": len(test),
        "test": evaluation.means(),
        "test_ci": {kind: list(mean_interval(scores)) for kind, scores in evaluation.scores.items()},
        "baselines": {},
    }  # fmt: skip
    if not is_main():
        return recipe
    for name, baseline in baselines(study).items():
        written = [baseline(document) for document in test["document"]]
        recipe["baselines"][name] = evaluate_texts(study, name, written).means()["rougeL"]
    with whole_folder(destination, fingerprint(recipe)) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / RECIPE_FILE, recipe)
        write_text(folder / "README.md", model_card(recipe) if "denoising" in recipe else finetuned_card(recipe))
    return recipe


def model_card(recipe: dict) -> str:
    """The shipped teacher's README: every number in it is the recipe's."""
    t, machine = recipe["settings"], recipe["machine"]
    minutes = {phase: recipe[phase]["seconds"] / 60 for phase in ("denoising", "finetuning")}
    final = recipe["final_validation_loss"]
    return f"""---
library_name: transformers
pipeline_tag: summarization
license: other
---
# A compact BART that writes the summary line of a Python docstring

The teacher of the `{recipe["study"]}` study: {t["encoder_layers"]}-{t["decoder_layers"]} layers, width {t["d_model"]}, \
{recipe["parameters"] / 1e6:.1f} M parameters, bfloat16, byte-level BPE with {t["vocabulary"]:,} entries. Made from random weights by \
`distill teacher {recipe["study"]}`.

## Data

{recipe["training_docstrings"]:,} docstrings of the Python packages that `requirements.lock` pins, all of the training split (a hash of \
the summary decides) and none a near duplicate of a validation or test document. Corpus fingerprint `{recipe["corpus_fingerprint"]}`. \
The texts belong to their authors, under each package's own licence; the weights are made from them, so check those licences \
before you use the weights for anything but study.

## Recipe

1. Denoising: text infilling on {recipe["denoising_tokens"] / 1e6:.1f} M tokens, {t["denoising"]["steps"]:,} steps of \
{t["denoising"]["batch_size"]} windows of {t["denoising_window"]} tokens, {minutes["denoising"]:.0f} minutes.
2. Fine-tuning: {recipe["finetuning_pairs"]:,} pairs, those with too few details for the corpus included, \
{t["finetuning"]["steps"]:,} steps of {t["finetuning"]["batch_size"]}, {minutes["finetuning"]:.0f} minutes.
3. Of the last weights and the mean of the last {recipe["checkpoints_averaged"]} checkpoints, validation loss kept \
**{recipe["kept"]}** ({", ".join(f"{name} {loss:.3f}" for name, loss in final.items())}).

Muon for the layers' matrices, AdamW for the rest; no dropout, no label smoothing; bfloat16 autocast; on {machine["cores"]} cores of \
{machine["processor"]} with torch {machine["torch"]}, other work running beside it. All settings are in `recipe.json`.

{_curve(recipe)}

## Result

{_tested(recipe)}

## Limits

It knows the vocabulary and habits of the packages it was trained on and little else. It reads the first tokens of a docstring only, \
can state what the text does not say, and was never checked for anything but ROUGE. Not for news, prose or other languages.
"""


def finetuned_card(recipe: dict) -> str:
    """The README of a teacher that was fine-tuned from a checkpoint: every number in it is the recipe's."""
    phase, machine = recipe["settings"]["finetuning"], recipe["machine"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}"
    return f"""---
library_name: transformers
pipeline_tag: summarization
base_model: {recipe["base"]}
---
# {recipe["base"]} fine-tuned to summarize `{recipe["corpus"]}`

The teacher of the `{recipe["study"]}` study: {recipe["shape"][0]}-{recipe["shape"][1]} layers, {recipe["parameters"] / 1e6:.1f} M \
parameters. Made by `distill teacher {recipe["study"]}` from `{recipe["base"]}`, whose licence applies, as does that of the data.

{recipe["finetuning_pairs"]:,} pairs (corpus fingerprint `{recipe["corpus_fingerprint"]}`), {phase["steps"]:,} steps of \
{phase["batch_size"] * phase["gradient_accumulation_steps"]} pairs, AdamW, learning rate {phase["learning_rate"]:g}, \
{recipe["finetuning"]["seconds"] / 60:.0f} minutes on {machine["processes"]} × {where}, torch {machine["torch"]}. All settings are in \
`recipe.json`.

{_curve(recipe)}

{_tested(recipe)}

It can state what the text does not say, and was never checked for anything but ROUGE.
"""


def _curve(recipe: dict) -> str:
    rows = "\n".join(f"| {step:,} | {loss:.2f} |" for step, loss in recipe["finetuning"]["validation_loss"])
    return f"| step | validation loss (nats/token) |\n| ---: | ---: |\n{rows}"


def _tested(recipe: dict) -> str:
    test, baselines_ = recipe["test"], recipe["baselines"]
    low, high = recipe["test_ci"]["rougeL"]
    best = max(baselines_, key=baselines_.get)
    return (
        f"On {recipe['test_pairs']:,} test pairs: ROUGE-1/2/L **{test['rouge1']:.1f} / {test['rouge2']:.1f} / {test['rougeL']:.1f}** "
        f"(F1, stemming; ROUGE-L 95 % interval {low:.1f} to {high:.1f}). The best baseline without a model, `{best}`, reaches "
        f"{baselines_[best]:.1f} ROUGE-L."
    )


def _tokenizer(study: Study, docstrings: list[Docstring], folder: Path) -> BartTokenizer:
    key = fingerprint(study.teacher.vocabulary, [d.id for d in docstrings])
    if not is_current(folder, key):
        tokenizer = train_tokenizer([f"{d.document} {d.summary}" for d in docstrings], study.teacher.vocabulary)
        with whole_folder(folder, key) as temporary:
            tokenizer.save_pretrained(temporary)
    return BartTokenizer.from_pretrained(folder)


def _run_phase(study, name, phase: PhaseSettings, model, tokenizer, data, validation, key: str, optimizer) -> dict:
    """Train one phase, resuming if it was begun from the same things; returns its wall time and curves.

    ``optimizer`` None is the Trainer's AdamW.
    """
    output = study.folder / "teacher_training" / name
    if len(set(gather([key]))) > 1:
        raise UserError(
            "the processes see different checkpoints, corpora or settings: give all of them the same folders"
        )
    if not as_main_says(is_current(output, key)):
        if as_main_says(any(output.glob("checkpoint-*"))):  # hours of work, perhaps
            raise UserError(
                f"{output} holds another training's checkpoints; delete the folder, or give this training one of its own: --set name=…"
            )
        if is_main():
            write_key(output, key)
    every = phase.evaluation_steps
    args = DistillationTrainingArguments(
        output_dir=str(output),
        alpha=1.0,
        max_steps=phase.steps,
        per_device_train_batch_size=share_of_batch(phase.batch_size, f"teacher.{name}.batch_size"),
        gradient_accumulation_steps=phase.gradient_accumulation_steps,
        per_device_eval_batch_size=study.generation.batch_size,
        learning_rate=phase.learning_rate,
        weight_decay=study.teacher.weight_decay,
        warmup_steps=phase.warmup_steps,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": phase.decay_steps, "decay_type": "linear"},
        bf16=bf16_supported(),
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,
        logging_steps=50,
        eval_strategy="steps" if validation else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=study.teacher.average_checkpoints + 1,
        train_sampling_strategy="group_by_length" if validation else "random",
        dataloader_pin_memory=False,
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=not is_main(),  # whatever the log level is
        seed=study.seed,
    )
    trainer = DistillationTrainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        optimizers=(optimizer, None),
    )
    trainer.add_callback(LogLosses())
    with locked(output, f"training the teacher ({name})") if is_main() else nullcontext():
        trainer.resume()
    history = trainer.state.log_history
    return {
        "seconds": trainer.seconds(),
        "training_loss": [[e["step"], round(e["loss"], 4)] for e in history if "loss" in e],
        "validation_loss": [[e["step"], round(e["eval_loss"], 4)] for e in history if "eval_loss" in e],
    }


class LogLosses(TrainerCallback):
    """Writes what the Trainer logs into the training's log file."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        log.info(
            "step %s: %s", state.global_step, {k: round(v, 5) for k, v in (logs or {}).items() if isinstance(v, float)}
        )


def _average_if_better(study, model, validation, tokenizer, phase_folder: Path) -> dict:
    """Put the mean of the last checkpoints' weights into ``model`` if validation loss prefers it."""
    folders = sorted(phase_folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    folders = folders[-study.teacher.average_checkpoints :]
    losses = {"last": _validation_loss(study, model, validation, tokenizer, phase_folder)}
    kept = "last"
    if len(folders) > 1:
        last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        states = [load_file(folder / "model.safetensors") for folder in folders]
        mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
        model.load_state_dict(mean, strict=False)  # tied weights are stored once
        losses["averaged"] = _validation_loss(study, model, validation, tokenizer, phase_folder)
        kept = min(losses, key=losses.get)
        if kept == "last":
            model.load_state_dict(last)
    return {"checkpoints_averaged": len(folders), "final_validation_loss": losses, "kept": kept}


def _validation_loss(study, model, validation, tokenizer, folder: Path) -> float:
    args = DistillationTrainingArguments(
        output_dir=str(folder), alpha=1.0, per_device_eval_batch_size=study.generation.batch_size, bf16=bf16_supported(), use_cpu=not torch.accelerator.is_available(), report_to="none",
        prediction_loss_only=True, dataloader_pin_memory=False,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = DistillationTrainer(model, args, eval_dataset=validation, data_collator=collator)
    return round(trainer.evaluate()["eval_loss"], 4)


# -- what the commands call ------------------------------------------------------------------------------


def make_teacher(study: Study) -> Path:
    """``distill teacher``: train, evaluate on the test split, write the model card; returns the folder.

    It goes to the first of the folders that ``teacher.path`` names.

    Raises:
        UserError: the study names no folder for it, or nothing says how to train one.
    """
    folders = [path for path in study.teacher.path if not is_hub_id(path)]
    if not folders:
        raise UserError(
            f"the study {study.file} names no folder for a teacher of its own; give one: --set teacher.path=models/teacher_model"
        )
    if world_size() > 1 and not study.teacher.base:
        raise UserError("a teacher from random weights is trained by one process; leave torchrun out")
    if study.corpus.path and not study.teacher.base:
        raise UserError(
            "a teacher for texts that are no docstrings is fine-tuned from a checkpoint; name it: --set teacher.base=facebook/bart-large"
        )
    _keep_others(study, located(folders[0]))
    if is_main():
        handler = logging.FileHandler(_ensure(study.folder / "teacher_training") / "train.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    train = finetune_teacher if study.teacher.base else train_teacher
    train(study, located(folders[0]))
    return located(folders[0])


def _keep_others(study: Study, folder: Path) -> None:
    """Refuse to replace a checkpoint that this command did not make from the same corpus."""
    if not (folder / "config.json").is_file():
        return
    with main_process_first():
        corpus = corpus_statistics(study)["fingerprint"]
    made = read_json(folder / RECIPE_FILE) if (folder / RECIPE_FILE).is_file() else {}
    if made.get("corpus_fingerprint") != corpus:
        raise UserError(
            f"{folder} holds a teacher that was not made from this corpus; move it away, or give another folder: "
            "--set teacher.path=models/another"
        )


def _ensure(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
