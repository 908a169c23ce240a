"""Render the tables of a study's results in Markdown."""

from __future__ import annotations

from distill_utils.evaluation.speed import find
from distill_utils.metrics.rouge import TYPES
from distill_utils.metrics.words import ENGLISH

EQUAL = "speed-up at equal length (batch 1)"
COLUMNS = (
    "system", "M params", "ROUGE-1", "ROUGE-2", "ROUGE-L (95 % interval)", "retention", "gain kept (95 % interval)",
    EQUAL, "latency, ms (batch 1)", "tokens written", "speed-up at own length (batch 1)", "summaries/s (batches)",
)  # fmt: skip
RUNTIMES_COLUMNS = (
    "system", "inference backend", "MB on disk", "load, s", "peak memory, MB", "latency, ms (median; p90; p99)",
    "summaries/s in batches", "speed-up over the teacher in pytorch-fp32", "encoder, % of the time",
    "fraction of the roofline, batch 1; batches", "identical summaries, %", "ROUGE-L change (95 % interval)",
)  # fmt: skip
METHODS_COLUMNS = (
    "system", "seeds", "steps", "training, s", "teacher, s", "length ÷ reference", "novel bigrams, %",
    "repeated bigrams, %", "exact match, %", "agreement with the teacher (ROUGE-L)", "loss, nats/token",
    "calibration error, %",
)  # fmt: skip
#: Words of a verdict.
VERDICTS = {
    "BEATS": "is better than",
    "NO BEATS": "is worse than",
    "INCONCLUSIVE": "shows no significant difference from",
}
#: Words for what bounds a decoding step.
BOUNDS = {"memory": "memory", "matrices": "compute"}


def results_table(results: dict) -> str:
    """Render quality and speed of students, teacher and baselines; says if ROUGE's words are not English ones."""
    other = results["corpus"].get("words", ENGLISH) != ENGLISH
    columns = [f"{c} of Unicode words" if other and c == "ROUGE-1" else c for c in COLUMNS]
    rows = [columns, ["---"] + ["---:"] * (len(COLUMNS) - 1)]
    rows += [_row(s, results) for s in results["systems"] if s["group"] not in ("pairs", "runtimes")]
    at_equal = COLUMNS.index(EQUAL)
    unmeasured = [] if any(row[at_equal] != "–" for row in rows[2:]) else [at_equal]
    return markdown_table([[cell for i, cell in enumerate(row) if i not in unmeasured] for row in rows])


def methods_table(results: dict) -> str:
    """Render training cost, text statistics and calibration of the teacher and of students of all methods, budgets and shapes."""
    rows = [METHODS_COLUMNS, ["---"] + ["---:"] * (len(METHODS_COLUMNS) - 1)]
    for s in results["systems"]:
        if s["group"] not in ("teacher", "main", "budgets", "shapes"):
            continue
        student, calibration = s["method"] not in ("teacher", "ready"), s["calibration"]
        rows.append([
            s["name"],
            str(s["seeds"]) if student else "–",
            f"{s['training_steps']:,}" if student else "–",
            f"{s['training_seconds']:.0f}" if student else "–",
            f"{sum(s['teacher_seconds'].values()):.0f}" if student else "–",
            f"{s['length_ratio']:.2f}",
            f"{s['novel_bigrams']:.0f}",
            f"{s['repeated_bigrams']:.1f}",
            f"{s['reference_share']:.1f}",
            f"{s['teacher_agreement']:.1f}" if "teacher_agreement" in s else "–",
            f"{calibration['nll']:.2f}" if calibration else "–",
            f"{100 * calibration['ece']:.1f}" if calibration else "–",
        ])  # fmt: skip
    return markdown_table(rows)


def runtimes_table(results: dict) -> str:
    """Render teacher and best student in every inference backend, at a fixed output length."""
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    rows = [RUNTIMES_COLUMNS, ["---", "---"] + ["---:"] * (len(RUNTIMES_COLUMNS) - 2)]
    for s in results["systems"]:
        if not s.get("parts"):
            continue
        single, batched = (find(s["speeds"], size, beams, speed["tokens"]) for size in (1, speed["batch_size"]))
        own, (alone, together) = s["footprint"], (s["parts"][0], s["parts"][-1])
        peak, same = own["peak_memory_bytes"], s.get("identical_to_float32")
        rows.append([
            s.get("of", s["name"]),
            s["runtime"],
            f"{own['disk_bytes'] / 1e6:.1f}",
            f"{own['load_seconds']:.2f}",
            f"{peak / 1e6:.0f}" if peak else "–",
            f"{single['latency_ms']:.0f}; {single['latency_ms_p90']:.0f}; {single['latency_ms_p99']:.0f}",
            spread(batched, "summaries_per_s", ".1f"),
            spread(batched, "speedup", ".2f"),
            f"{100 * together['encoder_share']:.0f} %" if "encoder_share" in together else "–",
            "; ".join(f"{100 * p['share_of_limit']:.0f} % ({BOUNDS[p['bound']]})" if "bound" in p else "–" for p in (alone, together)),
            f"{same:.1f}" if same is not None else "–",
            f"{s['rougeL_change']:+.2f} ({s['rougeL_change_ci'][0]:+.2f} to {s['rougeL_change_ci'][1]:+.2f})" if s.get("rougeL_change_ci") else "–",
        ])  # fmt: skip
    return markdown_table(rows)


def spread(measured: dict, name: str, form: str, unit: str = "") -> str:
    low, high = measured[f"{name}_spread"]
    return f"{measured[name]:{form}}{unit} ({low:{form}} to {high:{form}})"


def fixed_length(s: dict, results: dict) -> dict | None:
    """Return a system's speed in batches at the fixed output length, or None."""
    speed, beams = results["settings"]["speed"], results["generation"]["num_beams"]
    return find(s.get("speeds") or [], speed["batch_size"], beams, speed["tokens"])


def speed_rows(speeds: dict[str, list[dict]]) -> list[dict]:
    """Return rows for a notebook's table, one per system and load without a fixed output length."""
    rows = []
    for name, measured in speeds.items():
        for m in measured:
            if m["tokens"] is not None:
                continue
            rows.append({"system": name, "beams": m["num_beams"], "batch": m["batch_size"]})
            if "latency_ms" in m:
                rows[-1] |= {"latency (ms)": spread(m, "latency_ms", ".0f"), "p99 (ms)": f"{m['latency_ms_p99']:.0f}"}
            rows[-1] |= {"summaries/s": spread(m, "summaries_per_s", ".1f"), "speed-up": spread(m, "speedup", ".2f")}
            rows[-1] |= {"tokens per summary": m["summary_tokens"]}
    return rows


def markdown_table(rows: list) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(s: dict, results: dict) -> list[str]:
    return [
        s["name"] + (f" ({s['examples']:,} pairs)" if s["examples"] < results["corpus"]["test"] else ""),
        f"{s['parameters'] / 1e6:.1f}" if s["parameters"] else "–",
        f"{s['rouge1']:.1f}",
        f"{s['rouge2']:.1f}",
        rouge_l(s),
        f"{100 * s['retention_rougeL']:.1f} %" if s["retention_rougeL"] is not None else "–",
        gain(s),
        *_speed_cells(s, results),
    ]


def _speed_cells(s: dict, results: dict) -> list[str]:
    """Return the speed of a system, or of the student of its shape that was timed."""
    if other := s.get("timed_as"):
        (timed,) = (o for o in results["systems"] if o["name"] == other)
        equal, _, _, *rest = _speed_cells(timed, results)
        return [equal, f"as {other}", "–", *rest]
    if s["latency_ms"] is None:
        return ["–"] * 5
    equal = find(s.get("speeds") or [], 1, results["generation"]["num_beams"], results["settings"]["speed"]["tokens"])
    return [
        spread(equal, "speedup", ".2f", "×") if equal else "–",
        spread(s, "latency_ms", ".0f"),
        f"{s['summary_tokens']:.1f}",
        spread(s, "speedup", ".2f", "×"),
        spread(s, "summaries_per_s", ".1f"),
    ]


def rouge_l(s: dict) -> str:
    return f"{s['rougeL']:.1f} ({s['rougeL_ci'][0]:.1f} to {s['rougeL_ci'][1]:.1f})"


def compared_tables(found: dict) -> list[str]:
    """Render what :func:`distill_utils.evaluation.compare_files.compare_files` found: systems and, if several, comparisons."""
    first = found["systems"][0]["name"]
    heads = ["system", *(f"{_label(kind)} (95 % interval)" for kind in TYPES), f"ROUGE-L of {first} kept", "length ÷ reference"]  # fmt: skip
    novel = found["systems"][0]["novel_bigrams"] is not None
    heads += ["novel bigrams, %"] if novel else []
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for s in found["systems"]:
        share = {"retention_rougeL": s["kept"], "retention_rougeL_ci": s["kept_ci"]}
        cells = [f"{s[kind]:.2f} ({s[f'{kind}_ci'][0]:.2f} to {s[f'{kind}_ci'][1]:.2f})" for kind in TYPES]
        cells += [
            kept(share) if s["name"] != first and s["kept"] is not None else "–",
            f"{s['length_ratio']:.2f}",
        ]
        rows.append([s["name"], *cells, *([f"{s['novel_bigrams']:.0f}"] if novel else [])])
    tables = [markdown_table(rows)]
    rows = [
        ("metric", "a", "verdict", "b", "a − b", "95 % interval", "family-wise 95 % interval (Holm)"),
        ["---"] * 4 + ["---:"] * 3,
    ]
    for v in found["verdicts"]:
        intervals = [f"{low:+.2f} to {high:+.2f}" for low, high in (v["ci"], v["family_ci"])]
        rows.append([_label(v["metric"]), v["a"], VERDICTS[v["verdict"]], v["b"], f"{v['delta']:+.2f}", *intervals])
    return [*tables, markdown_table(rows)] if found["verdicts"] else tables


def _label(metric: str) -> str:
    return metric.replace("rouge", "ROUGE-")


def kept(s: dict) -> str:
    """Format a system's retention of the teacher's ROUGE-L with its interval."""
    share, interval = s["retention_rougeL"], s["retention_rougeL_ci"]
    low, high = (100 * x for x in interval or (0, 0))
    return f"{100 * share:.1f} %" + (f" (95 % interval {low:.1f} to {high:.1f} %)" if interval else "")


def gain(s: dict) -> str:
    """Format the part of the teacher's lead over the best baseline that a system keeps; undefined without a lead."""
    share, interval = s.get("gain_rougeL"), s.get("gain_rougeL_ci")
    return f"{100 * share:.0f} % ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)" if interval else "–"


def verdicts_table(verdicts: list[dict]) -> str:
    """Render one row per comparison."""
    rows = [
        ("a", "verdict", "b", "ROUGE-L of a − b", "95 % interval", "family-wise 95 % interval (Holm)"),
        ["---"] * 3 + ["---:"] * 3,
    ]
    for v in verdicts:
        intervals = [f"{low:+.2f} to {high:+.2f}" for low, high in (v["ci"], v["family_ci"])]
        rows.append([v["a"], VERDICTS[v["verdict"]], v["b"], f"{v['delta']:+.2f}", *intervals])
    return markdown_table(rows)
