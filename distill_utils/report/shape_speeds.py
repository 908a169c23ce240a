"""Render the timings of shapes beside the published speed-ups."""

from __future__ import annotations

import numpy as np

from distill_utils.evaluation.shape_speeds import PUBLISHED_SPEEDUPS, WHOLE
from distill_utils.evaluation.speed import find
from distill_utils.report.tables import markdown_table, spread
from distill_utils.studies.settings import parse_shape


def table(results: dict) -> str:
    """Render the measurements with the published speed-ups."""
    beams, tokens, size = (*(results["generation"][k] for k in ("num_beams", "max_new_tokens")), results["batch_size"])
    rows = [
        ("shape", "M params", "inference backend", "ms, batch 1", "speed-up", f"speed-up, batches of {size}", "encoder, % of the time, batch 1", "published speed-up"),
        ["---"] + ["---:"] * 7,
    ]  # fmt: skip
    for r in results["rows"]:
        single, batched = (find(r["loads"], n, beams, tokens) for n in (1, size))
        published = 1.0 if r["shape"] == WHOLE else PUBLISHED_SPEEDUPS.get(r["shape"])
        rows.append([
            r["shape"], f"{r['parameters'] / 1e6:.1f}", r["runtime"], f"{single['latency_ms']:,.0f}", spread(single, "speedup", ".2f", "×"), spread(batched, "speedup", ".2f", "×"),
            f"{100 * r['parts']['1']['encoder_share']:.0f} %", f"{published:.2f}×" if published else "–",
        ])  # fmt: skip
    return markdown_table(rows)


def explanation(results: dict) -> list[str]:
    """State the time breakdown at batch size 1, one paragraph per backend."""
    paragraphs = []
    for runtime in dict.fromkeys(r["runtime"] for r in results["rows"]):
        rows = {r["shape"]: r["parts"]["1"] for r in results["rows"] if r["runtime"] == runtime}
        whole = rows[WHOLE]
        faster = ", ".join(
            f"{whole['step_ms'] / p['step_ms']:.2f}× ({shape})" for shape, p in rows.items() if shape != WHOLE
        )
        paragraph = (
            f"Time breakdown in {runtime} at batch 1: the encoder and the decoder's keys and values of the article take {whole['encoder_ms']:,.0f} ms, "
            f"{100 * whole['encoder_share']:.0f} % of a {WHOLE} summary's time. Fewer decoder layers hardly shorten this part. The speed-up of a decoding step "
            f"alone is {faster}."
        )
        steps = [(parse_shape(shape)[1], part["step_ms"]) for shape, part in rows.items() if not parse_shape(shape)[2]]
        if len({layers for layers, _ in steps}) > 1:
            each, always = np.polyfit(*zip(*steps, strict=True), 1)
            paragraph += (
                f" By a least-squares fit over the shapes of full width, a step takes {always:.0f} ms independent of the layers (output projection, beam search) and "
                f"{each:.1f} ms per layer."
            )
        paragraphs.append(paragraph)
    return paragraphs
