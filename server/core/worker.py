"""Work that would hold the event loop for too long: it goes to a thread, or makes pauses."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

TURN: Final = 0.005
"""Seconds of work, after which others have theirs."""

SMALL: Final = 32 << 10
"""Bytes that are worked on where they are: some milliseconds at most, which is about what going elsewhere costs."""
SWITCH: Final = 0.0005
"""Seconds after which the thread makes way for the loop. The loop may need the interpreter anew for every socket of a
turn, so the default of 5 ms would add up."""


class Worker:
    """One thread: the interpreter runs one at a time, and gives the loop its turn whatever this one does, between two
    instructions of Python: work should consist of many. More threads would only take more turns."""

    __slots__ = ("_thread", "_usual")

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._usual = sys.getswitchinterval()

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """What `work` returns; in the thread if it is about more than SMALL bytes. It must not touch what the loop
        changes meanwhile."""
        if size <= SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._aside, work)

    def _aside(self, work: Callable[[], T]) -> T:
        """Without the collector, which would look through all that a large document is made of, in one go, and find
        nothing: there are no circles in it."""
        collecting = gc.isenabled()
        gc.disable()
        sys.setswitchinterval(SWITCH)
        try:
            return work()
        finally:
            sys.setswitchinterval(self._usual)
            if collecting:
                gc.enable()


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
