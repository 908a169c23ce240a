"""How a property is checked: with the same examples on every machine, however slow, so that a failure is the code's and comes again."""

from hypothesis import settings


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True)
