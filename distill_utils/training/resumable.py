"""Resume a training exactly, and compute the evaluation loss exactly."""

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

from distill_utils.system.artefacts import is_current, read_json, write_json, write_manifest
from distill_utils.system.distributed import gather, main_process_first, my_share, wait_for_all
from distill_utils.system.errors import UserError
from distill_utils.training.losses import IGNORED

SECONDS_FILE = "seconds.json"
#: What a whole checkpoint of a training is made from; whose training it is, its folder says.
CHECKPOINT = "checkpoint"


class ResumableTrainer(Seq2SeqTrainer):
    """A ``Seq2SeqTrainer`` that resumes exactly from complete checkpoints and evaluates exactly.

    :meth:`resume` continues from the newest checkpoint that was written completely and is unchanged since. An older checkpoint is
    deleted only after the new one is complete. Each checkpoint stores the training time up to it. The evaluation loss and the
    metrics do not depend on the batch size or on the number of processes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begun = time.monotonic()  # of a training that is resumed, as much earlier as it took before

    def resume(self) -> None:
        """Train to the end: from the last whole checkpoint in the output folder, or from the beginning.

        A training that had reached its end is only loaded.
        """
        folder = Path(self.args.output_dir)
        with main_process_first():  # it deletes what was not finished, before the others look
            checkpoint = last_checkpoint(folder)
        # The parent begins with a new optimizer where a checkpoint holds none.
        needed = (SECONDS_FILE, OPTIMIZER_NAME, SCHEDULER_NAME)
        if checkpoint and not all((checkpoint / name).is_file() for name in needed):
            raise UserError(
                f"{checkpoint} was written by another version, which this one cannot continue; delete {folder} to begin again"
            )
        self._begun = time.monotonic() - (read_json(checkpoint / SECONDS_FILE) if checkpoint else 0)
        if checkpoint is None:
            self.train()
        else:
            self._continue(checkpoint)
        wait_for_all()  # until the main process has written its last file

    def _continue(self, checkpoint: Path) -> None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            self.args.eval_on_start = False  # it is in the log already
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            load_model(self.model, checkpoint / SAFE_WEIGHTS_NAME)
            self.state = state

    def _save_checkpoint(self, model, trial) -> None:
        """The parent's, but an older checkpoint is deleted only when the new one is whole, on the disk, and sealed."""
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = kept
        wait_for_all()  # every process has written its part
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            write_json(self._newest / SECONDS_FILE, round(time.monotonic() - self._begun, 1))
            write_manifest(self._newest, CHECKPOINT)
            rotate_checkpoints(str(folder), kept)

    def seconds(self) -> float:
        """Wall time of the training up to its newest checkpoint, over all the sessions it took."""
        return read_json(self._newest / SECONDS_FILE)

    @property
    def _newest(self) -> Path:
        return Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """The parent's loop, exact for any batch size and any number of processes.

        The parent averages over batches, whatever they hold, and with several processes counts the
        examples that fill up the last batches twice. Here each example counts once, by its target tokens.
        """
        dataset, size = dataloader.dataset, self.args.eval_batch_size
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        order = sorted(range(len(dataset)), key=lambda i: -len(dataset[i]["input_ids"]))
        batches = my_share([order[i : i + size] for i in range(0, len(order), size)])
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
    """The newest checkpoint that was written to its end and is as it was written; newer ones are deleted."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in checkpoints:
        if is_current(checkpoint, CHECKPOINT):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


class EpochDataLoader(DataLoader):
    """Passes the epoch on to its batch sampler, which PyTorch's does not."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)
