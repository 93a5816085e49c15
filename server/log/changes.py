"""The changes of documents: compare and append."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pymongo import DESCENDING
from pymongo.errors import PyMongoError

from server.core.cursors import NO_TALLY, Position
from server.core.errors import WaterspoutError
from server.core.worker import Worker
from server.log.foundation import Base, Foundation, new_epoch
from server.log.inserts import Inserts
from server.log.reader import Reader
from server.log.rows import between, change_row
from server.log.shard import Listener
from server.mongo.client import brief, mapped
from server.mongo.databases import Database
from server.wire.messages import Change, Message, Tail

logger = logging.getLogger(__name__)


class Conflict(WaterspoutError):
    """A compare-and-append did not find the channel as expected, or its outcome is not known: look again."""


class Changes:
    """Puts changes right behind a known tail, or not at all.

    An offset is taken once and for all, and the tail is the majority's: who appends behind it knows all that is stored,
    so nothing is stored twice or left out, however many try. A tail of a database that has been dropped or restored
    since is none any more.
    """

    def __init__(
        self,
        database: Database,
        foundation: Foundation,
        inserts: Inserts,
        reader: Reader,
        listener: Listener,
        on_append: Callable[[str], None],
    ) -> None:
        self._database = database
        self._messages = database.own("messages")
        self._foundation = foundation
        self._inserts = inserts
        self._reader = reader
        self._listener = listener
        self._on_append = on_append
        self._worker = Worker("changes")

    async def tail(self, channel: str) -> Tail:
        """The channel's newest position, and the token that its message has stored."""
        with mapped():
            if not self._foundation.sure:
                await self._foundation.look()
            base = self._foundation.base
            document = await self._messages.find_one(between(channel), {"x": 1}, sort=[("_id", DESCENDING)])
            epoch = (await self._reader.state(channel)).epoch
        if document is None:
            return Tail(Position(epoch, 0), "", base)
        return Tail(Position(epoch, document["_id"]["o"]), document.get("x", {}).get("k", ""), base)

    async def append(self, channel: str, tail: Tail, changes: Sequence[Change]) -> Tail:
        """Store changes right behind `tail`, or raise Conflict: then some of them may be stored, or may yet be."""
        base = self._base_of(tail)
        epoch, offset = tail.position.epoch, tail.position.offset
        messages = [
            Message(channel, epoch, offset + number, change.key, None, change.time, change.data, images=change.images)
            for number, change in enumerate(changes, 1)
        ]
        rows = await self._worker.run(
            sum(change.size for change in changes),
            lambda: [change_row(message, change) for message, change in zip(messages, changes, strict=True)],
        )
        try:
            outcome = await self._inserts.insert(rows, base)
        except PyMongoError as error:
            self._foundation.fails(error)
            raise Conflict(brief(error)) from error
        if outcome.of_another_base:
            self._foundation.doubt()
        if outcome.stored < len(rows):
            raise Conflict("another node was faster, or the write was not confirmed")
        self._on_append(channel)
        self._listener.on_commit(messages)
        return Tail(messages[-1].position, changes[-1].token, base)

    async def start_over(self, channel: str, tail: Tail, change: Change) -> Tail:
        """Give the channel a new epoch and an empty history, at `change`: both at once or Conflict."""
        base = self._base_of(tail)
        position = Position(new_epoch(), tail.position.offset + 1)
        message = Message(channel, position.epoch, position.offset, change.key, None, change.time, None)
        insert = {"insert": self._messages.name, "documents": [change_row(message, change)], **base.guard()}
        try:
            async with (
                await self._database.client.start_session() as session,
                session.start_transaction(write_concern=self._database.write_concern),
            ):
                reply = await self._database.command(insert, session=session)
                if reply.get("writeErrors"):
                    raise Conflict("another node was faster")
                await self._database.own("channels").update_one(
                    {"_id": channel},
                    {"$set": {"epoch": position.epoch}, "$max": {"floor": position.offset}},
                    upsert=True,
                    session=session,
                )
        except PyMongoError as error:
            self._foundation.doubt()
            raise Conflict(brief(error)) from error
        logger.warning("%s starts over: the history of its collection was lost", channel)
        self._listener.on_head(channel, position, NO_TALLY)
        return Tail(position, change.token, base)

    async def position_at(self, channel: str, time: Any) -> Position | None:
        """Behind the last change with a cluster time ≤ `time`; None if it is not retained."""
        with mapped():
            document = await self._messages.find_one(
                {**between(channel), "x.t": {"$lte": time}}, {"_id": 1}, sort=[("_id", DESCENDING)]
            )
        floor, epoch, _ = await self._reader.state(channel)
        offset = document["_id"]["o"] if document else 0
        return Position(epoch, offset) if offset >= floor else None

    def _base_of(self, tail: Tail) -> Base:
        base = tail.base
        if not isinstance(base, Base) or base != self._foundation.base or not self._foundation.sure:
            raise Conflict("MongoDB may have another state than it had")
        return base
