"""Running a study headless: its four notebooks enter, executed copies and everything they write leave."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from distill_utils.data.corpus import corpus_key
from distill_utils.evaluation.evaluate import load_evaluation
from distill_utils.evaluation.results import load_results
from distill_utils.evaluation.teacher_check import check_teacher
from distill_utils.models.checkpoint import checkpoint_dtype, size_bytes
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Run, planned
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import read_record, write_record
from distill_utils.system.distributed import is_main, main_process_first
from distill_utils.system.environment import free_accelerator
from distill_utils.system.errors import NotebookError, UserError, disk_is_full
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.locks import LOCK_FILE, OWNER_FILE, locked
from distill_utils.system.paths import home, notebook_paths
from distill_utils.training.memory_estimate import memory_sentence
from distill_utils.training.train_student import training_report

STATE_FILE = "finished.json"
#: Talk to kernels through sockets in the file system where there are any: nothing listens on a port.
KERNEL = Config({"KernelManager": {"transport": "tcp" if os.name == "nt" else "ipc"}})


def run_study(study: Study, overrides: dict[str, object], fresh: bool = False) -> None:
    """Execute the notebooks in order into ``runs/<study>/notebooks``.

    A notebook that finished and of which nothing has changed since (its text, the settings, the code,
    the corpus, the teacher, the notebooks before it) is skipped; ``fresh`` starts from nothing.

    Raises:
        UserError: a cell found that the user's input is wrong.
        NotebookError: a cell failed otherwise.
    """
    if fresh:  # a teacher's training is not a part of the run, and takes hours
        with ExitStack() as nobody_trains:
            for work in study.folder.glob("students/*.training"):
                nobody_trains.enter_context(locked(work, "distill run --fresh"))
            for path in study.folder.glob("*"):
                if path.name not in ("teacher_training", LOCK_FILE, OWNER_FILE):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    prepared = Prepared(study)  # not before: it keeps what was there
    check_disk(prepared)
    os.environ["DISTILL_HOME"] = str(home())  # kernels inherit it; a relative one would mean another folder there
    state_path = study.notebooks_folder / STATE_FILE
    finished = _finished(state_path)
    paths = notebook_paths()
    # A study that makes its own teacher has it in its settings.
    teacher = prepared.teacher_hash if study.teacher.path else ""
    key = fingerprint(study.settings(), code_fingerprint(), corpus_key(study), teacher)
    unchanged = True
    for number, path in enumerate(paths, 1):
        key = fingerprint(key, path.read_text("utf-8"))
        output = study.notebooks_folder / path.name
        label = f"[{number}/{len(paths)}] {path.stem}"
        unchanged = unchanged and finished.get(path.stem) == key and output.is_file() and _stands(prepared, path.stem)
        if unchanged:  # and so is everything before it
            _say(f"{label}: finished before, nothing changed")
            continue
        _say(label)
        if path.stem.startswith("02"):
            warn_of_teacher(prepared)
        finished.pop(path.stem, None)
        write_record(state_path, finished)
        _execute(path, output, study, overrides)
        finished[path.stem] = key
        write_record(state_path, finished)


def warn_of_teacher(prepared: Prepared) -> None:
    """Measure the teacher on a few rows, and say on standard error if it does not do the study's task."""
    with main_process_first():
        teacher, tokenizer = prepared.load_teacher()
        _ = prepared.corpus
    checked = check_teacher(prepared, teacher, tokenizer)
    if checked["warning"] and is_main():
        _say(f"WARNING: {checked['warning']}")
    del teacher
    free_accelerator()  # the notebooks run in processes of their own and need the memory


def _finished(state_path: Path) -> dict[str, str]:
    """What the notebooks that are finished were made from."""
    if not state_path.is_file():
        return {}
    try:
        return read_record(state_path, "all notebooks run again")
    except UserError as damaged:  # nothing is lost but time
        _say(f"WARNING: {damaged}")
        return {}


def say_memory(prepared: Prepared, runs: Sequence[Run] | None = None) -> None:
    """Say on standard error what memory the study, or the training of some students, needs, and what is free."""
    if is_main() and (told := memory_sentence(prepared, runs)):
        _say(told)


def check_disk(prepared: Prepared) -> None:
    """Refuse to start what cannot be finished.

    Training keeps two checkpoints for a moment, each with float32 weights and the optimizer's two
    moments at most, so 2 · 3 · 4 bytes per parameter; then there are the students, and some for what
    does not grow with the model.
    """
    study, weights = prepared.study, size_bytes(prepared.teacher_folder)
    itemsize = checkpoint_dtype(prepared.teacher_folder).itemsize
    needed = (24 / itemsize + len(planned(study))) * weights + 100_000_000
    study.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(study.folder).free
    if free < needed:
        raise UserError(
            f"{study.folder} has {free / 1e9:.1f} GB of free disk space and {study.name} needs about {needed / 1e9:.1f} GB; free some space"
        )


def _stands(prepared: Prepared, notebook: str) -> bool:
    """Whether what a finished notebook made is still there and still its own."""
    try:
        if notebook.startswith("02"):
            load_evaluation(prepared, "teacher", prepared.teacher_hash)
        if notebook.startswith("03"):
            for run in planned(prepared.study):
                training_report(prepared, run)
        if notebook.startswith("04"):
            load_results(prepared.study)
    except (UserError, ValueError, KeyError):  # missing, made from something else, or damaged
        return False
    return True


def _execute(path: Path, output: Path, study: Study, overrides: dict[str, object]) -> None:
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters={"STUDY": study.file, "OVERRIDES": overrides},
            kernel_name="python3",
            progress_bar={"unit": "cell", "dynamic_ncols": True, "mininterval": 1.0},
            request_save_on_cell_execute=False,
            cwd=str(home()),
            config=KERNEL,
        )
    except DeadKernelError:
        raise NotebookError(f"{path.name}: its process died, most likely for want of memory") from None
    except PapermillExecutionError as error:
        message = " ".join(str(error.evalue).split())
        if error.ename == UserError.__name__:
            raise UserError(message) from None
        if disk_is_full(message):
            raise UserError(f"the disk is full: {path.stem} could not go on; free some space and run again") from None
        raise NotebookError(
            f"{path.name}, cell {_code_cell_number(output, error)}: {error.ename}: {message} (executed copy: {output})"
        ) from None


def _code_cell_number(output: Path, error: PapermillExecutionError) -> str:
    """Which code cell of the executed notebook failed, counting as JupyterLab shows it: ``[4]``."""
    notebook = json.loads(output.read_text("utf-8")) if output.is_file() else nbformat.v4.new_notebook()
    for cell in notebook["cells"]:
        if any(o.get("output_type") == "error" for o in cell.get("outputs", [])):
            return f"[{cell.get('execution_count')}]"
    return str(error.cell_index)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
