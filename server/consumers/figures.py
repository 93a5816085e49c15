"""How far consumers are behind, and why; of all nodes, which tell each other through MongoDB:

    consumers  {_id: "@node", at: when it was told, of: {consumer: Figures}}

Only what has changed is written, every TELL_EVERY seconds at most, and what nobody has told again for KEPT seconds is
gone: nothing is told where nothing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from server.consumers.channel import Channel
from server.core.config import Retention
from server.core.tasks import Keeper
from server.mongo.client import mapped
from server.mongo.databases import DatabaseApart

TELL_EVERY: Final = 2.0
AGAIN: Final = 20.0
"""Seconds after which what has not changed is told again."""
KEPT: Final = 60


class Figures(msgspec.Struct):
    """Of one consumer, on one node or on all. Times are in milliseconds since 1970, UTC; 0: not known, or none."""

    channels: int = 0
    """With something that is not delivered."""
    messages: int = 0
    oldest: int = 0
    """The time of the oldest of them."""
    failing: int = 0
    """Channels whose last attempt has failed."""
    attempts: int = 0
    """The most that one of them has had."""
    error: str | None = None
    """Of the latest failure, and when that was."""
    failed: int = 0
    retention: float = 0.0
    """The share of what may be retained of a channel that waits there: from 1 on something is lost."""

    def seconds(self, now: int) -> float:
        """The age of the oldest of them."""
        return max(now - self.oldest, 0) / 1000 if self.oldest else 0.0

    def add(self, other: Figures) -> None:
        self.channels += other.channels
        self.messages += other.messages
        self.oldest = min(self.oldest or other.oldest, other.oldest or self.oldest)
        self.failing += other.failing
        self.attempts = max(self.attempts, other.attempts)
        if other.failed > self.failed:
            self.error, self.failed = other.error, other.failed
        self.retention = max(self.retention, other.retention)


def figures(behind: Iterable[Channel], retention: Callable[[str], Retention | None], now: int) -> Figures:
    total = Figures()
    for one in behind:
        messages = one.head.offset - (one.position.offset if one.position.epoch == one.head.epoch else 0)
        share = 0.0
        if (kept := retention(one.channel)) is not None:
            if kept.size:
                share = messages / kept.size
            if kept.ttl and one.oldest:
                share = max(share, (now - one.oldest) / 1000 / kept.ttl)
        of_one = Figures(1, max(messages, 0), one.oldest, retention=share)
        if (failure := one.failure) is not None:
            of_one.failing, of_one.attempts = 1, failure.attempts
            of_one.error, of_one.failed = failure.error, failure.time
        total.add(of_one)
    return total


class Board:
    """What all nodes tell of their consumers. `own()`: what this one has to tell, without those that have caught up."""

    def __init__(self, database: DatabaseApart, node: str, own: Callable[[], Mapping[str, Figures]]) -> None:
        self._rows = database.own("consumers")
        self._id = f"@{node}"
        self._own = own
        self._told: Any = {}
        self._told_at = 0.0

    async def open(self, keeper: Keeper) -> None:
        with mapped():
            await self._rows.create_index("told", expireAfterSeconds=KEPT)
        keeper.every("consumers' figures", TELL_EVERY, self.tell)

    async def tell(self) -> None:
        """`unavailable` without MongoDB."""
        now = asyncio.get_running_loop().time()
        news = {name: msgspec.to_builtins(one) for name, one in self._own().items()}
        if news != self._told or (news and now - self._told_at > AGAIN):
            with mapped():
                await self._rows.update_one(
                    {"_id": self._id}, [{"$set": {"told": "$$NOW", "of": {"$literal": news}}}], upsert=True
                )
            self._told, self._told_at = news, now

    async def read(self) -> dict[str, Figures]:
        """Of all nodes together; this one's are those of now. `unavailable` without MongoDB."""
        totals: dict[str, Figures] = {}
        with mapped():
            rows = [row async for row in self._rows.find({"told": {"$exists": True}, "_id": {"$ne": self._id}})]
        for of_one in (self._own(), *(msgspec.convert(row["of"], dict[str, Figures]) for row in rows)):
            for name, figures in of_one.items():
                totals.setdefault(name, Figures()).add(figures)
        return totals

    async def leave(self) -> None:
        with mapped():
            await self._rows.delete_one({"_id": self._id})
