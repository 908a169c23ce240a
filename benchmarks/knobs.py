"""How long a turn of each knob takes until the kernel has made the new picture; what the browser adds is not in it.

The study's results are needed, as ``make study`` leaves them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from unittest.mock import patch

import ipywidgets

from distill_utils import widgets
from distill_utils.progress import progress
from distill_utils.study import Study

VIEWS = ("temperature", "loss", "summaries", "frontier")
TURNS = 20


def knobs(study: Study) -> dict:
    """Rows of view, knob, and milliseconds of a turn: median and greatest of :data:`TURNS`; ``opened``: seconds until a view is there."""
    rows, opened = [], {}
    for view in progress(VIEWS, desc="knobs", unit="view"):
        shown: list = []
        with patch.object(widgets, "interactive", lambda: True), patch.object(widgets, "display", shown.append):
            start = time.perf_counter()
            getattr(widgets, view)(study)
            opened[view] = time.perf_counter() - start
        for knob in _knobs(shown[-1]):
            spent = []
            for value in itertools.islice(itertools.cycle(_values(knob)), 10 * TURNS):
                before, start = knob.value, time.perf_counter()
                knob.value = value
                if knob.value != before and len(spent) < TURNS:
                    spent.append(1000 * (time.perf_counter() - start))
            if len(spent) == TURNS:  # a knob with one value cannot be turned
                rows.append(
                    {"view": view, "knob": knob.description, "median": statistics.median(spent), "most": max(spent)}
                )
    return {"turns": TURNS, "opened": opened, "rows": rows}


def _knobs(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    for child in widget.children:
        if isinstance(child, ipywidgets.Box):
            yield from _knobs(child)
        elif _values(child):
            yield child


def _values(knob: ipywidgets.Widget) -> list:
    """Values that a person may choose, a few of many."""
    if isinstance(knob, ipywidgets.FloatSlider | ipywidgets.IntSlider | ipywidgets.BoundedIntText):
        kind = float if isinstance(knob, ipywidgets.FloatSlider) else int
        return [kind(knob.min + (knob.max - knob.min) * i / TURNS) for i in range(TURNS)]
    if isinstance(knob, ipywidgets.Text):
        return ["", "return the", "model", "file", "nothing has these words"]
    if isinstance(knob, ipywidgets.SelectMultiple):
        return [(value,) for _, value in knob._options_full]
    if isinstance(knob, ipywidgets.SelectionSlider | ipywidgets.Dropdown | ipywidgets.ToggleButtons):
        return [value for _, value in knob._options_full]
    return []
