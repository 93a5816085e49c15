"""The outbox: what is written into MongoDB to be published, by the product's own transactions or for later.

One node at a time, by a lease, follows the collection's change stream, publishes what each entry says, and deletes it.

    meta  {_id: "outbox", holder, until, token: resume token up to which all is done, marked: by which holder}

- **Each once.** An entry is deleted after its message is stored, and the message's key is the entry's `_id` (or its
  own `key`): who finds the entry again finds the message by it, for as long as that is kept. So whoever takes over
  marks all entries that are there as `taken`, before anything else, and nothing is trimmed in the channel of an entry
  with that mark, nor in any while nobody holds the lease (`held`).
- **In order of the commits**, per channel: the stream has it, and the log keeps the order in which it is given
  messages. Entries that no stream shows any more (the oplog has lost them, or no node has ever followed it) come in the
  order in which they were inserted. What is due later comes in the order of its times.
- **None lost.** The token is written behind what is done. Once the stream has nothing more, and then again every SWEEP
  seconds, entries are looked for that are there nevertheless.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure, PyMongoError

from server.access.memberships import Unloaded
from server.channels.publisher import Publisher
from server.core.clock import Clock
from server.core.config import MongoDB
from server.core.errors import Error
from server.core.names import DEAD
from server.core.tasks import Keeper
from server.core.worker import Worker
from server.documents import document_json
from server.log.log import Log, Receipt
from server.mongo.client import brief, mapped
from server.mongo.databases import DatabaseApart
from server.mongo.leases import RENEW, Lease
from server.mongo.streams import AWAIT, ChangeStream, following, is_lost
from server.outbox.entries import COLLECTION, FURTHEST, Entry, entry_of, for_the_dead
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds between looks whether there is an outbox by now, where the configuration does not say."""
SWEEP: Final = 30.0
COUNT_EVERY: Final = 2.0
SLICE: Final = 500
SLICE_BYTES: Final = 4 << 20
FULL: Final = 0.05
"""Seconds until the log is asked again that had too much to do."""
DEAD_CHANNEL: Final = f"{DEAD}:outbox"
_SIZE: Final = {"_id": 1, "at": 1, "size": {"$bsonSize": "$$ROOT"}}


class Place(NamedTuple):
    """Of an entry."""

    id: Any
    size: int


class Lost(Exception):
    """Another node has the lease."""


class Outbox:
    def __init__(
        self,
        database: DatabaseApart,
        options: MongoDB,
        *,
        node: str,
        publisher: Publisher,
        log: Log,
        clock: Clock,
    ) -> None:
        self._option = options.outbox
        self._database = DatabaseApart(
            database.client, options, options.outbox if isinstance(options.outbox, str) else None
        )
        self.entries: AsyncCollection[Any] = self._database.get_collection(COLLECTION, codec_options=document_json.RAW)
        self._meta = database.own("meta")
        self._lease = Lease(database, "outbox", node)
        self._node = node
        self._publisher = publisher
        self._log = log
        self._clock = clock
        self.on_lead: Callable[[], None] = lambda: None
        self._keeper = Keeper()
        self._worker = Worker("outbox")
        self._under_way: set[asyncio.Future[Any]] = set()
        self._renewed = 0.0
        self._token: str | None = None
        self._due_at: float | None = None
        """When the next entry is due, in seconds since 1970."""
        self.on = False
        """Whether there is an outbox, as far as this node knows."""
        self.holds = False
        """Whether this node is the one that publishes."""
        self.published = 0
        self.dead = 0
        self.waiting = 0
        """Entries, as of the last look of the node that holds the lease."""
        self.behind_since: float | None = None
        """When the oldest entry was committed that is not published yet, in seconds since 1970."""

    @property
    def lag(self) -> float:
        """Seconds that the oldest entry has waited of those that are being published."""
        return 0.0 if self.behind_since is None else max(self._clock.time() - self.behind_since, 0.0)

    def figures(self) -> dict[str, Any]:
        """{"outbox": {"waiting", "lag" in seconds, "published", "dead"}} on the node that publishes."""
        if not self.holds:
            return {}
        lag = round(self.lag, 1)
        return {"outbox": {"waiting": self.waiting, "lag": lag, "published": self.published, "dead": self.dead}}

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin, if there is an outbox or is to be one. `unavailable`: try again."""
        if self._option is False:
            return
        if self._option is None and not await self._is_there():
            self._keeper.every("outbox", LOOK_EVERY, self._look)
            return
        await self.begin()

    async def _look(self) -> None:
        if not self.on and await self._is_there():
            await self.begin()

    async def _is_there(self) -> bool:
        with mapped():
            return bool(await self._database.list_collection_names(filter={"name": COLLECTION}))

    async def begin(self) -> None:
        """Make what is missing, and follow it from now on. `bad_request` if it is switched off."""
        if self._option is False:
            raise Error("bad_request", "at: mongodb.outbox is false")
        if self.on:
            return
        with mapped():
            await self.entries.create_index("at")
            for field in ("taken", "by.user"):
                await self.entries.create_index(field, sparse=True)
            await self._lease.make()
        if not self.on:
            self.on = True
            self._log.trimmer.held = self.held
            self._keeper.keep("the outbox", self._run)

    def problem(self) -> str | None:
        """What of it has ended in the background, by name."""
        return self._keeper.problem()

    async def close(self) -> None:
        """It may be opened again."""
        keeper, self._keeper = self._keeper, Keeper()
        await keeper.close()
        if self.on:
            self.on = False
            with suppress(PyMongoError):  # the lease ends by itself
                await self._lease.leave()

    async def held(self) -> Collection[str] | None:
        """Channels in which a message of an entry that is still there may be stored: their messages are to be kept.
        None: nobody knows at the moment."""
        with mapped():
            record = await self._meta.find_one({"_id": "outbox"})
            if record is None:
                return ()
            until = record.get("until")
            if until is None or until.replace(tzinfo=UTC).timestamp() < self._clock.time():
                return None
            if record.get("marked") != record["holder"]:
                return None
            return frozenset(await self.entries.distinct("channel", {"taken": True}))

    # --- the lease ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                if (record := await self._lease.take()) is not None:
                    await self._lead(record)
                else:
                    await self._lease.make()  # somebody may have dropped it
            except Lost:
                pass  # it is another node's
            except OperationFailure as error:
                if is_lost(error):
                    logger.error(
                        "the outbox: %s; what is in it is published in the order it was inserted", brief(error)
                    )
                    with suppress(PyMongoError):
                        await self._lease.renew({"token": None})
                else:
                    logger.warning("the outbox: %s", brief(error))
            except (PyMongoError, Error) as error:
                logger.warning("the outbox: %s", brief(error))
            finally:
                self.holds = False
                for future in self._under_way:
                    future.cancel()
                self._under_way.clear()
            await asyncio.sleep(random.uniform(0.3, 0.6))

    async def _lead(self, record: dict[str, Any]) -> None:
        self.holds = True
        self._renewed = asyncio.get_running_loop().time()
        self._token = record.get("token")
        if "marked" in record:  # what a predecessor may have stored
            await self.entries.update_many(
                {"$nor": self._future(), "taken": {"$exists": False}}, {"$set": {"taken": True}}
            )
        await self._renew({"marked": self._node})
        self.on_lead()
        start = {"startAfter": {"_data": self._token}} if self._token else {}
        shown = {"operationType": 1, "documentKey": 1, "clusterTime": 1, "size": {"$bsonSize": "$fullDocument"}}
        wanted = {
            "ns.coll": COLLECTION,
            "operationType": {"$in": ["insert", "replace", "update"]},
            "updateDescription.updatedFields.taken": {"$exists": False},
        }
        stages: list[dict[str, Any]] = [
            {"$match": {"$or": [wanted, {"operationType": "invalidate"}]}},
            {"$project": shown},
        ]
        async with following(self._database, document_json.RAW, start, stages) as stream:
            if self._token is None:
                await self._hand_out_all(stream)
                self._token = stream.token
                await self._renew({})
            await self._look_for_due()
            await self._follow(stream)

    async def _follow(self, stream: ChangeStream) -> None:
        loop = asyncio.get_running_loop()
        swept = counted = -SWEEP
        while True:
            wait = AWAIT if self._due_at is None else (self._due_at - self._clock.time()) * 1000
            events, token = await stream.next(int(min(max(wait, 1), AWAIT)))
            if events:
                first = events[0].get("clusterTime")
                self.behind_since = None if first is None else float(first.time)
                keys = [(event["documentKey"]["_id"], event.get("size")) for event in events if "documentKey" in event]
                places = {_hashable(one): Place(one, size or SLICE_BYTES) for one, size in keys}
                await self._hand_out([*places.values()], stream)
            self._token = token
            self.behind_since = None
            if any(event["operationType"] == "invalidate" for event in events):
                await self._renew({})
                return
            await self._renew_if_due()
            if self._due_at is not None and self._due_at <= self._clock.time():
                await self._hand_out_due(stream)
            if loop.time() - counted > COUNT_EVERY:
                counted = loop.time()
                self.waiting = await self.entries.estimated_document_count()
            if not events and loop.time() - swept > SWEEP:
                swept = loop.time()
                await self._sweep(stream, token)

    async def _renew_if_due(self) -> None:
        if asyncio.get_running_loop().time() - self._renewed > RENEW:
            await self._renew({})

    async def _renew(self, fields: dict[str, Any]) -> None:
        asked = asyncio.get_running_loop().time()
        if not await self._lease.renew({"token": self._token, **fields}):
            raise Lost
        self._renewed = asked

    # --- what is to be published --------------------------------------------------------------------------------------

    def _future(self) -> list[dict[str, Any]]:
        """Filters for what is not due yet: dates and numbers are compared apart."""
        now = self._clock.time()
        return [{"at": {"$gt": datetime.fromtimestamp(now, UTC)}}, {"at": {"$gt": now, "$lt": FURTHEST}}]

    async def _hand_out_all(self, stream: ChangeStream) -> None:
        """What was there before the stream, in the order in which it was inserted."""
        await self._hand_out_found(stream, stream.token, {"filter": {"$nor": self._future()}, "hint": {"$natural": 1}})

    async def _sweep(self, stream: ChangeStream, token: str) -> None:
        """What is there though the stream is beyond it."""
        await self._hand_out_found(stream, token, {"filter": {"at": None}})
        await self._look_for_due()

    async def _hand_out_found(self, stream: ChangeStream, token: str, which: dict[str, Any]) -> None:
        command = {"find": COLLECTION, "projection": _SIZE, **which}
        async for rows in stream.found_at(token, command):
            await self._hand_out([Place(row["_id"], row["size"]) for row in rows], stream)
            await self._renew_if_due()

    async def _look_for_due(self) -> None:
        """When the next one is due."""
        self._due_at = None
        for kind in ("date", "number"):
            # What is no time, the stream shows: it must not hide those behind it.
            which = {"$type": kind, "$not": {"$type": ["array", "decimal"]}, "$ne": math.nan}
            found = await self.entries.find_one({"at": which}, {"at": 1}, sort=[("at", 1)])
            if found is not None:
                self._note_due(_seconds(found["at"]))

    def _note_due(self, at: float) -> None:
        self._due_at = at if self._due_at is None else min(self._due_at, at)

    async def _hand_out_due(self, stream: ChangeStream) -> None:
        """What is due: from now on it cannot be cancelled. A slice of it; what has been committed meanwhile
        does not wait for the rest."""
        now = self._clock.time()
        rows: list[Any] = []
        for upto in (datetime.fromtimestamp(now, UTC), now):
            due = self.entries.find({"at": {"$lte": upto}}, _SIZE).sort([("at", 1), ("_id", 1)]).limit(SLICE)
            rows += [row async for row in due]
        rows.sort(key=lambda row: _seconds(row["at"]))
        ids = [row["_id"] for row in rows]
        await self.entries.update_many({"_id": {"$in": ids}}, {"$set": {"taken": True}})
        await self._hand_out([Place(row["_id"], row["size"]) for row in rows], stream)
        await self._look_for_due()

    async def _hand_out(self, places: Sequence[Place], stream: ChangeStream) -> None:
        """Publish these, as they are now, in this order; those that are not there any more have been before, or were
        cancelled."""
        for some in _slices(places):
            ids = [place.id for place in some]
            found: dict[Any, RawBSONDocument] = {}
            async for row in self.entries.find({"_id": {"$in": ids}}, session=stream.session):
                found[_hashable(row["_id"])] = row
            await self._publish([found[name] for name in map(_hashable, ids) if name in found])

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def _publish(self, rows: Sequence[RawBSONDocument]) -> None:
        """Return when all of them are stored, or among the dead, and deleted here."""
        done: list[Any] = []
        stored: list[tuple[RawBSONDocument, asyncio.Future[Receipt | None]]] = []
        dead: list[tuple[RawBSONDocument, Error]] = []
        for row in rows:
            try:
                entry = await self._worker.run(len(row.raw), partial(entry_of, bytes(row.raw)))
                if entry.at is not None and entry.at > self._clock.time():
                    self._note_due(entry.at)
                    continue
                future = await self._start(entry)
                if future is not None:
                    stored.append((row, future))
            except Error as error:
                if error.code in ("unavailable", "outcome_unknown"):
                    raise
                dead.append((row, error))
            done.append(row["_id"])
        await self._wait(future for _, future in stored)
        for row, future in stored:
            failure = future.exception()
            if isinstance(failure, Error) and failure.code in ("conflict", "internal", "not_found"):
                dead.append((row, failure))
            elif failure is not None:
                raise failure
        await self.bury(dead)
        if done:
            await self.entries.delete_many({"_id": {"$in": done}})
            self.published += len(done) - len(dead)

    async def bury(self, dead: Iterable[tuple[RawBSONDocument, Error]]) -> None:
        """Put entries that can never be published where administrators see what they say."""
        futures = []
        for row, error in dead:
            data = for_the_dead(bytes(row.raw), error)
            text = JSON.encode(data)
            # Not the `_id`: a product may use it once more, for an entry that says something else.
            key = hashlib.blake2b(text, digest_size=16).hexdigest()
            futures.append(self._log.append(DEAD_CHANNEL, None, key, data, len(text), patient=True))
            self.dead += 1
            logger.warning("an entry of the outbox cannot be published (%s): see %s", error.code, DEAD_CHANNEL)
        await self._wait(futures)
        for future in futures:
            future.result()

    async def _start(self, entry: Entry) -> asyncio.Future[Receipt | None] | None:
        while True:
            try:
                return self._publisher.store(entry.principal, entry.channel, entry.data, entry.key, entry.mentions)
            except Error as error:
                if error.code != "unavailable":
                    raise
                if isinstance(error, Unloaded) and await self._load(error):
                    continue
            await asyncio.sleep(FULL)
            await self._renew_if_due()

    async def _load(self, missing: Unloaded) -> bool:
        """Whether that is known now. Raises why there is no right, if that is what is known."""
        try:
            await missing.load()
        except Error as error:
            if error.code != "unavailable":
                raise
            return False
        return True

    async def _wait(self, futures: Iterable[asyncio.Future[Any]]) -> None:
        pending = set(futures)
        self._under_way |= pending
        while pending:
            done, pending = await asyncio.wait(pending, timeout=RENEW)
            self._under_way -= done
            await self._renew_if_due()


def _slices(places: Sequence[Place]) -> Iterable[list[Place]]:
    some: list[Place] = []
    size = 0
    for place in places:
        if some and (len(some) == SLICE or size + place.size > SLICE_BYTES):
            yield some
            some, size = [], 0
        some.append(place)
        size += place.size
    if some:
        yield some


def _seconds(at: Any) -> float:
    """0 for what is no time, and is found among those that are: an array, a decimal number."""
    if isinstance(at, DatetimeMS):
        return int(at) / 1000
    return float(at) if isinstance(at, int | float) else 0.0


def _hashable(identifier: Any) -> Any:
    """MongoDB's `_id`s may be documents."""
    return bytes(identifier.raw) if isinstance(identifier, RawBSONDocument) else identifier
