"""How far each consumer is in each channel, in MongoDB:

    consumer_cursors  {_id: {n: consumer, c: channel}, e: epoch, o: offset, f: fence, r: how often it was set,
                       x: {n: attempts, e: error, t: when the last one failed, d: when the next one is due}}

A cursor is moved by compare-and-set: from the position that its holder knows it to have, unless an operator has set it
meanwhile, and under a fence that is no less than the one it was moved with before. So whoever has lost a channel, and
does not know it yet, can neither move the cursor back nor undo what an operator has set. What moves within a moment is
written together: a cursor may be some batches behind what was delivered, which after a crash is delivered once more,
and never ahead of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from server.core.cursors import Position
from server.core.tasks import Keeper
from server.mongo.client import brief, duplicates, mapped
from server.mongo.databases import Database

logger = logging.getLogger(__name__)

GATHER: Final = 0.05
"""Seconds in which cursors that have moved gather for one write."""
AGAIN: Final = 0.5
"""Seconds until a write that MongoDB has not taken is tried once more."""
_BATCH: Final = 1000


class Failure(NamedTuple):
    """What is known of a batch that could not be delivered so far."""

    attempts: int
    error: str
    time: int
    """Of the last attempt, and when the next one is due: milliseconds since 1970, UTC."""
    due: int


class Stored(NamedTuple):
    """A cursor as MongoDB has it."""

    position: Position
    failure: Failure | None
    settings: int
    """How often an operator has set it."""


class Moving(Protocol):
    """A cursor on its way, as its holder has it."""

    consumer: str
    channel: str
    position: Position
    """Where it is to be."""
    failure: Failure | None
    stored: Position | None
    """Where MongoDB has it; None: it has none yet."""
    settings: int
    fence: int
    dirty: bool
    """Whether something of it is still to be written."""


class Cursors:
    """`lost(cursor)` is told of one that somebody else has moved: what is known of it is true no more."""

    def __init__(self, database: Database, keeper: Keeper, lost: Callable[[Any], None]) -> None:
        self._rows = database.own("consumer_cursors")
        self._keeper = keeper
        self._lost = lost
        self._dirty: dict[tuple[str, str], Moving] = {}
        self._writing: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether all that has moved is written."""
        return self._writing is None or self._writing.done()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def load(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        """(consumer, channel) → its cursor, of those that have one."""
        wanted = list(keys)
        found: dict[tuple[str, str], Stored] = {}
        with mapped():
            for index in range(0, len(wanted), _BATCH):
                ids = [_id(consumer, channel) for consumer, channel in wanted[index : index + _BATCH]]
                async for row in self._rows.find({"_id": {"$in": ids}}):
                    found[row["_id"]["n"], row["_id"]["c"]] = _stored(row)
        return found

    # --- moving -------------------------------------------------------------------------------------------------------

    def note(self, cursor: Moving) -> None:
        """It has moved, or failed: to be written soon."""
        cursor.dirty = True
        self._dirty[cursor.consumer, cursor.channel] = cursor
        if self._writing is None or self._writing.done():
            self._writing = self._keeper.spawn("consumers' cursors", self._write_all())

    def drop(self, cursor: Moving) -> None:
        """It is somebody else's now."""
        cursor.dirty = False
        if self._dirty.get((cursor.consumer, cursor.channel)) is cursor:
            del self._dirty[cursor.consumer, cursor.channel]

    def forget(self) -> None:
        """All of them: they are of a history that is no more."""
        for cursor in self._dirty.values():
            cursor.dirty = False
        self._dirty.clear()

    async def flush(self, within: float) -> None:
        """Write what has moved, if MongoDB takes it in so many seconds."""
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=within)

    async def _write_all(self) -> None:
        while self._dirty:
            await asyncio.sleep(GATHER)
            some = list(self._dirty.values())[:_BATCH]
            if not some:  # dropped meanwhile
                return
            for cursor in some:
                del self._dirty[cursor.consumer, cursor.channel]
            aims = [cursor.position for cursor in some]
            try:
                await self._write(some, aims)
            except PyMongoError as error:
                logger.warning("cursors of consumers: %s; they are written later", brief(error))
                for cursor in some:
                    if cursor.dirty:
                        self._dirty.setdefault((cursor.consumer, cursor.channel), cursor)
                await asyncio.sleep(AGAIN)
                await self._look_again(some, aims)

    async def _write(self, cursors: Sequence[Moving], aims: Sequence[Position]) -> None:
        """Raises PyMongoError: nobody knows what of it is written."""
        updates = [_move(cursor) for cursor in cursors]
        refused: list[int] = []
        try:
            await self._rows.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            found = duplicates(error)
            if found is None:
                raise
            refused = found
        for index, (cursor, aim) in enumerate(zip(cursors, aims, strict=True)):
            if index in refused:
                self.drop(cursor)
                self._lost(cursor)
                continue
            cursor.stored = aim
            cursor.dirty = (cursor.consumer, cursor.channel) in self._dirty

    async def _look_again(self, cursors: Sequence[Moving], aims: Sequence[Position]) -> None:
        """After an error: the attempt may have moved them all the same."""
        try:
            found = await self.load((cursor.consumer, cursor.channel) for cursor in cursors)
        except Exception:  # then the next attempt will tell
            return
        for cursor, aim in zip(cursors, aims, strict=True):
            there = found.get((cursor.consumer, cursor.channel))
            if there is not None and there.position == aim:
                cursor.stored = aim

    # --- operators ----------------------------------------------------------------------------------------------------

    async def put(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Set them, by channel, whatever they are now."""
        updates = [
            UpdateOne(
                {"_id": _id(consumer, channel)},
                {
                    "$set": {"e": position.epoch, "o": position.offset},
                    "$inc": {"r": 1, "v": 1},
                    "$unset": {"x": "", "w": "", "d": ""},
                    "$setOnInsert": {"f": 0},
                },
                upsert=True,
            )
            for channel, position in positions.items()
        ]
        if updates:
            with mapped():
                await self._rows.bulk_write(updates, ordered=False)

    async def channels(self, consumer: str) -> list[str]:
        """All in which the consumer has a cursor."""
        with mapped():
            rows = self._rows.find(_of(consumer), {"_id": 1})
            return [row["_id"]["c"] async for row in rows]

    async def failing(self, consumer: str, limit: int) -> list[tuple[str, Stored]]:
        """Channels in which something could not be delivered so far, the latest failure first."""
        with mapped():
            rows = self._rows.find({**_of(consumer), "x": {"$exists": True}}).sort("x.t", -1).limit(limit)
            return [(row["_id"]["c"], _stored(row)) async for row in rows]


def _id(consumer: str, channel: str) -> dict[str, str]:
    return {"n": consumer, "c": channel}


def _of(consumer: str) -> dict[str, Any]:
    return {"_id": {"$gte": {"n": consumer}, "$lt": {"n": consumer + "\0"}}}


def _stored(row: Mapping[str, Any]) -> Stored:
    failed = row.get("x")
    failure = None if failed is None else Failure(failed["n"], failed["e"], failed["t"], failed["d"])
    return Stored(Position(row["e"], row["o"]), failure, row.get("r", 0))


def _move(cursor: Moving) -> UpdateOne:
    """If it is not where it is thought to be, this is an insert, which is refused because it is there already."""
    fields: dict[str, Any] = {"e": cursor.position.epoch, "o": cursor.position.offset, "f": cursor.fence}
    update: dict[str, Any] = {"$set": fields}
    if cursor.failure is None:
        update["$unset"] = {"x": ""}
    else:
        attempts, error, time, due = cursor.failure
        fields["x"] = {"n": attempts, "e": error, "t": time, "d": due}
    known: dict[str, Any] = {
        "_id": _id(cursor.consumer, cursor.channel),
        "f": {"$lte": cursor.fence},
        "r": cursor.settings or {"$exists": False},
    }
    if cursor.stored is None:
        known["e"] = {"$exists": False}
    else:
        known |= {"e": cursor.stored.epoch, "o": cursor.stored.offset}
    return UpdateOne(known, update, upsert=True)
