"""The notebooks and the report in a real browser: what a person clicks, and what they see."""

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

import pytest

from distill_utils import lab
from distill_utils.runner import notebook_paths
from distill_utils.study import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("DISTILL_BROWSER_TESTS") == "required"
if BROWSER is None and not REQUIRED:
    pytest.skip("no Chromium is installed", allow_module_level=True)
sync_api = __import__("playwright.sync_api").sync_api if REQUIRED else pytest.importorskip("playwright.sync_api")
NOTEBOOKS = [path.stem for path in notebook_paths()]
SECONDS = 1000  # in Playwright's milliseconds


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page of a browser that has seen nothing; an error in its console, or anything asked of the network, fails the test."""
    context = chromium.new_context(viewport={"width": 1300, "height": 1000}, color_scheme="light")
    page, wrong = context.new_page(), []
    page.set_default_timeout(30 * SECONDS)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda r: None if re.match(r"(data|blob|file):|\w+://127\.0\.0\.1:", r.url) else wrong.append(r.url)
    )
    yield page
    context.close()
    assert not wrong


class Lab:
    """JupyterLab as ``make lab`` starts it, but for its memory of tabs, which is the test's own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = (
            f"from pathlib import Path; from distill_utils import lab; lab.FOLDER = Path({str(folder)!r}); lab.main()"
        )
        options = ["--no-browser", f"--port={port}", *(["--allow-root"] if os.geteuid() == 0 else [])]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=log, stderr=log, cwd=folder)
        wait(lambda: "/lab/workspaces/" in self.log.read_text("utf-8") or self.process.poll() is not None, 60)
        self.address, self.token = re.search(r"(http://[^/]+)/\S*\?token=(\w+)", self.log.read_text("utf-8")).groups()

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


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.shut_kernels()
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture(scope="module")
def copies(finished):
    """The notebooks, for ``smoke``, where a browser may write into them."""
    folder = finished.folder / "opened"
    folder.mkdir()
    for path in notebook_paths():
        (folder / path.name).write_text(path.read_text("utf-8").replace('\\"docstrings\\"', '\\"smoke\\"'), "utf-8")
    return folder.relative_to(ROOT)


def wait(true, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.2)


def open_notebook(page, jupyter: Lab, path: Path) -> None:
    page.goto(jupyter.url(f"lab/workspaces/{path.stem}/tree/{path}"))
    page.locator('.jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()


def run_all(page, jupyter: Lab, path: Path, seconds: float = 180) -> None:
    """Click Run → Run All Cells; wait until the kernel has no more to do."""
    count = sum(c["cell_type"] == "code" for c in json.loads((ROOT / path).read_text("utf-8"))["cells"])
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    last = page.locator(f'.jp-CodeCell .jp-InputPrompt:text-is("[{count}]:")')
    last.wait_for(state="attached", timeout=seconds * SECONDS)


def test_lab_shows_the_notebooks_in_order_beside_a_page_about_them(page, jupyter):
    page.goto(jupyter.url("lab/workspaces/study"))
    readme = page.locator(".jp-MarkdownViewer")
    readme.locator("h1").wait_for()
    files = page.locator(".jp-DirListing-item .jp-DirListing-itemName")
    files.first.wait_for()
    assert [name.split(".")[0] for name in files.all_inner_texts()] == [*NOTEBOOKS, "README"]
    links = [link.get_attribute("href") or "" for link in readme.locator("ol a").all()]
    assert [next(n for n in NOTEBOOKS if n in link) for link in links] == NOTEBOOKS
    readme.locator("ol a").first.click()
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
    page.locator(".jp-NotebookPanel .jp-Toolbar-kernelName").wait_for()
    jupyter.shut_kernels()


def test_lab_is_for_this_machine_and_who_has_the_token(jupyter):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{jupyter.address}/api/contents", timeout=30)
    assert refused.value.code == 403
    assert jupyter.address.startswith("http://127.0.0.1:")
    written = lab.command(["--ip=0.0.0.0", "--ServerApp.ip=0.0.0.0"])
    assert [option for option in written if "ip=" in option][-1] == "--ServerApp.ip=127.0.0.1"


@pytest.mark.parametrize("number", range(4))
def test_a_notebook_runs_all_its_cells(page, jupyter, copies, number):
    path = copies / f"{NOTEBOOKS[number]}.ipynb"
    open_notebook(page, jupyter, path)
    run_all(page, jupyter, path)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    page.screenshot(path=f"/tmp/shots/nb{number}.png")
    jupyter.shut_kernels()
