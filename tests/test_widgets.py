"""What notebooks show: texts as text, whatever they contain."""

from distill_utils.widgets import table


def test_texts_are_shown_as_text():
    html = table([{"a": "<script>alert(1)</script>", "b": 1.23456}, {"a": "x & y", "b": None}]).to_html()
    assert "<script>" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "1.23" in html and "–" in html
