"""The log: what a line looks like, and that repeats are counted."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.config import Log
from server.core.logs import BURST, PER_SECONDS, JSONFormatter, Repeats, TextFormatter, readable


def record(message: str = "refused: %s", *values: object, created: float = 0.0, **extra: object) -> logging.LogRecord:
    one = logging.LogRecord("server.session", logging.INFO, __file__, 1, message, values, None)
    one.created = created
    vars(one).update(extra)
    return one


def test_text_has_the_message_and_the_fields_that_are_there() -> None:
    line = TextFormatter().format(record("refused: %s", "burst", session="s1", user=None, ip="::1"))
    assert line.endswith("INFO    refused: burst session=s1 ip=::1")


@given(st.text())
def test_nobody_writes_lines_of_ours(text: str) -> None:
    """A client's words stay on one line, in either form."""
    one = record("refused: %s", text, user=text)
    assert len(TextFormatter().format(one).splitlines()) == 1
    entry = json.loads(JSONFormatter().format(one))
    assert entry["message"] == f"refused: {text}"
    assert entry["user"] == text


def test_json_has_time_level_and_traceback() -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        one = record("a command failed", created=1764000000.123, session="s1", other="not shown")
        one.exc_info = sys.exc_info()
    entry = json.loads(JSONFormatter().format(one))
    assert "ValueError: what went wrong" in entry.pop("error")
    assert entry == {
        "time": "2025-11-24T16:00:00.123+00:00",
        "level": "info",
        "logger": "server.session",
        "message": "a command failed",
        "session": "s1",
    }


def test_repeats_are_counted() -> None:
    repeats = Repeats()
    let_through = [repeats.filter(record("refused: %s", n, created=n / 100)) for n in range(100)]
    assert let_through == [True] * BURST + [False] * (100 - BURST)
    assert repeats.filter(record("connected", created=1.0))  # of another kind
    later = record("refused: %s", "again", created=PER_SECONDS)
    assert repeats.filter(later)
    assert json.loads(JSONFormatter().format(later))["suppressed"] == 100 - BURST
    assert not hasattr(record(), "suppressed")
    calm = record("refused: %s", "calm", created=3 * PER_SECONDS)
    assert repeats.filter(calm)
    assert not hasattr(calm, "suppressed")


def test_debug_shows_everything() -> None:
    repeats = Repeats()
    assert all(repeats.filter(record("200 GET /", levelno=logging.DEBUG)) for _ in range(10 * BURST))


@pytest.mark.parametrize(("chosen", "expected"), [(None, False), ("json", False), ("text", True)])
def test_json_where_nobody_reads(chosen: object, expected: bool) -> None:
    assert readable(Log(format=chosen), io.StringIO()) is expected  # type: ignore[arg-type]
