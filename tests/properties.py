"""How a property is checked: with the same examples on every machine, however slow, so that a failure is the code's and comes again."""

from hypothesis import settings
from hypothesis import strategies as st


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True)


def lists(elements: st.SearchStrategy, least: int, most: int) -> st.SearchStrategy[list]:
    """Long ones as often as short ones: left to itself, hypothesis draws some six elements."""
    return st.integers(least, most).flatmap(lambda size: st.lists(elements, min_size=size, max_size=size))
