"""What the server's rate limit makes wait."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable
from dataclasses import dataclass

from waterspout_client.errors import WaterspoutError, disconnected
from waterspout_client.events import Push

Done = Callable[[WaterspoutError | None, Push], None]
"""Called with the error or the reply at the very moment it is read: the pushes behind it may have arrived in the same
packet, and a future would be too late for them."""


@dataclass(frozen=True, slots=True)
class Limited:
    """The server's rate limit makes commands wait, or (`waiting` is 0) does so no longer."""

    delay: float
    """Seconds until the next is sent."""
    waiting: int
    reason: str = ""


@dataclass(eq=False, slots=True)
class Command:
    number: int
    kind: str
    fields: Push
    done: Done
    wanted: Callable[[], bool]
    """Whether it is still to be sent, should it have had to wait."""
    sent_at: float = 0.0


class Pace:
    """The commands that were refused with `rate_limited`, and those that came after them: sent again in their order,
    one each time that the server says a command takes. All of a connection together, since it is the connection that
    is limited: each by itself, they would only get in each other's way."""

    def __init__(self, send: Callable[[Command], None], tell: Callable[[Limited], None]) -> None:
        self._send = send
        self._tell = tell
        self._waiting: list[Command] = []  # by number
        self._interval = 0.0
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def wait(self, command: Command) -> None:
        bisect.insort(self._waiting, command, key=lambda one: one.number)

    def refused(self, command: Command, error: WaterspoutError) -> None:
        begins = not self._waiting
        self.wait(command)
        self._interval = 0.2 if error.retry_after is None else error.retry_after
        self._until = max(self._until, self._loop.time() + self._interval)
        self._arm(self._until)
        if begins:
            self._tell(Limited(self._interval, 1, error.reason))

    def accepted(self) -> None:
        """A command was taken: perhaps the limit is not as near as it was."""
        self._interval *= 0.9

    def close(self) -> list[Command]:
        """Nothing more is sent. What has waited."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        return waiting

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._next)

    def _next(self) -> None:
        if not self._waiting:
            return
        command = self._waiting.pop(0)
        if self._waiting:
            self._arm(self._loop.time() + self._interval)
        else:
            self._tell(Limited(0.0, 0))
        if command.wanted():
            self._send(command)
        else:
            command.done(disconnected(), {})
