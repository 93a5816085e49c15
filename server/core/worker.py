"""Work that would hold the event loop for too long: it goes to a thread, or makes pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

TURN: Final = 0.005
"""Seconds of work, after which others have theirs."""

SMALL: Final = 256 << 10
"""Bytes that are worked on where they are: some milliseconds at most, which is less than going elsewhere costs."""


class Worker:
    """One thread: the interpreter runs one at a time, and gives the loop its turn every few milliseconds, whatever
    this one does. More of them would only take more turns."""

    __slots__ = ("_thread",)

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """What `work` returns; in the thread if it is about more than SMALL bytes. It must not touch what the loop
        changes meanwhile."""
        if size <= SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Pace:
    """Long work on the loop's own time, in many small steps: `await rest()` between them."""

    __slots__ = ("_loop", "_began")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def rest(self) -> None:
        """Let others have their turn, if ours has been long enough."""
        if self._loop.time() - self._began > TURN:
            await asyncio.sleep(0)
            self._began = self._loop.time()
