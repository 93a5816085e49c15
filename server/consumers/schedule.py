"""Whose turn it is: the channels of one consumer that have something new take turns, so many at a time.

Nothing waits by itself: a channel that has failed has its time, and one timer wakes the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from server.consumers.channel import Channel
from server.core.alarms import Alarms
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
        self._waiting: Alarms[Channel | None] = Alarms(self._wake)
        """Whose time it will be, and when all have rested (None)."""
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
        one.place = "waiting"
        self._waiting.set(asyncio.get_running_loop().time() + seconds, one)

    def rest(self, seconds: float) -> None:
        """Nobody has a turn for so long."""
        self._rests_until = asyncio.get_running_loop().time() + seconds
        self._waiting.set(self._rests_until, None)

    def retry(self) -> None:
        """Who waits for a time has a turn now."""
        self._rests_until = 0.0
        for one in self._waiting.take():
            self._wake(one)
        self.go_on()

    def go_on(self) -> None:
        """Begin with as many as may have a turn. To be called when there may be more of them than before."""
        if not self._ready or self.leaving or self._rests_until > asyncio.get_running_loop().time():
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
        self._waiting.close()

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

    def _wake(self, one: Channel | None) -> None:
        if one is None:
            self.go_on()
        elif one.place == "waiting":  # else it was dropped meanwhile
            self.put(one)
