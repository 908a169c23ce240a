"""Render a study's executed notebooks and results as one self-contained HTML file.

The page has no script, and its content security policy forbids scripts. Outputs of notebooks are parsed and rendered
with escaped text, so HTML in a text is shown as text.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import mistune
import nbformat
from matplotlib import rc_context
from matplotlib.figure import Figure

from distill_utils.evaluation.results import load_results, warnings
from distill_utils.report.sentences import (
    aim_sentences,
    goal_sentence,
    layers_or_runtime,
    luck_sentence,
    runtimes_paragraphs,
    speed_sentence,
)
from distill_utils.report.tables import results_table
from distill_utils.studies.loading import load_study
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import write_text
from distill_utils.system.errors import UserError
from distill_utils.system.paths import notebook_paths
from distill_utils.system.safe_text import as_text, escaped

FILE = "report.html"
WHOLE = 10**9  # characters
SIZE = 13  # font size of formulas, in points
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --line: #ccc; --soft: #f4f4f4; --link: #0057a3; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e4; --page: #161616; --line: #444; --soft: #222; --link: #7ab8f5; } }
body { color: var(--text); background: var(--page); font: 17px/1.55 Georgia, "Times New Roman", serif; margin: 0 auto; max-width: 46rem;
       padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
h1, h2, h3, table, figcaption, nav { font-family: system-ui, sans-serif; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { margin-top: 1.8rem; }
a { color: var(--link); }
.abstract { background: var(--soft); border-left: 4px solid var(--link); padding: .6rem 1rem; }
.warning { border: 2px solid; padding: .5rem 1rem; font-weight: bold; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .78rem; line-height: 1.35; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top; white-space: pre-wrap;
         min-width: 2.5rem; max-width: 20rem; unicode-bidi: isolate; }
td.text { overflow-wrap: anywhere; min-width: 9rem; }
thead th { border-bottom: 2px solid; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; background: #fff; padding: .4rem; box-sizing: border-box; }
figcaption { font-size: .85rem; }
img.formula { vertical-align: middle; } img.display { display: block; margin: 1rem auto; max-width: 100%; object-fit: contain; }
@media (prefers-color-scheme: dark) { img.formula, img.display { filter: invert(1); } }
pre { background: var(--soft); padding: .6rem; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
@media print { :root { --text: #000; --page: #fff; --soft: #fff; } body { font-size: 10pt; max-width: none; padding: 0; } table { font-size: 7pt; }
  figure, tr, pre, .abstract { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide { overflow: visible; } nav { display: none; }
  th, td, td.text { min-width: 0; padding: .15rem .25rem; } img.formula, img.display { filter: none; } }
"""


def page_file(study: Study) -> Path:
    return study.folder / FILE


def write_page(study: Study) -> Path:
    """Write ``runs/<study>/report.html`` from the study's last run.

    Raises:
        UserError: if a notebook was not executed or there are no results.
    """
    results = load_results(study)
    write_text(page_file(study), render(study, results))
    return page_file(study)


def render(study: Study, results: dict) -> str:
    notebooks = list(_notebooks(study))
    contents = [
        ("abstract", "Abstract", _abstract(results)),
        ("results", "Results", _results(results)),
        *((f"part-{i}", title, body) for i, (title, body) in enumerate(notebooks, 1)),
        ("environment", "Environment", _environment(results)),
        ("reproduce", "Reproduction", _repeat(study, results)),
    ]
    links = "".join(f'<li><a href="#{key}">{html.escape(title)}</a></li>' for key, title, _ in contents)
    sections = "".join(
        f'<section id="{key}"><h2>{html.escape(title)}</h2>{body}</section>\n' for key, title, body in contents
    )
    title = html.escape(f"Distilling a summarizer: {study.title}")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<nav><ol>{links}</ol></nav>\n{sections}</body>\n</html>\n"
    )


# -- parts -------------------------------------------------------------------------------------------------


def _abstract(results: dict) -> str:
    text = " ".join([goal_sentence(results), *aim_sentences(results), speed_sentence(results), layers_or_runtime(results)])  # fmt: skip
    alarms = "".join(f'<p class="warning">{escaped(w)}</p>' for w in warnings(results))
    return f'{alarms}<div class="abstract">{_markdown(text)}</div>'


def _results(results: dict) -> str:
    return _markdown("\n\n".join([results_table(results), luck_sentence(results), *runtimes_paragraphs(results)]))


def _environment(results: dict) -> str:
    e = results["environment"]
    rows = {
        "machine": f"{', '.join([e['processor'], *e.get('instructions', [])])}; {e['cores']} cores, {e['threads']} threads; GPU: {e['gpu'] or 'none'}",
        "commit": f"{e['commit'] or 'unknown'}{' with uncommitted changes' if e['modified'] else ''}",
        **e["packages"],
        "seeds": _seeds(results["settings"]),
        "test pairs": f"{results['corpus']['test']:,}",
    }
    return _table([["item", "value"], *([str(k), str(v)] for k, v in rows.items())]) + _time(results)


def _time(results: dict) -> str:
    """Render the time of each part; empty for results of an earlier version."""
    if not (parts := results.get("time")):
        return ""
    rows = [["part of the run", "time, s", "forecast, s"]]
    rows += [[p["part"], f"{p['seconds']:.0f}", f"{p['expected_s']:.0f}"] for p in parts]
    totals = (sum(p[key] for p in parts) for key in ("seconds", "expected_s"))
    return _table([*rows, ["all", *(f"{total:.0f}" for total in totals)]])


def _seeds(settings: dict) -> str:
    first, count = settings["seed"], settings["evidence"]["seeds"]
    return str(first) if count == 1 else f"{first} to {first + count - 1}"


def _repeat(study: Study, results: dict) -> str:
    e, usual, own = results["environment"], _flat(load_study(study.file).settings()), _flat(results["settings"])
    sets = [f"--set {shlex.quote(f'{k}={json.dumps(v)}')}" for k, v in own.items() if usual.get(k) != v]
    lines = [f"git checkout {e['commit']}"] if e["commit"] else []
    lines += ["make setup && source .venv/bin/activate", " ".join(["distill run", shlex.quote(study.file), *sets])]
    changed = " The code had uncommitted changes." if e["modified"] else ""
    return f"<pre>{escaped(chr(10).join(lines), WHOLE)}</pre><p>All numbers are in <code>results.json</code> in the folder of this page.{changed}</p>"


def _flat(settings: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def executed_notebooks(study: Study) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """Yield names and contents of the executed notebooks; raises UserError if one is missing."""
    for path in notebook_paths():
        executed = study.notebooks_folder / path.name
        if not executed.is_file():
            raise UserError(f"{path.stem} was not executed for {study.name} yet; run: distill run {study.file}")
        yield path.stem, nbformat.read(executed, as_version=4)


def _notebooks(study: Study) -> Iterator[tuple[str, str]]:
    for name, notebook in executed_notebooks(study):
        title, body = "", []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                heading = re.match(r"# (.*)\n?", cell.source)
                if heading and not title:
                    title = heading[1]
                    cell.source = cell.source[heading.end() :]
                body.append(_markdown(cell.source))
            elif cell.cell_type == "code":
                body += [_html(shown) for shown in outputs(cell)]
        yield title or name, "".join(body)


@dataclass
class Shown:
    """One output of a cell.

    Attributes:
        kind: ``text``, ``image``, ``table`` or ``markdown``.
        content: a text, a PNG in base64, or the rows of a table.
        figure: the file name of the image under ``figures/<study>``, if it was saved.
    """

    kind: str
    content: str | list[list[str]]
    alt: str = ""
    caption: str = ""
    figure: str = ""


def outputs(cell: nbformat.NotebookNode) -> list[Shown]:
    """Return a cell's outputs; the italic text after an image becomes its caption."""
    found: list[Shown] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stdout" and output.text.strip():
                found.append(Shown("text", output.text.rstrip()))
            continue
        data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind != "application/json"}
        if "image/png" in data:
            about = output.get("metadata", {}).get("image/png", {})
            found.append(Shown("image", data["image/png"], about.get("alt", ""), figure=about.get("figure", "")))
        elif "text/markdown" in data:
            caption = re.fullmatch(r"\*([^*].*)\*", data["text/markdown"].strip(), re.DOTALL)
            if caption and found and found[-1].kind == "image" and not found[-1].caption:
                found[-1].caption = as_text(caption[1])
            else:
                found.append(Shown("markdown", data["text/markdown"]))
        elif "<table" in data.get("text/html", ""):
            found.append(Shown("table", _Cells.of(data["text/html"])))
        elif "text/html" in data and "text/plain" in data:  # code
            found.append(Shown("text", data["text/plain"]))
    return found


def _html(shown: Shown) -> str:
    if shown.kind == "image":
        return _figure(shown.content, shown.alt, shown.caption)
    if shown.kind == "table":
        return _table(shown.content)
    return _markdown(shown.content) if shown.kind == "markdown" else f"<pre>{escaped(shown.content, WHOLE)}</pre>"


def _figure(encoded: str, alt: str, caption: str) -> str:
    image = base64.b64encode(base64.b64decode(encoded)).decode()  # nothing but base64
    below = f"<figcaption>{escaped(caption, WHOLE)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{image}" alt="{escaped(alt, WHOLE)}">{below}</figure>'


#: Mark underlining, the only formatting kept in cells; displayed texts never contain these characters.
UNDERLINED, PLAIN = "\x04", "\x05"


class _Cells(HTMLParser):
    """Parse a table into rows of cell texts; keeps underlining."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True
        elif tag == "u":
            self.handle_data(UNDERLINED)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False
        elif tag == "u":
            self.handle_data(PLAIN)

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data

    @classmethod
    def of(cls, text: str) -> list[list[str]]:
        parser = cls()
        parser.feed(text)
        parser.close()
        return [row for row in parser.rows if row]


def _table(rows: list[list[str]]) -> str:
    """Render rows as a table; the first row is the header."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_cell(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td{_long(cell)}>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _long(text: str) -> str:
    """Return the class that permits line breaks anywhere, for long texts only."""
    return ' class="text"' if len(text.strip()) > 40 else ""


def _cell(text: str) -> str:
    pieces = re.split(f"{UNDERLINED}(.*?){PLAIN}", text.strip(), flags=re.DOTALL)
    return "".join(f"<u>{escaped(p, WHOLE)}</u>" if i % 2 else escaped(p, WHOLE) for i, p in enumerate(pieces))


# -- Markdown and formulas -----------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    """Convert Markdown to HTML; tags are escaped, and formulas between dollar signs become images."""
    formulas: list[str] = []

    def keep(found: re.Match) -> str:
        formulas.append(_formula(found[1] or found[2], display=found[1] is not None))
        return f"\x02{len(formulas) - 1}\x03"

    text = re.sub(r"[\x02\x03]", "", text)
    text = re.sub(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?![\w$])", keep, text, flags=re.DOTALL)
    made = mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])(text)
    made = made.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    made = re.sub(r"<(/?)h([1-4])>", lambda m: f"<{m[1]}h{min(6, int(m[2]) + 1)}>", made)
    return re.sub("\x02(\\d+)\x03", lambda m: formulas[int(m[1])], made)


def _formula(latex: str, display: bool) -> str:
    """Render a formula with matplotlib, with its source as alternative text; only the source if that fails."""
    source = " ".join(latex.split())
    drawn = re.sub(r"\\text\b", r"\\mathrm", source)
    buffer = io.BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm", "svg.hashsalt": "formula"}):
            figure = Figure(figsize=(0.01, 0.01))
            figure.text(0, 0, f"${drawn}$", fontsize=SIZE)
            figure.savefig(
                buffer, format="svg", bbox_inches="tight", pad_inches=0.02, transparent=True, metadata={"Date": None}
            )
    except ValueError:
        return f"<code>{escaped(source)}</code>"
    encoded = base64.b64encode(buffer.getvalue()).decode()
    height = float(re.search(rb'height="([\d.]+)pt"', buffer.getvalue())[1]) / SIZE  # relative to the surrounding text
    return f'<img class="{"display" if display else "formula"}" style="height:{height:.2f}em" src="data:image/svg+xml;base64,{encoded}" alt="{escaped(source)}">'
