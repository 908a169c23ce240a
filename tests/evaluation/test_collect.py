"""Which systems of a study are compared."""

from types import SimpleNamespace

import numpy as np

from distill_utils.evaluation.collect import other_shapes


def student(name, group, method, examples):
    run = SimpleNamespace(method=method)
    return SimpleNamespace(name=name, group=group, run=run, examples=np.arange(examples))


def test_a_shape_is_compared_with_the_studys_own_after_the_same_method_on_the_same_pairs():
    main = [student("6-3 sft", "main", "sft", 8), student("6-3 kd", "main", "kd", 8)]
    longer = student("6-3 kd, 99 steps", "budgets", "kd", 8)
    shapes = [student("6-1 kd", "shapes", "kd", 8), student("3-1 kd", "shapes", "kd", 4)]
    assert other_shapes([*main, longer, *shapes]) == [("6-3 kd", "6-1 kd")]
