"""The page holds what the notebooks showed, and nothing of it runs."""

import base64
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from distill_utils.notebook.display import table
from distill_utils.report import page
from distill_utils.run_study import notebook_paths
from distill_utils.studies.loading import load_study
from distill_utils.system.errors import UserError

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
PNG = base64.b64encode(b"a picture").decode()


def shown(kind, data, **metadata):
    return new_output("display_data", {kind: data}, metadata=metadata)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Executed notebooks: the first has one output of each kind."""
    study = load_study("smoke", {"name": "page"})
    monkeypatch.setattr(type(study), "folder", property(lambda self: tmp_path))
    cells = [
        new_markdown_cell("# 1 · Data\n\nThe temperature $T$ and $$\\frac{1}{N}\\sum_i p_i$$ but $5 and $6."),
        new_code_cell(
            "print()",
            outputs=[
                new_output("stream", name="stdout", text=EVIL),
                new_output("stream", name="stderr", text="a bar"),
                shown("image/png", PNG, **{"image/png": {"alt": EVIL}}),
                shown("text/markdown", "*What it shows.*"),
                shown("text/html", table([{"text": EVIL, "n": 1.5}]).to_html()),
                shown("text/markdown", EVIL),
                shown("text/markdown", "[a link](javascript:alert(3))"),
            ],
        ),
    ]
    (tmp_path / "notebooks").mkdir()
    for i, path in enumerate(notebook_paths()):
        nbformat.write(new_notebook(cells=[] if i else cells), tmp_path / "notebooks" / path.name)
    return study


def part(study):
    return next(page._notebooks(study))


def test_a_notebook_becomes_a_part_with_everything_that_it_showed(study):
    title, body = part(study)
    assert title == "1 · Data"
    assert (
        f'<img src="data:image/png;base64,{PNG}"' in body and "<figcaption>What it shows.</figcaption></figure>" in body
    )
    assert '<th scope="col">text</th><th scope="col">n</th>' in body and "<td>1.50</td>" in body
    assert "a bar" not in body
    assert 'alt="T"' in body and 'class="display"' in body and "but $5 and $6." in body


def test_nothing_in_it_is_a_tag_of_the_datas(study):
    _, body = part(study)
    assert body.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    tags = set(re.findall(r"<([a-z0-9]+)", body))
    assert tags <= {"p", "pre", "img", "figure", "figcaption", "div", "table", "thead", "tbody", "tr", "th", "td", "a"}
    assert "onerror=alert(2)&gt;" in body and not re.search(r"<[^>]*onerror=alert\(2\)>", body)
    assert "a link</a>" in body and not re.search(r'href="javascript', body)
    assert "script-src" not in page.POLICY and page.POLICY.startswith("default-src 'none'")


def test_a_notebook_that_was_not_executed_is_named(study, tmp_path):
    (tmp_path / "notebooks" / notebook_paths()[2].name).unlink()
    with pytest.raises(UserError, match="03_distillation was not executed"):
        list(page._notebooks(study))


def test_a_formula_that_cannot_be_drawn_is_its_source():
    assert page._formula(r"\\nonsense{", display=False) == "<code>\\\\nonsense{</code>"
    assert "<svg" in base64.b64decode(re.search('base64,([^"]+)', page._formula("x^2", display=False))[1]).decode()
