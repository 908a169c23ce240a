"""Log trainings and results to experiment trackers, by accelerate's common interface to them."""

from __future__ import annotations

from collections.abc import Mapping
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


def begin(study: Study, run: str, settings: Mapping[str, object]) -> list[GeneralTracker]:
    """Begin a run in each of the study's trackers; :func:`end` ends it. The study is the project."""
    PartialState()  # tells accelerate which process is the main one
    made = {
        "tensorboard": lambda: TensorBoardTracker(run, str(study.folder / FOLDER)),
        "wandb": lambda: WandBTracker(study.name, name=run),
        "mlflow": lambda: MLflowTracker(study.name, run_name=run),
        "trackio": lambda: TrackioTracker(study.name, name=run),
    }
    trackers = [made[name]() for name in study.report_to]
    for tracker in trackers:
        tracker.start()
        if tracker.name != "tensorboard":  # it would make a folder more for them
            tracker.store_init_configuration(dict(settings))
    return trackers


def end(trackers: list[GeneralTracker]) -> None:
    while trackers:
        trackers.pop().finish()


class Tracking(TrainerCallback):
    """Log what a training logs: the losses and their parts, the learning rate, validation loss and ROUGE."""

    def __init__(self, study: Study, run: str) -> None:
        self._study, self._run, self._trackers = study, run, []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        settings = {name: v for name, v in args.to_dict().items() if isinstance(v, bool | int | float | str)}
        self._trackers = begin(self._study, self._run, settings)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        values = {name: v for name, v in rewrite_logs(logs or {}).items() if isinstance(v, int | float)}
        for tracker in self._trackers:
            tracker.log(values, step=state.global_step)

    def close(self) -> None:
        """End the run, also one that an error or Ctrl-C stopped."""
        end(self._trackers)
