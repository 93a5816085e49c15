"""Work in Python that would hold the event loop for too long goes to a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

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
