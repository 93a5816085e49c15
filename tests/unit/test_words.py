"""The words of messages and of what is searched for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.log.words import MAX_WORD, MAX_WORDS, Question, question, words_in, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Green Tea, at four!", ["green", "tea", "at", "four"]),
        ("Caf\u00e9 CAFE\u0301 Stra\u00dfe", ["cafe", "cafe", "strasse"]),
        ("\u0427\u0410\u0419 snake_case v1.2", ["\u0447\u0430\u0438", "snake", "case", "v1", "2"]),
        ("\u6771\u4eac tower\u3078", ["\u6771", "\u4eac", "tower", "\u3078"]),
        ("a" * 100, ["a" * MAX_WORD]),
        (" \n:-) \U0001f375", []),
    ],
)  # fmt: skip
def test_words(text: str, words: list[str]) -> None:
    """Letters and digits, without case and accents; each character where there are no spaces between words."""
    assert words_in(text) == words


def test_words_of_a_message() -> None:
    """Of all strings in it, each once, up to a limit; the names of its members do not count."""
    assert sorted(words_of({"text": "tea", "more": [{"note": "Green tea"}, 1, None], "tea": True})) == ["green", "tea"]
    assert words_of(1) == words_of(None) == words_of({}) == []
    assert len(words_of([f"word{number}" for number in range(500)])) == MAX_WORDS


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Tea", Question((), "tea")),
        ("tea ", Question(("tea",), "")),
        ("green te", Question(("green",), "te")),
        ("te te", Question(("te",), "te")),
        ("!", Question((), "")),
    ],
)
def test_the_last_word_may_be_a_beginning(text: str, asked: Question) -> None:
    """As it is typed."""
    assert question(text) == asked


@given(st.text(max_size=60), st.integers(0, 60))
def test_what_is_written_is_found(text: str, cut: int) -> None:
    """A message is found by its own text, and by the beginning of it that is cut off between two letters."""
    words = frozenset(words_of(text))
    if words:
        assert question(text).fits(words)
        start = text[:cut]
        if start and question(start) != ((), "") and len(text) < MAX_WORD:
            assert question(start).fits(words) or not start.isascii()
