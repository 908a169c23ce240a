"""Take the README's screenshots of a finished study's notebooks and report (``make screens``)."""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from distill_utils.report.page import page_file
from distill_utils.run_study import notebook_paths
from distill_utils.studies.loading import load_study
from distill_utils.system.paths import ROOT
from tests.helpers.jupyter import BROWSER, SECONDS, Lab, open_notebook, run_all

FOLDER = ROOT / "figures" / "screens"
#: Text of the cell at the top of each notebook's screenshot.
SHOWN = ("How long are the texts", "names = [repr(", "What did the student learn to predict", "The next plot shows the timed systems")  # fmt: skip


def main(name: str) -> None:
    study = load_study(name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright, Lab(Path(temporary)) as jupyter:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(60 * SECONDS)
            page.goto(jupyter.url("lab/tree/notebooks"))
            page.locator(".jp-DirListing-item").first.wait_for()
            page.wait_for_timeout(SECONDS)
            keep(page, "00_lab")
            for path, text in zip(notebook_paths(), SHOWN, strict=True):
                notebook(page, jupyter, study, path, text)
            for width, height, label in ((1280, 900, "report"), (390, 844, "report_phone")):
                page.set_viewport_size({"width": width, "height": height})
                page.goto(page_file(study).as_uri())
                keep(page, label)
        finally:
            browser.close()
            shutil.rmtree(study.folder / "opened", ignore_errors=True)


def notebook(page, jupyter: Lab, study, path: Path, text: str) -> None:
    """Run a copy of a notebook and take a screenshot from the cell with the text downwards."""
    copy = study.folder / "opened" / path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(path.read_text("utf-8").replace('\\"docstrings\\"', f'\\"{study.file}\\"'), "utf-8")
    copy = copy.relative_to(ROOT)
    open_notebook(page, jupyter, copy)
    page.keyboard.press("Control+b")  # hide the list of files
    run_all(page, jupyter, copy, 1200)
    page.wait_for_timeout(2 * SECONDS)
    for _ in range(2):  # again, after images above have loaded
        page.locator(".jp-Cell", has_text=text).last.evaluate("cell => cell.scrollIntoView()")
        page.wait_for_timeout(SECONDS)
    keep(page, path.stem)
    jupyter.shut_kernels()


def keep(page, name: str) -> None:
    """Save a screenshot with 256 colours, for a small file."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
    image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docstrings")
