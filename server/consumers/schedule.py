"""Whose turn it is: the channels of one consumer that have something new take turns, so many at a time.

Nothing waits by itself: a channel that has failed has its time, and one timer wakes the next one.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

from server.consumers.channel import Channel
from server.core.errors import Error
from server.core.tasks import Keeper

logger = logging.getLogger(__name__)

AGAIN: Final = 1.0
"""Seconds until what could not be read or asked is tried once more; that is no attempt."""


class Schedule:
    """`work(channel)` is awaited for each in its turn, and answers after how many seconds it is to have another one in
    any case, or None: then `settle(channel)` decides. `most()`: how many at a time; 0: none at the moment."""

    def __init__(
        self,
        name: str,
        keeper: Keeper,
        *,
        most: Callable[[], int],
        work: Callable[[Channel], Awaitable[float | None]],
        settle: Callable[[Channel], None],
    ) -> None:
        self._name = name
        self._keeper = keeper
        self._most = most
        self._work = work
        self._settle = settle
        self._ready: deque[Channel] = deque()
        self._waiting: list[tuple[float, int, Channel]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._rests_until = 0.0
        self.leaving = False

    @property
    def others_wait(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._ready)

    def put(self, one: Channel) -> None:
        """It has something to do."""
        one.place = "ready"
        self._ready.append(one)
        self.go_on()

    def wait(self, one: Channel, seconds: float) -> None:
        """It has its turn after so many seconds."""
        due = asyncio.get_running_loop().time() + seconds
        one.place = "waiting"
        heapq.heappush(self._waiting, (due, next(self._numbers), one))
        self._wake_at(due)

    def rest(self, seconds: float) -> None:
        """Nobody has a turn for so long."""
        self._rests_until = asyncio.get_running_loop().time() + seconds

    def retry(self) -> None:
        """Who waits for a time has a turn now."""
        self._rests_until = 0.0
        waiting, self._waiting = self._waiting, []
        for _, _, one in waiting:
            if one.place == "waiting":
                self.put(one)
        self.go_on()

    def go_on(self) -> None:
        """Begin with as many as may have a turn. To be called when there may be more of them than before."""
        if not self._ready or self.leaving:
            return
        if self._rests_until > asyncio.get_running_loop().time():
            self._wake_at(self._rests_until)
            return
        most = self._most()
        while self._ready and len(self._running) < most:
            one = self._ready.popleft()
            if one.place == "ready":  # else it was dropped meanwhile
                one.place = "running"
                task = self._keeper.spawn(f"consumer {self._name}", self._run(one))
                self._running.add(task)
                task.add_done_callback(self._ended)

    async def leave(self, within: float) -> None:
        """Begin nothing any more, and wait so many seconds for what is under way."""
        self.leaving = True
        if self._running:
            await asyncio.wait(self._running, timeout=within)
        if self._timer is not None:
            self._timer.cancel()

    async def _run(self, one: Channel) -> None:
        pause: float | None = AGAIN
        try:
            pause = await self._work(one)
        except Error as error:
            logger.warning("consumer %s: %s", self._name, error.reason)
        except Exception:
            logger.exception("consumer %s has failed", self._name)
        finally:
            one.place = "idle"
            if pause is not None and not one.stale:
                self.wait(one, pause)
            else:
                self._settle(one)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.go_on()

    def _wake_at(self, due: float) -> None:
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, one = heapq.heappop(self._waiting)
            if one.place == "waiting":
                self.put(one)
        if self._waiting:
            self._wake_at(self._waiting[0][0])
        self.go_on()
