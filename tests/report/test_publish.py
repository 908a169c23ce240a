"""What is published: pages and README show the committed results, and executed notebooks become Markdown in which texts stay texts."""

import base64
import hashlib
import re

import mistune
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from distill_utils.notebook.display import table
from distill_utils.report import publish
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json, write_record
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT

EVIL = "<script>alert(1)</script> <img src=x onerror=alert(2)> | [a](javascript:b) `c` ```\n# not a heading"
STUDIES = sorted(path.parent.name for path in (ROOT / "figures").glob("docstrings*/results.json"))
RESULTS = {"study": "docstrings", "environment": {"commit": "c" * 40}}


def shown(kind, data, **about):
    return new_output("display_data", {kind: data}, metadata={kind: about})


@pytest.mark.parametrize("study", STUDIES)
def test_a_page_shows_the_committed_results(study):
    page = (publish.PAGES / f"{study}.md").read_text("utf-8")
    committed = read_json(publish.published_results(study))
    assert publish.results_page(study, committed) == page, (
        f"stale: python -m distill_utils.report.publish --render {study}"
    )
    title, what, comment = page.split("\n\n")[:3]
    assert title.startswith("# ") and what.endswith(".") and f"make figures STUDY={study}" in comment
    assert committed["environment"]["commit"][:10] in page.split("\n## Environment\n")[1]


def test_the_readme_shows_the_committed_results():
    text, committed = publish.README.read_text("utf-8"), read_json(publish.published_results(publish.REFERENCE))
    assert publish.render_readme(text, committed) == text, (
        "stale: python -m distill_utils.report.publish --render docstrings"
    )
    rows = [line for line in publish.readme_block(committed).splitlines() if line.startswith("|")]
    assert len(rows) <= 2 + publish.ROWS and len({row.count("|") for row in rows}) == 1


def test_a_page_compares_shapes_where_a_study_does():
    committed = read_json(publish.published_results(publish.REFERENCE))
    made = next(v for v in committed["verdicts"] if v["metric"] == "rougeL")
    other = made | {"family": "shapes", "a": "6-3 hidden", "b": "6-1 hidden", "delta": 1.5, "verdict": "BEATS"}
    assert "Of other shapes" not in publish.results_page(publish.REFERENCE, committed)
    page = publish.results_page(publish.REFERENCE, committed | {"verdicts": [*committed["verdicts"], other]})
    assert "| 6-3 hidden | is better than | 6-1 hidden | +1.50 |" in page.partition("Of other shapes")[2]


def test_the_readme_says_how_narrow_the_student_is():
    committed = read_json(publish.published_results(publish.REFERENCE))
    for s in committed["systems"]:
        s["inner_width"] = 1024 if s["method"] == "teacher" else 256
    assert "decoder layers with 256 of 1,024 feed-forward units) keeps" in publish.readme_block(committed)


def test_rendering_the_readme_replaces_only_the_block():
    committed = read_json(publish.published_results(publish.REFERENCE))
    text = f"before\n{publish.BEGIN}\nSTALE\n{publish.END}\nafter"
    rendered = publish.render_readme(text, committed)
    assert rendered.startswith("before\n") and rendered.endswith("\nafter") and "STALE" not in rendered
    assert publish.render_readme(rendered, committed) == rendered
    with pytest.raises(UserError, match="no block"):
        publish.render_readme("nothing", committed)


@pytest.mark.parametrize("study", STUDIES)
def test_committed_results_come_with_their_figures(study):
    folder = publish.published_results(study).parent
    assert len(list(folder.glob("*.png"))) >= 9
    assert {p.stem for p in folder.glob("*.png")} == {p.stem for p in folder.glob("*.pdf")}


def executed():
    picture = base64.b64encode(b"a picture").decode()
    outputs = [
        new_output("stream", name="stdout", text=EVIL),
        new_output("stream", name="stderr", text="a bar"),
        shown("image/png", picture, alt=EVIL, figure="04_quality"),
        shown("text/markdown", "*A caption.*"),
        shown("image/png", picture, alt="of a widget"),
        shown("text/html", table([{"text": EVIL, "n": 1.5}]).to_html()),
        shown("text/html", "<table><tr><th>text</th></tr><tr><td>a <u>shared</u> &lt;b&gt; word</td></tr></table>"),
        shown("text/markdown", "an \\<escaped> and a <script>live</script> tag"),
    ]
    cells = [new_markdown_cell("# 1 · Data\n\n[next](02_b.ipynb)"), new_code_cell("print('```')", outputs=outputs)]
    return new_notebook(cells=cells, metadata={"papermill": {"end_time": "2026-01-02T03:04:05"}})


def test_an_executed_notebook_becomes_a_page():
    page, images = publish.notebook_page("01_a", executed(), RESULTS, "f" * 64)
    head = page.splitlines()[0]
    assert all(part in head for part in ("`docstrings`", "`cccccccccc`", "2026-01-02", f"`{'f' * 64}`"))
    assert "](../../figures/docstrings/04_quality.png)\n\n*A caption.*" in page
    assert "![of a widget](images/01_a-1.png)" in page and images == {"images/01_a-1.png": b"a picture"}
    assert "base64" not in page and "a bar" not in page
    assert "[next](02_b.md)" in page and "````python\nprint('```')\n````" in page
    assert "a <ins>shared</ins> \\<b\\> word |" in page


def test_texts_of_a_notebook_stay_texts():
    page, _ = publish.notebook_page("01_a", executed(), RESULTS, "f" * 64)
    made = mistune.create_markdown(escape=False, plugins=["table"])(page)
    tags = set(re.findall(r"<([a-z0-9]+)", made))
    assert tags <= {
        "blockquote",
        "p",
        "a",
        "h1",
        "pre",
        "code",
        "img",
        "em",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "br",
        "ins",
    }
    assert made.count("<h1>") == 1 and "javascript:b" in made and 'href="javascript' not in made
    assert made.count("&lt;script&gt;alert(1)") == 3 and not re.search(
        r"<[^>]*\sonerror=alert", re.sub(r'"[^"]*"', "", made)
    )


def test_the_published_notebooks_are_of_the_published_run():
    pages = sorted(publish.NOTEBOOKS.glob("*.md"))
    if not pages:
        pytest.skip("no notebooks are published yet: make figures does it after a run of the default study")
    checksum = hashlib.sha256(publish.published_results(publish.REFERENCE).read_bytes()).hexdigest()
    assert {p.stem for p in pages} == {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    for page in pages:
        assert f"sha256 `{checksum}`" in page.read_text("utf-8").splitlines()[0], f"{page.name}: run make figures"
        assert page.stat().st_size <= 200_000


def test_a_run_in_another_workspace_is_published_with_its_figures_alone(tmp_path, monkeypatch):
    clone, home = tmp_path / "clone", tmp_path / "home"
    monkeypatch.setenv("DISTILL_HOME", str(home))
    monkeypatch.setattr(publish, "ROOT", clone)
    monkeypatch.setattr(publish, "PAGES", clone / "docs" / "results")
    study = load_study("docstrings_full")
    results = read_json(ROOT / "figures" / study.name / "results.json") | {"settings": study.settings()}
    write_record(study.results_file, results)
    with pytest.raises(UserError, match="draw the figures"):
        publish.publish(study)
    study.figures_folder.mkdir(parents=True)
    (study.figures_folder / "04_quality.png").write_bytes(b"new")
    stale = clone / "figures" / study.name / "04_sweep.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier run")
    publish.publish(study)
    page = (clone / "docs" / "results" / "docstrings_full.md").read_text("utf-8")
    assert "04_quality.png" in page and "04_sweep.png" not in page
    assert {path.name for path in stale.parent.iterdir()} == {"04_quality.png", "results.json"}


def test_a_grid_of_an_earlier_run_is_not_shown(tmp_path, monkeypatch):
    """The default study times no grid of beams and batches; a figure of one may still be in the folder."""
    results = read_json(publish.published_results("docstrings"))
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    (tmp_path / "figures" / "docstrings").mkdir(parents=True)
    (tmp_path / "figures" / "docstrings" / f"{publish.GRID}.png").write_bytes(b"of an earlier run")
    assert publish.GRID not in publish.results_page("docstrings", results)
    for system in results["systems"]:
        timed = system.get("speeds", [])
        system["speeds"] = [*timed, *({**m, "batch_size": m["batch_size"] + 1} for m in timed)]
    assert publish.GRID in publish.results_page("docstrings", results)
