"""Show figures, tables and live training curves in a notebook."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

import pandas
from IPython.display import DisplayHandle, Image, Markdown, display
from matplotlib import rc_context
from matplotlib.figure import Figure
from transformers import TrainerCallback

from distill_utils import plots
from distill_utils.metrics.words import ENGLISH
from distill_utils.notebook.explore import shared_words
from distill_utils.plots.style import DRAWING, STYLE
from distill_utils.studies.settings import Study
from distill_utils.system.progress import interactive
from distill_utils.system.safe_text import as_markdown, escaped, visible


def show(study: Study, name: str, drawn: tuple[Figure, str]) -> None:
    """Save a figure as ``figures/<study>/<name>`` and display it with its caption."""
    figure, caption = drawn
    plots.save(study, name, figure)
    display_figure(figure, caption, name)


def table(rows: list[Mapping]) -> pandas.io.formats.style.Styler:
    """Return a table with wrapped cells, in which HTML is escaped."""
    frame = pandas.DataFrame(
        [{visible(k): visible(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
    )
    styler = frame.style.format(escape="html", precision=2, na_rep="–").format_index(escape="html", axis="columns")
    styler = styler.hide(axis="index")
    wrapped = {"white-space": "pre-wrap", "overflow-wrap": "anywhere", "max-width": "22em"}
    styler = styler.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return styler.set_properties(**{"text-align": "left", "vertical-align": "top", **wrapped})


class LiveCurves(TrainerCallback):
    """Redraw the training curves in place in JupyterLab: after every validation, and otherwise every few seconds.

    Attributes:
        logs: the log history of each method.
    """

    def __init__(self, every: float = 3.0) -> None:
        self.logs: dict[str, list] = {}
        self.every = every
        self._method, self._due = "", 0.0
        self._handle: DisplayHandle | None = None

    def of(self, method: str) -> LiveCurves:
        """Return this callback, set to record the training of ``method``."""
        self._method = method
        return self

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        validated = any(name.startswith("eval_") for name in logs or {})
        self.logs[self._method] = state.log_history
        if not interactive() or (not validated and time.monotonic() < self._due):
            return
        begun = time.monotonic()
        figure, caption = plots.training_curves(self.logs)
        image = as_image(figure, caption, dpi=100)
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)
        spent = time.monotonic() - begun
        self._due = time.monotonic() + max(self.every, 30 * spent)  # drawing takes a small part of the training time


def display_figure(figure: Figure, caption: str, saved: str = "") -> None:
    display(as_image(figure, caption, saved=saved), Markdown(f"*{as_markdown(caption)}*"))


def as_image(figure: Figure, caption: str, dpi: int = 200, saved: str = "") -> Image:
    """The figure as PNG; ``saved`` names its file, which a published notebook links to."""
    metadata = {"figure": saved} if saved else None
    return Image(as_png(figure, dpi=dpi), width=int(figure.get_figwidth() * 130), alt=caption, metadata=metadata)


def as_png(figure: Figure, dpi: int = 130) -> bytes:
    with DRAWING, rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def list_rows(rows: list[dict], reference: str, n: int, words: str = ENGLISH) -> str:
    """Return the rows as an HTML table; words of a summary in n-grams that the reference contains are underlined."""
    body = ""
    for row in rows:
        text = escaped(row["text"])
        if row["rougeL"] is not None:
            pieces = shared_words(visible(row["text"]), reference, n, words)
            text = "".join(
                f'<u style="text-decoration-thickness:2px">{escaped(p)}</u>' if same else escaped(p)
                for p, same in pieces
            )
        text = (
            f'<div style="max-height:16em;overflow:auto">{text}</div>'  # a long document leaves the summaries visible
        )
        score = "" if row["rougeL"] is None else f"{row['rougeL']:.1f}"
        body += f'<tr><th scope="row" style="text-align:left">{escaped(row["what"])}</th><td style="{_CELL}">{text}</td><td>{score}</td></tr>'
    head = '<tr><th scope="col">name</th><th scope="col">text</th><th scope="col">ROUGE-L</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>" if body else ""


_CELL = (
    "text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;max-width:44em;line-height:1.4;unicode-bidi:isolate"
)
