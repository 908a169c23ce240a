"""Render ``docs/results/trials.md`` from the files that ``benchmarks.trials`` wrote: `python -m benchmarks.trials_page`."""

from __future__ import annotations

from benchmarks.report import RESULTS, rendered
from distill_utils.report.publish import PAGES, generated
from distill_utils.report.tables import markdown_table
from distill_utils.system.artefacts import write_text

PAGE = PAGES / "trials.md"


#: Pairs of a kind below which the teacher's score on them says nothing.
FEWEST = 20


def page() -> str:
    """Return the page with the trials whose files exist."""
    parts, measured = rendered(SECTIONS, RESULTS)
    return generated(
        "Trials",
        "What the studies' settings and some statements of these pages rest on. Students were trained with one seed unless a table says otherwise.",
        "python -m benchmarks.trials_page",
        parts,
        f"{measured}\n\nAll numbers: [benchmarks/results](../../benchmarks/results).",
    )


def _rates(r: dict) -> str:
    scores = {(row["method"], row["rate"]): f"{row['rougeL']:.1f}" for row in r["rows"]}
    rates = sorted({rate for _, rate in scores})
    rows = [("method", *(f"{rate:g}" for rate in rates)), ["---", *["---:"] * len(rates)]]
    rows += [
        (f"`{method}`", *(scores.get((method, rate), "–") for rate in rates))
        for method in dict.fromkeys(row["method"] for row in r["rows"])
    ]
    return f"{_after(r)}, by method and learning rate. With one seed, differences below about a point may be chance.\n\n{markdown_table(rows)}"


def _on_policy(r: dict) -> str:
    rows = [("starts from", "`interpolation`", "rate", "λ", "sampling temperature", "ROUGE-L"), ["---", *["---:"] * 5]]
    rows += [
        (
            f"`{row['start']}`", f"{row['interpolation']:g}", f"{row['rate']:g}", f"{row.get('lmbda', 1):g}",
            f"{row.get('sampling_temperature', 1):g}", f"{row['rougeL']:.1f}",
        )
        for row in r["rows"]
    ]  # fmt: skip
    return (
        f"{_after(r)}. The first half of the steps trains as the method that `gkd` starts from, with its own rate; the second is on-policy."
        f"\n\n{markdown_table(rows)}"
    )


def _half(r: dict) -> str:
    rows = [("shape", "M params", "method", "rate", "training, s", "ROUGE-L"), ["---", "---:", "---", *["---:"] * 3]]
    rows += [
        (row["student"], f"{row['parameters'] / 1e6:.1f}", f"`{row['method']}`", f"{row['rate']:g}", f"{row['seconds']:.0f}", f"{row['rougeL']:.1f}")
        for row in r["rows"]
    ]  # fmt: skip
    return f"{_after(r)}. With one seed, differences below about a point may be chance.\n\n{markdown_table(rows)}"


def _after(r: dict) -> str:
    pairs = f"{r['pairs']:,}" if r["pairs"] else "all"
    return f"ROUGE-L on {r['validation_pairs']:,} validation pairs after {r['steps']} steps on {pairs} training pairs"


def _labels(r: dict) -> str:
    heads = ("targets", "words", "their ROUGE-L against the references", "distinct bigrams", "words of the student", "its ROUGE-L", "over references (95 % interval)")  # fmt: skip
    rows = [heads, ["---", *["---:"] * 6]]
    for row in r["rows"]:
        same = row["targets"] == "references"
        rows.append(
            (
                row["targets"], f"{row['words']:.1f}", f"{row['rougeL_of_targets']:.1f}", f"{100 * row['distinct_bigrams']:.0f} %",
                f"{row['summary_words']:.1f}", f"{row['rougeL']:.1f}", "–" if same else _difference(row, "over_references"),
            )
        )  # fmt: skip
    return f"{_after(r)}, method `{r['method']}`, by what it is trained to write.\n\n{markdown_table(rows)}"


def _seen(r: dict) -> str:
    rows = [("method", "pairs", "ROUGE-L", "over `sft` (95 % interval)", "over seen pairs (95 % interval)", "gain over `sft`, unseen − seen (95 % interval)"), ["---", "---", *["---:"] * 4]]  # fmt: skip
    rows += [
        (f"`{row['method']}`", row["pairs"], f"{row['rougeL']:.1f}", *(_difference(row, key) for key in ("over_sft", "over_seen", "gain_over_seen")))
        for row in r["rows"]
    ]  # fmt: skip
    return (
        f"Students of {r['pairs']:,} pairs that the teacher was trained on (*seen*), and of as many that it was not (the validation pairs, of other packages), "
        f"after {r['steps']} steps, on {r['test_pairs']:,} test pairs.\n\n{markdown_table(rows)}"
    )


def _coverage(r: dict) -> str:
    settings = list(dict.fromkeys((row["seeds"], row["sd"]) for row in r["rows"]))
    held = {(row["kind"], row["seeds"], row["sd"]): f"{100 * row['held']:.1f} %" for row in r["rows"]}
    heads = [f"{n} seeds, sd {sd:g}" if n > 1 else "one seed" for n, sd in settings]
    rows = [("interval", *heads), ["---", *["---:"] * len(heads)]]
    rows += [(kind, *(held[kind, *setting] for setting in settings)) for kind in dict.fromkeys(row["kind"] for row in r["rows"])]  # fmt: skip
    return (
        f"How often a {100 * r['level']:.0f} % interval holds the truth, in {r['draws']:,} simulated studies of {r['students']} students and {r['examples']} test pairs. *sd* is the standard "
        f"deviation of the training seeds' means, in points. Bootstraps have {r['resamples']:,} resamples here. "
        f"A share of 95 % has a standard error of {100 * (0.95 * 0.05 / r['draws']) ** 0.5:.1f} points.\n\n{markdown_table(rows)}"
    )


def _overlap(r: dict) -> str:
    heads = (
        "test pairs that resemble training pairs",
        "pairs",
        "teacher's ROUGE-L on them",
        "on the rest",
        "difference (95 % interval)",
    )
    rows = [heads, ["---", *["---:"] * 4]]
    rows += [
        (row["kind"], str(row["pairs"]), f"{row['teacher']:.1f}", f"{row['teacher_on_the_rest']:.1f}", _difference(row, "over_the_rest"))
        if row["pairs"] >= FEWEST
        else (row["kind"], str(row["pairs"]), "–", f"{row['teacher_on_the_rest']:.1f}", "–")
        for row in r["rows"]
    ]  # fmt: skip
    return (
        f"Of the {r['test']:,} test pairs of `{r['study']}`, against the {r['train']:,} training pairs. *Near duplicate*: Jaccard similarity of 5-word "
        f"sequences of at least {r['jaccard']:g}, in the first {r['source_tokens']} tokens. A summary *stands in* a document if all its words, at least {r['words']}, "
        f"are there in this order, without a gap. Below {FEWEST} pairs the teacher's score on them is not compared. The further text that the teacher was trained on was not searched.\n\n{markdown_table(rows)}"
    )


#: The texts of another kind, by what the trial calls them.
ELSEWHERE = {
    "package descriptions": "the descriptions of {:,} Debian packages that are installed on the machine, one for each source package: the synopsis is the summary",
    "articles": "{:,} articles of CNN/DailyMail's test split: the first sentence is the summary of the others",
}


def _elsewhere(r: dict) -> str:
    teacher, *others = r["rows"]
    rows = [
        ("system", "seeds", "ROUGE-L at home", "elsewhere", "kept at home", "kept elsewhere", "change, percentage points (95 % interval)"),
        ["---", *["---:"] * 6],
        ("teacher", "–", f"{teacher['home']:.1f}", f"{teacher['elsewhere']:.1f}", "–", "–", "–"),
    ]  # fmt: skip
    for row in others:
        if "home" not in row:  # a baseline
            rows.append((row["name"], "–", "–", f"{row['elsewhere']:.1f}", "–", "–", "–"))
            continue
        low, high = (100 * bound for bound in row["change_ci"])
        rows.append(
            (
                row["name"], str(row["seeds"]), f"{row['home']:.1f}", f"{row['elsewhere']:.1f}", f"{100 * row['kept_home']:.1f} %",
                f"{100 * row['kept_elsewhere']:.1f} %", f"{100 * row['change']:+.1f} ({low:+.1f} to {high:+.1f})",
            )
        )  # fmt: skip
    texts = ELSEWHERE[r.get("texts", "package descriptions")].format(r["pairs"])
    return f"Systems of the study `{r['study']}` on {texts}. *At home* is the study's own test split, *elsewhere* that text; *kept* is ROUGE-L divided by the teacher's at the same place.\n\n{markdown_table(rows)}"


def _difference(row: dict, key: str) -> str:
    if key not in row:
        return "–"
    low, high = row[f"{key}_ci"]
    return f"{row[key]:+.2f} ({low:+.2f} to {high:+.2f})"


SECTIONS = {
    "learning_rates": ("Learning rates", _rates),
    "on_policy": ("Settings of on-policy distillation", _on_policy),
    "half_size": ("Shapes with half of the parameters", _half),
    "pseudo_labels": ("Pseudo-labels: length, accuracy, variety", _labels),
    "seen_pairs": ("Pairs that the teacher has not seen", _seen),
    "overlap": ("Test pairs that resemble training pairs", _overlap),
    "elsewhere": ("Text of another kind", _elsewhere),
    "coverage": ("Coverage of the intervals", _coverage),
    "coverage_of_crossings": ("Coverage of the intervals of a crossing", _coverage),
}


if __name__ == "__main__":
    write_text(PAGE, page())
