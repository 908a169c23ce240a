"""The notebooks and the report in a real browser: what a person clicks, and what they see."""

import contextlib
import html
import importlib
import os
import re
import time
import urllib.error
import urllib.request

import nbformat
import pytest

from distill_utils.report.page import page_file, write_page
from distill_utils.run_study import notebook_paths
from distill_utils.system.paths import ROOT
from tests.helpers.jupyter import BROWSER, SECONDS, Lab, open_notebook, run_all, wait

REQUIRED = os.environ.get("DISTILL_BROWSER_TESTS") == "required"
if BROWSER is None and not REQUIRED:
    pytest.skip("no Chromium is installed", allow_module_level=True)
sync_api = (importlib.import_module if REQUIRED else pytest.importorskip)("playwright.sync_api")
NOTEBOOKS = [path.stem for path in notebook_paths()]


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
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
    if "jupyter" in request.fixturenames:  # not before: the page would ask for its kernel
        request.getfixturevalue("jupyter").shut_kernels()
    assert not wrong


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def copies(finished):
    """The notebooks, for ``smoke``, where a browser may write into them."""
    folder = finished.folder / "opened"
    folder.mkdir()
    for path in notebook_paths():
        (folder / path.name).write_text(path.read_text("utf-8").replace('\\"docstrings\\"', '\\"smoke\\"'), "utf-8")
    return folder.relative_to(ROOT)


def test_lab_opens_at_the_notebooks_in_order(page, jupyter):
    page.goto(jupyter.url(""))  # without an address, the page that JupyterLab opens
    files = page.locator(".jp-DirListing-item .jp-DirListing-itemName")
    files.first.wait_for()
    assert [name.split(".")[0] for name in files.all_inner_texts()] == [*NOTEBOOKS, "README"]
    files.first.dblclick()
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
    page.locator(".jp-NotebookPanel .jp-Toolbar-kernelName").wait_for()


def test_lab_is_for_this_machine_and_who_has_the_token(jupyter):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{jupyter.address}/api/contents", timeout=30)
    assert refused.value.code == 403
    assert jupyter.address.startswith("http://127.0.0.1:")


class Controls:
    """The interactive plot that a cell with this call shows."""

    def __init__(self, page, call: str) -> None:
        self.page = page
        self.cell = page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=call))

    def control(self, name: str):
        label = self.page.locator(".widget-label", has_text=re.compile(f"^{name}$"))
        return self.cell.locator(".widget-inline-hbox", has=label)

    def slide(self, name: str, times: int = 1) -> None:
        handle = self.control(name).locator(".noUi-handle")
        for _ in range(times):
            handle.press("ArrowRight")

    def picture(self) -> bytes:
        for _ in range(10):
            shown = self.cell.locator("img.widget-image, svg:has(title)").first
            shown.scroll_into_view_if_needed()
            with contextlib.suppress(sync_api.Error):  # another has just taken its place
                return shown.screenshot(timeout=5 * SECONDS)
        raise AssertionError("no image is stable")

    def text(self) -> str:
        return self.cell.locator(".jp-OutputArea").inner_text()


def changes(look, turn, seconds: float = 10) -> None:
    before = b""
    while before != (before := look()):  # what an earlier turn drew has arrived
        time.sleep(0.5)
    turn()
    wait(lambda: look() != before, seconds)


def turn_in_distillation(page) -> None:
    loss, temperature, summaries = (
        Controls(page, f"widgets.{name}(prepared)") for name in ("loss", "temperature", "summaries")
    )
    changes(loss.picture, lambda: loss.slide("α"))
    changes(loss.picture, lambda: loss.slide("T"))
    changes(temperature.picture, lambda: temperature.slide("T", 5))
    changes(temperature.picture, lambda: temperature.slide("position"))
    changes(summaries.text, lambda: summaries.control("number").locator("input").press("ArrowUp"))
    changes(
        summaries.text,
        lambda: summaries.control("search").locator("input").fill("no such words") or page.keyboard.press("Enter"),
    )
    summarize(summaries, HOSTILE)
    wait(lambda: "your text" in summaries.text() and "more …" not in summaries.text(), 30)
    assert HOSTILE.split()[0] in summaries.text() and "[U+202E]" in summaries.text()
    assert page.evaluate("window.hacked") is None


def turn_in_speed(page) -> None:
    frontier = Controls(page, "widgets.frontier(study)")
    changes(frontier.picture, lambda: frontier.control("metric").locator("select").select_option("ROUGE-1"))
    assert frontier.cell.locator("#point-0 use").first.bounding_box()["width"] > 2
    assert "summaries/s" in frontier.cell.locator("svg title").first.text_content()


#: What must stay a text wherever it is shown.
HOSTILE = '<script>window.hacked=1</script><img src="x" onerror="window.hacked=1"> returns \u202eeht eulav\u202c </td></table><b>of'


def summarize(summaries: Controls, text: str) -> None:
    summaries.cell.locator("textarea").fill(text)
    summaries.cell.get_by_role("button", name="summarize").click()


@pytest.mark.parametrize(("number", "turn"), [(0, None), (1, None), (2, turn_in_distillation), (3, turn_in_speed)])
def test_a_notebook_runs_all_its_cells_and_its_controls_work(page, jupyter, copies, number, turn):
    path = copies / f"{NOTEBOOKS[number]}.ipynb"
    open_notebook(page, jupyter, path)
    run_all(page, jupyter, path)
    if turn:
        turn(page)


@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_fits_a_desktop_and_a_phone(page, finished, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(page_file(finished).as_uri())
    assert page.locator("figure img").count() > 5
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("script").count() == 0


def test_hostile_texts_stay_texts_in_a_notebook(page, jupyter, copies):
    path = copies / "hostile.ipynb"
    code = (
        "from IPython.display import Markdown, display\n"
        "from distill_utils import plots\n"
        "from distill_utils.notebook.display import display_figure, table\n"
        "from distill_utils.system.safe_text import as_markdown\n"
        f"text = {HOSTILE!r}\n"
        "display(table([{'document': text, 'long': 'x' * 1_000_000}]), Markdown(as_markdown(text)))\n"
        "display_figure(plots.novelty({1: 50, 2: 60, 3: 70, 4: 80})[0], text)\n"
    )
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, ROOT / path)
    open_notebook(page, jupyter, path)
    run_all(page, jupyter, path)
    page.locator(".jp-OutputArea img").wait_for()
    shown = page.locator(".jp-OutputArea").first.inner_text()
    assert shown.count("<script>window.hacked=1</script>") == 3 and "(996,000 more characters)" in shown
    assert "\u202e" not in shown and shown.count("[U+202E]") == 3
    assert page.evaluate("window.hacked") is None


def test_hostile_texts_stay_texts_in_the_report(page, finished):
    executed = finished.notebooks_folder / notebook_paths()[0].name
    notebook = nbformat.read(executed, as_version=4)
    told = [
        nbformat.v4.new_output(
            "display_data", {"text/html": f"<table><tr><td>{html.escape(HOSTILE)}</td></tr></table>{HOSTILE}"}
        ),
        nbformat.v4.new_output("display_data", {"text/markdown": HOSTILE}),
        nbformat.v4.new_output("stream", name="stdout", text=HOSTILE),
    ]
    notebook.cells.append(nbformat.v4.new_code_cell("", outputs=told))
    nbformat.write(notebook, executed)
    page.goto(write_page(finished).as_uri())
    assert page.locator("body").inner_text().count("<script>window.hacked=1</script>") == 3
    assert page.evaluate("window.hacked") is None and page.locator("script, img[onerror]").count() == 0


def test_the_report_prints_whole_figures_and_is_readable_in_the_dark(page, finished, tmp_path):
    page.emulate_media(color_scheme="dark")
    page.goto(page_file(finished).as_uri())
    text, behind = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert min(map(int, re.findall(r"\d+", text)[:3])) > 200 and max(map(int, re.findall(r"\d+", behind)[:3])) < 60
    page.emulate_media(media="print")
    assert page.evaluate(
        "[...document.querySelectorAll('figure')].every(f => getComputedStyle(f).breakInside == 'avoid')"
    )
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
