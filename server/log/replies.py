"""Replies: how many a message has been given in its thread, and which threads there are.

    threads  {_id: {c: parent, o: the offset of the message}}

A reply belongs to the message of its thread as a reaction does, so it is counted and told in the same way
(summaries.py): the message is marked, the reply is stored, and then everything is counted. A thread is written down
before its first reply is, so that it can be found, and goes, when its message is trimmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from bson import Timestamp
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from server.core.clock import Clock
from server.core.cursors import Position
from server.core.errors import Error
from server.core.names import is_thread, parent_of, root_of, thread_of
from server.core.tasks import Keeper
from server.log.amendments import Amendments
from server.log.endings import Head
from server.log.foundation import MESSAGES_INDEX
from server.log.retention import Trimmer
from server.log.rows import Row, id_of
from server.log.summaries import Round, Summaries
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.amendments import NO_REPLIES, Op

USERS: Final = 20
"""Who have answered last, that are named."""
KNOWN: Final = 10_000
"""Threads that are remembered to be written down."""
ENDED_TOGETHER: Final = 500


class Replies:
    """`head(channel)`: how far it reaches."""

    op: Op = "replies"

    def __init__(
        self,
        database: Database,
        amendments: Amendments,
        trimmer: Trimmer,
        clock: Clock,
        keeper: Keeper,
        *,
        head: Callable[[str], Awaitable[Head]],
    ) -> None:
        self._database = database
        self._messages = database.own("messages").name
        self._threads = database.own("threads")
        self._trimmer = trimmer
        self._head = head
        self.check_nodes: Callable[[], None] = lambda: None
        """Raises `unavailable` while there is a node that knows nothing of amendments: set by who knows the nodes."""
        self.on_ended: list[Callable[[str], Awaitable[None]]] = []
        """Awaited with each thread whose message is trimmed, as often as it takes, while there is anything of it."""
        self._known: OrderedDict[str, None] = OrderedDict()
        self.summaries = Summaries(database, amendments, clock, keeper, self)
        amendments.on_erased.append(self._erased)
        trimmer.on_trimmed.append(self._trimmed)

    @asynccontextmanager
    async def replying(self, thread: str) -> AsyncIterator[Round]:
        """Around what is stored in a thread, which says if it has `changed` something. `not_found` if the message that
        it is about is not there (any more)."""
        self.check_nodes()
        async with self.summaries.changing(parent_of(thread), root_of(thread)) as round:
            await self.write_down(thread)
            yield round

    async def write_down(self, thread: str) -> None:
        """Before there is anything of it that is to go with its message."""
        if thread in self._known:
            return
        row = {"_id": id_of(parent_of(thread), root_of(thread))}
        with mapped(), suppress(DuplicateKeyError):  # another node does so too
            await self._threads.update_one(row, {"$setOnInsert": row}, upsert=True)
        self._known[thread] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    # --- counting (summaries.py) --------------------------------------------------------------------------------------

    async def count(self, channel: str, offset: int, since: Timestamp) -> Any:
        """{"count", "newest": a cursor or None, "users": those who have answered last in front} of what can be read."""
        thread = thread_of(channel, offset)
        head = await self._head(thread)
        pipeline: list[Row] = [
            {"$match": {"_id.c": thread, "z": None, "_id.o": {"$gt": head.floor}, "gone": None}},
            {"$group": {"_id": "$u", "n": {"$sum": 1}, "o": {"$max": "$_id.o"}}},
            {"$sort": {"o": -1}},
            {"$group": {"_id": None, "n": {"$sum": "$n"}, "o": {"$max": "$o"}, "u": {"$push": "$_id"}}},
            {"$project": {"n": 1, "o": 1, "u": {"$slice": ["$u", USERS + 1]}}},
        ]
        command = {
            "aggregate": self._messages,
            "pipeline": pipeline,
            "cursor": {"batchSize": 2},
            "hint": MESSAGES_INDEX,
            "readConcern": {"level": "majority", "afterClusterTime": since},
        }
        with mapped():
            rows = (await self._database.command(command))["cursor"]["firstBatch"]
        if not rows:
            return dict(NO_REPLIES)
        users = [user for user in rows[0]["u"] if user is not None]  # of guests nobody knows the name
        newest = Position(head.position.epoch, rows[0]["o"])
        return {"count": rows[0]["n"], "newest": str(newest), "users": users[:USERS]}

    async def forget(self, channel: str, offset: int) -> None:
        """The replies are others' words: they stay when the message is erased."""

    # --- what goes ----------------------------------------------------------------------------------------------------

    async def _erased(self, channel: str, offset: int) -> None:
        """A reply is one less."""
        if not is_thread(channel):
            return
        try:
            async with self.summaries.changing(parent_of(channel), root_of(channel)) as round:
                round.changed()
        except Error as error:
            if error.code != "not_found":  # else there is nothing to be told of
                raise

    async def _trimmed(self, channel: str, floor: int) -> None:
        """Threads go with their messages, all of them: what waits until it may be deleted is hidden already."""
        if is_thread(channel):
            return
        after, more = 0, True
        while more:
            those = {"_id": {"$gt": id_of(channel, after), "$lte": id_of(channel, floor)}}
            with mapped():
                found = self._threads.find(those).sort("_id", ASCENDING).limit(ENDED_TOGETHER)
                rows = await found.to_list(ENDED_TOGETHER)
            for row in rows:
                after = row["_id"]["o"]
                thread = thread_of(channel, after)
                self._known.pop(thread, None)
                for end in self.on_ended:
                    await end(thread)
                if await self._trimmer.end(thread):
                    with mapped():
                        await self._threads.delete_one({"_id": row["_id"]})
            more = len(rows) == ENDED_TOGETHER
