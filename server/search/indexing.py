"""The words of messages that were stored before they were searched: they are found and written, one by one.

    indexing  {_id: namespace, channel, offset, looked, indexed, owner, until, done?}

There is one job for each namespace with `search: true`, begun by the first node that has it, and again when somebody
asks for it. Any node carries it on (server/mongo/held.py). Whatever is done again does no harm. It takes a third of one
node's time at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from pymongo import UpdateOne

from server.core.clock import Clock
from server.core.config import Namespace
from server.core.names import namespace_of
from server.core.tasks import Keeper
from server.core.worker import Pace
from server.log.log import Log
from server.log.rows import Row, between, data_of
from server.log.words import words_of
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.mongo.held import NOBODYS, HeldJobs

logger = logging.getLogger(__name__)

COLLECTION: Final = "indexing"
LOOK_EVERY: Final = 3.0
KEEP_EVERY: Final = 1.0
CHANNELS: Final = 200
"""That are looked at together."""
WINDOW: Final = 1000
"""Offsets that are looked through at a time."""
TOGETHER: Final = 100
"""Messages that get their words in one command."""
REST: Final = 2.0
"""Times as long as a window has taken."""


class Progress(NamedTuple):
    """How far it is: up to that message, of so many looked at."""

    namespace: str
    channel: str
    offset: int
    looked: int
    indexed: int
    """How many had no words."""
    done: bool
    until: int
    """Up to when a node holds it, in milliseconds since 1970."""


class Indexing:
    def __init__(
        self, database: Database, log: Log, node: str, clock: Clock, keeper: Keeper, namespaces: Mapping[str, Namespace]
    ) -> None:
        self._rows = database.own(COLLECTION)
        self._messages = database.own("messages")
        self._log = log
        self._held = HeldJobs(self._rows, node, clock)
        self._keeper = keeper
        self._namespaces = [name for name, namespace in namespaces.items() if namespace.search]
        self._kept_at = 0.0

    async def open(self) -> None:
        """Begin what nobody has begun. What is not searched any more begins anew when it is again."""
        with mapped():
            await self._rows.delete_many({"_id": {"$nin": self._namespaces}})
            for namespace in self._namespaces:
                await self._rows.update_one({"_id": namespace}, {"$setOnInsert": _BEGINNING}, upsert=True)
        if self._namespaces:
            self._keeper.every("words of older messages", LOOK_EVERY, self.step)

    async def step(self) -> None:
        """Carry on what nobody else does, to its end. `unavailable` if MongoDB is not there: it goes on later."""
        while (job := await self._take()) is not None:
            await self._carry_out(job)

    async def _take(self) -> Progress | None:
        row = await self._held.take({"_id": {"$in": self._namespaces}, "done": None})
        return None if row is None else _progress(row)

    async def _keep(self, at: Progress) -> bool:
        """False: somebody has begun anew, or another node carries it on by now."""
        changes = {name: getattr(at, name) for name in ("channel", "offset", "looked", "indexed")}
        if at.done:
            changes["done"] = 1
        kept = await self._held.keep({"_id": at.namespace, "done": None}, changes)
        self._kept_at = asyncio.get_running_loop().time()
        return kept

    async def _carry_out(self, job: Progress) -> None:
        loop = asyncio.get_running_loop()
        at = job
        async for channel, floor, head in self._channels(job):
            offset = max(floor, job.offset if channel == job.channel else 0)
            while True:
                began = loop.time()
                upto = min(head, offset + WINDOW)
                if offset < upto:
                    indexed = at.indexed + await self._index(channel, offset, upto)
                    at = at._replace(looked=at.looked + upto - offset, indexed=indexed)
                    offset = upto
                at = at._replace(channel=channel, offset=offset)
                if loop.time() - self._kept_at > KEEP_EVERY and not await self._keep(at):
                    return
                if offset >= head:
                    break
                await asyncio.sleep(REST * (loop.time() - began))
        if await self._keep(at._replace(done=True)) and at.indexed:
            logger.info("search: %d older messages of %s have words now", at.indexed, at.namespace)

    async def _channels(self, job: Progress) -> AsyncIterator[tuple[str, int, int]]:
        """(channel, floor, head) of those of the namespace, from where the job is: its threads, and then the others.
        Those of other namespaces among them are empty."""
        prefixes = ["$thread:", f"{job.namespace}:"]
        if job.channel.startswith(prefixes[1]):
            del prefixes[0]
        names, last = ([job.channel] if job.channel else []), ""
        for prefix in prefixes:
            while names := names or await self._log.survey.names(prefix, last, CHANNELS):
                heads = await self._log.survey.heads([name for name in names if namespace_of(name) == job.namespace])
                for name in names:
                    yield (name, heads[name].floor, heads[name].position.offset) if name in heads else (name, 0, 0)
                last, names = names[-1], []

    async def _index(self, channel: str, after: int, upto: int) -> int:
        """Give the messages in between their words; how many had none."""
        unknown = {**between(channel, after, upto), "z": None, "gone": None, "ws": None}
        pace = Pace()
        indexed = 0
        updates: list[UpdateOne] = []
        with mapped():
            async for row in self._messages.find(unknown, {"d": 1, "j": 1, "v": 1}, batch_size=TOGETHER):
                # Whoever has made something else of it meanwhile has written its words as well.
                same = {"_id": row["_id"], "gone": None, "ws": None, "v": row.get("v")}
                updates.append(UpdateOne(same, {"$set": {"ws": words_of(data_of(row))}}))
                if len(updates) == TOGETHER:
                    indexed += (await self._messages.bulk_write(updates, ordered=False)).modified_count
                    updates = []
                await pace.rest()
            if updates:
                indexed += (await self._messages.bulk_write(updates, ordered=False)).modified_count
        return indexed


async def begin(database: Database, namespace: str) -> None:
    """Go through all messages of a namespace once more."""
    with mapped():
        await database.own(COLLECTION).replace_one({"_id": namespace}, dict(_BEGINNING), upsert=True)


async def progress(database: Database) -> list[Progress]:
    """Of all namespaces, by name."""
    with mapped():
        return [_progress(row) async for row in database.own(COLLECTION).find().sort("_id", 1)]


_BEGINNING: Final[Row] = {"channel": "", "offset": 0, "looked": 0, "indexed": 0, **NOBODYS}


def _progress(row: dict[str, Any]) -> Progress:
    place = row["channel"], row["offset"], row["looked"], row["indexed"]
    return Progress(row["_id"], *place, bool(row.get("done")), row["until"])
