"""What is due at a time of its own, each thing at its own, with one timer for all of them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Alarms(Generic[T]):
    """`ring(item)` is called at its time, in the order of the times; it may set others, and must not raise."""

    __slots__ = ("_ring", "_set", "_numbers", "_timer")

    def __init__(self, ring: Callable[[T], None]) -> None:
        self._ring = ring
        self._set: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._set)

    def set(self, due: float, item: T) -> None:
        """`due`: by the event loop's time."""
        heapq.heappush(self._set, (due, next(self._numbers), item))
        self._arm()

    def take(self) -> list[T]:
        """All that are still to come: they do not ring any more."""
        taken, self._set = [item for _, _, item in sorted(self._set)], []
        self.close()
        return taken

    def close(self) -> None:
        """Nothing rings any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = self._set[0][0]
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._set and self._set[0][0] <= now:
            self._ring(heapq.heappop(self._set)[2])
        if self._set:
            self._arm()
