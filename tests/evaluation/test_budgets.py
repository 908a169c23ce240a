"""Methods at equal steps and at equal time: which are compared, and with what."""

from dataclasses import dataclass

import numpy as np
import pytest

from distill_utils.evaluation.budgets import (
    against_the_best,
    at_equal_steps,
    at_equal_time,
    cost,
    crossings,
    with_budgets,
)
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Run


@dataclass
class Student:
    name: str
    run: Run
    reports: list
    scores: dict


def student(method, steps, seconds, scores, beforehand=0.0, shape="2-1", max_pairs=0, group="budgets", loss=1.0):
    settings = {"distillation.steps": steps, "distillation.max_pairs": max_pairs}
    run = Run(group, "", load_study("smoke", settings), shape, method, 0)
    report = {"seconds": seconds, "teacher_seconds": {"states": beforehand} if beforehand else {}}
    report["log"] = [{"eval_loss": 9.0, "step": 0}, {"loss": 0.1}, {"eval_loss": loss, "step": steps}]
    return Student(f"{shape} {method}, {steps} steps", run, [report], {"rougeL": np.atleast_2d(scores).astype(float)})


GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.normal(size=400)


def level(mean):
    return mean + NOISE + 0.1 * GENERATOR.normal(size=400)


def test_the_teachers_work_is_a_part_of_the_cost():
    assert cost(student("kd", 4, 30, level(1), beforehand=12)) == 42


def test_equal_steps_compare_the_same_shape_pairs_and_steps_alone():
    students = [
        student("sft", 10, 1, level(20)), student("sft", 20, 2, level(30)), student("kd", 10, 1, level(25)),
        student("kd", 20, 2, level(30)), student("kd", 40, 4, level(31)), student("kd", 10, 1, level(9), shape="1-1"),
        student("kd", 10, 1, level(9), max_pairs=5),
    ]  # fmt: skip
    found = at_equal_steps(students, "rougeL")
    assert [(v.a, v.b) for v in found] == [
        ("2-1 kd, 10 steps", "2-1 sft, 10 steps"), ("2-1 kd, 20 steps", "2-1 sft, 20 steps"),
    ]  # fmt: skip
    assert found[0].delta == pytest.approx(5, abs=0.1) and found[0].verdict == "BEATS"
    assert found[1].verdict == "INCONCLUSIVE" and {v.comparisons for v in found} == {2}


def test_equal_time_interpolates_fine_tuning_in_the_logarithm_of_the_time():
    plain = [student("sft", 10, 100, level(20)), student("sft", 40, 400, level(30))]
    # 200 s is half way between 100 and 400 s: fine-tuning has 25 there.
    (found,) = at_equal_time([*plain, student("kd", 10, 150, level(26), beforehand=50)], "rougeL")
    assert (found.a, found.b) == ("2-1 kd, 10 steps", "sft in the time of 2-1 kd, 10 steps")
    assert found.delta == pytest.approx(1, abs=0.1) and found.verdict == "BEATS"
    wanted = (plain[0].scores["rougeL"] + plain[1].scores["rougeL"]).mean() / 2
    assert 26 - found.delta == pytest.approx(wanted, abs=0.1)


def test_methods_of_almost_the_same_time_have_baselines_of_their_own():
    plain = [student("sft", 10, 1, level(10)), student("sft", 40, 9, level(20))]
    kd, jsd = at_equal_time([*plain, student("kd", 10, 2.6, level(15)), student("jsd", 10, 3.4, level(15))], "rougeL")
    share = np.log(2.6) / np.log(9)
    assert kd.delta == pytest.approx(15 - 10 * (1 - share) - 20 * share, abs=0.1) and kd.verdict == "BEATS"
    assert jsd.delta < 0 and kd.b != jsd.b


@pytest.mark.parametrize(("seconds", "compared"), [(95, 0), (96, 1), (100, 1), (400, 1), (419, 1), (421, 0)])
def test_times_that_fine_tuning_was_not_given_are_not_compared(seconds, compared):
    plain = [student("sft", 10, 100, level(20)), student("sft", 40, 400, level(30))]
    found = at_equal_time([*plain, student("kd", 10, seconds, level(26))], "rougeL")
    assert len(found) == compared
    if compared:
        assert 26 - found[0].delta == pytest.approx(20 if seconds < 200 else 30, abs=0.1)


def test_trainings_of_unequal_numbers_of_seeds_are_interpolated_with_the_smaller_number():
    seeds = np.stack([level(20), level(21), level(22)])
    plain = [student("sft", 10, 100, seeds), student("sft", 40, 400, level(30))]
    (found,) = at_equal_time([*plain, student("kd", 10, 200, level(26))], "rougeL")
    assert 26 - found.delta == pytest.approx(25, abs=0.1)


def test_without_fine_tuning_there_is_nothing_to_compare():
    students = [student("kd", 10, 1, level(20))]
    assert at_equal_steps(students, "rougeL") == at_equal_time(students, "rougeL") == []


def test_on_policy_students_are_compared_with_distillation_on_fixed_text_too():
    others = [student(m, steps, steps, level(20)) for m in ("sft", "kd") for steps in (10, 40)]
    found = [*others, student("gkd", 10, 20, level(21))]
    gkd = [v.b for v in at_equal_steps(found, "rougeL") if "gkd" in v.a]
    assert gkd == ["2-1 sft, 10 steps", "2-1 kd, 10 steps"]
    gkd = [v.b for v in at_equal_time(found, "rougeL") if "gkd" in v.a]
    assert gkd == ["sft in the time of 2-1 gkd, 10 steps", "kd in the time of 2-1 gkd, 10 steps"]


def test_students_of_other_pairs_are_no_reference_for_the_time():
    plain = [student("sft", steps, steps, level(20), max_pairs=5) for steps in (10, 40)]
    assert not at_equal_time([*plain, student("kd", 10, 20, level(21))], "rougeL")


def test_the_main_students_of_the_same_pairs_have_a_budget_too():
    longer = student("sft", 40, 4, level(20))
    same = [student(method, 10, 1, level(20), group="main") for method in ("sft", "kd")]
    others = [
        student("sft", 10, 1, level(20), max_pairs=5, group="main"), student("copy", 10, 1, level(1), group="main"),
        student("scratch", 10, 1, level(1), group="main"), student("sft", 10, 1, level(20), shape="1-1", group="shapes"),
    ]  # fmt: skip
    random = student("scratch", 40, 4, level(1))
    assert with_budgets([*same, *others, longer, random]) == [*same, longer]
    assert with_budgets([student("sft", 40, 4, level(20), group="main"), longer]) == [longer], "the same training"
    assert with_budgets([*same, *others]) == []


def test_students_of_the_main_comparison_are_compared_in_its_family_alone():
    main = [student(method, 10, 1, level(20), group="main") for method in ("sft", "kd")]
    longer = [student(method, 40, 4, level(20)) for method in ("sft", "kd")]
    found = at_equal_steps([*main, *longer], "rougeL")
    assert [(v.a, v.b) for v in found] == [("2-1 kd, 40 steps", "2-1 sft, 40 steps")]


def test_interpolated_seeds_do_not_make_the_seeds_look_alike():
    """Half way between two students, seeds that lie apart in opposite directions cancel."""
    apart = np.array([-1.0, 0.0, 1.0])[:, None]
    plain = [student("sft", 10, 100, level(20) + apart), student("sft", 40, 400, level(20) - apart)]
    kd = student("kd", 10, 200, level(21) + apart[[1, 0, 2]])
    (found,) = at_equal_time([*plain, kd], "rougeL")
    # t(0.975, 6 degrees of freedom) · √(2 systems · variance 1 ÷ 3 seeds), on both sides
    assert found.ci[1] - found.ci[0] == pytest.approx(2 * 2.447 * (2 / 3) ** 0.5, rel=0.05)


def test_the_best_fine_tuning_took_no_longer_and_has_the_lowest_validation_loss():
    plain = [
        student("sft", 10, 100, level(20), loss=3.5), student("sft", 20, 200, level(24), loss=3.1),
        student("sft", 40, 400, level(23), loss=3.2), student("sft", 80, 800, level(30), loss=3.0),
        student("sft", 15, 150, level(99), loss=0.1, shape="1-1"),
    ]  # fmt: skip
    found = against_the_best([*plain, student("kd", 10, 390, level(25)), student("kd", 9, 90, level(25))], "rougeL")
    assert [(v.a, v.b) for v in found] == [("2-1 kd, 10 steps", "2-1 sft, 20 steps")], "90 s: no fine-tuning took less"
    assert found[0].delta == pytest.approx(1, abs=0.1) and found[0].verdict == "BEATS"


def test_a_method_that_overtakes_does_so_where_the_lines_cross():
    plain = [student("sft", n, n, level(20)) for n in (100, 400)]
    # 18 at 100 s and 22 at 400 s: as much as 20 half way in the logarithm, after 200 s.
    (found,) = crossings([*plain, student("kd", 1, 100, level(18)), student("kd", 4, 400, level(22))], "rougeL")
    assert (found["a"], found["b"]) == ("2-1 kd", "sft") and found["range"] == pytest.approx([100, 400])
    assert found["seconds"] == pytest.approx(200, rel=0.03)
    low, high = found["ci"]
    assert 100 < low < found["seconds"] < high < 400


@pytest.mark.parametrize(
    ("levels", "seconds"),
    [((22, 22), 100), ((22, 18), None), ((18, 18), None)],
    ids=["always", "only at first", "never"],
)
def test_a_method_that_always_or_never_leads_at_the_end_does_not_cross(levels, seconds):
    plain = [student("sft", n, n, level(20)) for n in (100, 400)]
    (found,) = crossings(
        [*plain, *(student("kd", n, n, level(x)) for n, x in zip((90, 500), levels, strict=True))], "rougeL"
    )
    assert found["seconds"] == pytest.approx(seconds) and found["ci"] == pytest.approx([seconds, seconds])


def test_the_last_crossing_counts_and_only_where_both_were_trained():
    plain = [student("sft", n, n, level(20)) for n in (100, 1600)]
    kd = [student("kd", n, n, level(x)) for n, x in ((200, 22), (400, 18), (800, 22), (6400, 10))]
    (found,) = crossings([*plain, *kd], "rougeL")
    assert found["range"] == pytest.approx([200, 1600])
    assert found["seconds"] is None, "by 1,600 s it has fallen to 18"
    (found,) = crossings([*plain, *kd[:3]], "rougeL")
    assert found["seconds"] == pytest.approx(400 * 2**0.5, rel=0.05)
    several = student("kd", 800, 800, np.stack([level(22), level(22)]))
    assert not crossings([*plain, *kd[:2], several], "rougeL"), "its interval would not cover the seeds"
    assert not crossings([*plain, kd[0]], "rougeL") and not crossings([plain[0], *kd], "rougeL")
