"""Our errors in their numbers."""

from __future__ import annotations

from typing import Any, Final

from server.core.errors import Error

INTERNAL: Final = 100
METHOD_NOT_FOUND: Final = 104
NOT_AVAILABLE: Final = 108
UNRECOVERABLE: Final = 112

_ERRORS: Final = {
    "internal": INTERNAL,
    "unavailable": INTERNAL,
    "outcome_unknown": INTERNAL,
    "unauthenticated": 101,
    "unknown_channel": 102,
    "permission_denied": 103,
    "conflict": 105,
    "limit_exceeded": 106,
    "bad_request": 107,
    "too_large": 107,
    "not_found": NOT_AVAILABLE,
    "token_expired": 109,
    "rate_limited": 111,
}


class CodedError(Error):
    """An error that only their protocol knows, with its own number."""

    def __init__(self, number: int, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.number = number


def unrecoverable(reason: str) -> CodedError:
    """The position that was asked for is of another history."""
    return CodedError(UNRECOVERABLE, "not_found", reason)


def error_fields(error: Error) -> dict[str, Any]:
    """{"code", "message", "temporary"?} of an error in a reply. `temporary`: the same may succeed later."""
    if error.code == "refused":
        number = error.status  # numbers from 400 on are an application's own
    else:
        number = error.number if isinstance(error, CodedError) else _ERRORS[error.code]
    fields: dict[str, Any] = {"code": number, "message": error.reason}
    if error.retry:
        fields["temporary"] = True
    return fields
