"""Run a study's four notebooks headless and skip those whose inputs have not changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from distill_utils.data.corpus import corpus_key, load_corpus
from distill_utils.data.doubts import warn
from distill_utils.data.reading import unrecorded_warning
from distill_utils.evaluation.evaluate import load_evaluation
from distill_utils.evaluation.forecast import REHEARSAL, forecast
from distill_utils.evaluation.results import load_results
from distill_utils.evaluation.teacher_check import check_teacher
from distill_utils.models.checkpoint import checkpoint_dtype, size_bytes
from distill_utils.models.prepared import Prepared
from distill_utils.report.tables import results_table
from distill_utils.studies.plan import Run, planned
from distill_utils.studies.settings import METHODS, Study
from distill_utils.system import run_time
from distill_utils.system.artefacts import read_record, write_record
from distill_utils.system.distributed import is_main, main_process_first
from distill_utils.system.environment import free_accelerator
from distill_utils.system.errors import LOWER, MemoryFull, NotebookError, UserError, disk_is_full, gpu_memory_is_full
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.locks import LOCK_FILE, OWNER_FILE, locked
from distill_utils.system.paths import home, notebook_paths
from distill_utils.system.workers import apart
from distill_utils.training.memory_estimate import memory_sentence
from distill_utils.training.teacher_cache import cache_folder
from distill_utils.training.tracking import Trackers, check_trackers
from distill_utils.training.train_student import training_report

STATE_FILE = "finished.json"
#: The setting that shortens a part most, if lowered.
SHORTER = {
    "training": "distillation.steps", "teacher cache": "distillation.max_pairs", "timing": "speed.repeats",
    "students' summaries": "corpus.max_test",
}  # fmt: skip


def run_study(study: Study, overrides: dict[str, object], fresh: bool = False, keep_cache: bool = False) -> None:
    """Execute the notebooks in order into ``runs/<study>/notebooks``.

    Skips a finished notebook if its text, the settings, the code, the corpus, the teacher and the notebooks before it
    are unchanged; ``fresh`` deletes earlier outputs first. At the end, the teacher cache is deleted unless ``keep_cache``.

    Raises:
        UserError: if a cell raised it, or the disk space is insufficient.
        NotebookError: if a cell failed otherwise.
    """
    if fresh:  # but keep the teacher's training, which takes hours
        with ExitStack() as nobody_trains:
            for work in study.folder.glob("students/*.training"):
                nobody_trains.enter_context(locked(work, "distill run --fresh"))
            for path in study.folder.glob("*"):
                if path.name not in ("teacher_training", LOCK_FILE, OWNER_FILE):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    prepared = Prepared(study)  # not before: it keeps what was there
    check_disk(prepared)
    check_trackers(study)
    os.environ["DISTILL_HOME"] = str(home())  # kernels inherit it; a relative one would mean another folder there
    clock = study.folder / run_time.FILE
    state_path = study.notebooks_folder / STATE_FILE
    finished = _finished(state_path)
    paths = notebook_paths()
    # A study that makes its own teacher has it in its settings.
    teacher = prepared.teacher_hash if study.teacher.path else ""
    key = fingerprint(study.settings(), code_fingerprint(), corpus_key(study), teacher)
    run_key, unchanged = key, True
    try:
        for number, path in enumerate(paths, 1):
            key = fingerprint(key, path.read_text("utf-8"))
            output = study.notebooks_folder / path.name
            label = f"[{number}/{len(paths)}] {path.stem}"
            stands = unchanged and finished.get(path.stem) == key and output.is_file() and _stands(prepared, path.stem)
            if stands:
                _say(f"{label}: finished before, nothing changed")
                continue
            if unchanged:  # the first that runs
                unchanged = False
                run_time.go_on(clock, run_key) or _begin(prepared, clock, run_key)
            _say(label)
            if path.stem.startswith("02"):
                warn_of_teacher(prepared)
            finished.pop(path.stem, None)
            write_record(state_path, finished)
            _execute(path, output, study, overrides)
            finished[path.stem] = key
            write_record(state_path, finished)
    finally:
        run_time.stop()
    cached = sum(file.stat().st_size for file in cache_folder(study).rglob("*") if file.is_file())
    if not unchanged and not keep_cache:
        _delete_cache(study)
    if run_time.known(clock, run_key):  # also after a run that was killed right before this line
        found = run_time.end(clock) | ({"cache_bytes": cached} if cached else {})
        write_record(study.results_file, load_results(study) | found)
    if study.report_to and not unchanged:
        _track_results(study)


def _track_results(study: Study) -> None:
    """Log the numbers of every system, and the table."""
    results = load_results(study)
    trackers = Trackers(study, "results", {"commit": results["environment"]["commit"]})
    try:
        for s in results["systems"]:
            trackers.log({f"{s['name']}/{name}": v for name, v in s.items() if isinstance(v, int | float)})
        trackers.log_text("results", results_table(results))
    finally:
        trackers.end()


def _delete_cache(study: Study) -> None:
    """Delete the teacher cache, unless a training of the study is running."""
    try:
        with ExitStack() as nobody_trains:
            for work in study.folder.glob("students/*.training"):
                nobody_trains.enter_context(locked(work, "distill run"))
            shutil.rmtree(cache_folder(study), ignore_errors=True)
    except UserError:
        _say(f"a training of {study.name} is running, so the teacher cache is kept")


def _begin(prepared: Prepared, clock: Path, key: str) -> None:
    """Forecast what each part takes, print it, and begin the record of the run's time."""
    _say("reading the corpus and measuring this machine, to tell how long the run takes")
    started = time.monotonic()
    # In a process of its own: this one waits for the notebooks' with the memory that it has by now.
    try:
        corpus, expected, failed = apart(_rehearsed, prepared.study)
    except BrokenProcessPool:
        corpus, expected, failed = 0.0, {}, "the process that measured was ended, perhaps for want of memory"
        shutil.rmtree(prepared.study.folder / REHEARSAL, ignore_errors=True)
    if failed:
        _say(f"no forecast: {failed}")
    measured = time.monotonic() - started - corpus
    total = sum(expected.values())
    for part, seconds in expected.items():
        _say(f"  {part:<22} {run_time.minutes(seconds):>5} min")
    if not expected:
        run_time.begin(clock, key, {}, {})
        return
    ends = f"{datetime.now().astimezone() + timedelta(seconds=total):%H:%M}"
    _say(f"  {'in all':<22} {run_time.minutes(total):>5} min, until about {ends} (measured in {measured:.0f} s)")
    settings = [SHORTER[part] for part in sorted(expected, key=expected.get, reverse=True) if part in SHORTER]
    _say(f"shorter, and less exact: lower {', '.join(settings)} with --set\n")
    spent = {"corpus": corpus} if corpus > 1 else {}
    run_time.begin(clock, key, spent | expected, spent | {run_time.REST: measured})


def _rehearsed(study: Study) -> tuple[float, dict[str, float], str]:
    """Build the corpus and forecast the rest; returns the seconds for the corpus, the forecast, and why there is none."""
    started = time.monotonic()
    load_corpus(study)
    corpus = time.monotonic() - started
    try:
        return corpus, forecast(Prepared(study)), ""
    except (RuntimeError, MemoryError) as error:  # PyTorch's, for example out of memory; the run may fit all the same
        return corpus, {}, " ".join(str(error).split())[:200]


def warn_of_teacher(prepared: Prepared) -> None:
    """Check the teacher on a few rows and print a warning if it does not perform the study's task."""
    with main_process_first():
        teacher, tokenizer = prepared.load_teacher()
        _ = prepared.corpus
    checked = check_teacher(prepared, teacher, tokenizer)
    if is_main():
        warn(checked["warning"] or "")
        warn(unrecorded_warning(teacher.config, prepared.study.corpus))
    del teacher
    free_accelerator()  # for the notebooks' processes


def _finished(state_path: Path) -> dict[str, str]:
    """Return the keys of the finished notebooks."""
    if not state_path.is_file():
        return {}
    try:
        return read_record(state_path, "all notebooks run again")
    except UserError as damaged:
        _say(f"WARNING: {damaged}")
        return {}


def say_memory(prepared: Prepared, runs: Sequence[Run] | None = None) -> None:
    """Print the memory that the study, or the training of ``runs``, needs and the memory available."""
    if is_main() and (told := memory_sentence(prepared, runs)):
        _say(told)


def check_disk(prepared: Prepared) -> None:
    """Refuse to start what cannot be finished.

    Training temporarily keeps two checkpoints with float32 weights and the optimizer's two moments, 2 · 3 · 4 bytes
    per parameter; the students and a constant are added.
    """
    study, weights = prepared.study, size_bytes(prepared.teacher_folder)
    itemsize = checkpoint_dtype(prepared.teacher_folder).itemsize
    starts = sum(METHODS[run.method].on_policy for run in planned(study))
    needed = (24 / itemsize + len(planned(study)) + starts) * weights + 100_000_000
    study.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(study.folder).free
    if free < needed:
        raise UserError(
            f"{study.name} needs about {needed / 1e9:.1f} GB of disk space and {study.folder} has {free / 1e9:.1f} GB; free disk space"
        )


def _stands(prepared: Prepared, notebook: str) -> bool:
    """Return whether a finished notebook's outputs exist and are current."""
    try:
        if notebook.startswith("02"):
            load_evaluation(prepared, "teacher", prepared.teacher_hash)
        if notebook.startswith("03"):
            for run in planned(prepared.study):
                training_report(prepared, run)
        if notebook.startswith("04"):
            load_results(prepared.study)
    except (UserError, ValueError, KeyError):  # missing, outdated or damaged
        return False
    return True


def execute(path: Path, output: Path, study: Study, overrides: dict[str, object], **options: object) -> None:
    """Execute a notebook by papermill (which takes ``options``) and write the executed copy to ``output``.

    The kernel listens on Unix sockets in a private folder where available. Jupyter's default is numbered sockets in the
    working folder: two kernels that start there at the same time take the same ones.
    """
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        unavailable = os.name == "nt" or len(folder) > 85  # a socket's path holds some 100 characters
        papermill.execute_notebook(
            path,
            output,
            parameters={"STUDY": study.file, "OVERRIDES": overrides},
            kernel_name="python3",
            cwd=str(home()),
            config=Config({"KernelManager": {"transport": "tcp"} if unavailable else sockets}),
            **options,
        )


def _execute(path: Path, output: Path, study: Study, overrides: dict[str, object]) -> None:
    bar = {"unit": "cell", "dynamic_ncols": True, "mininterval": 1.0}
    try:
        execute(path, output, study, overrides, progress_bar=bar, request_save_on_cell_execute=False)
    except DeadKernelError:
        raise NotebookError(f"{path.name}: the kernel died, probably out of memory") from None
    except PapermillExecutionError as error:
        message = " ".join(str(error.evalue).split())
        if error.ename in (UserError.__name__, MemoryFull.__name__):
            raise UserError(message) from None
        if disk_is_full(message):
            raise UserError(f"the disk is full: {path.stem} failed; free some space and run again") from None
        if gpu_memory_is_full(message):
            raise UserError(f"the GPU ran out of memory: {path.stem} failed; {LOWER}") from None
        raise NotebookError(
            f"{path.name}, cell {_code_cell_number(output, error)}: {error.ename}: {message} (executed copy: {output})"
        ) from None


def _code_cell_number(output: Path, error: PapermillExecutionError) -> str:
    """Return the execution count of the failed cell as JupyterLab shows it: ``[4]``."""
    notebook = json.loads(output.read_text("utf-8")) if output.is_file() else nbformat.v4.new_notebook()
    for cell in notebook["cells"]:
        if any(o.get("output_type") == "error" for o in cell.get("outputs", [])):
            return f"[{cell.get('execution_count')}]"
    return str(error.cell_index)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
