"""What happens to users and channels, for consumers that want it: written into the log, and from there delivered like
messages.

Each event is a message of one of PARTS channels of the server's own, the one of its channel or of its user: so what
concerns one of them keeps its order, and several nodes share the work. Written only if a consumer wants any.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Final
from zlib import crc32

from server.core.clock import Clock
from server.core.config import Consumer
from server.core.config.consumers import OPPOSITES
from server.core.cursors import MAX_OFFSET
from server.core.errors import Error
from server.core.names import HAPPENINGS, matches
from server.core.tasks import Keeper
from server.log.log import Log
from server.wire.codec import JSON
from server.wire.messages import Message

logger = logging.getLogger(__name__)

PARTS: Final = 8
WAITING: Final = 50_000
"""Events that wait for MongoDB; more are lost, and the log says so."""
AT_ONCE: Final = 200
ASK_AFTER: Final = 1.5
"""Seconds that another node has to write something down, before this one looks whether it has; and of how many events
it looks at."""
ASKED: Final = 500
AGAIN: Final = 1.0


class Wanted:
    """What a consumer wants of a channel's messages: what is to be shown of them, and of the events its `events`, of
    its `channels` if it has any."""

    __slots__ = ("_kinds", "_patterns")

    def __init__(self, options: Consumer) -> None:
        self._kinds = frozenset(options.events)
        self._patterns = options.channels

    def wants(self, message: Message) -> bool:
        if message.hidden or not message.channel.startswith(HAPPENINGS):
            return not message.hidden
        event = message.data
        if event is None:  # it was about somebody who is erased
            return False
        channel = event.get("channel")
        return event["type"] in self._kinds and (
            channel is None or not self._patterns or any(matches(pattern, channel) for pattern in self._patterns)
        )


class Happenings:
    """The writing side. `kinds`: those that any consumer wants."""

    def __init__(self, kinds: Iterable[str], log: Log, clock: Clock, keeper: Keeper) -> None:
        self.kinds = frozenset(kinds)
        self.lost = 0
        self._log = log
        self._clock = clock
        self._keeper = keeper
        self._waiting: deque[tuple[str, str, dict[str, Any]]] = deque()
        self._some = asyncio.Event()
        self._started = False

    def note(self, kind: str, key: str, *, channel: str | None, user: str | None, **more: Any) -> None:
        """It has happened, now. `key`: the same one whoever else says so."""
        if kind not in self.kinds:
            return
        if len(self._waiting) >= WAITING:
            self.lost += 1
            if self.lost == 1 or self.lost % 10_000 == 0:
                logger.error("%d events are lost: MongoDB does not take them", self.lost)
            return
        fields = {"type": kind, "channel": channel, "user": user, "time": self._clock.now_ms(), **more}
        event = {name: value for name, value in fields.items() if value is not None}
        self._waiting.append((_part(channel, user), key, event))
        self._some.set()
        if not self._started:
            self._started = True
            self._keeper.keep("events", self._write)

    async def note_unless_told(self, kind: str, key: str, *, channel: str | None, user: str | None) -> None:
        """The same, unless another node has written it down by now, or what came after it."""
        since = self._clock.now_ms()
        await asyncio.sleep(ASK_AFTER)
        try:
            newest, _ = await self._log.read_back(_part(channel, user), MAX_OFFSET, ASKED)
        except Error as error:  # then rather twice than never
            logger.warning("events: %s", error.reason)
            newest = []
        opposite = next((pair for pair in OPPOSITES if kind in pair), ())
        for message in reversed(newest):
            event = message.data
            if event is None:
                continue
            if event["type"] in opposite and (event.get("channel"), event.get("user")) == (channel, user):
                if event["type"] == kind or event["time"] >= since:
                    return
                break
        self.note(kind, key, channel=channel, user=user)

    async def flush(self, within: float) -> None:
        """Return when all is written, or so many seconds have passed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while self._waiting and loop.time() < until:
            await asyncio.sleep(0.02)

    async def _write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                await self._write_some()

    async def _write_some(self) -> None:
        """The first ones, in their order; those that are not stored stay the first, with those behind them."""
        some = [self._waiting[index] for index in range(min(AT_ONCE, len(self._waiting)))]
        writing: list[asyncio.Future[Any]] = []
        failed: Error | None = None
        for channel, key, event in some:
            try:
                writing.append(self._log.append(channel, None, key, event, len(JSON.encode(event))))
            except Error as error:
                failed = error
                break
        done = 0
        for outcome in await asyncio.gather(*writing, return_exceptions=True):
            # A conflict: another node has told of it first, at another time.
            if isinstance(outcome, Error) and outcome.code != "conflict":
                failed = outcome
                break
            if isinstance(outcome, BaseException) and not isinstance(outcome, Error):
                raise outcome
            done += 1
        for _ in range(done):
            self._waiting.popleft()
        if failed is not None:
            logger.warning("events: %s", failed.reason)
            await asyncio.sleep(AGAIN)


def _part(channel: str | None, user: str | None) -> str:
    """The channel in which the events of a channel, or of a user, are kept."""
    return f"{HAPPENINGS}{crc32((channel or user or '').encode()) % PARTS}"
