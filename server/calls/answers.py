"""What a back end answers to a call, and how it is kept for whoever asks again with the same key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from server.backend.answers import Failed, Reply, reason_of
from server.core.errors import Error
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

DETAILS_BYTES: Final = 1 << 14
"""Of its details, as JSON. If they are more the client gets none."""


class Refusal(NamedTuple):
    status: int
    reason: str
    details: Any

    def error(self, name: str) -> Error:
        """As the client is told of it; the log is told the pattern's `name` only, for the words are the back end's."""
        return Error("refused", self.reason, status=self.status, details=self.details, told=f"refused by {name}")


class Answer(NamedTuple):
    data: Any
    refusal: Refusal | None = None
    """Not None: there is no data."""

    @classmethod
    def read(cls, reply: Reply, most: int) -> Answer:
        """`Failed` for whatever is neither data nor a refusal, and for more than `most` bytes."""
        if len(reply.body) > most:
            raise Failed(f"answered more than {most} bytes")
        if not reply.ok:
            problem = reply.problem()
            if problem is None:
                raise Failed(f"answered {reply.status}")
            return cls(None, _refusal(reply.status, problem))
        value = reply.value()
        if value is None:
            return cls(None)
        if isinstance(value, Mapping):
            if "data" in value:
                return cls(value["data"])
            status = value.get("status")
            if not reply.content_type and isinstance(status, int) and 400 <= status < 500:
                return cls(None, _refusal(status, value))  # a function returns what a URL answers with that status
        raise Failed("answered no object with data in it")

    def encode(self) -> bytes:
        return JSON.encode({"data": self.data} if self.refusal is None else self.refusal._asdict())

    @classmethod
    def decode(cls, kept: bytes) -> Answer:
        fields = JSON.decode(kept)
        return cls(fields["data"]) if "data" in fields else cls(None, Refusal(**fields))


def _refusal(status: int, problem: Mapping[str, Any]) -> Refusal:
    details = problem.get("details")
    if details is not None and len(JSON.encode(details)) > DETAILS_BYTES:
        logger.warning("a refusal's details are more than %d bytes: the client gets none", DETAILS_BYTES)
        details = None
    return Refusal(status, reason_of(problem), details)
