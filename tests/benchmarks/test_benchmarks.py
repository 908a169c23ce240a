"""The trainer that ours is measured against has the same loss, and ours trains as well as it does."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from benchmarks import coverage, machines, report, trials, trials_page
from benchmarks.run import Profile, main, ratio
from benchmarks.textbook import TextbookTrainer
from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.report.publish import PAGES, published_results
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.training.trainer import DistillationTrainer
from tests.training.test_trainer import Padder, arguments, pairs


class ShiftingPadder(Padder):
    """Adds the decoder's inputs, as the library's collator does."""

    def __init__(self, model):
        self.model = model

    def __call__(self, features):
        batch = super().__call__(features)
        return {**batch, "decoder_input_ids": self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}


@pytest.mark.parametrize("frozen", [False, True])
def test_fifty_steps_both_ways_have_the_same_loss_curve(tmp_path, teacher, frozen):
    """Both see all pairs in every step, for each has an order of its own."""
    curves, students = [], []
    settings = {"max_steps": 50, "optim": "sgd", "learning_rate": 0.05, "per_device_train_batch_size": 8}
    for way in ("ours", "textbook"):
        student = make_student(teacher, 3, 1)
        if frozen:
            freeze_encoder(student)
        common = {"train_dataset": pairs(), "data_collator": ShiftingPadder(teacher)}
        if way == "ours":
            args = arguments(
                tmp_path / way, alpha=0.5, temperature=2.0, train_sampling_strategy="group_by_length", **settings
            )
            trainer = DistillationTrainer(student, args, teacher=teacher, **common)
        else:
            args = arguments(tmp_path / way, Seq2SeqTrainingArguments, **settings)
            trainer = TextbookTrainer(student, args, teacher=teacher, alpha=0.5, temperature=2.0, **common)
        trainer.train()
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        students.append(student)
    assert len(curves[0]) == 50 and curves[0][-1] < 0.9 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    for (name, a), b in zip(students[0].named_parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3, msg=name)


def test_a_profile_divides_the_time_of_its_steps(tmp_path, teacher):
    for operations in (True, False):
        args = arguments(tmp_path, max_steps=5, per_device_train_batch_size=4)
        trainer = DistillationTrainer(
            make_student(teacher, 3, 1), args, teacher=teacher, train_dataset=pairs(), data_collator=Padder()
        )
        trainer.add_callback(watch := Profile(2, operations))
        trainer.train()
        assert watch.seconds > 0
        if operations:
            kinds = watch.by_kind()
            assert watch.steps == 3 and sum(kinds.values()) == pytest.approx(watch.seconds)
            assert min(kinds["matrix products"], kinds["optimizer"], kinds["copies and casts"], kinds["Python"]) > 0
    text = report._profile({"batch": 4, "seconds_per_step": kinds, "without_profiler": [watch.seconds]})
    assert f"| Python | {1000 * kinds['Python']:.0f} |" in text


def test_a_ratio_is_the_median_over_rounds_with_its_spread():
    assert ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == {"ratio": 2.0, "spread": [1.0, 3.0]}


def test_a_wrong_section_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sped"])
    assert stopped.value.code == 2 and "'sped'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["full_size"])
    assert "TOKENIZER=DIR" in capsys.readouterr().err


def test_the_pages_show_the_committed_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    stale = "stale: run python -m benchmarks.report"
    assert report.training_page(report.draw()) == (PAGES / "training_cost.md").read_text("utf-8"), stale
    assert report.serving_page() == (PAGES / "serving.md").read_text("utf-8"), stale
    summary = read_json(report.RESULTS / "summary.json")
    assert {"full_online", "frozen_online", "loss_memory", "full_size_examples"} <= set(summary)
    assert all(r["spread"][0] <= r["ratio"] <= r["spread"][1] for r in summary.values())


def test_every_figure_is_drawn_with_a_caption_of_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    captions = report.draw()
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{s}" for n in captions for s in ("png", "pdf")}
    whole = sum(read_json(report.RESULTS / "parts.json")["seconds_per_step"]["ours_full"].values())
    assert f"ours, full {1000 * whole:.0f} ms" in captions["parts"]


def test_the_page_of_machines_is_that_of_its_file():
    budgets = published_results(machines.BUDGETS)
    found = machines.page(read_json(machines.FILE), read_json(budgets) if budgets.is_file() else None)
    assert found == (PAGES / "machines.md").read_text("utf-8"), "stale: python -m benchmarks.machines"


def test_a_run_replaces_an_earlier_one_of_its_kind_of_processor():
    first, *others = read_json(machines.FILE)
    results = read_json(published_results("docstrings"))
    results["environment"] = first["environment"]
    runs = machines.added([first, *others], results)
    assert len(runs) == len(others) + 1 and runs[-1]["students"][0].keys() == first["students"][0].keys()
    results["environment"] = {**first["environment"], "threads": 7}
    assert len(machines.added([first, *others], results)) == len(others) + 2


def test_a_target_between_the_rounds_is_not_shown():
    assert report._aimed([6.1, 6.5], 6) == "reached" and report._aimed([5.5, 5.9], 6) == "**missed**"
    assert report._aimed([5.81, 6.30], 6).startswith("**not shown**")


def test_the_page_of_trials_is_that_of_their_files():
    assert trials_page.page() == trials_page.PAGE.read_text("utf-8"), "stale: run python -m benchmarks.trials_page"


def test_every_kind_of_trial_has_a_table(tmp_path, monkeypatch):
    """Those that have not been run yet, too."""
    first = read_json(report.RESULTS / "learning_rates.json")
    same, other = {"over_references": 0.0, "over_references_ci": [0.0, 0.0]}, {"over_references": -0.5, "over_references_ci": [-1.0, 0.1]}  # fmt: skip
    label = {"words": 9.0, "rougeL_of_targets": 40.0, "distinct_bigrams": 0.5, "rougeL": 28.0, "summary_words": 8.0}
    made = {
        "pseudo_labels": {
            "steps": 250, "pairs": 6400, "validation_pairs": 1000, "method": "sft",
            "rows": [{"targets": "references", **label, **same}, {"targets": "pseudo-labels", **label, **other}],
        },
        "half_size": {
            "steps": 250, "pairs": 0, "validation_pairs": 1000,
            "rows": [{"student": "3-1", "method": "hidden", "rate": 2e-3, "rougeL": 25.0, "parameters": 7.6e6, "seconds": 290.4}],
        },
        "seen_pairs": {
            "pairs": 2290, "steps": 250, "test_pairs": 1000,
            "rows": [
                {"pairs": "seen", "method": "sft", "rougeL": 28.0},
                {"pairs": "unseen", "method": "kd", "rougeL": 28.5, "over_sft": 0.5, "over_sft_ci": [0.1, 0.9], "over_seen": 0.3, "over_seen_ci": [-0.1, 0.7], "gain_over_seen": 0.2, "gain_over_seen_ci": [-0.3, 0.7]},
            ],
        },
        "overlap": {
            "study": "docstrings_full", "train": 30_000, "test": 4000, "jaccard": 0.8, "source_tokens": 128, "words": 4,
            "rows": [
                {"kind": "near", "pairs": 22, "teacher": 35.0, "teacher_on_the_rest": 30.0, "over_the_rest": 5.0, "over_the_rest_ci": [-1.0, 11.0]},
                {"kind": "none", "pairs": 0, "teacher_on_the_rest": 30.0},
            ],
        },
        "coverage": {
            "draws": 2000, "students": 6, "examples": 300, "resamples": 1000, "level": 0.95,
            "rows": [{"kind": "mean", "seeds": seeds, "sd": sd, "held": held} for seeds, sd, held in ((1, 0.0, 0.948), (3, 0.5, 0.953))],
        },
        "elsewhere": {
            "study": "docstrings_full", "texts": "articles", "pairs": 300,
            "rows": [
                {"name": "teacher", "home": 30.0, "elsewhere": 20.0}, {"name": "lookup", "elsewhere": 9.0},
                {"name": "6-3 kd", "seeds": 3, "home": 29.7, "elsewhere": 19.0, "kept_home": 0.99, "kept_elsewhere": 0.95, "change": -0.04, "change_ci": [-0.07, -0.01]},
            ],
        },
    }  # fmt: skip
    monkeypatch.setattr(trials_page, "RESULTS", tmp_path)
    for name, results in made.items():
        write_json(tmp_path / f"{name}.json", {**results, "environment": first["environment"]})
    text = trials_page.page()
    for row in (
        "| pseudo-labels | 9.0 | 40.0 | 50 % | 8.0 | 28.0 | -0.50 (-1.00 to +0.10) |",
        "after 250 steps on all training pairs. With",
        "| 3-1 | 7.6 | `hidden` | 0.002 | 290 | 25.0 |",
        "| `sft` | seen | 28.0 | – | – | – |",
        "| `kd` | unseen | 28.5 | +0.50 (+0.10 to +0.90) | +0.30 (-0.10 to +0.70) | +0.20 (-0.30 to +0.70) |",
        "| mean | 94.8 % | 95.3 % |",
        "on 300 articles of CNN/DailyMail's test split",
        "| near | 22 | 35.0 | 30.0 | +5.00 (-1.00 to +11.00) |",
        "| none | 0 | – | 30.0 | – |",
        "| 6-3 kd | 3 | 29.7 | 19.0 | 99.0 % | 95.0 % | -4.0 (-7.0 to -1.0) |",
    ):
        assert row in text
    assert "Learning rates" not in text


def test_the_studies_use_what_the_trials_chose():
    rates = {
        (row["method"], row["rate"]): row["rougeL"] for row in read_json(report.RESULTS / "learning_rates.json")["rows"]
    }
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    own = load_study("docstrings").distillation
    alone = {method: max((v, rate) for (m, rate), v in rates.items() if m == method) for method in ("sft", "kd")}
    assert {method: rate for method, (_, rate) in alone.items()} == {m: own.learning_rates[m] for m in alone}
    assert "The study uses 5e-4 for `sft`, 1e-3 for `kd` and 2e-3 for `hidden`" in text
    assert (own.learning_rates["sft"], own.learning_rates["kd"], own.learning_rate) == (5e-4, 1e-3, 2e-3)
    assert "at 2e-3, `sft` has 0.8 points less than at its best" in text
    assert round(alone["sft"][0] - rates["sft", 2e-3], 1) == 0.8
    assert "3e-3 is the highest that was tried and the best" in text
    assert max((v, rate) for (m, rate), v in rates.items() if m == "hidden")[1] == 3e-3 == max(r for _, r in rates)
    on_policy = read_json(report.RESULTS / "on_policy.json")["rows"]
    best = max(on_policy, key=lambda row: row["rougeL"])
    assert (best["start"], best["interpolation"], best["rate"]) == (
        own.start,
        own.interpolation,
        own.learning_rates["gkd"],
    )
    assert {"lmbda", "sampling_temperature"}.isdisjoint(best), "their defaults"
    assert "has 0.7 points more than `sft` alone and 0.2 more than `kd`" in text
    assert [round(best["rougeL"] - alone[m][0], 1) for m in ("sft", "kd")] == [0.7, 0.2]
    hidden = max(row["rougeL"] for row in on_policy if row["start"] == "hidden")
    assert "it has less than `hidden` alone" in text and hidden < rates["hidden", own.learning_rate]


def test_what_the_docs_say_of_pseudo_labels_is_in_their_file():
    rows = {row["targets"]: row for row in read_json(report.RESULTS / "pseudo_labels.json")["rows"]}
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    references, plain, sampled = (rows[name] for name in ("references", "pseudo-labels", "pseudo-labels, sampled"))
    cut, soft, softer = (rows[name] for name in ("references, cut to the length of the pseudo-labels", "pseudo-labels, attention scores / 1.5", "pseudo-labels, attention scores / 2"))  # fmt: skip

    def less(row):
        return "{:.1f} ({:.1f} to {:.1f})".format(-row["over_references"], *sorted(-b for b in row["over_references_ci"]))  # fmt: skip

    low, high = plain["over_references_ci"]
    assert f"pseudo-labels give {plain['over_references']:.1f} points more than references ({low:.1f} to {high:.1f}), which is not significant" in text  # fmt: skip
    assert f"Pseudo-labels have {plain['words']:.1f} words, references {references['words']:.1f}" in text
    amount, _, interval = less(cut).partition(" ")
    assert f"have {cut['words']:.1f} words and give {amount} points less {interval}" in text
    low, high = sampled["over_references_ci"]
    assert f"have {sampled['words']:.1f} words and do not differ from references beyond chance ({sampled['over_references']:.1f}; {low:.1f} to {high:.1f})" in text  # fmt: skip
    own = [f"{row['rougeL_of_targets']:.1f}" for row in (sampled, plain)]
    assert "{} ROUGE-L instead of {}".format(*own) in text
    halves = [rows[f"{kind} half of the pseudo-labels, else references"] for kind in ("the better", "a random")]
    assert {f"{row['over_references']:.1f}" for row in halves} == {"0.3"} and "give 0.3 points more" in text
    distinct = [f"{100 * row['distinct_bigrams']:.0f} %" for row in (plain, references, sampled)]
    assert "{} are distinct, of the references' {} and of the sampled labels' {}".format(*distinct) in text
    amount, _, interval = less(softer).partition(" ")
    assert f"a factor of 2 loses {amount} points {interval}" in text
    assert f"and 1.5 loses {less(soft)[:-1]}, not significant)" in text
    for row in (soft, softer):
        assert row["words"] > plain["words"] and row["distinct_bigrams"] < plain["distinct_bigrams"]
    significant = [
        name
        for name, row in rows.items()
        if (row["over_references_ci"][0] > 0) == (row["over_references_ci"][1] > 0) and name != "references"
    ]
    assert {cut["targets"], softer["targets"]} == {*significant} and len(rows) == 10
    assert "No kind of target is better than references beyond chance" in text and "with ten kinds of targets" in text


def test_what_the_docs_say_of_pairs_that_the_teacher_has_not_seen_is_in_its_file():
    found = read_json(report.RESULTS / "seen_pairs.json")
    rows = {(row["pairs"], row["method"]): row for row in found["rows"]}
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    gains = [f"{rows[pairs, method]['over_sft']:.1f}" for method in ("kd", "hidden") for pairs in ("seen", "unseen")]
    assert f"trains students on {found['pairs']:,} of these pairs" in text
    assert "`kd` is better than `sft` by {} points on the first and {} on the second, `hidden` by {} and {}".format(*gains) in text  # fmt: skip
    assert all(row["over_sft_ci"][0] > 0 for row in rows.values() if "over_sft" in row)
    hidden, kd = (rows["unseen", method] for method in ("hidden", "kd"))
    low, high = hidden["gain_over_seen_ci"]
    assert (
        f"by {hidden['gain_over_seen']:.1f} points ({low:.1f} to {high:.1f}); that of `kd` is not beyond chance" in text
    )
    assert low > 0 > kd["gain_over_seen_ci"][0]
    assert "although all students score lower" in text
    assert all(rows["unseen", m]["rougeL"] < rows["seen", m]["rougeL"] for m in ("sft", "kd", "hidden"))


def test_what_the_docs_say_of_the_coverage_is_in_its_file():
    held: dict[str, list[float]] = {}
    for row in read_json(report.RESULTS / "coverage.json")["rows"]:
        held.setdefault(row["kind"], []).append(100 * row["held"])
    apart, change = (
        held.pop("difference from plain fine-tuning in equal time"),
        held.pop("change of retention on another text"),
    )
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    assert "hold the truth in 94 to 97 % of the cases" in text and "in equal time hold it in up to 98 %" in text
    assert [*held] == ["mean", "retention", "gain kept", "difference"]
    assert all(94 <= share <= 97 for shares in held.values() for share in shares)
    assert min(apart) >= 94 and max(apart) <= 98 and min(change) >= 94
    (crossing,) = read_json(report.RESULTS / "coverage_of_crossings.json")["rows"]
    assert f"that of a crossing in {100 * crossing['held']:.0f} % with one seed" in text


def test_the_simulation_counts_what_intervals_hold(monkeypatch):
    monkeypatch.setattr(coverage.significance, "RESAMPLES", 100)
    for kind in coverage.KINDS | coverage.CROSSINGS:
        assert coverage.held(kind, 1, 0.0, draws=20) >= 0.7, kind
    monkeypatch.setitem(coverage.KINDS, "none", (1.0, lambda draw: (2.0, 3.0)))
    assert coverage.held("none", 1, 0.0, draws=3) == 0


def test_what_the_docs_say_of_resembling_pairs_is_in_its_file():
    found = read_json(report.RESULTS / "overlap.json")
    near, inside = (row["pairs"] for row in found["rows"])
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    assert (
        f"full study's {found['test']:,} test pairs, none has a document whose first {found['source_tokens']} tokens"
        in text
    )
    assert not near and f"The words of {inside} test summaries stand in a training document" in text


def test_the_first_sentence_of_an_article_is_the_summary_of_the_others(tmp_path):
    found = trials._leads(["One is first. Two follows. Three ends.", "One alone."])
    assert found == [{"document": "Two follows. Three ends.", "summary": "One is first."}]
    with pytest.raises(UserError, match="Debian packages"):
        trials._package_descriptions(tmp_path / "status")
    (tmp_path / "status").write_text(
        "Package: a\nSource: s\nDescription: tool for many things\n It does one thing after\n .\n the other, and all of them well.\n\n"
        "Package: b\nSource: s\nDescription: the same source again\n It does one thing after the other, and all of them well.\n"
    )
    (only,) = trials._package_descriptions(tmp_path / "status")
    assert only == {
        "document": "a\nIt does one thing after the other, and all of them well.",
        "summary": "tool for many things",
    }


def test_what_the_docs_say_of_text_of_another_kind_is_in_its_file():
    found = read_json(report.RESULTS / "elsewhere.json")
    rows = {row["name"]: row for row in found["rows"]}
    text = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())
    assert f"the descriptions of {found['pairs']} Debian packages" in text
    teacher, sentence = (rows[name]["elsewhere"] for name in ("teacher", "lead-sentence"))
    assert f"the teacher has {teacher:.1f} ROUGE-L and the document's first sentence {sentence:.1f}" in text
    students = {name: row for name, row in rows.items() if "change" in row and name != "6-3 copy"}
    assert "Every student keeps a smaller share" in text and all(row["change"] < 0 for row in students.values())
    assert "the loss is beyond chance for `gkd` alone (intervals of single comparisons)" in text
    assert [name for name, row in students.items() if row["change_ci"][1] < 0] == ["6-3 gkd"]


def test_the_gap_of_the_teacher_is_that_of_its_file():
    page = (ROOT / "models" / "README.md").read_text("utf-8")
    for found in read_json(report.RESULTS / "teacher_gap.json")["rows"]:
        numbers = " | ".join(f"{found[kind]:.2f}" for kind in ("early", "late", "validation"))
        assert f"| {found['model']} | {found['passes']:.2f} | {numbers} |" in page
