"""What can go wrong, in two families and two catalogues.

    Error        answers a command or a request; the connection stays    (ERRORS: code → HTTP status, retry)
    Disconnect   ends a connection                                       (constants below: WebSocket close codes)

    WaterspoutError
    ├── Error            code, reason, retry, retry_after
    └── Disconnect       code, reason, delay
    StartError           a start that cannot go on: one line for the operator, never a traceback

Foreign exceptions (PyMongo's, redis-py's, msgspec's) are mapped to these at the border, once.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Kind(NamedTuple):
    status: int
    """The HTTP status REST answers with."""
    retry: bool
    """Whether the same request may succeed later (with the same key, if it is a publish)."""


ERRORS: Final[dict[str, Kind]] = {
    "bad_request": Kind(400, False),
    "unauthenticated": Kind(401, False),
    "token_expired": Kind(401, False),
    "permission_denied": Kind(403, False),
    "unknown_channel": Kind(404, False),
    "not_found": Kind(404, False),
    "conflict": Kind(409, False),
    "too_large": Kind(413, False),
    "refused": Kind(422, False),
    "rate_limited": Kind(429, True),
    "limit_exceeded": Kind(429, False),
    "unavailable": Kind(503, True),
    "outcome_unknown": Kind(503, True),
    "internal": Kind(500, True),
}


NOTABLE: Final = frozenset(("unauthenticated", "token_expired", "permission_denied", "rate_limited", "limit_exceeded"))
"""What an operator wants to read of, with its reason."""


class WaterspoutError(Exception):
    """The root of both families."""


class Error(WaterspoutError):
    """Answers one command or request; `code` is one of ERRORS."""

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        rev: str | None = None,
        limit: str | None = None,
        told: str | None = None,
        details: Any = None,
    ) -> None:
        """`told`: what the log and operators read in place of a `reason` that quotes what somebody sent. The reason
        itself is for the sender alone."""
        super().__init__(reason)
        kind = ERRORS[code]
        self.code = code
        self.reason = reason
        self.told = told or reason
        self.retry = kind.retry
        self.retry_after = retry_after
        self.status = status or kind.status
        self.rev = rev
        """The document's revision, where another one was expected."""
        self.details = details
        """What the user's back end says besides; anything that JSON can hold."""
        self.limit = limit
        """The option whose limit was met, for what counts such things."""

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


def leaves_doubt(error: BaseException) -> bool:
    """Whether what ended with it may be done all the same, or in part: not what was refused."""
    return not isinstance(error, Error) or error.retry


class Disconnect(WaterspoutError):
    """Ends a connection with a close code. 4000–4499: come back after a delay; 4500–4999: don't.

    Codes below 4000 are RFC 6455's own (section 7.4.1); a client may come back after them as after a cut line.
    """

    def __init__(self, code: int, reason: str, *, named: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.named = named
        """The code that a back end has chosen, for clients whose protocol lets it."""

    @property
    def reconnect(self) -> bool:
        return self.code < 4500

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class StartError(WaterspoutError):
    """The server cannot start; the message is the one line an operator sees."""


# RFC 6455, section 7.4.1
PROTOCOL_ERROR: Final = 1002
INVALID_UTF8: Final = 1007
TOO_BIG: Final = 1009
# Ours
SHUTDOWN: Final = 4000
STALLED: Final = 4001
TOKEN_EXPIRED: Final = 4002
NO_PONG: Final = 4003
UNAVAILABLE: Final = 4004
DISCONNECTED: Final = 4005
FLOODED: Final = 4006
NO_CONNECT: Final = 4500
REVOKED: Final = 4501
SHUT_OUT: Final = 4502


def bad_request(reason: str, told: str | None = None) -> Error:
    return Error("bad_request", reason, told=told)


def failed() -> Error:
    """What is told of a bug."""
    return Error("internal", "the server failed; its log says why")
