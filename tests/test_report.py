"""Tables, sentences and figures from results; and that the README's block is not stale."""

import copy

import pytest

from distill_utils import figures, report
from distill_utils.artefacts import read_json
from distill_utils.errors import UserError
from distill_utils.results import warnings
from distill_utils.study import ROOT, load_study


def system(name, method, rouge_l, **more):
    timed = method in ("teacher", "sft", "kd")
    ci = [rouge_l - 1, rouge_l + 1]
    return {
        "name": name, "method": method, "parameters": None if method == "baseline" else 10_000_000,
        "size_bytes": None if method == "baseline" else 20_000_000, "rouge1": rouge_l + 2, "rouge2": rouge_l / 2, "rougeL": rouge_l,
        "rougeL_ci": ci, "retention_rougeL": rouge_l / 30, "retention_rougeL_ci": [c / 30 for c in ci], "num_beams": 4,
        "validation_rougeL": rouge_l,
        **dict.fromkeys(("latency_ms", "summaries_per_s", "speedup")),
        **({"latency_ms": 50.0, "latency_ms_spread": [40.0, 60.0], "summaries_per_s": 9.0, "summaries_per_s_spread": [8.0, 9.5],
            "speedup": 1.5, "speedup_spread": [1.4, 1.6], "batch_speedup": 1.3, "batch_speedup_spread": [1.2, 1.4]} if timed else {}),
        **more,
    }  # fmt: skip


@pytest.fixture
def results():
    return {
        "corpus": {"test": 1000},
        "environment": {"cores": 2, "threads": 2, "processor": "P", "packages": {"torch": "1", "transformers": "2"}, "commit": "c" * 40, "modified": False},
        "systems": [
            system("name", "baseline", 15.0), system("teacher", "teacher", 30.0, speedup=1.0, speedup_spread=[1.0, 1.0]),
            system("6-3 copy", "copy", 0.1), system("6-3 sft", "sft", 29.0), system("6-3 kd", "kd", 29.5),
        ],
        "verdicts": [
            {"a": "6-3 kd", "b": "6-3 sft", "metric": "rougeL", "delta": 0.5, "ci": [-0.2, 1.2], "verdict": "INCONCLUSIVE"},
            {"a": "6-3 kd", "b": "teacher", "metric": "rougeL", "delta": -0.5, "ci": [-0.9, -0.1], "verdict": "NO BEATS"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.96, 1.01), "keeps over 95 %"),
        ((0.93, 0.97), "may or may not keep over 95 %"),
        ((0.80, 0.94), "does not keep over 95 %"),
    ],
)
def test_the_goal_is_claimed_only_when_the_interval_says_so(results, interval, words):
    results["systems"][4]["retention_rougeL_ci"] = list(interval)
    assert f"The 6-3 kd student {words}" in report.goal_sentence(results)


def test_a_retention_without_an_interval_is_said_as_one(results):
    results["systems"][4]["retention_rougeL_ci"] = None
    assert "29.5 of 30.0 points, 98.3 %, has no interval" in report.goal_sentence(results)


def test_what_cannot_be_compared_is_said_apart(results):
    assert report.goal_sentence(results | {"systems": results["systems"][:3]}).startswith("No student was trained")
    results["systems"][1]["rougeL"] = 0.0
    assert report.goal_sentence(results).startswith("The teacher scores nothing")


def test_what_a_reader_is_warned_of(results):
    settings = {"distillation": {"warmup_steps": 50, "steps": 800, "methods": ["copy", "kd"]}}
    results |= {"teacher_check": {"warning": None}, "settings": settings}
    assert warnings(results) == []
    results["corpus"]["test"] = 9
    settings["distillation"]["steps"] = 10
    results["teacher_check"]["warning"] = "the teacher does not do this task"
    assert [w[:16] for w in warnings(results)] == ["the teacher does", "there are only 9", "the learning rat"]


def test_verdicts_are_worded_by_their_interval(results):
    first, second = report.verdict_sentences(results)
    assert first.startswith("6-3 kd cannot be told from 6-3 sft by ROUGE-L: +0.50 points")
    assert second.startswith("6-3 kd is beaten by teacher")


def test_table_has_a_row_per_system(results):
    lines = report.results_table(results).splitlines()
    assert len(lines) == 2 + len(results["systems"])
    assert len({line.count("|") for line in lines}) == 1
    assert "1.50× (1.40–1.60)" in lines[-1]


def test_rendering_replaces_only_the_block(results):
    text = "before\n<!-- results:x -->\nSTALE\n<!-- /results:x -->\nafter"
    rendered = report.render_readme(text, "x", results)
    assert rendered.startswith("before\n") and rendered.endswith("\nafter") and "STALE" not in rendered
    assert report.render_readme(rendered, "x", results) == rendered
    with pytest.raises(UserError, match="no block"):
        report.render_readme("nothing", "x", results)


def test_the_readme_shows_the_committed_results():
    text = report.README.read_text("utf-8")
    committed = read_json(report.published_results("docstrings"))
    assert report.render_readme(text, "docstrings", committed) == text, "stale: run make figures"


def test_committed_results_come_with_their_figures():
    folder = report.published_results("docstrings").parent
    assert len(list(folder.glob("*.png"))) >= 9
    assert {p.stem for p in folder.glob("*.png")} == {p.stem for p in folder.glob("*.pdf")}
    assert ROOT in folder.parents


LOG = [
    {"step": 10, "hard_loss": 4.0, "soft_loss": 2.0, "loss": 3.0},
    {"step": 10, "eval_loss": 3.9, "eval_rougeL": 20.0},
    {"step": 20, "hard_loss": 3.0, "soft_loss": 1.0, "loss": 2.0},
    {"step": 20, "eval_loss": 3.1, "eval_rougeL": 25.0},
]


def drawn(results):
    three = {"teacher": results["systems"][1], "name": results["systems"][0]}
    intervals = {n: {k: (s[k] - 1, s[k] + 1) for k in ("rouge1", "rouge2", "rougeL")} for n, s in three.items()}
    return {
        "lengths": figures.lengths([10, 200, 90], [5, 60, 12], 128, 48),
        "novelty": figures.novelty({1: 40.0, 2: 80.0, 3: 90.0, 4: 95.0}),
        "packages": figures.packages({f"p{i}": 100 - i for i in range(20)}),
        "rouge_bars": figures.rouge_bars(three, intervals),
        "rouge_by_group": figures.rouge_by_group({"short": [10.0, 20.0], "long": [5.0, 9.0]}, "length"),
        "temperatures": figures.temperatures(
            ["a", "b"], {1.0: [0.9, 0.1], 4.0: [0.6, 0.4]}, {1.0: 0.33, 4.0: 0.67}, {1.0: 0.3, 4.0: 0.6}, 8000
        ),
        "training_curves": figures.training_curves({"sft": LOG, "kd": LOG}),
        "quality": figures.quality(results),
        "speed_quality": figures.speed_quality(results),
    }


def test_every_figure_has_labelled_axes_and_fits_a_column_or_two(results):
    for name, (figure, caption) in drawn(results).items():
        assert figure.get_figwidth() in (figures.WIDTH, 2 * figures.WIDTH), name
        assert all(axis.get_xlabel() or axis.get_xticklabels() for axis in figure.axes), name
        assert any(axis.get_ylabel() or axis.get_yticklabels() for axis in figure.axes), name
        assert len(caption) > 40 and caption.endswith("."), name


def test_captions_follow_the_numbers(results):
    changed = copy.deepcopy(results)
    changed["systems"][4]["rougeL"] = 12.3
    assert figures.quality(results)[1] != figures.quality(changed)[1]
    assert "6-3 sft, 6-3 kd" in figures.quality(results)[1] and "6-3 kd" not in figures.quality(changed)[1]


def test_saved_figures_repeat_bit_for_bit(results, tmp_path, monkeypatch):
    monkeypatch.setattr("distill_utils.study.ROOT", tmp_path)
    study = load_study("smoke")
    contents = []
    for _ in range(2):
        figures.save(study, "quality", figures.quality(results)[0])
        contents.append([(study.figures_folder / f"quality.{suffix}").read_bytes() for suffix in ("png", "pdf")])
    assert contents[0] == contents[1]
