"""Retention: what is too old, or too much, goes.

A channel's floor is raised first, with a majority, and the messages up to it are deleted after that: so a reader is
told of a gap and never finds a silent hole. It may stop anywhere and be done again, by several nodes at once.

Messages that are hidden but younger than the dedupe window stay stored, so that a retry finds them, and the last one of
a channel does for its offset. They are emptied: of them only the key is needed.

A thread goes with the message that it is about: all of it is hidden when that is, and later nothing of it is left.

Ages are told by MongoDB's time, as the node knows it (core/clock.py), for the messages as for the trimming: a node
whose clock is wrong neither trims too early nor too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from pymongo import ASCENDING, DESCENDING, DeleteMany, UpdateMany

from server.core.clock import Clock
from server.core.config import MongoDB, Retention
from server.core.errors import Error
from server.core.names import is_thread, parent_of, root_of
from server.log.reader import Reader
from server.log.rows import ON_ITS_WAY, SAID, between, id_of
from server.mongo.client import mapped
from server.mongo.databases import Database

logger = logging.getLogger(__name__)

ROUND_EVERY: Final = 3600.0


class Trimmer:
    """Trims the channels that this node has appended to, or whose messages it has seen will soon be too old; once an
    hour, and after a start, every channel. `Node.start` has `step` called every `mongodb.trim_interval` seconds (0:
    never).

    `retention(channel)` answers what is declared for a channel, which is the option `history`; None: nothing any more.
    """

    def __init__(
        self,
        database: Database,
        reader: Reader,
        options: MongoDB,
        clock: Clock,
        retention: Callable[[str], Retention | None],
    ) -> None:
        self._messages = database.own("messages")
        self._channels = database.own("channels")
        self._reader = reader
        self._options = options
        self._clock = clock
        self._retention = retention
        self._due: dict[str, float] = {}
        """Channel → when it has to be looked at, by the event loop's time."""
        self._round_at = 0.0
        self.held: Callable[[], Awaitable[Collection[str] | None]] | None = None
        """Channels in which nothing is to be trimmed at the moment; None: in no channel at all."""
        self.on_trimmed: list[Callable[[str, int], Awaitable[None]]] = []
        """Awaited with a channel and its floor: what else there is of the messages up to there has to go as well. Again
        and again, so that what comes later than its message goes is found."""
        self.round_every = ROUND_EVERY
        """Seconds between rounds through every channel."""

    def note(self, channel: str) -> None:
        """Something was appended."""
        self._due[channel] = 0.0

    async def step(self) -> None:
        """Trim what is due; `unavailable` if MongoDB is not there: the rest stays due."""
        now = asyncio.get_running_loop().time()
        if now >= self._round_at:
            self._due.update(dict.fromkeys(await self._reader.channels(), 0.0))
            self._round_at = now + self.round_every
        held = () if self.held is None else await self.held()
        if held is None:
            return
        for channel in [channel for channel, when in self._due.items() if when <= now and channel not in held]:
            del self._due[channel]  # what is appended meanwhile makes it due again
            retention = self._retention(channel)
            if retention is None:
                continue
            try:
                await self.trim(channel, retention)
            except BaseException:
                self._due[channel] = 0.0
                raise

    async def trim(self, channel: str, retention: Retention) -> int:
        """Raise the channel's floor to what its retention says, then delete up to it. Answers the floor.

        Never takes messages younger than the dedupe window, and leaves the last message in place (hidden, if it is at
        the floor), so that offsets never restart. Notes when the next message will be old enough, if that is sooner
        than the round through all channels.
        """
        window = self._options.dedupe_window
        if is_thread(channel) and await self._is_over(channel):
            await self.end(channel)
            return (await self._reader.state(channel)).floor
        with mapped():
            found = (await self._reader.heads([channel]))[channel]
            position, old, amended = found.position, found.floor, found.amended
            head, floor, full = position.offset, old, 0
            if retention.size and head - retention.size > old:
                floor = full = max(old, await self._too_many(channel, head, retention.size, amended))
            if retention.ttl:
                floor = max(floor, await self.last_older_than(channel, old, head, retention.ttl))
            if floor > old:
                young = await self.last_older_than(channel, old, head, window)
                floor = max(old, min(floor, young))
            if floor > old:
                await self._raise(channel, floor, amended)
            young_hidden = False
            if floor:
                young_hidden = await self._take_out(channel, floor, min(floor, head - 1))
                for forget in self.on_trimmed:
                    await forget(channel, floor)
            oldest = await self._messages.find_one(between(channel, floor, head), {"t": 1}, sort=[("_id", ASCENDING)])
            too_many = floor < full
        if oldest and (too_many or retention.ttl):
            kept = window if too_many else max(retention.ttl, window)
            self._note_later(channel, oldest["t"] / 1000 + kept - self._clock.time() + 0.001)
        if young_hidden:
            self._note_later(channel, window)
        return floor

    def _note_later(self, channel: str, wait: float) -> None:
        if wait < self.round_every:
            at = asyncio.get_running_loop().time() + wait
            self._due[channel] = min(at, self._due.get(channel, at))

    async def clear(self, channel: str) -> None:
        """Hide all that the channel holds now; `purge` takes it out."""
        with mapped():
            head = (await self._reader.heads([channel]))[channel]
            if head.position.offset:
                await self._raise(channel, head.position.offset, head.amended)
        for forget in self.on_trimmed:
            await forget(channel, head.position.offset)

    async def purge(self, channel: str) -> None:
        """Take out what is hidden, now; what cannot be done now is done by `step`."""
        self.note(channel)
        try:
            held = () if self.held is None else await self.held()
            with mapped():
                head = (await self._reader.heads([channel]))[channel]
                kept = held is None or channel in held
                upto = 0 if kept else min(head.floor, head.position.offset - 1)
                await self._take_out(channel, head.floor, upto)
        except Error as error:
            logger.warning("MongoDB: %s; what is hidden is deleted later", error.reason)

    async def _take_out(self, channel: str, floor: int, upto: int) -> bool:
        """Delete what is hidden, up to the offset `upto`, as far as no retry may ask for it any more, and empty the
        rest of it; whether there was something to empty."""
        now = self._clock.now_ms()
        old_enough = {"t": {"$lt": now - int(self._options.dedupe_window * 1000)}}
        hidden = between(channel, 0, floor)
        empty = {"$set": {"gone": {"o": floor, "u": None, "t": now}}, "$unset": {**SAID, "x.i": 1}}
        changes: list[DeleteMany | UpdateMany] = [
            DeleteMany({**between(channel, 0, upto), **old_enough}),
            UpdateMany({**hidden, "z": None, "gone": None}, empty),
            UpdateMany({**hidden, "p": 1}, {"$unset": ON_ITS_WAY}),
        ]
        return (await self._messages.bulk_write(changes)).matched_count > 0

    # --- threads ------------------------------------------------------------------------------------------------------

    async def _is_over(self, thread: str) -> bool:
        return (await self._reader.state(parent_of(thread))).floor >= root_of(thread)

    async def end(self, thread: str) -> bool:
        """Hide all of a thread whose message is gone, and delete what is old enough; whether nothing of it is left.
        Nobody publishes there any more, so that not even its offsets have to be known."""
        with mapped():
            found = (await self._reader.heads([thread]))[thread]
            position, floor, amended = found.position, found.floor, found.amended
            head = position.offset
            if head > floor:
                await self._raise(thread, head, amended)
                self._reader.overlays.drop(thread)
            elif self._due.get(thread, 0.0) > asyncio.get_running_loop().time():
                return False  # it is hidden, and too young
            await self._take_out(thread, head, head)
            for forget in self.on_trimmed:
                await forget(thread, head)
            left = await self._messages.find_one(between(thread), {"t": 1}, sort=[("_id", DESCENDING)])
            if left is None:
                await self._channels.delete_one({"_id": thread, "floor": head})
        if left is not None:
            wait = left["t"] / 1000 + self._options.dedupe_window - self._clock.time() + 0.001
            self._due.setdefault(thread, asyncio.get_running_loop().time() + wait)
        return left is None

    async def _too_many(self, channel: str, head: int, size: int, amended: bool) -> int:
        """The highest offset that is too much for `size`: messages count, their amendments do not."""
        if not amended:
            return head - size
        oldest = await self._reader.nth_newest(channel, size)
        return oldest - 1 if oldest else 0

    async def _raise(self, channel: str, floor: int, amended: bool) -> None:
        """The floor, and with it how many of what is below are amendments."""
        raised = {"floor": floor}
        if amended:
            row = await self._messages.find_one({"_id": id_of(channel, floor)}, {"m": 1})
            raised["m"] = (row or {}).get("m", 0)
        await self._channels.update_one({"_id": channel}, {"$max": raised}, upsert=True)

    async def last_older_than(self, channel: str, floor: int, head: int, seconds: float) -> int:
        """The offset before the first message above `floor` that is younger than `seconds`."""
        since = self._clock.now_ms() - int(seconds * 1000)
        document = await self._messages.find_one(
            {**between(channel, floor, head), "t": {"$gte": since}}, {"_id": 1}, sort=[("_id", ASCENDING)]
        )
        return document["_id"]["o"] - 1 if document else head
