"""Report training progress in a progress bar and in a log file."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm.std import tqdm
from transformers import TrainerCallback

from distill_utils.system.progress import progress

log = logging.getLogger(__name__)


class LogLosses(TrainerCallback):
    """Write the losses that the Trainer logs to the log file."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        log.info(
            "step %s: %s", state.global_step, {k: round(v, 5) for k, v in (logs or {}).items() if isinstance(v, float)}
        )


class TrainingProgress(TrainerCallback):
    """Show a progress bar with step rate, remaining time and latest losses."""

    bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            name = Path(args.output_dir).name.removesuffix(".training")
            self.bar = progress(desc=f"training {name}", total=state.max_steps, unit="step", initial=state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        named = {"hard_loss": "L_hard", "soft_loss": "L_soft", "eval_loss": "validation", "eval_rougeL": "ROUGE-L"}
        losses = {short: f"{logs[name]:.2f}" for name, short in named.items() if name in (logs or {})}
        if self.bar is not None and losses:
            self.bar.set_postfix(losses, refresh=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
