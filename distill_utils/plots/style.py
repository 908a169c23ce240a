"""Define the style of all figures and save them as PNG and PDF."""

from __future__ import annotations

import threading
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import whole_file

WIDTH = 3.3  # inches, one column of a two-column paper
BLUE, ORANGE, GREEN, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, SKY, GREY)
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "d")
#: matplotlib's settings are global, and a notebook's controls redraw in another thread.
DRAWING = threading.RLock()
FILLS = ("full", "none", "left", "top")
LINES = ("-", "--", "-.", ":")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}


def save(study: Study, name: str, figure: Figure) -> None:
    """Write ``figures/<study>/<name>`` as PNG (300 dpi) and PDF."""
    save_in(study.figures_folder, name, figure)


def save_in(folder: Path, name: str, figure: Figure) -> None:
    for suffix in ("png", "pdf"):
        with whole_file(folder / f"{name}.{suffix}") as temporary, DRAWING, rc_context(STYLE):
            figure.savefig(temporary, metadata={"CreationDate": None} if suffix == "pdf" else None)


def new_figure(height: float, columns: int = 1, rows: int = 1, width: float = WIDTH, **subplots):
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(rows, columns, **subplots)


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with numbers such as 20, 50 and 100 instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def styled(function):
    """Apply the style while drawing: matplotlib reads some settings when it creates an artist."""

    def draw(*args, **kwargs):
        with DRAWING, rc_context(STYLE):
            return function(*args, **kwargs)

    draw.__doc__, draw.__name__ = function.__doc__, function.__name__
    return draw
