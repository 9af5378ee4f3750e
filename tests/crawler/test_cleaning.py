"""Paragraphs, kept and dropped."""

from hypothesis import given
from hypothesis import strategies as st

from crawler.cleaning import clean, normalise


def test_every_dropped_paragraph_has_a_reason() -> None:
    given = ["A  Title ", "One\u00a0two.", " ", "Zero\u200bwidth", "one two.", "A title", "e\u0301"]
    cleaned = clean(given, ("A title",))
    assert cleaned.paragraphs == ("One two.", "Zerowidth", "A title", "\u00e9")
    assert cleaned.dropped == {"title": 1, "empty": 1, "repeated": 1}
    assert cleaned.text == "One two.\n\nZerowidth\n\nA title\n\n\u00e9"


@given(st.lists(st.text()))
def test_nothing_is_lost_uncounted_and_cleaning_twice_changes_nothing(texts: list[str]) -> None:
    cleaned = clean(texts)
    assert len(cleaned.paragraphs) + cleaned.dropped.total() == len(texts)
    assert clean(cleaned.paragraphs).paragraphs == cleaned.paragraphs
    assert all(text == normalise(text) and text for text in cleaned.paragraphs)
    cleaned.text.encode()
