"""The messages of a person: erased one by one, as anybody erases a message, and where that cannot be done in place.

Theirs is what they have published, what they have made of others' messages by editing them or appending to them, as
long as it is still there, and what was written to them alone (`$user:ann`). That somebody wrote there, when, and under
which key, stays, as it does with every message that is erased.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from server.core.names import DEAD, HAPPENINGS
from server.log.log import Log
from server.log.rows import ON_ITS_WAY, data_of
from server.mongo.client import mapped
from server.mongo.databases import Database

CHANNELS: Final = 200
"""That are looked at together."""
TOGETHER: Final = 50
"""Messages that are erased at the same time."""

Row = dict[str, Any]
_HEAD: Final = {"d": 0, "j": 0, "x": 0}


class Messages:
    """`amends(channel)`: whether messages can be amended there."""

    def __init__(self, database: Database, log: Log, amends: Callable[[str], bool]) -> None:
        self._rows = database.own("messages")
        self._log = log
        self._amends = amends

    async def erase(self, user: str, after: str) -> AsyncIterator[tuple[str, int]]:
        """In the channels behind `after`, by name: up to where it has come, and how many have been erased since the
        last time that was told."""
        channels = sorted(channel for channel in await self._log.channels() if channel > after)
        for index in range(0, len(channels), CHANNELS):
            group = channels[index : index + CHANNELS]
            for theirs in ({"u": user}, {"u": "", "by": user}):
                query = {"_id.c": {"$in": group}, **theirs}
                with mapped():
                    found = self._rows.find(query, _HEAD).hint("key")
                    some: list[Row] = []
                    async for row in found:
                        some.append(row)
                        if len(some) == TOGETHER:
                            yield after, await self._erase_some(some)
                            some = []
                yield after, await self._erase_some(some)
            after = group[-1]
            yield after, 0

    async def erase_all(self, channel: str) -> int:
        """Whatever is in it, whoever has written it."""
        with mapped():
            rows = await self._rows.find({"_id.c": channel, "gone": None, "z": None}, {"_id": 1}).to_list(None)
        await self._in_place(channel, [row["_id"]["o"] for row in rows])
        if rows:
            await self._log.clear(channel)
        return len(rows)

    async def erase_dead_letters(self, user: str) -> int:
        """What is about the user among that which could not be handed on."""
        return await self._erase_about(user, f"{DEAD}:", {})

    async def erase_events(self, user: str) -> int:
        """What has happened to the user, and is kept for consumers."""
        return await self._erase_about(user, HAPPENINGS, {"$or": [{"d.user": user}, {"j": {"$exists": True}}]})

    async def _erase_about(self, user: str, prefix: str, which: Row) -> int:
        erased = 0
        for channel in [channel for channel in await self._log.channels() if channel.startswith(prefix)]:
            theirs: list[int] = []
            with mapped():
                async for row in self._rows.find({"_id.c": channel, "gone": None, **which}):
                    if _names(data_of(row), user):
                        theirs.append(row["_id"]["o"])
            erased += await self._in_place(channel, theirs)
        return erased

    async def _erase_some(self, rows: Sequence[Row]) -> int:
        wanted: dict[tuple[str, int], None] = {}
        for row in rows:
            channel, offset = row["_id"]["c"], row["_id"]["o"]
            if "gone" in row:
                continue
            if "z" not in row:
                wanted[channel, offset] = None
            elif row["op"] in ("edit", "append"):
                if await self._replaced(channel, row["z"], offset):
                    await self._log.amendments.update({"q": {"_id": row["_id"]}, "u": {"$unset": ON_ITS_WAY}})
                else:
                    wanted[channel, row["z"]] = None
        in_place: dict[str, list[int]] = {}
        erasing = []
        for channel, offset in wanted:
            if self._amends(channel):
                erasing.append(self._erase(channel, offset, in_place))
            else:
                in_place.setdefault(channel, []).append(offset)
        erased = sum(await asyncio.gather(*erasing))
        for channel, offsets in in_place.items():
            erased += await self._in_place(channel, offsets)
        return erased

    async def _replaced(self, channel: str, of: int, offset: int) -> bool:
        """Whether what was written by the entry at `offset` is not in the message any more."""
        with mapped():
            later = {"_id.c": channel, "z": of, "op": "edit", "_id.o": {"$gt": offset}}
            return await self._rows.find_one(later, {"_id": 1}) is not None

    async def _erase(self, channel: str, offset: int, in_place: dict[str, list[int]]) -> int:
        """With an entry that says so, as others do. What is hidden, and only kept to know its key, has no such way."""
        original = await self._log.amendments.original(channel, offset)
        if original is None:
            in_place.setdefault(channel, []).append(offset)
            return 0
        if original.deleted is not None:
            return 0
        key = f"erased {secrets.token_urlsafe(12)}"
        await self._log.amendments.append(original, "delete", None, user=None, key=key, size=0)
        return 1

    async def _in_place(self, channel: str, offsets: Sequence[int]) -> int:
        if not offsets:
            return 0
        erased = await self._log.amendments.erase_in_place(channel, offsets)
        self._log.tell_erased(channel)
        return erased


def _names(data: Any, user: str) -> bool:
    """Whether there is an object in it, at any depth, that says that it is of this user."""
    level = [data]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if item.get("user") == user:
                    return True
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return False
