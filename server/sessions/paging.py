"""Pages that are on their way to one client: replies are never dropped, so there may not be too much of them."""

from __future__ import annotations

import asyncio

from server.sessions.outbox import Outbox


class Paging:
    """`limit`: bytes that may wait for the client, 0 for any number; while there are more, no page is read.

    A page is read in a turn (`async with paging`), one at a time, as nobody knows how large it becomes. What is certain
    not to become large may be read besides, if there is room for it (`reserve`).
    """

    __slots__ = ("_outbox", "_limit", "_turn", "_reserved")

    def __init__(self, outbox: Outbox, limit: int) -> None:
        self._outbox = outbox
        self._limit = limit
        self._turn = asyncio.Lock()
        self._reserved = 0

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes; then it is taken until it is given back (`free`)."""
        if self._limit and self._outbox.queued + self._reserved + size > self._limit:
            return False
        self._reserved += size
        return True

    def free(self, size: int) -> None:
        self._reserved -= size

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        try:
            if self._limit and self._outbox.queued > self._limit:
                await self._outbox.drained()
        except BaseException:
            self._turn.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()
