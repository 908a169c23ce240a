"""A JupyterLab of one's own, and what a person clicks in it; for tests and screenshots."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from distill_utils.system.paths import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: What a cell that failed shows.
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
#: Folders of settings, tabs and addresses; a user's own stay as they are.
SETTINGS = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_RUNTIME_DIR")
SECONDS = 1000  # in Playwright's milliseconds


class Lab:
    """JupyterLab as ``make lab`` starts it, with settings and a memory of tabs of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--no-browser", f"--port={port}", *(["--allow-root"] if os.geteuid() == 0 else [])]
        programs = Path(sys.executable).parent
        make = ["make", "-n", "lab", f"BIN={programs}", f"LAB={' '.join(options)}"]
        asked = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        command = f"exec {asked[asked.rindex(f'{programs}/jupyter lab') :]}"  # without what would set up .venv
        own = {name: str(folder / name.lower()) for name in SETTINGS}
        answered = folder / "jupyterlab_settings_dir/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        answered.parent.mkdir(parents=True)
        answered.write_text('{"fetchNews": "false"}', "utf-8")  # else a first start asks about Jupyter's news
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", command], stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **own}
            )
        try:
            wait(lambda: "?token=" in self._said() or self.process.poll() is not None, 60)
            found = re.search(r"(http://[^/]+)/\S*\?token=(\w+)", self._said())
            assert found, self._said()
        except AssertionError:
            self.process.kill()
            raise
        self.address, self.token = found.groups()

    def _said(self) -> str:
        return self.log.read_text("utf-8")

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.shut_kernels()
        self.process.terminate()
        self.process.wait(30)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}?token={self.token}"

    def get(self, path: str) -> object:
        with urllib.request.urlopen(self.url(path), timeout=30) as answer:
            return json.load(answer)

    def shut_kernels(self) -> None:
        for session in self.get("api/sessions"):
            with contextlib.suppress(urllib.error.URLError):
                wanted = urllib.request.Request(self.url(f"api/sessions/{session['id']}"), method="DELETE")
                urllib.request.urlopen(wanted, timeout=30).close()


def wait(true, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.2)


def open_notebook(page, jupyter: Lab, path: Path) -> None:
    page.goto(jupyter.url(f"lab/workspaces/{path.stem}/tree/{path}"))
    page.locator(".jp-NotebookPanel-notebook .jp-Cell").first.wait_for()
    wait(
        lambda: any(
            s["kernel"]["connections"] and s["kernel"]["execution_state"] == "idle" for s in sessions(jupyter, path)
        ),
        30,
    )


def sessions(jupyter: Lab, path: Path) -> list[dict]:
    return [session for session in jupyter.get("api/sessions") if session["path"] == str(path)]


def run_all(page, jupyter: Lab, path: Path, seconds: float = 180) -> None:
    """Click Run → Run All Cells; wait until the kernel has no more to do."""
    count = sum(c["cell_type"] == "code" for c in json.loads((ROOT / path).read_text("utf-8"))["cells"])
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    ended = page.locator(f'.jp-CodeCell .jp-InputPrompt:text-is("[{count}]:"), {ERROR}')
    ended.first.wait_for(state="attached", timeout=seconds * SECONDS)
    assert page.locator(ERROR).all_text_contents() == []
    assert page.locator(".jp-Dialog").count() == 0
