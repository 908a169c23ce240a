"""Tables, sentences and figures from results."""

import copy

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from distill_utils import plots
from distill_utils.evaluation.collect import rose
from distill_utils.evaluation.results import warnings
from distill_utils.plots.style import WIDTH
from distill_utils.report import sentences, tables
from distill_utils.studies.loading import load_study


def system(name, method, rouge_l, **more):
    timed = method in ("teacher", "sft", "kd")
    ci = [rouge_l - 1, rouge_l + 1]
    bins = [{"confidence": 0.3, "accuracy": 0.25, "tokens": 60}, {"confidence": 0.9, "accuracy": 0.7, "tokens": 40}]
    groups = {"baseline": "baselines", "teacher": "teacher"}
    return {
        "name": name, "method": method, "group": groups.get(method, "main"), "examples": 1000, "encoder_layers": 6, "decoder_layers": 6 if method == "teacher" else 3,
        "rougeL_by_seed": [rouge_l - 0.5, rouge_l + 0.5], "seeds": 2, "training_steps": 200, "training_seconds": 60.0, "training_pairs": 20_000,
        "teacher_seconds": {"states": 9.0}, "length_ratio": 0.9, "novel_bigrams": 80.0, "repeated_bigrams": 1.0, "reference_share": 5.0,
        "teacher_agreement": 50.0, "calibration": {"nll": 2.5, "ece": 0.1, "confidence": 0.54, "accuracy": 0.43, "tokens": 100, "bins": bins},
        "parameters": None if method == "baseline" else 10_000_000,
        "size_bytes": None if method == "baseline" else 20_000_000, "rouge1": rouge_l + 2, "rouge2": rouge_l / 2, "rougeL": rouge_l,
        "rougeL_ci": ci, "retention_rougeL": rouge_l / 30, "retention_rougeL_ci": [c / 30 for c in ci], "num_beams": 4,
        "validation_rougeL": rouge_l,
        **dict.fromkeys(("latency_ms", "summaries_per_s", "speedup")),
        **({"latency_ms": 50.0, "latency_ms_spread": [40.0, 60.0], "summaries_per_s": 9.0, "summaries_per_s_spread": [8.0, 9.5],
            "speedup": 1.5, "speedup_spread": [1.4, 1.6], "batch_speedup": 1.3, "batch_speedup_spread": [1.2, 1.4], "summary_tokens": 9.0} if timed else {}),
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
            verdict("6-3 kd", "6-3 sft", "rougeL", 0.5, [-0.2, 1.2], "INCONCLUSIVE"),
            verdict("6-3 kd", "teacher", "rougeL", -0.5, [-0.9, -0.1], "NO BEATS"),
            verdict("6-3 kd", "6-3 sft", "rouge2", 0.2, [-0.3, 0.7], "INCONCLUSIVE"),
            verdict("swept 0", "swept 3", "rougeL", 0.3, [-0.3, 0.9], "INCONCLUSIVE", family="sweep"),
        ],
        "visible_rougeL": 1.1,
        "settings": {"evidence": {"seeds": 2, "sweep_steps": 100}, "speed": {"batch_size": 32, "tokens": 16}},
        "generation": {"num_beams": 4},
        "sweep": [
            {"name": f"swept {i}", "alpha": a, "temperature": t, "examples": 500, "rougeL": 20.0 + i, "rougeL_ci": [19.0 + i, 21.0 + i]}
            for i, (a, t) in enumerate([(0.2, 1.0), (0.2, 4.0), (0.5, 1.0), (0.5, 4.0), (1.0, 1.0)])
        ],
        "examples": {"student": "6-3 kd", "wins": [], "losses": [], "ahead": [30.0, 2.0, 0.0, -1.0]},
    }  # fmt: skip


def verdict(a, b, metric, delta, ci, word, family="main"):
    wide = [ci[0] - 0.1, ci[1] + 0.1]
    return {
        "family": family, "a": a, "b": b, "metric": metric, "delta": delta, "ci": ci, "verdict": word, "family_ci": wide, "comparisons": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("words", "head"), [("English", "ROUGE-1"), ("Unicode", "ROUGE-1 of Unicode words")])
def test_the_table_says_what_a_word_is(results, words, head):
    results["corpus"]["words"] = words
    columns = [cell.strip() for cell in tables.results_table(results).splitlines()[0].split("|")]
    assert head in columns and sum("words" in column for column in columns) == (words != "English")


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.96, 1.01), "It reaches the goal of 95 %."),
        ((0.93, 0.97), "Whether it reaches the goal of 95 % is undecided."),
        ((0.80, 0.94), "It misses the goal of 95 %."),
    ],
)
def test_the_goal_is_claimed_only_when_the_interval_says_so(results, interval, words):
    results["systems"][4]["retention_rougeL_ci"] = list(interval)
    kept = f"6-3 kd keeps 98.3 % (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f} %) of the teacher's ROUGE-L, 29.5 of 30.0 points."
    assert f"{kept} {words}" in sentences.goal_sentence(results)


def test_a_retention_without_an_interval_is_said_as_one(results):
    results["systems"][4]["retention_rougeL_ci"] = None
    assert (
        "keeps 98.3 % of the teacher's ROUGE-L, 29.5 of 30.0 points. There are too few test pairs for an interval."
        in sentences.goal_sentence(results)
    )


def test_what_cannot_be_compared_is_said_apart(results):
    assert sentences.goal_sentence(results | {"systems": results["systems"][:3]}).startswith("No student was trained")
    results["systems"][1]["rougeL"] = 0.0
    assert sentences.goal_sentence(results).startswith("The teacher's ROUGE-L is 0")


def test_what_a_reader_is_warned_of(results):
    settings = {"distillation": {"warmup_steps": 50, "steps": 800, "methods": ["copy", "kd"]}}
    results |= {"teacher_check": {"warning": None}, "settings": settings}
    assert warnings(results) == []
    results["corpus"]["test"] = 9
    settings["distillation"]["steps"] = 10
    results["teacher_check"]["warning"] = "the teacher does not perform this task"
    assert [w[:16] for w in warnings(results)] == ["the teacher does", "only 9 test pair", "distillation.war"]


@pytest.mark.parametrize(("rouge_l", "close", "warned"), [(27.9, 0.1, 0), (28.1, 0.1, 1), (31, 0.3, 2), (5, 0.26, 1)])
def test_a_test_that_measures_memory_is_warned_of(results, rouge_l, close, warned):
    settings = {"distillation": {"warmup_steps": 50, "steps": 800, "methods": ["copy", "kd"]}}
    results |= {"teacher_check": {"warning": None}, "settings": settings}
    results["systems"].insert(1, system("lookup", "baseline", rouge_l))
    results["lookup"] = {"threshold": 0.8, "close_share": close}

    def told():
        return sum(w.startswith("this test measures memory") for w in warnings(results))

    assert told() == warned
    results["teacher_check"]["warning"] = "the teacher has random weights"
    assert told() == (close > 0.25), "anything comes close to a teacher that knows nothing"


def test_the_gain_kept_is_told_or_left_open(results):
    results["systems"][-1] |= {"gain_rougeL": 0.967, "gain_rougeL_ci": [0.9, 1.031]}
    results["systems"][-2] |= {"gain_rougeL": None, "gain_rougeL_ci": None}
    rows = tables.results_table(results).splitlines()
    assert "| 97 % (90 to 103 %) |" in rows[-1] and " – |" in rows[-2]


def test_a_training_that_went_wrong_is_warned_of(results):
    results["teacher_check"] = {"warning": ""}
    results["settings"]["distillation"] = {"warmup_steps": 1, "steps": 9, "methods": ["kd"]}
    assert warnings(results) == []
    kd = results["systems"][-1]
    kd |= {"identical_share": 0.6, "rougeL": 14.9, "soft_loss_rose": True}
    assert warnings(results) == [
        "6-3 kd writes the same summary for 60 % of the documents: it ignores its input",
        "6-3 kd has 14.9 ROUGE-L, less than the baseline name with 15.0",
        "the soft loss of 6-3 kd rose in the last third of its training; lower the learning rate",
    ]


def test_a_loss_that_rises_for_long_is_told_from_one_that_jumps():
    falling = [2.0 - i / 20 for i in range(30)]
    assert not rose(falling) and not rose([*falling[:-1], 9.0 / 10]) and not rose([1.0, 9.0] * 3)
    assert rose(falling[:20] + [1.4 + i / 20 for i in range(10)])


def test_verdicts_are_worded_by_their_interval(results):
    first, second = sentences.verdict_sentences(results)
    assert first.startswith(
        "6-3 kd shows no significant difference from 6-3 sft: +0.50 ROUGE-L (95 % interval -0.20 to +1.20; family-wise"
    )
    assert second.startswith("6-3 kd is worse than teacher")
    rows = tables.verdicts_table(results["verdicts"][:2]).splitlines()
    assert rows[-1] == "| 6-3 kd | is worse than | teacher | -0.50 | -0.90 to -0.10 | -1.00 to +0.00 |"


def test_table_has_a_row_per_system(results):
    lines = tables.results_table(results).splitlines()
    assert len(lines) == 2 + len(results["systems"])
    assert len({line.count("|") for line in lines}) == 1
    assert "equal length" not in lines[0], "it was not measured"
    assert lines[-1].endswith("| 98.3 % | – | 50 (40 to 60) | 9.0 | 1.50× (1.40 to 1.60) | 9.0 (8.0 to 9.5) |")


def test_speed_at_equal_length_comes_first(results):
    equal = {"batch_size": 1, "num_beams": 4, "tokens": 16, "speedup": 1.7, "speedup_spread": [1.6, 1.8]}
    results["systems"][4]["speeds"] = [equal | {"tokens": None, "speedup": 2.0}, equal]
    results["systems"][3] |= {"timed_as": "6-3 kd"}
    *_, like, timed = tables.results_table(results).splitlines()
    speed = "| 1.70× (1.60 to 1.80) | {} | 1.50× (1.40 to 1.60) | 9.0 (8.0 to 9.5) |"
    assert timed.endswith(speed.format("50 (40 to 60) | 9.0")) and like.endswith(speed.format("as 6-3 kd | –"))


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
        "lengths": plots.lengths([10, 200, 90], [5, 60, 12], 128, 48),
        "novelty": plots.novelty({1: 40.0, 2: 80.0, 3: 90.0, 4: 95.0}),
        "packages": plots.packages(
            {split: {f"{split}{i}": 100 - i for i in range(9)} for split in ("train", "validation", "test")}
        ),
        "similarities": plots.similarities([0.1, 0.5, 0.95], 0.8),
        "rouge_bars": plots.rouge_bars(three, intervals),
        "rouge_by_group": plots.rouge_by_group({"short": [10.0, 20.0], "long": [5.0, 9.0]}, "length"),
        "temperatures": plots.temperatures(
            ["a", "b"], {1.0: [0.9, 0.1], 4.0: [0.6, 0.4]}, {1.0: 0.33, 4.0: 0.67}, {1.0: 0.3, 4.0: 0.6}, 8000
        ),
        "training_curves": plots.training_curves({"sft": LOG, "kd": LOG}),
        "quality": plots.quality(results),
        "speed_quality": plots.speed_quality(results),
        "sweep": plots.sweep(results),
        "reliability": plots.reliability(results),
        "wins_and_losses": plots.wins_and_losses(results),
        "learning_curve": plots.learning_curve(with_fewer_pairs(results)),
        "frontier": plots.speed_quality(with_shapes(results)),
        "runtimes": plots.runtimes(with_runtimes(results)),
        "batches_and_beams": plots.batches_and_beams(with_runtimes(results)),
    }


def with_fewer_pairs(results):
    few = [system(f"6-3 sft, {n} pairs", "sft", 20.0 + n / 1000, group="pairs", training_pairs=n) for n in (2000, 6000)]
    return {**results, "systems": [*results["systems"], *few]}


def with_shapes(results):
    timed = {
        k: v
        for k, v in results["systems"][4].items()
        if k not in ("name", "group", "decoder_layers", "speedup", "rougeL")
    }
    small = [
        {
            **timed,
            "name": f"6-{n} kd",
            "group": "shapes",
            "decoder_layers": n,
            "speedup": 3 - n / 2,
            "rougeL": 20.0,
            "parameters": 5e6 + n,
        }
        for n in (1, 2)
    ]
    return {**results, "systems": [*results["systems"], *small]}


def with_runtimes(results):
    """Teacher and student in two runtimes; the student in int8 is eight times as fast as the teacher in PyTorch."""

    def timed(per_second):
        row = {
            "summaries_per_s_spread": [per_second - 1, per_second + 1],
            "speedup": per_second / 10,
            "speedup_spread": [per_second / 10] * 2,
        }
        loads = [(1, 4, 16), (8, 4, 16), (32, 4, 16), (32, 1, 16), (32, 4, 1)]
        rows = [
            {"batch_size": b, "num_beams": n, "tokens": t, "summaries_per_s": per_second * b / 32, **row}
            for b, n, t in loads
        ]
        rows[0] |= {"latency_ms": 50.0, "latency_ms_p90": 60.0, "latency_ms_p99": 70.0}
        return rows

    part = {
        "batch_size": 32,
        "encoder_ms": 2.0,
        "step_ms": 1.0,
        "encoder_share": 0.1,
        "bound": "memory",
        "share_of_limit": 0.25,
    }
    footprint = {"load_seconds": 0.5, "peak_memory_bytes": 90_000_000, "disk_bytes": 20_000_000}
    own = {"parts": [part, part], "footprint": footprint}
    teacher, student = (s | own | {"runtime": "pytorch-fp32"} for s in (results["systems"][1], results["systems"][4]))
    change = {"identical_to_float32": 91.0, "rougeL_change": -0.1, "rougeL_change_ci": [-0.2, 0.1]}
    other = {"group": "runtimes", "runtime": "ctranslate2-int8", **change}
    fast = [s | other | {"of": s["name"], "name": f"{s['name']} ctranslate2-int8"} for s in (teacher, student)]
    systems = [
        s | {"speeds": timed(per_second)}
        for s, per_second in zip((teacher, student, *fast), (10.0, 16.0, 45.0, 80.0), strict=True)
    ]
    settings = results["settings"] | {"speed": {"batch_size": 32, "tokens": 16}}
    others = [s for s in results["systems"] if s["name"] not in ("teacher", "6-3 kd")]
    return {**results, "systems": [*others, *systems], "settings": settings, "generation": {"num_beams": 4}}


def test_runtimes_have_a_table_of_their_own(results):
    served = with_runtimes(results)
    rows = tables.runtimes_table(served).splitlines()
    assert len(rows) == 2 + 4
    wanted = "| 6-3 kd | ctranslate2-int8 | 20.0 | 0.50 | 90 | 50; 60; 70 | 80.0 (79.0 to 81.0) | 8.00 (8.00 to 8.00) | 10 % | 25 % (memory); 25 % (memory) | 91.0 | -0.10 (-0.20 to +0.10) |"
    assert rows[-1] == wanted
    assert "ctranslate2" not in tables.results_table(served), "the study's table is about students"
    (sentence,) = sentences.runtime_sentences(served)
    assert "8.0×" in sentence and "causes no significant change in ROUGE-L: -0.10 (95 % interval" in sentence
    assert (
        "ROUGE-L is 29.5 in this backend (its first seed's; 29.5 is the mean of 2); the teacher's is 30.0 in pytorch-fp32."
        in sentence
    )
    answer = sentences.layers_or_runtime(served)
    assert "6-3 kd in pytorch-fp32 writes 1.60× as many" in answer
    assert "as the teacher in pytorch-fp32; its ROUGE-L is significantly lower (-0.50 points). The unchanged" in answer
    assert "teacher in ctranslate2-int8 writes 4.50× as many, with no significant change in ROUGE-L" in answer
    assert "In ctranslate2-int8, 6-3 kd is 1.78× as fast" in answer
    assert sentences.batches_sentence(served) == (
        "Speed-up of 6-3 kd ctranslate2-int8 over the teacher in pytorch-fp32 by batch size: 8.0× at 1, 8.0× at 8, 8.0× at 32. "
        "With the best batch size of each it is 8.0× (80 and 10 summaries per second)."
    )
    assert sentences.runtimes_paragraphs(served)[0].splitlines() == rows
    assert sentences.runtimes_paragraphs(results) == []
    served["systems"][-1]["rougeL_change_ci"] = [-0.5, -0.1]
    assert "The backend significantly lowers ROUGE-L: -0.10" in sentences.runtime_sentences(served)[0]
    served["systems"] = [s for s in served["systems"] if s["group"] != "runtimes"]
    assert sentences.layers_or_runtime(served) == "", "there is nothing to choose between"


def test_the_frontier_of_runtimes_is_what_nothing_beats():
    assert plots.unbeaten([(1, 5), (2, 4), (1, 4), (3, 4), (0, 5)]) == [(1, 5), (3, 4)]


def test_a_notebooks_rows_are_of_natural_lengths(results):
    natural = {"batch_size": 1, "num_beams": 4, "tokens": None, "summary_tokens": 9.0, "latency_ms": 5.0, "latency_ms_spread": [4.0, 6.0],
               "latency_ms_p99": 7.0, "summaries_per_s": 2.0, "summaries_per_s_spread": [1.0, 3.0], "speedup": 1.0, "speedup_spread": [1.0, 1.0]}  # fmt: skip
    (row,) = tables.speed_rows({"teacher": [natural, natural | {"tokens": 16}]})
    assert row["latency (ms)"] == "5 (4 to 6)" and row["summaries/s"] == "2.0 (1.0 to 3.0)"


def test_of_a_shape_its_best_student_stands_at_the_frontier(results):
    assert [s["name"] for s in plots.frontier(results)] == ["teacher", "6-3 sft", "6-3 kd"]
    shown = plots.frontier(with_shapes(results))
    assert {s["name"] for s in shown} == {"teacher", "6-3 kd", "6-2 kd", "6-1 kd"}
    narrow = next(s for s in results["systems"] if s["name"] == "6-3 sft") | {"name": "6-3-64 kd", "inner_width": 64}
    both = with_shapes({**results, "systems": [*results["systems"], narrow]})
    assert {s["name"] for s in plots.frontier(both)} == {"teacher", "6-3 kd", "6-3-64 kd", "6-2 kd", "6-1 kd"}


def test_a_narrower_student_is_not_half_a_decoder(results):
    assert any("half the decoder layers" in s for s in sentences.aim_sentences(results))
    for s in results["systems"]:
        s["inner_width"] = 1024 if s["method"] == "teacher" else 256
    assert not any("half the decoder layers" in s for s in sentences.aim_sentences(results))


@pytest.mark.parametrize(
    ("retention", "interval", "words"),
    [
        (0.996, [0.981, 1.01], "reached"),
        (0.996, [0.979, 1.01], "**not shown**: the interval reaches down to 97.9 %"),
        (0.994, [0.985, 1.01], "**not shown**: the interval contains it, but 99.4 % is less"),
        (0.98, [0.975, 0.985], "**missed**"),
    ],
)
def test_what_is_expected_of_half_a_decoder_is_told_by_the_numbers(results, retention, interval, words):
    results["systems"][4] |= {"retention_rougeL": retention, "retention_rougeL_ci": interval}
    words = f"The target, 99.5 % with the whole interval above 98 %, is {words}."
    assert any("half the decoder layers, 6-3 kd" in s and words in s for s in sentences.aim_sentences(results))
    assert not any("with one seed" in s for s in sentences.aim_sentences(results))
    results["systems"][4]["seeds"] = 1
    assert any("with one seed" in s for s in sentences.aim_sentences(results))


def test_seeds_are_said_when_there_are_several(results):
    told = sentences.luck_sentence(results)
    assert (
        "from 2 seeds per method" in told
        and "minimum detectable difference (80 % power) between two students is 1.1" in told
    )
    for s in results["systems"]:
        s["seeds"] = 1
    assert "not the variance between training seeds" in sentences.luck_sentence(results)


def test_costs_and_texts_have_a_row_per_student(results):
    assert "| 6-1 kd | 2 | 200 |" in tables.methods_table(with_shapes(results))
    rows = tables.methods_table(results).splitlines()
    assert len(rows) == 2 + 4 and "| 6-3 kd | 2 | 200 | 60 | 9 | 0.90 | 80 | 1.0 | 5.0 | 50.0 | 2.50 | 10.0 |" in rows


def test_every_figure_has_labelled_axes_and_fits_a_column_or_two(results):
    for name, (figure, caption) in drawn(results).items():
        assert figure.get_figwidth() in (WIDTH, 2 * WIDTH), name
        axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
        assert all(axis.get_xlabel() or axis.get_xticklabels() for axis in axes), name
        assert any(axis.get_ylabel() or axis.get_yticklabels() for axis in figure.axes), name
        assert len(caption) > 40 and caption.endswith("."), name
        FigureCanvasAgg(figure).draw()
        for text in [label for axis in figure.axes for label in (axis.xaxis.label, axis.yaxis.label, axis.title)]:
            box = text.get_window_extent()
            cut = not (box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1)
            assert not (cut and text.get_text()), f"{name}: {text.get_text()!r} is cut off"


def test_captions_follow_the_numbers(results):
    changed = copy.deepcopy(results)
    changed["systems"][4]["rougeL"] = 12.3
    assert plots.quality(results)[1] != plots.quality(changed)[1]
    assert "6-3 sft, 6-3 kd" in plots.quality(results)[1] and "6-3 kd" not in plots.quality(changed)[1]


def test_saved_figures_repeat_bit_for_bit(results, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = load_study("smoke")
    contents = []
    for _ in range(2):
        plots.save(study, "quality", plots.quality(results)[0])
        contents.append([(study.figures_folder / f"quality.{suffix}").read_bytes() for suffix in ("png", "pdf")])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("groups", [{}, {"short": []}, {"short": [10.0]}])
def test_groups_without_two_members_make_an_empty_figure(groups):
    figure, caption = plots.rouge_by_group(groups, "length")
    assert caption == "No group of test pairs by length has two or more members."
    assert not figure.axes[0].get_yticks().size
