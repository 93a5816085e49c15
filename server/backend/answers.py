"""What comes of asking a back end: a reply, a failure of it, or that it could not be asked.

None of it holds words of the back end but the body of its reply: what it says of its failures may quote what it was
asked about, and is not for the log.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from server.core.errors import Error
from server.wire.codec import JSON

REASON: Final = 1000


class Failed(Exception):
    """No answer, or none that can be understood: the back end's own failure. Its text says which, in our words."""


class Busy(Exception):
    """It was not asked, or its answer was not heard, because of too much else to do here: nothing is known of it."""


class Refused(Exception):
    """What a function raises to say no: what a URL says with a status of 400 to 499 and problem+json."""

    def __init__(self, reason: str, details: Any = None, status: int = 422) -> None:
        """`details`: anything that JSON can hold, for whoever has asked."""
        super().__init__(reason)
        self.reason = reason
        self.details = details
        self.status = status


class Reply:
    """What a back end has answered: the status of HTTP, which is 200 for what a function returns, and a body."""

    __slots__ = ("status", "body", "content_type", "retry_after")

    def __init__(
        self, status: int, body: bytes = b"", content_type: str = "", retry_after: float | None = None
    ) -> None:
        self.status = status
        self.body = body
        """Empty if nobody wanted it."""
        self.content_type = content_type
        """Without its parameters, in lower case."""
        self.retry_after = retry_after
        """Seconds after which it wants to be asked again, as `Retry-After` says; None: it says nothing."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def value(self) -> Any:
        """The JSON that the body is; None: it is empty. `Failed` if it is none, or one that is larger than a message
        may be."""
        try:
            return JSON.decode(self.body) if self.body.strip() else None
        except Error as error:
            raise Failed(f"its answer is not JSON: {error.reason}") from None

    def problem(self) -> Mapping[str, Any] | None:
        """The problem+json that it has answered a status of 400 to 499 with; None: it is something else."""
        if not 400 <= self.status < 500 or self.content_type != "application/problem+json":
            return None
        try:
            problem = self.value()
        except Failed:
            return None
        return problem if isinstance(problem, Mapping) else None


def reason_of(problem: Mapping[str, Any]) -> str:
    """Why the back end says no: its `reason`, else its `detail` or `title`, at most REASON characters."""
    texts = (problem.get(name) for name in ("reason", "detail", "title"))
    return next((text for text in texts if isinstance(text, str) and text), "the back end says no")[:REASON]


def seconds_until(retry_after: str | None, now: float) -> float | None:
    """What the header `Retry-After` says, at the time `now` (seconds since 1970): a number of seconds, or a date. None
    if it says nothing that can be understood."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def why(error: BaseException) -> str:
    """Why it failed, without an exception's own words: they may quote what it was asked about."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, Failed):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"failed: {type(error).__name__} in {where.name}, line {where.lineno}"
