"""The trainer that ours is measured against has the same loss, and ours trains as well as it does."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from benchmarks import machines, report
from benchmarks.run import main, ratio
from benchmarks.textbook import TextbookTrainer
from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.report.publish import PAGES, published_results
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
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


def test_the_tables_of_the_trials_are_those_of_their_files():
    """They stand in pages that are written by hand."""
    rates = {
        (row["method"], row["rate"]): row["rougeL"] for row in read_json(report.RESULTS / "learning_rates.json")["rows"]
    }
    text = (ROOT / "docs" / "method.md").read_text("utf-8")
    for method in ("sft", "kd", "hidden"):
        cells = [rates.get((method, rate)) for rate in (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3)]
        row = f"| `{method}` | " + " | ".join("–" if cell is None else f"{cell:.1f}" for cell in cells) + " |"
        assert row in text.replace("**", ""), row
    on_policy = read_json(report.RESULTS / "on_policy.json")["rows"]
    best = max(on_policy, key=lambda row: row["rougeL"])
    own = load_study("docstrings").distillation
    assert (best["start"], best["interpolation"], best["rate"]) == (
        own.start,
        own.interpolation,
        own.learning_rates["gkd"],
    )
    assert {"lmbda", "sampling_temperature"}.isdisjoint(best), "their defaults"
    for start in ("sft", "hidden"):
        found = {
            (r["interpolation"], r["rate"], r.get("lmbda"), r.get("sampling_temperature")): f"{r['rougeL']:.1f}"
            for r in on_policy
            if r["start"] == start
        }
        columns = [(0.1, 5e-4), (0.5, 5e-4), (0.9, 5e-4), (0.5, 1e-3), (0.5, 5e-4, 0.5, None), (0.5, 5e-4, None, 0.5)]
        cells = [found.get((*column, None, None)[:4], "–") for column in columns]
        assert f"| `{start}` | {' | '.join(cells)} |" in text.replace("**", "")
    alone = {method: max(v for (m, _), v in rates.items() if m == method) for method in ("sft", "kd")}
    assert "has 0.7 points more than `sft` alone and 0.2 more than `kd`" in " ".join(text.split())
    assert [round(best["rougeL"] - alone[m], 1) for m in ("sft", "kd")] == [0.7, 0.2]
    page = (ROOT / "models" / "README.md").read_text("utf-8")
    for found in read_json(report.RESULTS / "teacher_gap.json")["rows"]:
        numbers = " | ".join(f"{found[kind]:.2f}" for kind in ("early", "late", "validation"))
        assert f"| {found['model']} | {found['passes']:.2f} | {numbers} |" in page
