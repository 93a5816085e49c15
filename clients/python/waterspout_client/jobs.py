"""Working for a consumer whose messages are fetched: `Client.consume`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Push

WAIT = 30
"""Seconds for which the server holds a question that it has no message for."""


_NAMES = ("id", "channel", "offset", "key", "user", "time", "data", "delivery", "type", "of", "op")


class _Asks(Protocol):
    async def request(self, kind: str, /, *, again: bool = True, **fields: Any) -> Push: ...


@dataclass(frozen=True)
class Job:
    """A message to work on: one worker's until its lease is over."""

    id: str
    channel: str
    offset: int
    key: str
    user: str | None
    time: int
    """Milliseconds since 1970."""
    data: Any
    delivery: int
    """1: nobody has had it before."""
    consumer: str = field(repr=False)
    _client: _Asks = field(repr=False, compare=False)
    type: str = "message"
    """`amend`: what has become of the message at the offset `of`, and `op` says what."""
    of: int | None = None
    op: str | None = None
    fields: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All that the server says of it: `deleted`, `thread`, `reactions`… where there are any."""
    _settled: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def settled(self) -> bool:
        """Whether it was said what became of it."""
        return bool(self._settled)

    async def ack(self) -> None:
        """It is done. The loop says so itself when it asks for the next one."""
        self._settled.append("ack")
        await self._client.request("ack", consumer=self.consumer, ids=[self.id])

    async def nack(self, delay: float = 0) -> None:
        """It is not done, and is to be handed out again, after so many seconds."""
        self._settled.append("nack")
        await self._client.request("nack", consumer=self.consumer, ids=[self.id], delay=delay)


def _job(fields: dict[str, Any], consumer: str, client: _Asks) -> Job:
    known = {name: fields[name] for name in _NAMES if name in fields}
    return Job(**known, consumer=consumer, fields=fields, _client=client)


async def consume(
    client: _Asks, consumer: str, limit: int, on_gap: Callable[[dict[str, Any]], object] | None
) -> AsyncGenerator[Job, None]:
    while True:
        reply = await client.request("fetch", consumer=consumer, limit=limit, wait=WAIT)
        jobs = [_job(fields, consumer, client) for fields in reply["messages"]]
        try:
            for gap in reply.get("gaps", ()):
                if on_gap is not None:
                    on_gap(gap)
            for job in jobs:
                yield job
                if not job.settled:
                    await job.ack()
        finally:
            left = [job.id for job in jobs if not job.settled]
            if left:  # the loop was left: others need not wait for the end of the lease
                with suppress(WaterspoutError):
                    await client.request("nack", again=False, consumer=consumer, ids=left)
