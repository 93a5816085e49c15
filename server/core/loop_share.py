"""Fairness between connections: how much of the event loop's time what they cause may take from everything else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

SLICE: Final = 0.005
"""Seconds of one turn of the loop for what has just come, and again as many for what has waited."""
TASK: Final = 0.0001
"""Seconds that a command which goes on as a task is expected to need in the next turn."""


class LoopShare:
    """One for all connections: whose work is done now, and who waits for the next turn of the loop.

    What comes in is worked on at once, as long as there is time in this turn. What is left of it waits here, with
    everybody else's: first come, first served, a slice of time per turn.
    """

    __slots__ = ("_until", "_expected", "_waiting")

    def __init__(self) -> None:
        self._until = 0.0
        """The end of this turn's slice; 0: nothing has come in this turn."""
        self._expected = 0.0
        """Seconds that commands begun in this slice are expected to take later, as tasks."""
        self._waiting: deque[Callable[[], None]] = deque()

    def now(self) -> bool:
        """Whether what has come in may be worked on in this turn of the loop."""
        if not self._until:
            self._begin()
            return True
        return perf_counter() + self._expected < self._until

    def goes_on(self) -> bool:
        """Whether who has done its lot may do another in this turn: nobody waits, and there is time."""
        return not self._waiting and perf_counter() + self._expected < self._until

    def expect(self, tasks: int) -> None:
        """So many tasks were begun that will run in the next turn: their time is this turn's as well."""
        self._expected += tasks * TASK

    def later(self, work: Callable[[], None]) -> None:
        """Call `work` in a turn to come. It must not raise."""
        self._waiting.append(work)
        if not self._until:
            self._begin()

    def do(self, work: Callable[[], None]) -> None:
        """Call `work` now, if there is time in this turn and nobody waits; else in a turn to come."""
        if not self._waiting and self.now():
            work()
        else:
            self.later(work)

    async def turn(self) -> None:
        """Return when there is time for a task to go on: so many that are begun at once do not run all at once."""
        if not self._waiting and self.now():
            self.expect(1)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go_on() -> None:
            if not waiter.done():
                self.expect(1)
                waiter.set_result(None)

        self.later(go_on)
        await waiter

    def _begin(self) -> None:
        self._until = perf_counter() + SLICE
        self._expected = 0.0
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A new turn of the loop."""
        self._until = perf_counter() + SLICE
        self._expected = 0.0
        try:
            for _ in range(len(self._waiting)):  # who is not done stands at the end again
                self._waiting.popleft()()
                if not self.now():
                    break
        finally:  # a bug in what one connection has sent must not stop all the others for good
            self._until = 0.0
            if self._waiting:
                self._begin()
