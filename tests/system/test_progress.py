"""Whoever waits sees a bar: in the terminal, also of a notebook that is executed headless."""

import os
import pty
import re
import subprocess
import sys
import termios

import nbformat

from distill_utils.notebook import display
from distill_utils.notebook.display import LiveCurves

CELL = """
import time
from distill_utils.system.progress import progress
for _ in progress(range(4), desc="waiting", unit="thing"):
    time.sleep(0.6)
"""


def in_terminal(command: list[str], folder) -> str:
    """What the command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    environment = {
        k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"
    }  # with it kernels keep no terminal
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    return seen.decode()


def test_a_headless_notebooks_bar_is_in_the_terminal_and_not_in_the_notebook(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, tmp_path / "a.ipynb")
    seen = in_terminal([sys.executable, "-m", "papermill", "a.ipynb", "b.ipynb"], tmp_path)
    assert re.search(r"waiting: .* [1-3]/4 \[00:0\d<00:0\d, .*thing", seen)
    assert not any(cell.get("outputs") for cell in nbformat.read(tmp_path / "b.ipynb", as_version=4).cells)


class Display:
    """Counts pictures that are shown and those that take their place."""

    def __init__(self):
        self.shown = self.updated = 0

    def display(self, image, display_id):
        self.shown += 1
        return self

    def update(self, image):
        self.updated += 1


class State:
    def __init__(self, *log):
        self.log_history = list(log)


def test_live_curves_are_one_picture_for_all_methods_and_none_where_nobody_looks(monkeypatch):
    step = {"step": 1, "loss": 2.0, "hard_loss": 2.0, "soft_loss": 1.0}
    validation = {"step": 1, "eval_loss": 2.0, "eval_rougeL": 10.0}
    for watched in (False, True):
        counted = Display()
        monkeypatch.setattr(display, "display", counted.display)
        monkeypatch.setattr(display, "interactive", lambda watched=watched: watched)
        curves = LiveCurves(every=1000)
        for method in ("sft", "kd"):
            curves.of(method).on_log(None, State(step), None, logs=step)
            curves.on_log(None, State(step, validation), None, logs=validation)
        assert set(curves.logs) == {"sft", "kd"}
        assert (counted.shown, counted.updated) == ((1, 2) if watched else (0, 0))
