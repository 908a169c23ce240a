"""Show interactive widgets: temperature, loss, frontier and summaries."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from IPython.display import HTML, display
from matplotlib import rc_context
from matplotlib.figure import Figure

from distill_utils.evaluation.results import load_results
from distill_utils.models.prepared import Prepared
from distill_utils.notebook import widget_plots
from distill_utils.notebook.display import as_png, display_figure, list_rows
from distill_utils.notebook.explore import BatchLoss, Positions, Summaries, trade
from distill_utils.plots.style import DRAWING, STYLE
from distill_utils.studies.settings import Study
from distill_utils.system.progress import interactive
from distill_utils.system.safe_text import escaped

METRICS = {"ROUGE-L": "rougeL", "ROUGE-1": "rouge1", "ROUGE-2": "rouge2"}


def temperature(prepared: Prepared) -> None:
    """Plot the next-token probabilities of teacher and student, with controls for T, test example and position."""
    positions, t = Positions(prepared), prepared.study.distillation.temperature
    controls = {
        "example": ipywidgets.BoundedIntText(0, min=0, max=len(positions) - 1, description="example"),
        "position": ipywidgets.IntSlider(positions.undecided(0), 0, positions.tokens(0) - 1, description="position"),
        "T": ipywidgets.FloatSlider(t, min=min(t, 0.5), max=max(t, 8), step=0.1, description="T"),
    }

    def draw(example: int, position: int, T: float) -> tuple[Figure, str]:
        controls["position"].max = positions.tokens(example) - 1
        at = positions.at(example, min(position, controls["position"].max), T)
        return widget_plots.position(at, T, ("teacher", positions.run.name))

    _show(controls, draw)


def loss(prepared: Prepared) -> None:
    """Plot the loss of a batch, its terms and its gradient norm, with sliders for α and T."""
    batch = BatchLoss(prepared)
    controls = {
        "alpha": ipywidgets.FloatSlider(prepared.study.distillation.alpha, min=0, max=1, step=0.05, description="α"),
        "T": ipywidgets.SelectionSlider(
            options=batch.temperatures, value=prepared.study.distillation.temperature, description="T"
        ),
    }
    _show(controls, lambda alpha, T: widget_plots.loss_settings(batch, alpha, T))


def frontier(study: Study) -> None:
    """Plot quality against speed over systems and inference backends; hovering over a point shows its numbers."""
    results = load_results(study)
    timed = [
        s for s in results["systems"] if s.get("speeds") and s["group"] in ("teacher", "main", "budgets", "runtimes")
    ]
    loads = {(m["num_beams"], m["batch_size"]): None for s in timed for m in s["speeds"]}
    beams, sizes = (sorted({load[i] for load in loads}) for i in (0, 1))
    kinds = list(dict.fromkeys(s["runtime"] for s in timed))
    tokens = {m["tokens"] for s in timed for m in s["speeds"] if m["tokens"] != 1}
    tokens = sorted(tokens, key=lambda n: n is None)  # a fixed length first: all systems do the same work
    lengths = [("natural length" if t is None else f"{t} tokens each", t) for t in tokens]
    usual = results["generation"]["num_beams"], results["settings"]["speed"]["batch_size"]
    controls = {
        "runtimes": ipywidgets.SelectMultiple(
            options=kinds, value=kinds, rows=max(2, len(kinds)), description="backends"
        ),
        "beams": ipywidgets.SelectionSlider(options=beams, value=usual[0], description="beams"),
        "batch": ipywidgets.SelectionSlider(options=sizes, value=usual[1], description="batch size"),
        "lengths": ipywidgets.Dropdown(options=lengths, description="length"),
        "metric": ipywidgets.Dropdown(options=METRICS, value="rougeL", description="metric"),
    }

    titles: list[str] = []

    def draw(runtimes: tuple[str, ...], beams: int, batch: int, lengths: int | None, metric: str) -> tuple[Figure, str]:
        points = trade(results, metric, beams, batch, lengths, runtimes)
        titles[:] = [
            f"{p['name']} in {p['runtime']}: {p['quality']:.1f} points, {p['summaries_per_s']:.1f} summaries/s, {p['speedup']:.2f}×"
            for p in points
        ]
        return widget_plots.trade(
            points, metric, f"batch size {batch}, {beams} beams" + (f", {lengths} tokens" if lengths else "")
        )

    _show(controls, draw, image=ipywidgets.HTML(), render=lambda figure: _svg(figure, titles))


def summaries(prepared: Prepared) -> None:
    """Browse the summaries of the test split, with the words shared with the reference underlined, or summarize your own text."""
    found = Summaries(prepared)
    orders = {"test split order": None} | {
        f"ROUGE-L difference: {a} − {b}": (a, b) for a in found.systems for b in found.systems if a != b
    }
    search = ipywidgets.Text(placeholder="words to find", continuous_update=False, description="search")
    order = ipywidgets.Dropdown(options=list(orders), description="sort by")
    place = ipywidgets.BoundedIntText(0, min=0, max=max(0, len(found.test) - 1), description="number")
    grams = ipywidgets.ToggleButtons(options=[("words", 1), ("bigrams", 2)], description="underline")
    own = ipywidgets.Textarea(
        placeholder="a text to summarize", description="own text", layout=ipywidgets.Layout(width="40em", height="6em")
    )
    write, shown = ipywidgets.Button(description="summarize"), ipywidgets.HTML()

    def browse(change: Mapping | None = None) -> None:
        if change and change["owner"] in (search, order):
            place.value = 0
        examples = found.found(search.value, orders[order.value])
        place.max = max(0, len(examples) - 1)
        shown.value = _example(found, examples, place.value, grams.value)

    def live(*_: object) -> None:
        rows = [{"what": "your text", "text": own.value, "rougeL": None}]
        if not own.value.strip():
            shown.value = "<p>There is no text to summarize.</p>"
            return
        write.disabled = True
        try:
            written = found.of_text(own.value)
            for name in found.systems:
                shown.value = list_rows(rows, "", 1) + f"<p>{escaped(name)} is summarizing …</p>"
                rows.append({"what": name, "text": next(written)[1], "rougeL": None})
            shown.value = list_rows(rows, "", 1)
        except Exception as error:
            shown.value = f"<p>{escaped(f'{type(error).__name__}: {error}')}</p>"
            raise
        finally:
            write.disabled = False

    if not interactive():
        display(HTML(_example(found, found.found(), 0, 1)))
        return
    for control in (search, order, place, grams):
        control.observe(browse, "value")
    write.on_click(live)
    browse()
    display(ipywidgets.VBox([ipywidgets.HBox([search, order, place]), grams, shown, ipywidgets.HBox([own, write])]))


def _example(found: Summaries, examples: list[int], place: int, n: int) -> str:
    if not examples:
        return "<p>No example contains all of these words.</p>"
    i = examples[min(place, len(examples) - 1)]
    head = f"<p>{min(place, len(examples) - 1) + 1:,} of {len(examples):,} matches: test example {i:,}</p>"
    return head + list_rows(found.example(i), found.test[i]["summary"], n, found.words)


def _svg(figure: Figure, titles: Sequence[str]) -> str:
    """Return the figure as SVG; the artist with the id ``point-i`` gets a title, which browsers show as a tooltip."""
    buffer = io.BytesIO()
    with DRAWING, rc_context({**STYLE, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    namespace = "http://www.w3.org/2000/svg"
    for prefix, known in (("", namespace), ("xlink", "http://www.w3.org/1999/xlink")):  # as HTML requires
        ElementTree.register_namespace(prefix, known)
    tree = ElementTree.fromstring(buffer.getvalue())
    groups = {group.get("id"): group for group in tree.iter(f"{{{namespace}}}g")}
    for i, text in enumerate(titles):
        title = ElementTree.Element(f"{{{namespace}}}title")
        title.text = text
        groups[f"point-{i}"].insert(0, title)
    return ElementTree.tostring(tree, encoding="unicode")


def _show(
    controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., tuple[Figure, str]], *,
    image: ipywidgets.Widget | None = None, render: Callable[[Figure], bytes | str] = as_png,
) -> None:  # fmt: skip
    """Display controls, the plot that ``draw`` makes of their values and its caption; in a headless run only plot and caption.

    Args:
        image: the widget that shows what ``render`` returns; an image widget by default.
    """

    def drawn() -> tuple[Figure, str]:
        return draw(**{name: control.value for name, control in controls.items()})

    if not interactive():
        figure, caption = drawn()
        display_figure(figure, caption)
        return
    as_drawn = ipywidgets.Layout(width="max-content", max_width="100%")
    shown, text = image or ipywidgets.Image(format="png", layout=as_drawn), ipywidgets.HTML()

    def update(*_: object) -> None:
        figure, caption = drawn()
        shown.value = render(figure)
        text.value = f'<em style="white-space:pre-wrap;unicode-bidi:isolate">{escaped(caption)}</em>'

    for control in controls.values():
        control.observe(update, "value")
    update()
    beside = ipywidgets.Box([*controls.values()], layout=ipywidgets.Layout(flex_flow="row wrap"))
    display(ipywidgets.VBox([beside, shown, text]))
