"""Resume training and evaluate independently of interruptions, batch size and number of processes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, EvalPrediction, rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

from distill_utils.data.tokenization import batches_by_length
from distill_utils.system.artefacts import is_current, read_json, write_json, write_manifest
from distill_utils.system.distributed import gather, main_process_first, my_share, wait_for_all
from distill_utils.system.errors import UserError
from distill_utils.training.losses import IGNORED

SECONDS_FILE = "seconds.json"
#: Key of a complete training checkpoint.
CHECKPOINT = "checkpoint"


class ResumableTrainer(Seq2SeqTrainer):
    """A ``Seq2SeqTrainer`` that resumes from the newest complete checkpoint and evaluates exactly.

    An older checkpoint is deleted only after the new one is complete. Each checkpoint stores the training time
    up to it. Evaluation loss and metrics do not depend on the batch size or the number of processes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begun = time.monotonic()  # minus the time of earlier sessions

    def resume(self) -> None:
        """Train from the newest complete checkpoint in the output folder, or from the beginning.

        If the training is already complete, only load its weights.

        Raises:
            UserError: if the checkpoint lacks files that resuming needs.
        """
        folder = Path(self.args.output_dir)
        with main_process_first():  # it deletes incomplete checkpoints
            checkpoint = last_checkpoint(folder)
        # The parent silently creates a new optimizer if a checkpoint has none.
        needed = (SECONDS_FILE, OPTIMIZER_NAME, SCHEDULER_NAME)
        if checkpoint and not all((checkpoint / name).is_file() for name in needed):
            raise UserError(
                f"cannot resume from {checkpoint}: it was written by another version; delete {folder} to start again"
            )
        self._begun = time.monotonic() - (read_json(checkpoint / SECONDS_FILE) if checkpoint else 0)
        if checkpoint is None:
            self.train()
        else:
            self._continue(checkpoint)
        wait_for_all()  # for the last file of the main process

    def _continue(self, checkpoint: Path) -> None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            self.args.eval_on_start = False  # already in the log
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            load_model(self.model, checkpoint / SAFE_WEIGHTS_NAME)
            self.state = state

    def _save_checkpoint(self, model, trial) -> None:
        """Save a checkpoint with its checksum manifest before deleting older ones."""
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = kept
        wait_for_all()  # for the files of all processes
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            write_json(self._newest / SECONDS_FILE, round(time.monotonic() - self._begun, 1))
            write_manifest(self._newest, CHECKPOINT)
            rotate_checkpoints(str(folder), kept)

    def seconds(self) -> float:
        """Return the training's wall time in seconds up to its newest checkpoint, over all sessions."""
        return read_json(self._newest / SECONDS_FILE)

    @property
    def _newest(self) -> Path:
        return Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Evaluate with each example counted once, weighted by its target tokens.

        The parent averages over batches regardless of their size and, with several processes, counts the
        examples that pad the last batches twice.
        """
        dataset, size = dataloader.dataset, self.args.eval_batch_size
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        batches = my_share(batches_by_length([len(ids) for ids in dataset["input_ids"]], size))
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=self.data_collator)
        self.callback_handler.eval_dataloader = loader
        self.model.eval()
        sums, written = [], []
        for batch, inputs in zip(batches, loader, strict=True):
            with self.accelerator.autocast():
                loss, tokens, labels = self.prediction_step(self.model, inputs, loss_only, ignore_keys)
            counted = int((inputs["labels"] != IGNORED).sum())
            sums.append((float(loss) * counted, counted))
            if not loss_only:
                written += zip(batch, tokens.tolist(), labels.tolist(), strict=True)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        losses, counts = zip(*gather(sums), strict=True)
        metrics = {f"{metric_key_prefix}_loss": sum(losses) / sum(counts)}
        if loss_only:
            return EvalLoopOutput(None, None, metrics, len(dataset))
        _, *columns = zip(*sorted(gather(written)), strict=True)
        tokens, labels = (pad_sequence([torch.tensor(row) for row in rows], True, IGNORED).numpy() for rows in columns)
        if self.compute_metrics is not None:
            computed = self.compute_metrics(EvalPrediction(tokens, labels))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in computed.items()}
        return EvalLoopOutput(tokens, labels, metrics, len(dataset))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete and undamaged checkpoint; delete newer ones."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in checkpoints:
        if is_current(checkpoint, CHECKPOINT):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


class EpochDataLoader(DataLoader):
    """Pass the epoch on to the batch sampler, which PyTorch's loader does not do."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)
