"""Finding messages by their words, which stand in the messages themselves: `ws`, in an index of its own.

What is read is looked at once more as it is by now: a message that was edited or erased a moment ago, and is not folded
yet, is found only by what it says now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pymongo import ASCENDING, DESCENDING

from server.log.endings import Head
from server.log.folding import overlaid
from server.log.foundation import PENDING_INDEX, WORDS_INDEX, Foundation
from server.log.reader import Reader
from server.log.rows import Row, counted
from server.log.words import Question, words_of
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.amendments import AmendedMessage, Amendment

LOOKED_AT: Final = 500
"""Messages of a channel that are read for one answer."""
WINDOW: Final = 2000
"""Offsets in which a beginning of a word is looked for at first; then in four times as many."""


class Found(NamedTuple):
    messages: list[AmendedMessage]
    """Newest first."""
    upto: int
    """The offset down to which was looked; 0: to the beginning."""


class Opened(NamedTuple):
    channel: str
    head: Head
    pending: Sequence[Amendment]
    """What is not folded yet, read before anything else (folding.py)."""


class Finder:
    def __init__(self, database: Database, foundation: Foundation, reader: Reader) -> None:
        self._messages = database.own("messages")
        self._foundation = foundation
        self._reader = reader

    async def open(self, channels: Sequence[str]) -> dict[str, Opened]:
        """What has to be known of channels before they are searched, in two commands for all of them. `unavailable` if
        MongoDB is not there."""
        pending = await self._pending(channels)
        with mapped():
            heads = await self._reader.heads(channels)
        return {channel: Opened(channel, heads[channel], pending[channel]) for channel in channels}

    async def find(self, opened: Opened, question: Question, before: int, limit: int) -> Found:
        """The `limit` newest messages with offset < `before` that fit. `unavailable` if MongoDB is not there."""
        channel, head, pending = opened
        floor, epoch = head.floor, head.position.epoch
        before = min(before, head.position.offset + 1)
        found: list[AmendedMessage] = []
        looked, window = 0, WINDOW
        while before > floor + 1 and len(found) < limit and looked < LOOKED_AT:
            first = floor if question.words else max(floor, before - 1 - window)
            most = min(LOOKED_AT - looked, max(limit, 20))
            rows = await self._some(channel, question, first, before, most)
            before = rows[-1]["_id"]["o"] if len(rows) == most else first + 1
            looked, window = looked + len(rows), window * 4
            for row in rows:
                message = counted(row, epoch)
                if isinstance(message, AmendedMessage):
                    message = overlaid(message, pending)
                    if question.fits(frozenset(words_of(message.data))):
                        found.append(message)
                        if len(found) == limit:
                            return Found(found, message.offset)
        return Found(found, 0 if before <= floor + 1 else before)

    async def _some(self, channel: str, question: Question, first: int, before: int, most: int) -> list[Row]:
        """Messages with `first` < offset < `before` that say the longest of the words, or begin with what is asked for,
        newest first. What else they say is for others to look at: one word is enough to go through the index in its
        order."""
        said: Any
        if question.words:
            said = max(question.words, key=len)
        else:
            said = {"$elemMatch": {"$gte": question.prefix, "$lt": question.prefix + "\U0010ffff"}}
        query = {"_id.c": channel, "ws": said, "_id.o": {"$gt": first, "$lt": before}}
        with mapped():
            found = self._messages.find(query).sort("_id.o", DESCENDING).limit(most).hint(WORDS_INDEX)
            return await found.to_list(most)

    async def _pending(self, channels: Sequence[str]) -> dict[str, list[Amendment]]:
        pending: dict[str, list[Amendment]] = {channel: [] for channel in channels}
        if self._foundation.amends:
            query = {"_id.c": {"$in": list(channels)}, "p": 1}
            with mapped():
                async for row in self._messages.find(query).sort("_id", ASCENDING).hint(PENDING_INDEX):
                    entry = counted(row, "")
                    if isinstance(entry, Amendment):
                        pending[entry.channel].append(entry)
        return pending
