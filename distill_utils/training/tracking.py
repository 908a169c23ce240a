"""Log trainings and results to experiment trackers, by accelerate's common interface to them.

A tracker that fails, such as a server that is down, is left out with a warning: it stops no training.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError

#: Folder of a study with TensorBoard's files; the others have places of their own.
FOLDER = "trackers"


def check_trackers(study: Study) -> None:
    """Raise UserError if a tracker that the study names is not installed."""
    for name in study.report_to:
        if find_spec(name) is None:
            raise UserError(f"setting 'report_to' names {name!r}, which is not installed; pip install {name}")


class Trackers:
    """A run in each of a study's trackers; the study is the project.

    Args:
        step: the step that it goes on from; at 0, an earlier run's TensorBoard files are deleted.
    """

    def __init__(self, study: Study, run: str, settings: Mapping[str, object], step: int = 0) -> None:
        PartialState()  # tells accelerate which process is the main one
        folder = study.folder / FOLDER
        if not step:
            shutil.rmtree(folder / run, ignore_errors=True)
        made = {
            "tensorboard": lambda: TensorBoardTracker(run, str(folder), purge_step=step + 1 if step else None),
            "wandb": lambda: WandBTracker(study.name, name=run),
            "mlflow": lambda: MLflowTracker(study.name, run_name=run),
            "trackio": lambda: TrackioTracker(study.name, name=run),
        }
        self._running: list[GeneralTracker] = []
        for name in study.report_to:
            self._try(name, lambda: self._start(made[name](), settings))  # noqa: B023

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        known = {re.sub(r"[^\w./ -]", "", name): value for name, value in values.items()}  # the names that MLflow takes
        for tracker in [*self._running]:
            self._try(tracker.name, lambda: tracker.log(known, step=step), tracker)  # noqa: B023

    def log_text(self, name: str, text: str) -> None:
        """Log a text, where a tracker takes one."""
        for tracker in [*self._running]:
            if tracker.name == "tensorboard":
                self._try(tracker.name, lambda: tracker.log({name: text}), tracker)  # noqa: B023

    def end(self) -> None:
        while self._running:
            tracker = self._running.pop()
            self._try(tracker.name, tracker.finish)

    def _start(self, tracker: GeneralTracker, settings: Mapping[str, object]) -> None:
        tracker.start()
        self._running.append(tracker)
        if tracker.name != "tensorboard":  # it would make a folder more for them
            tracker.store_init_configuration(dict(settings))

    def _try(self, name: str, work: Callable[[], None], tracker: GeneralTracker | None = None) -> None:
        try:
            work()
        except Exception as error:  # of another library and its server
            why = " ".join(str(error).split())[:200]
            print(f"WARNING: the tracker {name} fails and is left out: {why}", file=sys.stderr, flush=True)
            if tracker in self._running:
                self._running.remove(tracker)


class Tracking(TrainerCallback):
    """Log what a training logs: the losses and their parts, the learning rate, validation loss and ROUGE."""

    def __init__(self, study: Study, run: str) -> None:
        self._study, self._run, self._trackers = study, run, None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        settings = {name: v for name, v in args.to_dict().items() if isinstance(v, bool | int | float | str)}
        self._trackers = Trackers(self._study, self._run, settings, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self._trackers:
            values = {name: v for name, v in rewrite_logs(logs or {}).items() if isinstance(v, int | float)}
            self._trackers.log(values, state.global_step)

    def close(self) -> None:
        """End the run, also one that an error or Ctrl-C stopped."""
        if self._trackers:
            self._trackers.end()
