"""What a notebook shows: figures with captions, tables of texts, curves that grow while training."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pandas
from IPython.display import DisplayHandle, Image, Markdown, display
from matplotlib import rc_context
from matplotlib.figure import Figure
from transformers import TrainerCallback

from distill_utils import figures
from distill_utils.study import Study


def show(study: Study, name: str, drawn: tuple[Figure, str]) -> None:
    """Save a figure under ``figures/<study>/<name>`` and display it above its caption."""
    figure, caption = drawn
    figures.save(study, name, figure)
    display(_image(figure, caption), Markdown(f"*{caption}*"))


def table(rows: list[Mapping]) -> pandas.io.formats.style.Styler:
    """A table whose texts wrap and are shown as text, whatever they contain."""
    frame = pandas.DataFrame(rows)
    styler = frame.style.format(escape="html", precision=2, na_rep="–").hide(axis="index")
    wrapped = {"white-space": "pre-wrap", "overflow-wrap": "anywhere", "max-width": "22em"}
    return styler.set_properties(**{"text-align": "left", "vertical-align": "top", **wrapped})


class LiveCurves(TrainerCallback):
    """Redraws the training curves in place whenever the Trainer logs a validation."""

    def __init__(self, logs: Mapping[str, list], method: str) -> None:
        self.logs, self.method = dict(logs), method
        self.handle: DisplayHandle | None = None

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        figure, caption = figures.training_curves({**self.logs, self.method: state.log_history})
        image = _image(figure, caption)
        if self.handle is None:
            self.handle = display(image, display_id=True)
        else:
            self.handle.update(image)


def _image(figure: Figure, caption: str) -> Image:
    with rc_context(figures.STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200)
    return Image(buffer.getvalue(), width=int(figure.get_figwidth() * 130), alt=caption)
