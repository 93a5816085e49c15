"""The log: what a line looks like, and that repeats are counted."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.config import Log
from server.core.errors import Error
from server.core.logs import BURST, PER_SECONDS, JSONFormatter, Repeats, TextFormatter, on_loop_error, readable


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
    error = entry.pop("error")
    assert "Traceback" in error
    assert "ValueError" in error
    assert "test_logs.py" in error
    assert entry == {
        "time": "2025-11-24T16:00:00.123+00:00",
        "level": "info",
        "logger": "server.session",
        "message": "a command failed",
        "session": "s1",
    }


def test_what_an_exception_says_is_not_logged() -> None:
    """Its words may quote what a client has sent; where it happened, its kind and what it came of are there. Our own
    errors speak for themselves."""
    mark = "what-ann-said"
    try:
        try:
            try:
                raise KeyError(mark)
            except KeyError as error:
                raise ExceptionGroup(mark, [ValueError(mark), RuntimeError(mark)]) from error
        except ExceptionGroup as error:
            raise Error("unavailable", "MongoDB: not there") from error
    except Error:
        one = record("a command failed")
        one.exc_info = sys.exc_info()
    for formatter in (TextFormatter(), JSONFormatter()):
        text = formatter.format(one)
        assert mark not in text
        for word in ("KeyError", "ExceptionGroup", "ValueError", "RuntimeError", "Error: unavailable: MongoDB: not"):
            assert word in text


def test_what_the_event_loop_says_has_no_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks and tasks that fail unseen are logged, without what they were called with."""
    mark = "what-ann-said"

    def fail(_: object) -> None:
        raise ValueError(mark)

    async def work(_: object) -> None:
        raise ValueError(mark)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        loop.call_soon(fail, mark)
        task = loop.create_task(work(mark), name="some work")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(main())
    assert [one.getMessage() for one in caplog.records] == [
        "a callback failed",
        "Task exception was never retrieved some work",
    ]
    assert all(one.exc_info for one in caplog.records)
    for one in caplog.records:
        one.exc_text = None  # pytest's, which is kept there
        assert mark not in TextFormatter().format(one)


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
