"""What can go wrong: the server's `error`, or the client's own.

WaterspoutError
└── Unsubscribed    the server has ended a subscription
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class WaterspoutError(Exception):
    """The server's codes are in docs/protocol.md. The client's own: `disconnected` (no answer came; whether the command
    was carried out is unknown), `closed` (the client is), `limit_exceeded` and `too_large` (before it was sent)."""

    def __init__(
        self,
        code: str,
        reason: str,
        retry: bool = False,
        retry_after: float | None = None,
        rev: str | None = None,
        details: Any = None,
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.retry = retry
        """Whether the same may succeed later."""
        self.retry_after = retry_after
        """Seconds; None if the server did not say."""
        self.rev = rev
        """What a document's `_rev` is, if another one was asked for."""
        self.details = details
        """What the back end says besides, of a call that it has refused."""

    @classmethod
    def of(cls, push: Mapping[str, Any]) -> WaterspoutError:
        after = push.get("retry_after")
        return cls(
            str(push.get("code")), str(push.get("reason", "")), push.get("retry") is True,
            float(after) if after is not None else None, push.get("rev"), push.get("details"),
        )  # fmt: skip


class Unsubscribed(WaterspoutError):
    """The server has ended the subscription: a right was revoked, say. Everything before it was handed on."""


def disconnected() -> WaterspoutError:
    return WaterspoutError("disconnected", "the connection was lost before the reply", retry=True)
