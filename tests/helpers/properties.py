"""How often a property is checked, and on lists of which lengths; ``conftest`` has the examples be the same on every machine."""

from hypothesis import settings
from hypothesis import strategies as st


def examples(count: int) -> settings:
    return settings(max_examples=count)


def lists(elements: st.SearchStrategy, least: int, most: int) -> st.SearchStrategy[list]:
    """Long ones as often as short ones: left to itself, hypothesis draws some six elements."""
    return st.integers(least, most).flatmap(lambda size: st.lists(elements, min_size=size, max_size=size))
