"""The log: lines for people on a terminal, JSON for machines elsewhere. What repeats is counted, not repeated.

A record says more than its message through `extra`: the names in FIELDS. Tokens, passwords, payloads and queries are
not among them, and must not be in messages either.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from server.core.config import Log
from server.core.errors import WaterspoutError

FIELDS: Final = ("session", "request", "user", "ip", "origin", "code", "suppressed")
"""`suppressed`: so many records like this one were left out before it."""
BURST: Final = 10
PER_SECONDS: Final = 10.0
"""Of records with the same message (before its values are put in), BURST are let through in so many seconds."""
KINDS: Final = 1000
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(options: Log, stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if readable(options, stream) else JSONFormatter())
    handler.addFilter(Repeats())
    logging.getLogger("tornado.application").addFilter(_without_arguments)
    logging.getLogger("tornado.general").addFilter(_without_quotations)
    level = logging.getLevelNamesMapping()[options.level.upper()]
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Where these say more, they say everything: commands with their documents, addresses with their queries.
    for library, least in (("pymongo", logging.INFO), ("redis", logging.INFO), ("asyncio", logging.INFO),
                           ("aiohttp", logging.INFO)):  # fmt: skip
        logging.getLogger(library).setLevel(max(level, least))


def _without_arguments(record: logging.LogRecord) -> bool:
    """Tornado logs a callback that failed with all that it was called with."""
    if "callback %r" in str(record.msg):
        record.msg, record.args = "a callback failed", None
    return True


def _without_quotations(record: logging.LogRecord) -> bool:
    """Tornado says why a request is malformed by quoting it."""
    if str(record.msg).startswith("Malformed HTTP message from") and isinstance(record.args, tuple):
        record.msg, record.args = "malformed HTTP from %s", record.args[:1]
    return True


def readable(options: Log, stream: TextIO) -> bool:
    """Whether the log is for people."""
    return stream.isatty() if options.format is None else options.format == "text"


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for name in FIELDS:
        value = getattr(record, name, None)
        if value is not None:
            yield name, value


def traced(error: BaseException | None) -> str:
    """A traceback without the words of exceptions that are not ours: they may quote what a client has sent, or what it
    was to be sent. Where it happened and of what kind it is says enough."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inside = [traced(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
        words = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        if isinstance(error, WaterspoutError):
            words += f": {error}"
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append("\n".join(["Traceback (most recent call last):", *frames.splitlines(), words, *inside]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich came of\n\n".join(parts)


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For the event loop, which would log its tasks and callbacks with all their arguments."""
    message = str(context.get("message", ""))
    if "callback" in message:
        message = "a callback failed"
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else ""
    error = context.get("exception")
    logging.getLogger("asyncio").error("%s", f"{message} {name}".strip(), exc_info=error)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatException(self, ei: Any) -> str:
        return traced(ei[1])

    def formatMessage(self, record: logging.LogRecord) -> str:
        words = [super().formatMessage(record), *(f"{name}={value}" for name, value in _fields(record))]
        # A client's own words are among them: they must not look like lines of ours.
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], " ".join(words))


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **dict(_fields(record)),
        }
        if record.exc_info:
            entry["error"] = traced(record.exc_info[1])
        return msgspec.json.encode(entry, enc_hook=str).decode()


class Repeats(logging.Filter):
    """A client that is refused a thousand times a second must not fill the disk, or hide what else happens.
    What is shown at `debug` only is shown in full."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        """Kind of record → when its count began, and the count."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        kind = record.name, str(record.msg)
        began, count = self._seen.get(kind, (record.created, 0))
        if record.created - began >= PER_SECONDS:
            if count > BURST:
                record.suppressed = count - BURST
            began, count = record.created, 0
        if len(self._seen) >= KINDS:
            self._seen.clear()
        self._seen[kind] = began, count + 1
        return count < BURST
