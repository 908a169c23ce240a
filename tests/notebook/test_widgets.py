"""Tables, figures and interactive plots of the notebooks; texts stay texts, whatever they contain."""

import re

import ipywidgets
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, Image

from distill_utils.models.prepared import Prepared
from distill_utils.notebook import display, widgets
from distill_utils.notebook.display import table


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    things = []
    for module in (display, widgets):
        monkeypatch.setattr(module, "display", lambda *objects: things.extend(objects))
    return things


def test_texts_are_shown_as_text():
    html = table([{"a": "<script>alert(1)</script>", "b": 1.23456}, {"a": "x & y", "b": None}]).to_html()
    assert "<script>" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "1.23" in html and "–" in html


PLOTS = ("temperature", "loss", "summaries", "frontier")


def show(name, study):
    getattr(widgets, name)(study if name == "frontier" else Prepared(study))


@pytest.mark.parametrize("name", PLOTS)
def test_headless_an_interactive_plot_is_an_image_or_table_of_its_default_settings(finished, shown, name):
    show(name, finished)
    assert not any(isinstance(thing, ipywidgets.Widget) for thing in shown)
    assert isinstance(shown[0], HTML if name == "summaries" else Image)


@pytest.mark.parametrize(("name", "control", "value"), [
    ("temperature", "T", 4.0), ("temperature", "position", 1), ("temperature", "example", 2), ("loss", "α", 0.9), ("loss", "T", 8.0),
    ("frontier", "metric", "rouge2"), ("summaries", "number", 1), ("summaries", "search", "the"),
])  # fmt: skip
def test_a_control_redraws_its_plot(finished, shown, monkeypatch, name, control, value):
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    show(name, finished)
    (view,) = shown
    parts = list(inside(view))
    before = seen(parts)
    next(w for w in parts if getattr(w, "description", "") == control).value = value
    assert seen(parts) != before


def seen(parts):
    """Images and texts."""
    return [
        bytes(w.value) if isinstance(w, ipywidgets.Image) else w.value
        for w in parts
        if isinstance(w, ipywidgets.Image | ipywidgets.HTML)
    ]


def test_what_a_summary_shares_with_the_reference_is_underlined():
    rows = [
        {"what": "reference", "text": "Read a table.", "rougeL": None},
        {"what": "kd", "text": "Reads <b>a table", "rougeL": 80.0},
    ]
    html = display.list_rows(rows, "Read a table.", 2)
    assert re.findall(r"<u[^>]*>([^<]*)</u>", html) == ["a", "table"] and "&lt;" in html and "<b>" not in html
    assert re.findall(r"<u[^>]*>([^<]*)</u>", display.list_rows(rows, "Read a table.", 1)) == ["Reads", "a", "table"]


def test_a_point_of_the_frontier_has_a_tooltip_with_its_numbers(finished, shown, monkeypatch):
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    widgets.frontier(finished)
    svg = next(w.value for w in inside(shown[0]) if "<svg" in str(getattr(w, "value", "")))
    assert "<title>teacher in pytorch-fp32: " in svg and "<script" not in svg


def test_your_own_text_is_summarized_and_stays_a_text(finished, shown, monkeypatch):
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    widgets.summaries(Prepared(finished))
    parts = list(inside(shown[0]))
    next(w for w in parts if isinstance(w, ipywidgets.Textarea)).value = "<script>alert(1)</script> Return it."
    next(w for w in parts if isinstance(w, ipywidgets.Button)).click()
    table = next(w.value for w in parts if "<table" in str(getattr(w, "value", "")))
    assert "&lt;script&gt;" in table and "<script" not in table and table.count("<tr>") > 3


def inside(widget):
    for child in widget.children:
        if isinstance(child, ipywidgets.Box):
            yield from inside(child)
        else:
            yield child


def test_what_the_user_got_wrong_is_one_line_in_a_notebook(capsys):
    shell = InteractiveShell()
    shell.run_cell(
        "from distill_utils.system.errors import UserError\nraise UserError('there is no teacher; run notebook 02')"
    )
    shell.run_cell("1 / 0")
    seen = capsys.readouterr().out
    assert seen.startswith("distill: there is no teacher; run notebook 02\n")
    assert seen.count("Traceback") == 1  # another error has its own
