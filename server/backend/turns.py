"""So many questions at a time, and the others wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.backend.answers import Busy


class Turns:
    """`concurrency` at a time, in the order of asking."""

    __slots__ = ("waiting", "_turns")

    def __init__(self, concurrency: int) -> None:
        self.waiting = 0
        self._turns = asyncio.Semaphore(concurrency)

    @asynccontextmanager
    async def take(self, most: int, within: float) -> AsyncIterator[None]:
        """`Busy` if `most` wait already, or if it takes longer than so many seconds."""
        if self.waiting >= most:
            raise Busy("too many questions wait for it")
        self.waiting += 1
        try:
            async with asyncio.timeout(within):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy("too many questions wait for it") from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
