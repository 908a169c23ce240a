"""Train with the distillation loss: a ``Seq2SeqTrainer`` with a teacher or a teacher cache."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainingArguments
from transformers.modeling_outputs import BaseModelOutput, ModelOutput
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from distill_utils.models.checkpoint import DTYPES, depth, for_inference
from distill_utils.models.generation import sampled
from distill_utils.models.output_head import Projected, projected, without_head
from distill_utils.models.student import same_weights, supervised_layers
from distill_utils.system.environment import free_accelerator
from distill_utils.system.errors import MemoryFull, UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.training.batching import CACHED, BucketSampler
from distill_utils.training.callbacks import TrainingProgress
from distill_utils.training.fused_loss import projected_loss
from distill_utils.training.losses import IGNORED, DistillationLoss, check_settings, hard_loss, hidden_loss, label_count
from distill_utils.training.resumable import EpochDataLoader, ResumableTrainer, last_checkpoint

#: Steps in a row that fp16's scaler may skip: it halves its factor of 65,536 each time.
SKIPPED = 20


@dataclass
class DistillationTrainingArguments(Seq2SeqTrainingArguments):
    """``Seq2SeqTrainingArguments`` with the settings of the distillation loss and of its batches."""

    #: Weight of the hard loss; the soft loss has 1 - alpha. 1 is plain fine-tuning.
    alpha: float = 0.5
    #: Temperature of both distributions in the soft loss.
    temperature: float = 2.0
    #: Weight of the hidden-state loss.
    beta: float = 0.0
    #: Of the soft loss: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher).
    interpolation: float = 0.0
    #: Share λ of the batches whose targets the student samples itself (Agarwal et al. 2024, arXiv 2306.13649), the
    #: temperature at which it does, and their maximum number of tokens. Their loss is the soft loss alone.
    lmbda: float = 0.0
    sampling_temperature: float = 1.0
    sampled_tokens: int = 64
    #: Maximum number of tokens in a batch, padding included; 0: no limit.
    batch_tokens: int = 0
    #: The setting of the batch size, which a message names.
    batch_setting: str = "distillation.batch_size"
    #: Compute a batch that the GPU's memory does not hold in halves, quarters and so on; one process only.
    auto_batch_size: bool = False

    def __post_init__(self) -> None:
        for name, given in (("FSDP", self.fsdp), ("DeepSpeed", self.deepspeed)):
            if given or parse_flag_from_env(f"ACCELERATE_USE_{name.upper()}"):
                raise UserError(f"{name} is not supported; to train on several GPUs, use torchrun alone")
        check_settings(self.alpha, self.temperature, self.interpolation)
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be finite and not negative, not {self.beta}")
        super().__post_init__()
        self.mixed_precision = (
            "no" if self.precision == "fp32" else self.precision
        )  # whatever accelerate's launcher says
        if not 0 <= self.lmbda <= 1 or self.sampling_temperature <= 0:
            raise ValueError(
                f"lmbda must lie in [0, 1] and sampling_temperature be positive, not {self.lmbda}, {self.sampling_temperature}"
            )
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not supported; leave it at 0")
        if self.n_gpu > 1:  # DataParallel is not supported; use torchrun
            self._n_gpu = 1

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"


def _seed(*parts: object) -> int:
    return int(fingerprint(*parts), 16) >> 1  # PyTorch takes 63 bits


class DistillationTrainer(ResumableTrainer):
    """Train ``model`` with L = α·L_hard + (1−α)·L_soft + β·L_hidden.

    The teacher is frozen and not saved; under autocast it is converted to the half precision in place. It may be None if
    ``args.alpha`` is 1, or if the data set has the teacher's states (:mod:`distill_utils.training.teacher_cache`)
    and ``teacher_projection`` is given. With ``args.beta`` > 0, L_hidden compares all decoder layers, matched by
    :func:`distill_utils.models.student.supervised_layers`, and those of a trained encoder. It needs the teacher unless
    the encoder is frozen and the data set has the states of all matched layers.

    A frozen encoder runs once, in eval mode and without gradients; if its weights equal the teacher's, both decoders
    use the same states, or cached ones. The loss is computed from the decoders' last states
    (:func:`distill_utils.training.fused_loss.projected_loss`).

    With ``train_sampling_strategy="group_by_length"``, batches have pairs of similar length: at most
    ``per_device_train_batch_size`` pairs per process and ``args.batch_tokens`` tokens in all processes together.

    Training log entries contain ``hard_loss``, ``soft_loss`` and, if β > 0, ``hidden_loss``, averaged over the target
    tokens since the previous entry. The validation loss is the hard loss for every α, so students are comparable.

    ``pair_ids`` names the training pairs in the error that a non-finite loss or gradient raises.
    """

    args: DistillationTrainingArguments

    def __init__(
        self, model: PreTrainedModel, args: DistillationTrainingArguments, *, teacher: PreTrainedModel | None = None,
        teacher_projection: Projected | None = None, pair_ids: Sequence[str] | None = None, **kwargs,
    ) -> None:  # fmt: skip
        columns = getattr(kwargs.get("train_dataset"), "column_names", None) or ()
        cached = "teacher_states" in columns and teacher_projection is not None
        if args.alpha < 1 and teacher is None and not cached:
            raise ValueError(f"alpha={args.alpha} requires a teacher or its cached states")
        super().__init__(model=model, args=args, **kwargs)
        self._progress = TrainingProgress()
        if not args.disable_tqdm:
            self.remove_callback(DEFAULT_PROGRESS_CALLBACK)
            self.add_callback(self._progress)
        self._pair_ids = pair_ids
        self._sources: list[Tensor] = []
        self.teacher_projection = None
        # BART's forward ignores num_items_in_batch; compute_loss divides by it, so the parent must not divide again.
        self.model_accepts_loss_kwargs = True
        self.teacher = teacher
        encoder = self.model.get_encoder()
        self._encoder_frozen = not any(p.requires_grad for p in encoder.parameters())
        self._shares_encoder = False
        if teacher is not None:
            self._shares_encoder = self._encoder_frozen and same_weights(encoder, teacher.get_encoder())
            self.teacher = for_inference(teacher.to(args.device), args.precision)
        if "teacher_states" in columns and args.alpha < 1:
            known = teacher_projection or projected(self.teacher)
            weight, bias = (t if t is None else t.to(args.device) for t in (known.weight, known.bias))
            self.teacher_projection = Projected(None, weight, bias)
        # Whether the cache has all states that L_hidden compares.
        self._hidden_cached = False
        if args.beta and self._encoder_frozen and cached:
            self._hidden_cached = self._layers_cached() == depth(model.config)["decoder"]
        if args.lmbda and (teacher is None or "teacher_states" in columns):
            raise ValueError("lmbda > 0 requires a teacher: what the student writes is in no cache")
        if args.beta and teacher is None and not self._hidden_cached:
            raise ValueError(f"beta={args.beta} requires a teacher: the cache has no hidden states of inner layers")
        # Replaces a frozen encoder: the teacher's, or a copy in inference precision.
        self._frozen_encoder = None
        if "encoder_states" in columns:
            if not self._encoder_frozen:
                raise ValueError("the data set has encoder states, but the student's encoder is trained")
        elif self._encoder_frozen:
            self._frozen_encoder = self.teacher.get_encoder() if self._shares_encoder else encoder
            if args.precision in DTYPES and not self._shares_encoder:
                self._frozen_encoder = for_inference(copy.deepcopy(encoder), args.precision)
        if set(CACHED) & set(columns) and args.train_sampling_strategy != "group_by_length":
            raise ValueError('cached states require train_sampling_strategy="group_by_length"')
        #: Steps that the scaler of float16 has skipped in this session, and in a row.
        self.skipped_steps = self._skipped = 0
        # Into how many parts batches are divided, the step's batches so far, and the sums of the losses before it.
        self._divided_by = 1
        self._step_batches: list[dict[str, Tensor]] = []
        self._parts_before: Tensor | None = None
        # Sums of the losses since step _parts_since.
        self._parts = torch.zeros(3 if args.beta else 2, device=args.device)
        self._parts_since: int | None = None

    def _layers_cached(self) -> int:
        """Return how many layers' states the data set has."""
        first = self.train_dataset[0]
        return len(first["teacher_states"]) // len(first["labels"]) // self.model.config.d_model

    def get_train_dataloader(self) -> DataLoader:
        data, args = self.train_dataset, self.args
        if args.train_sampling_strategy != "group_by_length":
            return super().get_train_dataloader()
        source = data["length"] if "length" in data.column_names else [len(ids) for ids in data["input_ids"]]
        # With pseudo-labels, use the references' lengths, so that the order of batches stays the same.
        target = data["target_length"] if "target_length" in data.column_names else map(len, data["labels"])
        if args.lmbda and args.batch_tokens:
            target = [max(length, args.sampled_tokens) for length in target]
        sampler = BucketSampler(
            source, list(target), batch_size=args.train_batch_size * args.world_size, batch_tokens=args.batch_tokens,
            seed=args.seed, share=(args.process_index, args.world_size),
        )  # fmt: skip
        return EpochDataLoader(
            data, batch_sampler=sampler, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
        )  # fmt: skip

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Fetch the batches of a step; the student writes the targets of a share λ of them."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.lmbda:
            batches = [self._on_policy(batch, i) for i, batch in enumerate(batches)]
            count = self._get_num_items_in_batch(batches, device)
        return batches, count

    def _on_policy(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Replace the targets by the student's own, with probability λ.

        Whether it does depends on seed, step and batch alone, what it writes on the process, too.
        """
        place = self.args.seed, self.state.global_step, number
        if torch.rand((), generator=torch.Generator().manual_seed(_seed("share", *place))) >= self.args.lmbda:
            return batch
        batch = self._prepare_inputs(batch)
        (written, kept), encoded = self._sampled(batch, _seed("samples", *place, self.args.process_index))
        own = {"labels": written[:, 1:].masked_fill(~kept, IGNORED), "decoder_input_ids": written[:, :-1]}
        return {**batch, **encoded, **own, "sampled": torch.ones((), device=written.device)}

    @torch.no_grad()
    def _sampled(self, batch: dict[str, Tensor], seed: int) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Sample targets for a batch, and return them with a frozen encoder's states, which need not be computed again."""
        model, training = self.model, self.model.training
        inputs, encoded = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, {}
        if self._encoder_frozen:
            states = batch.get("encoder_states")
            states = self._encode(batch) if states is None else states
            encoded = {"encoder_states": states}
            states = states.to(DTYPES.get(self.args.precision, torch.float32))
            inputs = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=states),
                "attention_mask": batch["attention_mask"],
            }
        model.eval()
        try:
            with self.accelerator.autocast():
                args = self.args
                settings = {"temperature": args.sampling_temperature, "most": args.sampled_tokens, "seed": seed}
                return sampled(model, inputs, **settings), encoded
        finally:
            model.train(training)

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        except torch.OutOfMemoryError:  # while it samples, or makes room for the optimizer's moments
            raise self._memory_full("") from None
        finally:
            self._progress.close()

    def _load_scaler(self, checkpoint) -> None:
        if self.accelerator.scaler is not None:  # a checkpoint in float16 may go on in another precision
            super()._load_scaler(checkpoint)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Add a batch's gradient. Where memory runs out, ``auto_batch_size`` begins the step again with smaller parts of batches.

        The sum of the parts' gradients is the batch's, since each loss is divided by the tokens of the whole step.

        Raises:
            MemoryFull: if memory runs out and that is not asked for, or does not help.
        """
        if not self._step_batches:
            self._parts_before = self._parts.clone()
        self._step_batches.append(inputs)
        begin = len(self._step_batches) - 1
        while True:
            try:
                for batch in self._step_batches[begin:]:
                    step = super().training_step
                    losses = [step(model, part, num_items_in_batch) for part in self._divided(batch)]
                return torch.stack(losses).sum()
            except torch.OutOfMemoryError:
                self._divide_more(len(batch["labels"]))
            model.zero_grad()  # what the step has added so far, in part
            free_accelerator()
            self._parts.copy_(self._parts_before)
            begin = 0

    def _divided(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        if self._divided_by == 1:
            return [batch]
        rows = range(len(batch["labels"]))
        size = -(-len(rows) // self._divided_by)
        return [
            {name: tensor[start : start + size] if tensor.dim() else tensor for name, tensor in batch.items()}
            for start in rows[::size]
        ]

    def _divide_more(self, pairs: int) -> None:
        size = -(-pairs // self._divided_by)
        if self.args.world_size > 1 or not self.args.auto_batch_size or size == 1:
            raise self._memory_full(f" in a training step of {size} pairs at a time") from None
        self._divided_by *= 2
        print(
            f"WARNING: the GPU ran out of memory in a training step of {size} pairs at a time; from here on {-(-pairs // self._divided_by)}",
            file=sys.stderr,
            flush=True,
        )

    def _memory_full(self, where: str) -> MemoryFull:
        size, section = self.args.batch_setting, self.args.batch_setting.rpartition(".")[0]
        divide = where and section == "distillation" and self.args.world_size == 1 and not self.args.auto_batch_size
        also = f"set {section}.auto_batch_size=true, or " if divide else ""
        checkpoints = ", or set distillation.gradient_checkpointing=true" if section == "distillation" else ""
        accumulation = f"raise {section}.gradient_accumulation_steps by the same factor"
        return MemoryFull(f"the GPU ran out of memory{where}; {also}lower {size} and {accumulation}{checkpoints}")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        if not model.training:
            outputs = model(**inputs)
            loss = hard_loss(outputs.logits, labels)
            return (loss, {"logits": outputs.logits}) if return_outputs else loss
        if "input_ids" in inputs:
            self._sources.append(inputs["input_ids"])
        loss = self._distillation_loss(model, inputs, labels, num_items_in_batch)
        self._add_parts(loss)
        total = loss.total
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            total = total * self.accelerator.num_processes  # DDP averages gradients, but their sum is needed
        return total

    def _distillation_loss(self, model, inputs: dict[str, Tensor], labels: Tensor, num_items) -> DistillationLoss:
        cached, encoded = (inputs.pop(name, None) for name in ("teacher_states", "encoder_states"))
        alpha = 0.0 if inputs.pop("sampled", None) is not None else self.args.alpha  # there are no references
        ours = inputs
        if self._encoder_frozen:
            states = self._encode(inputs) if encoded is None else encoded
            states = states.to(DTYPES.get(self.args.precision, torch.float32))
            ours = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
            ours["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        theirs = ours if self._shares_encoder else inputs
        num_items = label_count(labels != IGNORED, num_items)
        settings = {
            "alpha": alpha, "temperature": self.args.temperature, "interpolation": self.args.interpolation,
            "num_items": num_items,
        }  # fmt: skip
        hidden = {"output_hidden_states": True} if self.args.beta else {}
        online = (self.args.beta and not self._hidden_cached) or (alpha < 1 and cached is None)
        with without_head(self.model):
            outputs = model(**ours, **hidden)
        with without_head(self.teacher) if online else nullcontext():
            wanted = self._ask_teacher({**theirs, **hidden}) if online else None
        if alpha == 1:
            teacher = None
        elif cached is not None:
            last = cached[..., -self.teacher_projection.weight.shape[1] :]
            teacher = replace(self.teacher_projection, states=last)
        else:
            teacher = projected(self.teacher, wanted.logits)
        with self.accelerator.autocast():  # accelerate's autocast covers only the model's forward
            loss = projected_loss(projected(self.model, outputs.logits), teacher, labels, **settings)
        if self.args.beta:
            if self._hidden_cached:
                wanted = cached.split(self.model.config.d_model, -1)
            hidden_part = self._hidden_loss(outputs, wanted, inputs["attention_mask"], labels, num_items)
            loss.total = loss.total + self.args.beta * hidden_part
            loss.hidden = hidden_part.detach()
        return loss

    def _hidden_loss(self, ours, theirs, source_mask: Tensor, labels: Tensor, num_items: Tensor | int) -> Tensor:
        """Compute L_hidden; ``theirs``: the teacher's outputs, or the cached states of the matched decoder layers."""
        kept = (labels != IGNORED).float()
        if self._hidden_cached:
            return hidden_loss(_layers(ours, "decoder"), theirs, kept, num_items)
        pairs = [("decoder", kept)]
        if not self._encoder_frozen:  # weigh each document by its summary's tokens
            pairs.append(("encoder", source_mask * (kept.sum(1) / source_mask.sum(1))[:, None]))
        total = 0
        for part, weights in pairs:
            students, teachers = (_layers(output, part) for output in (ours, theirs))
            matched = [teachers[i] for i in supervised_layers(len(teachers), len(students))]
            total = total + hidden_loss(students, matched, weights, num_items)
        return total

    @torch.no_grad()
    def _encode(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.autocast(self.args.device.type, enabled=False):
            encoder = self._frozen_encoder.eval()
            return encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state

    @torch.no_grad()
    def _ask_teacher(self, inputs: dict):
        with torch.autocast(self.args.device.type, enabled=False):
            return self.teacher(**inputs, use_cache=False)  # the key-value cache is not needed

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the gradient norm before every optimizer step. In fp16, some may be infinite until the scaler has its factor.

        Raises:
            UserError: if it is not finite; the message has the step and its pairs, and the last checkpoint is kept.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if math.isfinite(norm):
            self._skipped = 0
        elif self.args.fp16 and self._skipped < SKIPPED:  # the scaler skips this step and lowers its factor
            self._skipped += 1
            self.skipped_steps += 1
        else:
            checkpoint = last_checkpoint(Path(self.args.output_dir))
            kept = f"{checkpoint} is kept" if checkpoint else "there is no checkpoint yet"
            raise UserError(
                f"the loss or its gradient is not finite at step {self.state.global_step + 1}, with the training pairs {', '.join(self._pairs_of_step())}; "
                f"{kept}. Lower the learning rate or check these pairs{', or set distillation.precision=fp32' if self.args.fp16 else ''}"
            )
        self._sources.clear()
        self._step_batches.clear()
        return norm

    def _pairs_of_step(self, most: int = 8) -> list[str]:
        """Return the ids of the step's pairs, or their indices in the training data."""
        pad = self.model.config.pad_token_id
        wanted = {tuple(i for i in row if i != pad) for source in self._sources for row in source.tolist()}
        found = [
            i for i, ids in enumerate(self.train_dataset["input_ids"]) if tuple(j for j in ids if j != pad) in wanted
        ]
        names = [str(self._pair_ids[i] if self._pair_ids is not None else i) for i in found]
        return names[:most] + ([f"{len(names) - most} more"] if len(names) > most else [])

    def _add_parts(self, loss: DistillationLoss) -> None:
        if self._parts_since is None:  # the first step of this session
            self._parts_since = self.state.global_step
        self._parts += torch.stack(
            [loss.hard, loss.soft] if loss.hidden is None else [loss.hard, loss.soft, loss.hidden]
        )

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if not math.isfinite(logs.get("grad_norm", 0)):  # of a step that was skipped; no number in JSON
            logs = {name: value for name, value in logs.items() if name != "grad_norm"}
        if "loss" in logs and self._parts_since is not None:
            steps = max(1, self.state.global_step - self._parts_since)
            means = (self.accelerator.gather(self._parts[None]).sum(0) / steps).tolist()
            logs = {**logs, **dict(zip(("hard_loss", "soft_loss", "hidden_loss"), means, strict=False))}
            self._parts.zero_()
            self._parts_since = self.state.global_step
        super().log(logs, *args, **kwargs)


def _layers(output: ModelOutput, part: str) -> list[Tensor]:
    """Return the states of every layer; the decoder's last ones are those that the output projection takes."""
    states = list(getattr(output, f"{part}_hidden_states")[1:])  # the first are the embeddings
    return [*states[:-1], output.logits] if part == "decoder" else states
