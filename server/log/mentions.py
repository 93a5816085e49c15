"""Whom messages mention: counted from the messages themselves, as unread ones are (counts.py).

A message has its list of names, and an index has one entry for each of them. What is erased loses its list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from server.log.foundation import MENTIONS_INDEX, PENDING_INDEX
from server.log.rows import Row, id_of
from server.mongo.client import mapped
from server.mongo.databases import Database

EVERYBODY: Final = "*"
AT_ONCE: Final = 500
"""Channels of one command."""
_SHOWN: Final = {"u": 1, "s": 1, "mentions": 1}


class Unread(NamedTuple):
    """What a user has not read of a channel: what is behind `start`, up to `head`."""

    user: str
    channel: str
    start: int
    head: int


class Mention(NamedTuple):
    """The message at `offset` mentions these."""

    offset: int
    user: str | None
    """Who has written it; None: a guest, or a back end."""
    names: Sequence[str]


class Mentions:
    def __init__(self, database: Database) -> None:
        self._messages = database.own("messages")
        self.reads = 0
        """Commands."""

    async def count(self, unread: Collection[Unread], erasing: Sequence[str]) -> Counter[tuple[str, str]]:
        """(user, channel) → how many messages of others mention the user there. `erasing`: channels in which messages
        may have been erased, and still have their lists as that is not folded yet. They are counted as they come."""
        erased = await self._being_erased(erasing) if erasing else {}  # before the messages: see folding.py
        channels: dict[str, list[Unread]] = {}
        for one in unread:
            channels.setdefault(one.channel, []).append(one)
        found: Counter[tuple[str, str]] = Counter()
        every = list(channels)
        for index in range(0, len(every), AT_ONCE):
            # (MongoDB takes more than twice as long to count them itself.)
            query = {"$or": [_of(channel, channels[channel]) for channel in every[index : index + AT_ONCE]]}
            self.reads += 1
            with mapped():
                async for row in self._messages.find(query, _SHOWN).hint(MENTIONS_INDEX):
                    channel, (offset, writer, names) = row["_id"]["c"], _mention(row)
                    if offset in erased.get(channel, ()):
                        continue
                    for user, _, start, head in channels[channel]:
                        if start < offset <= head and user != writer and (user in names or EVERYBODY in names):
                            found[user, channel] += 1
        return found

    async def _being_erased(self, channels: Sequence[str]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        query = {"_id.c": {"$in": channels}, "p": 1, "op": "delete"}
        self.reads += 1
        with mapped():
            async for row in self._messages.find(query, {"z": 1}).hint(PENDING_INDEX):
                found.setdefault(row["_id"]["c"], set()).add(row["z"])
        return found

    async def between(self, entries: Mapping[str, tuple[int, int]], erasing: Sequence[str]) -> dict[str, list[Mention]]:
        """Of each channel those behind the first, up to the second offset; `erasing` as in `count`."""
        erased = await self._being_erased(erasing) if erasing else {}
        found: dict[str, list[Mention]] = {}
        ranges = [
            {"_id": {"$gt": id_of(channel, first), "$lte": id_of(channel, last)}, "mentions": {"$exists": True}}
            for channel, (first, last) in entries.items()
        ]
        if ranges:
            self.reads += 1
            with mapped():
                async for row in self._messages.find({"$or": ranges}, _SHOWN):
                    channel, mention = row["_id"]["c"], _mention(row)
                    if mention.offset not in erased.get(channel, ()):
                        found.setdefault(channel, []).append(mention)
        return found


def _of(channel: str, unread: Sequence[Unread]) -> Row:
    behind, upto = min(one.start for one in unread), max(one.head for one in unread)
    names = [*{one.user for one in unread}, EVERYBODY]
    return {"_id.c": channel, "mentions": {"$in": names}, "_id.o": {"$gt": behind, "$lte": upto}}


def _mention(row: Row) -> Mention:
    return Mention(row["_id"]["o"], None if "s" in row else row["u"], row["mentions"])
