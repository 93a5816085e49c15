"""The log: the durable messages of all channels, in MongoDB.

    messages  {_id: {c: channel, o: offset}, e: epoch, u: user, k: key, t: time, d: data}    (or j: data as JSON text)
    channels  {_id: channel, floor: highest offset that is gone, epoch: if not the database's}
              (the changes of documents have an x as well: {k: token, t: cluster time, i: images as JSON text})
    meta      {_id: "epoch", epoch: …}

Offsets of a channel are 1, 2, 3… without holes. They are given out optimistically: a batch is numbered on from the
channel's head as last seen and inserted in order; the unique `_id` refuses a number that somebody else has taken, and
the unique (channel, user, key) a message that is stored already. Ordered inserts persist a prefix and nothing starts
beyond a missing offset, so there is no hole, by induction. What makes it true:

- A message is acknowledged only if the reply to its insert carries no write-concern error, or if a majority read finds
  it. Anything else leaves its outcome in doubt.
- Whatever is in doubt is looked up by its key (one majority read, causally after the error) before it is inserted
  again, renumbered, in front of anything newer of its channel.
- Heads come from majority-acknowledged writes, majority reads, or other nodes' acknowledged writes (`learn`).

A channel belongs to one shard, and a shard has one batch in flight: a channel's messages keep their order.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import bson
import msgspec
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from server.core.clock import now_ms
from server.core.config import MongoDB, Retention
from server.core.cursors import MAX_OFFSET, Position
from server.core.errors import Error, StartError, WaterspoutError
from server.core.histogram import Histogram
from server.core.tasks import Keeper
from server.mongo.client import CURSOR_BATCH, LINEARIZABLE, agreed, brief, brief_refusal, mapped, rows_up_to
from server.wire.codec import JSON
from server.wire.messages import Change, Images, Message, Page, Tail

logger = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 1 << 20
"""Of 100, 500 and 1,000 messages a batch, 500 gave the most inserts a second; beyond 1 MiB a batch only adds delay."""
QUEUE_MESSAGES: Final = 20_000
QUEUE_BYTES: Final = 64 << 20
PAGE: Final = 500
PAGE_BYTES: Final = 1 << 20
"""A page may exceed this by one batch of the cursor."""
_CACHED_PAGES: Final = 64
_CACHED_SECONDS: Final = 1.0
_IDLE_LANES: Final = 10_000
"""Heads remembered per shard of channels that nobody publishes to at the moment."""
_DUPLICATE_KEY: Final = 11000
_PLAIN_DEPTH: Final = 100


class Receipt(NamedTuple):
    """The answer to a publish: where the message is. `duplicate`: an earlier publish with the same key put it there."""

    position: Position
    key: str
    duplicate: bool

    def fields(self) -> dict[str, Any]:
        """As a reply tells it."""
        return {
            "offset": self.position.offset,
            "cursor": str(self.position),
            "key": self.key,
            "duplicate": self.duplicate,
        }


class Conflict(WaterspoutError):
    """A compare-and-append did not find the channel as expected, or its outcome is not known: look again."""


class _Entry:
    """A publish on its way into the log."""

    __slots__ = ("user", "key", "data", "skip", "size", "time", "deadline", "future", "attempts", "in_doubt")

    def __init__(
        self, user: str | None, key: str, data: Any, skip: str | None, size: int, deadline: float,
        future: asyncio.Future[Receipt],
    ) -> None:  # fmt: skip
        self.user = user
        self.key = key
        self.data = data
        self.skip = skip
        self.size = size
        self.time = now_ms()
        self.deadline = deadline
        self.future = future
        self.attempts: list[int] = []
        """The offsets it may have been stored at: what is found there with our key is ours, not a duplicate."""
        self.in_doubt = False


class _Lane:
    """One channel's queue in a shard."""

    __slots__ = ("channel", "waiting", "head", "not_before", "failures", "rivals", "turns_until", "appended_at")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.waiting: deque[_Entry] = deque()
        self.head: Position | None = None
        """The newest known position, or None: to be read."""
        self.not_before = 0.0
        self.failures = 0
        self.rivals: dict[str, float] = {}
        """Other nodes that write to the channel → when we last heard of it."""
        self.turns_until = 0.0
        """Until then we write in our own turns only."""
        self.appended_at = 0.0


class Log:
    """`on_commit(messages)`: contiguous messages of one channel that are durable now. `on_head(channel, position)`: the
    channel is known to reach there, though the messages are not at hand. `on_contention(channel)`: another node
    has taken an offset that we wanted; tell it that we write too."""

    def __init__(
        self,
        database: AsyncIOMotorDatabase[dict[str, Any]],
        options: MongoDB,
        *,
        node: str,
        on_commit: Callable[[list[Message]], None],
        on_head: Callable[[str, Position], None],
        on_contention: Callable[[str], None],
    ) -> None:
        self._node = node
        self._options = options
        self._database = database
        self._messages = self._database["messages"]
        # Raw, so that a page can be bounded by its bytes.
        self._raw_messages: Any = self._messages.with_options(CodecOptions(document_class=RawBSONDocument))
        self._channels = self._database["channels"]
        self._on_commit = on_commit
        self._on_head = on_head
        self._on_contention = on_contention
        self._shards = [_Shard(self) for _ in range(options.shards)]
        self._undecided: deque[_Entry] = deque()
        self.queued = 0
        self.queued_bytes = 0
        self._keeper = Keeper()
        self._reads: dict[tuple[str, Position], asyncio.Task[Page]] = {}
        self._pages: OrderedDict[tuple[str, Position], tuple[float, Page]] = OrderedDict()
        self._probing: asyncio.Task[str | None] | None = None
        self._probed = (0.0, "MongoDB has not been reached yet")
        self.epoch = ""
        self.inserts = 0
        self.reads = 0
        self.conflicts = 0
        self.publish_seconds = Histogram(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
        self.batch_messages = Histogram(1, 2, 5, 10, 20, 50, 100, 200, 500)
        self.trim_due: dict[str, int] = {}
        """Channel → when the trimmer has to look at it, in ms since 1970."""

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the indexes and the epoch, and start writing. `unavailable` if MongoDB is not there (try again),
        StartError if it will never do."""
        with mapped():
            await self._prepare()
        self._probed = (time.monotonic(), "")
        for number, shard in enumerate(self._shards, 1):
            self._keeper.keep(f"log shard {number}", shard.run)
        self._keeper.keep("log deadlines", self._expire)

    async def _prepare(self) -> None:
        try:
            hello = await self._database.client.admin.command("hello")
            if "setName" not in hello:
                raise StartError("mongodb.uri: a replica set is needed (one node will do), this is a standalone mongod")
            await self._messages.create_index(
                [("_id.c", ASCENDING), ("u", ASCENDING), ("k", ASCENDING)], name="key", unique=True
            )
            # For the heads of many channels in one distinct scan (1,000 in 8 ms; without it 120 ms).
            await self._messages.create_index([("_id.c", ASCENDING), ("_id.o", DESCENDING)], name="head")
        except OperationFailure as error:
            if error.code in (13, 18):  # Unauthorized, AuthenticationFailed
                raise StartError(f"mongodb.uri: {brief(error)}") from None
            raise
        self.epoch = await agreed(self._database, "epoch", "epoch", new_epoch())

    async def close(self) -> None:
        """Stop at once. Accepted publishes should have been waited for (`drain`)."""
        await self._keeper.close()
        for entry in self._undecided:
            self._refuse(entry)

    async def drain(self) -> None:
        """Wait until every accepted publish is answered (its deadline, at the latest)."""
        while self._undecided:
            entry = self._undecided[0]
            await asyncio.wait((entry.future,))
            if self._undecided and self._undecided[0] is entry:
                self._undecided.popleft()

    async def probe(self) -> str | None:
        """Why a publish would fail, or None: a write with majority and journal, or a recent one that succeeded."""
        if ended := self._keeper.problem():
            return ended
        at, reason = self._probed
        if time.monotonic() - at < 1.0:
            return reason or None
        if self._probing is None or self._probing.done():
            self._probing = self._keeper.spawn("log probe", self._probe(), awaited=True)
        return await asyncio.shield(self._probing)

    def problem(self) -> str | None:
        """What the last write or probe has said, or which task has ended."""
        return self._keeper.problem() or self._probed[1] or None

    async def _probe(self) -> str | None:
        reason = ""
        try:
            async with asyncio.timeout(2.5):
                await self._database["meta"].update_one({"_id": "probe"}, {"$set": {"at": now_ms()}}, upsert=True)
        except TimeoutError:
            reason = "MongoDB: no write was acknowledged by a majority within 2.5 s"
        except PyMongoError as error:
            reason = f"MongoDB: {brief(error)}"
        self._probed = (time.monotonic(), reason)
        return reason or None

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(
        self, channel: str, user: str | None, key: str, data: Any, size: int, skip: str | None = None
    ) -> asyncio.Future[Receipt]:
        """Queue a message; the future has its receipt once it is durable. `size`: bytes of the encoded data.

        The future fails with `unavailable` (not stored), `conflict` (the key is taken by other data) or, at the
        publish deadline, `outcome_unknown`: retry with the same key. Not a coroutine, so that the order of the calls
        is the order in the log.
        """
        if self.queued >= QUEUE_MESSAGES or self.queued_bytes + size > QUEUE_BYTES:
            raise Error("unavailable", "too many messages are waiting to be stored", retry_after=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        entry = _Entry(user, key, data, skip, size, loop.time() + self._options.publish_timeout, future)
        self.queued += 1
        self.queued_bytes += size
        self._undecided.append(entry)
        self._shard(channel).put(channel, entry)
        return future

    def learn(self, channel: str, position: Position, node: str) -> None:
        """`node` has had `position` acknowledged: number on from there, and expect it to write again."""
        lane = self._shard(channel).lanes.get(channel)
        if lane is None:
            return
        now = asyncio.get_running_loop().time()
        if now - lane.appended_at < CONTENDED_SECONDS:
            lane.rivals[node] = now
        if lane.head is not None and lane.head.epoch == position.epoch and position.offset > lane.head.offset:
            lane.head = position

    def known_head(self, channel: str) -> Position | None:
        """What this node has last had acknowledged or heard of; None if it has not written to the channel lately."""
        lane = self._shard(channel).lanes.get(channel)
        return None if lane is None else lane.head

    def contend(self, channel: str, node: str) -> None:
        """`node` cannot get its messages in: from now on, take turns with it."""
        lane = self._shard(channel).lanes.get(channel)
        if lane is not None:
            now = asyncio.get_running_loop().time()
            lane.rivals[node] = now
            self._take_turns(lane, now)

    def _take_turns(self, lane: _Lane, now: float) -> None:
        begins = lane.turns_until < now
        lane.turns_until = now + CONTENDED_SECONDS
        if begins:
            self._on_contention(lane.channel)

    def _shard(self, channel: str) -> _Shard:
        return self._shards[crc32(channel.encode()) % len(self._shards)]

    def _settle(self, entry: _Entry, receipt: Receipt) -> None:
        self._forget(entry)
        accepted = entry.deadline - self._options.publish_timeout
        self.publish_seconds.observe(asyncio.get_running_loop().time() - accepted)
        if not entry.future.done():
            entry.future.set_result(receipt)

    def _fail(self, entry: _Entry, error: Error) -> None:
        self._forget(entry)
        if not entry.future.done():
            entry.future.set_exception(error)
            entry.future.exception()  # the asker may be gone; that is not worth a warning

    def _forget(self, entry: _Entry) -> None:
        if entry.size >= 0:
            self.queued -= 1
            self.queued_bytes -= entry.size
            entry.size = -1

    def _refuse(self, entry: _Entry) -> None:
        if entry.future.done():
            self._forget(entry)  # whoever asked has given up
            return
        if entry.attempts or entry.in_doubt:
            error = Error("outcome_unknown", "the message may or may not be stored: retry with the same key")
        else:
            error = Error("unavailable", "the message could not be stored in time", retry_after=1.0)
        self._fail(entry, error)

    async def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.1)
            now = loop.time()
            while self._undecided and (self._undecided[0].future.done() or self._undecided[0].deadline <= now):
                self._refuse(self._undecided.popleft())

    async def _insert(
        self, documents: list[dict[str, Any]], session: AsyncIOMotorClientSession | None = None
    ) -> dict[str, Any]:
        """The reply to one ordered insert, durable as far as it was stored."""
        self.inserts += 1
        self.batch_messages.observe(len(documents))
        # The command itself: its reply says in one place what the driver's bulk API spreads over exceptions.
        reply: dict[str, Any] = await self._database.command(
            {
                "insert": "messages",
                "documents": documents,
                "ordered": True,
                "writeConcern": {"w": "majority", "j": True, "wtimeout": int(self._options.publish_timeout * 900)},
            },
            session=session,
        )
        return reply

    # --- the changes of documents: compare and append -----------------------------------------------------------------

    async def tail(self, channel: str) -> Tail:
        """The channel's newest position, and the token that its message has stored."""
        with mapped():
            document = await self._messages.find_one(_all(channel), {"x": 1}, sort=[("_id", DESCENDING)])
            _, epoch = await self._channel(channel)
        if document is None:
            return Tail(Position(epoch, 0), "")
        return Tail(Position(epoch, document["_id"]["o"]), document.get("x", {}).get("k", ""))

    async def append_changes(self, channel: str, tail: Tail, changes: Sequence[Change]) -> Tail:
        """Store changes right behind `tail`, or raise Conflict: then some of them may be stored, or may yet be.

        An offset is taken once and for all, and `tail` is the majority's: who appends behind it knows all that is
        stored, so nothing is stored twice or left out, however many try.
        """
        epoch, offset = tail.position
        messages = [
            Message(channel, epoch, offset + number, change.key, None, change.time, change.data, images=change.images)
            for number, change in enumerate(changes, 1)
        ]
        try:
            reply = await self._insert([_change(*pair) for pair in zip(messages, changes, strict=True)])
        except PyMongoError as error:
            raise Conflict(brief(error)) from error
        if reply.get("writeConcernError") or reply.get("writeErrors"):
            raise Conflict("another node was faster, or the write was not confirmed")
        self.trim_due[channel] = 0
        self._on_commit(messages)
        return Tail(messages[-1].position, changes[-1].token)

    async def start_over(self, channel: str, tail: Tail, change: Change) -> Tail:
        """Give the channel a new epoch and an empty history, at `change`: both at once or Conflict."""
        position = Position(new_epoch(), tail.position.offset + 1)
        message = Message(channel, position.epoch, position.offset, change.key, None, change.time, None)
        try:
            async with (
                await self._database.client.start_session() as session,
                session.start_transaction(write_concern=self._database.write_concern),
            ):
                await self._messages.insert_one(_change(message, change), session=session)
                await self._channels.update_one(
                    {"_id": channel},
                    {"$set": {"epoch": position.epoch}, "$max": {"floor": position.offset}},
                    upsert=True,
                    session=session,
                )
        except PyMongoError as error:
            raise Conflict(brief(error)) from error
        logger.warning("%s starts over: the history of its collection was lost", channel)
        self._on_head(channel, position)
        return Tail(position, change.token)

    async def position_at(self, channel: str, time: Any) -> Position | None:
        """Behind the last change with a cluster time ≤ `time`; None if it is not retained."""
        with mapped():
            document = await self._messages.find_one(
                {**_all(channel), "x.t": {"$lte": time}}, {"_id": 1}, sort=[("_id", DESCENDING)]
            )
            floor, epoch = await self._channel(channel)
        offset = document["_id"]["o"] if document else 0
        return Position(epoch, offset) if offset >= floor else None

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, channel: str, after: Position, upto: int = MAX_OFFSET, limit: int = PAGE) -> Page:
        """The messages behind `after` with offset ≤ `upto`, oldest first, at most min(limit, 500); fewer may come, and
        none if the channel has another epoch by now.

        Concurrent readers of the same page share one read, and for a second its result: of a herd that comes back,
        nearly everybody asks the same. They must agree on the epoch: what was read of a history that has ended since
        is of no use to who knows the next one.
        """
        request = (channel, after)
        found = self._pages.get(request)
        if found is not None:
            at, page = found
            reaches = page.messages[-1].offset if page.messages else after.offset
            # A page that was cut short by its size is as good as a full one: something can be read from it.
            if time.monotonic() - at < _CACHED_SECONDS and (reaches >= upto or len(page.messages) >= CURSOR_BATCH):
                return _cut(page, upto, limit)
        task = self._reads.get(request)
        if task is None:
            reading = self._read(channel, after)
            task = self._reads[request] = self._keeper.spawn("log read", reading, awaited=True)
            task.add_done_callback(lambda _: self._reads.pop(request, None))
        return _cut(await asyncio.shield(task), upto, limit)

    async def _read(self, channel: str, after: Position) -> Page:
        self.reads += 1
        with mapped():
            documents = await self._page(
                {"_id": {"$gt": _id(channel, after.offset), "$lte": _id(channel, MAX_OFFSET)}}, ASCENDING, PAGE
            )
            # The floor second: what was trimmed between the two reads is then a gap, never a silent hole.
            floor, epoch = await self._channel(channel)
        if after.epoch not in ("", epoch):
            return Page([], None)
        gap = (after.offset + 1, floor) if floor > after.offset else None
        page = Page(_contiguous(documents, max(after.offset, floor), epoch), gap)
        request = (channel, after)
        self._pages[request] = (time.monotonic(), page)
        self._pages.move_to_end(request)
        while len(self._pages) > _CACHED_PAGES:
            self._pages.popitem(last=False)
        # Dropped when it is stale, not when the next one comes: a page may hold megabytes.
        asyncio.get_running_loop().call_later(_CACHED_SECONDS, self._drop_page, request, page)
        return page

    def _drop_page(self, request: tuple[str, Position], page: Page) -> None:
        found = self._pages.get(request)
        if found is not None and found[1] is page:
            del self._pages[request]

    async def read_back(self, channel: str, before: int, limit: int) -> tuple[list[Message], int]:
        """The `limit` newest messages with offset < `before`, oldest first, and the floor."""
        self.reads += 1
        with mapped():
            documents = await self._page(
                {"_id": {"$gt": _id(channel, 0), "$lt": _id(channel, before)}}, DESCENDING, min(limit, PAGE)
            )
            floor, epoch = await self._channel(channel)
        documents.reverse()
        visible = [document for document in documents if document["_id"]["o"] > floor]
        return _contiguous(visible, visible[0]["_id"]["o"] - 1 if visible else 0, epoch), floor

    async def _page(self, query: dict[str, Any], direction: int, limit: int) -> list[dict[str, Any]]:
        """At most `limit` documents, and no more once there are PAGE_BYTES of them."""
        cursor = self._raw_messages.find(query).sort("_id", direction).limit(limit).batch_size(CURSOR_BATCH)
        rows, _ = await rows_up_to(cursor, PAGE_BYTES)
        return [bson.decode(row.raw) for row in rows]

    async def _channel(self, channel: str) -> tuple[int, str]:
        """The channel's floor and epoch."""
        document = await self._channels.find_one({"_id": channel}) or {}
        return document.get("floor", 0), document.get("epoch", self.epoch)

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """The newest position of each channel, by majority reads. One that nobody published to has offset 0."""
        with mapped():
            return await self._heads(channels)

    async def _heads(self, channels: Sequence[str], session: Any = None) -> dict[str, Position]:
        heads = {channel: Position(self.epoch, 0) for channel in channels}
        self.reads += 1
        pipeline: list[dict[str, Any]] = [
            {"$match": {"_id.c": {"$in": list(channels)}}},
            {"$sort": {"_id.c": ASCENDING, "_id.o": DESCENDING}},
            {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}}},
        ]
        async for row in self._messages.aggregate(pipeline, session=session, batchSize=len(channels)):
            heads[row["_id"]] = Position(self.epoch, row["o"])
        own_epoch = {"_id": {"$in": list(channels)}, "epoch": {"$exists": True}}
        async for row in self._channels.find(own_epoch, session=session):
            heads[row["_id"]] = Position(row["epoch"], heads[row["_id"]].offset)
        return heads

    async def confirmed_head(self, channel: str) -> int:
        """The newest offset, by a linearizable read: whatever was acknowledged before the call is in it."""
        messages = self._messages.with_options(read_concern=LINEARIZABLE)
        with mapped():
            document = await messages.find_one(
                _all(channel),
                {"_id": 1},
                sort=[("_id", DESCENDING)],
                max_time_ms=int(self._options.publish_timeout * 1000),
            )
        return document["_id"]["o"] if document else 0

    # --- retention ----------------------------------------------------------------------------------------------------

    async def trim(self, channel: str, retention: Retention) -> int:
        """Raise the channel's floor to what its retention says, then delete up to it. Answers the floor.

        May stop anywhere and be done again, by several nodes at once. Never takes messages younger than the dedupe
        window, and leaves the last message in place (hidden, if it is at the floor), so that offsets never restart.
        Notes when the next message will be old enough, if that is sooner than the round through all channels.
        """
        with mapped():
            head = (await self._heads([channel]))[channel].offset
            floor, _ = await self._channel(channel)
            old = floor
            if retention.size:
                floor = max(floor, head - retention.size)
            if retention.ttl:
                floor = max(floor, await self._last_older_than(channel, old, head, retention.ttl))
            if floor > old:
                young = await self._last_older_than(channel, old, head, self._options.dedupe_window)
                floor = max(old, min(floor, young))
            if floor > old:
                await self._channels.update_one({"_id": channel}, {"$max": {"floor": floor}}, upsert=True)
            if floor:
                last = min(floor, head - 1)
                await self._messages.delete_many({"_id": {"$gt": _id(channel, 0), "$lte": _id(channel, last)}})
            oldest = await self._messages.find_one(
                {"_id": {"$gt": _id(channel, floor), "$lte": _id(channel, head)}}, {"t": 1}, sort=[("_id", ASCENDING)]
            )
        too_many = retention.size and head - floor > retention.size
        if oldest and (too_many or retention.ttl):
            kept = self._options.dedupe_window if too_many else max(retention.ttl, self._options.dedupe_window)
            due = oldest["t"] + int(kept * 1000) + 1
            if due < now_ms() + TRIM_ALL_EVERY * 1000:
                self.trim_due.setdefault(channel, due)
        return floor

    async def _last_older_than(self, channel: str, floor: int, head: int, seconds: float) -> int:
        """The offset before the first message above `floor` that is younger than `seconds`."""
        since = now_ms() - int(seconds * 1000)
        document = await self._messages.find_one(
            {"_id": {"$gt": _id(channel, floor), "$lte": _id(channel, head)}, "t": {"$gte": since}},
            {"_id": 1},
            sort=[("_id", ASCENDING)],
        )
        return document["_id"]["o"] - 1 if document else head

    async def channels(self) -> list[str]:
        """Every channel that has messages."""
        with mapped():
            rows = self._messages.aggregate([{"$sort": {"_id.c": 1, "_id.o": -1}}, {"$group": {"_id": "$_id.c"}}])
            return [row["_id"] async for row in rows]


TRIM_ALL_EVERY: Final = 3600
"""Seconds between rounds of the trimmer through every channel."""
CONTENDED_SECONDS: Final = 2.0
"""How long nodes take turns after the last sign of a conflict."""
TURN: Final = 0.05
"""Seconds a node has a contended channel to itself: a few batches."""


class _Shard:
    """The channels with the same hash: their queues, and one batch in flight.

    Inserts beside the batch go without the session, which cannot serve several at once. What one of them leaves in
    doubt is looked up by a majority read that need not be causally after it: if that misses a message, the next insert
    is refused by the same unique index, and it is looked up again."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.lanes: dict[str, _Lane] = {}
        self._idle: OrderedDict[str, _Lane] = OrderedDict()
        """Those with nothing waiting or in flight, the longest idle first: they alone may be forgotten."""
        self._ready: deque[_Lane] = deque()
        self._batch: list[tuple[_Lane, list[_Entry]]] = []
        """In flight."""
        self._wake = asyncio.Event()
        self._session: AsyncIOMotorClientSession | None = None
        self._latency = 0.005
        """Seconds a batch takes, smoothed."""

    def put(self, channel: str, entry: _Entry) -> None:
        lane = self.lanes.get(channel)
        if lane is None:
            lane = self.lanes[channel] = _Lane(channel)
        if not lane.waiting:
            self._ready.append(lane)
            self._idle.pop(channel, None)
        lane.waiting.append(entry)
        self._wake.set()

    async def run(self) -> None:
        """For ever. It may be started again after an exception, wherever that came from: what was in flight is in doubt
        then, and every channel in which something waits is served."""
        loop = asyncio.get_running_loop()
        self._doubt(self._batch, certain=False)
        self._ready = deque(lane for lane in self.lanes.values() if lane.waiting)
        while True:
            self._rest()
            self._take(loop.time())
            if self._batch:
                try:
                    await self._write([(lane, entries) for lane, entries in self._batch if entries])
                except Exception:
                    logger.exception("a batch failed")
                    self._doubt(self._batch, certain=False)
                continue
            self._wake.clear()
            pause = min((lane.not_before for lane in self._ready), default=None)
            try:
                async with asyncio.timeout_at(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _rest(self) -> None:
        """After a batch: what of it has nothing more to do is idle, and the longest idle are forgotten."""
        for lane, _ in self._batch:
            if not lane.waiting:
                self._idle[lane.channel] = lane
        self._batch = []
        while len(self._idle) > _IDLE_LANES:
            channel, _ = self._idle.popitem(last=False)
            del self.lanes[channel]

    def _take(self, now: float) -> None:
        """Make the next batch: whole queues, channel by channel in turn, up to the batch's limits."""
        messages, size = 0, 0
        for _ in range(len(self._ready)):
            lane = self._ready.popleft()
            if lane.turns_until > now and lane.not_before <= now:
                lane.not_before = self._turn(lane, now)
            if lane.not_before > now:
                self._ready.append(lane)
                continue
            taken: list[_Entry] = []
            self._batch.append((lane, taken))
            while lane.waiting and messages < BATCH_MESSAGES:
                entry = lane.waiting[0]
                if entry.future.done():  # its deadline passed
                    self._log._forget(entry)
                    lane.waiting.popleft()
                    continue
                if messages and size + entry.size > BATCH_BYTES:
                    break
                taken.append(lane.waiting.popleft())
                messages += 1
                size += entry.size
            if lane.waiting:
                # In front if it was not its turn any more, behind if it was and there is more.
                (self._ready.append if taken else self._ready.appendleft)(lane)
                if messages >= BATCH_MESSAGES or not taken:
                    break

    def _turn(self, lane: _Lane, now: float) -> float:
        """When we may write to a contended channel. The nodes that write to it have it in turn, by the clock and in the
        order of their names: who writes at once with others is refused more often than not, and fairness is chance.
        Clocks that differ, or nodes that do not know of each other yet, only bring back a few refusals."""
        lane.rivals = {node: heard for node, heard in lane.rivals.items() if now - heard < CONTENDED_SECONDS}
        if not lane.rivals:
            return now
        nodes = sorted((*lane.rivals, self._log._node))
        clock = time.time()
        turn = int(clock / TURN)
        wait = (nodes.index(self._log._node) - turn - crc32(lane.channel.encode())) % len(nodes)
        if wait == 0 and (turn + 1) * TURN - clock > min(self._latency, TURN / 2):
            return now
        lane.head = None  # the others write now
        return now + (turn + (wait or len(nodes))) * TURN - clock

    async def _write(self, batch: list[tuple[_Lane, list[_Entry]]]) -> None:
        """One attempt at a batch. Whatever is not decided by it goes back to the front of its queue."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            batch = await self._prepare(batch)
        except PyMongoError as error:
            self._report(error)
            for lane, entries in batch:
                self._retry(lane, entries, backoff=True)
            return
        # What was refused a moment ago goes by itself, so that it holds up nobody else; the others go together.
        calm = [(lane, entries) for lane, entries in batch if not lane.failures]
        parts = [[(lane, entries)] for lane, entries in batch if lane.failures]
        parts.append(calm)
        storing = (self._store(part, self._session if part is calm else None) for part in parts)
        for part, result in zip(parts, await asyncio.gather(*storing, return_exceptions=True), strict=True):
            if isinstance(result, Exception):
                logger.error("a batch failed", exc_info=result)
                self._doubt(part, certain=False)
        self._latency += 0.1 * (min(loop.time() - started, 0.1) - self._latency)

    async def _store(self, batch: list[tuple[_Lane, list[_Entry]]], session: AsyncIOMotorClientSession | None) -> None:
        """Insert, and decide what the reply decides."""
        documents = [document for lane, entries in batch for document in self._number(lane, entries)]
        if not documents:
            return
        try:
            stored, refusal = await self._insert(documents, session)
        except PyMongoError as error:
            # Not even sent, if there was no server to send it to; but an attempt before may have been.
            self._report(error)
            self._doubt(batch, certain=isinstance(error, ServerSelectionTimeoutError))
            return
        except Exception:
            # A bug, such as data that the driver cannot encode. It must not stop the shard.
            logger.exception("a batch could not be written")
            for _, entries in batch:
                for entry in entries:
                    self._log._fail(entry, Error("internal", "the message could not be stored"))
            return
        self._log._probed = (time.monotonic(), "")
        now = asyncio.get_running_loop().time()
        if stored < 0:
            self._doubt(batch, certain=False)
            return
        for lane, entries in batch:
            if stored >= len(entries):
                self._commit(lane, entries, now)
                stored -= len(entries)
            elif refusal is None:
                # Behind the refused message of another channel: not attempted.
                for entry in entries:
                    entry.attempts.pop()
                self._retry(lane, entries)
            else:
                self._commit(lane, entries[:stored], now)
                self._refused(lane, entries[stored:], refusal, now)
                stored, refusal = 0, None

    def _number(self, lane: _Lane, entries: list[_Entry]) -> list[dict[str, Any]]:
        """The documents of `entries`, numbered on from the head. Whoever has been answered meanwhile, at the deadline,
        is taken out: it was told that nothing is stored, or not to rely on it. So is what cannot be made a document: a
        bug, but it must not stop the shard."""
        assert lane.head is not None
        epoch, offset = lane.head
        documents: list[dict[str, Any]] = []
        for entry in tuple(entries):
            if entry.future.done():
                self._log._forget(entry)
                entries.remove(entry)
                continue
            try:
                document = _document(lane.channel, epoch, offset + 1, entry)
            except Exception:
                logger.exception("a message of %s cannot be stored", lane.channel)
                self._log._fail(entry, Error("internal", "the message could not be stored"))
                entries.remove(entry)
                continue
            offset += 1
            entry.attempts.append(offset)
            documents.append(document)
        return documents

    async def _insert(
        self, documents: list[dict[str, Any]], session: AsyncIOMotorClientSession | None
    ) -> tuple[int, dict[str, Any] | None]:
        """How many were stored for good, from the first on, and why the next one was not. -1: nothing is certain."""
        reply = await self._log._insert(documents, session)
        if reply.get("writeConcernError"):
            logger.warning("MongoDB: %s", brief_refusal(reply["writeConcernError"]))
            return -1, None
        errors = reply.get("writeErrors")
        if errors:
            return errors[0]["index"], errors[0]
        return len(documents), None

    async def _prepare(self, batch: list[tuple[_Lane, list[_Entry]]]) -> list[tuple[_Lane, list[_Entry]]]:
        """Settle what is in doubt, and find the heads that are not known."""
        if self._session is None:
            # Causally consistent: a read through it sees whatever made an earlier write through it fail.
            self._session = await self._log._database.client.start_session(causal_consistency=True)
        doubtful = [(lane, entries) for lane, entries in batch if any(entry.in_doubt for entry in entries)]
        if doubtful:
            found = await self._find(doubtful)
            batch = [(lane, self._settle_found(lane, entries, found)) for lane, entries in batch]
            batch = [(lane, entries) for lane, entries in batch if entries]
        unknown = [lane for lane, _ in batch if lane.head is None]
        if unknown:
            heads = await self._log._heads([lane.channel for lane in unknown], self._session)
            for lane in unknown:
                head = heads[lane.channel]
                if lane.head is None or head.offset > lane.head.offset:
                    lane.head = head
        return batch

    async def _find(
        self, doubtful: list[tuple[_Lane, list[_Entry]]]
    ) -> dict[tuple[str, str | None, str], dict[str, Any]]:
        """The stored documents with the keys of what is in doubt: one majority read for all of them."""
        wanted: dict[tuple[str, str | None], list[str]] = {}
        for lane, entries in doubtful:
            for entry in entries:
                wanted.setdefault((lane.channel, entry.user), []).append(entry.key)
        query = [{"_id.c": channel, "u": user, "k": {"$in": keys}} for (channel, user), keys in wanted.items()]
        cursor = self._log._messages.find({"$or": query}, session=self._session)
        return {(row["_id"]["c"], row["u"], row["k"]): row async for row in cursor}

    def _settle_found(
        self, lane: _Lane, entries: list[_Entry], found: dict[tuple[str, str | None, str], dict[str, Any]]
    ) -> list[_Entry]:
        """Answer the entries that are stored; the others are no longer in doubt."""
        rest: list[_Entry] = []
        reached: Position | None = None
        for entry in entries:
            row = found.get((lane.channel, entry.user, entry.key))
            entry.in_doubt = False
            if row is None:
                rest.append(entry)
                continue
            position = Position(row["e"], row["_id"]["o"])
            ours = position.offset in entry.attempts and row["t"] == entry.time
            if ours:
                reached = max(reached or position, position)
            if not ours and not _same(_data(row), entry.data):
                self._log._fail(entry, Error("conflict", "key: another message of this channel has it already"))
            else:
                self._log._settle(entry, Receipt(position, entry.key, not ours))
        if reached is not None:
            self._log._on_head(lane.channel, reached)
        return rest

    def _commit(self, lane: _Lane, entries: list[_Entry], now: float) -> None:
        if not entries:
            return
        assert lane.head is not None
        epoch, offset = lane.head
        # Numbered as the documents were: whatever `learn` has said meanwhile is older or the same.
        offset = entries[0].attempts[-1] - 1
        messages: list[Message] = []
        for entry in entries:
            offset += 1
            messages.append(
                Message(lane.channel, epoch, offset, entry.key, entry.user, entry.time, entry.data, skip=entry.skip)
            )
            self._log._settle(entry, Receipt(Position(epoch, offset), entry.key, False))
        lane.head = Position(epoch, max(offset, lane.head.offset))
        lane.failures = 0
        lane.appended_at = now
        self._log.trim_due[lane.channel] = 0
        self._log._on_commit(messages)

    def _refused(self, lane: _Lane, entries: list[_Entry], refusal: dict[str, Any], now: float) -> None:
        """The first of `entries` was refused by MongoDB, those behind it were not attempted."""
        for entry in entries:
            entry.attempts.pop()  # this attempt has stored none of them
        if refusal.get("code") != _DUPLICATE_KEY:
            logger.error("MongoDB refused a message of %s: %s", lane.channel, brief_refusal(refusal))
            self._log._fail(entries[0], Error("internal", "the message could not be stored"))
            self._retry(lane, entries[1:])
            return
        lane.head = None
        if "_id" in refusal.get("keyPattern", {}):  # the offset is taken
            self._log.conflicts += 1
            lane.failures += 1
            lane.not_before = now + random.random() * self._latency
            self._log._take_turns(lane, now)
        else:  # the key is stored already
            entries[0].in_doubt = True
        self._retry(lane, entries)

    def _doubt(self, batch: list[tuple[_Lane, list[_Entry]]], certain: bool) -> None:
        for lane, entries in batch:
            for entry in entries:
                if certain:
                    entry.attempts.pop()
                else:
                    entry.in_doubt = True
            lane.head = None
            self._retry(lane, entries, backoff=True)

    def _retry(self, lane: _Lane, entries: list[_Entry], backoff: bool = False) -> None:
        if backoff:
            lane.failures += 1
            pause = min(1.0, 0.05 * 2 ** min(lane.failures, 5)) * random.uniform(0.5, 1.0)
            lane.not_before = asyncio.get_running_loop().time() + pause
        if not entries:
            return
        if not lane.waiting:
            self._ready.append(lane)
        lane.waiting.extendleft(reversed(entries))

    def _report(self, error: PyMongoError) -> None:
        logger.warning("MongoDB: %s; publishes wait", brief(error))
        self._log._probed = (time.monotonic(), f"MongoDB: {brief(error)}")


def new_epoch() -> str:
    return "".join(random.SystemRandom().choices("0123456789abcdefghijklmnopqrstuvwxyz", k=8))


def _id(channel: str, offset: int) -> dict[str, Any]:
    return {"c": channel, "o": offset}


def _all(channel: str) -> dict[str, Any]:
    return {"_id": {"$gt": _id(channel, 0), "$lte": _id(channel, MAX_OFFSET)}}


def _change(message: Message, change: Change) -> dict[str, Any]:
    document: dict[str, Any] = {
        "_id": _id(message.channel, message.offset),
        "e": message.epoch,
        "u": None,
        "k": change.key,
        "t": change.time,
        **_stored(change.data),
        "x": {"k": change.token, "t": change.at},
    }
    if change.images != (None, None):
        # As text: they are as deep as the document itself, and nobody queries them.
        document["x"]["i"] = JSON.encode(change.images).decode()
    return document


def _stored(data: Any) -> dict[str, Any]:
    return {"d": data} if _is_plain(data) else {"j": JSON.encode(data).decode()}


def _images(document: dict[str, Any]) -> Images | None:
    text = document.get("x", {}).get("i")
    return msgspec.json.decode(text, type=Images) if text is not None else None


def _document(channel: str, epoch: str, offset: int, entry: _Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "_id": {"c": channel, "o": offset},
        "e": epoch,
        "u": entry.user,
        "k": entry.key,
        "t": entry.time,
    }
    return document | _stored(entry.data)


def _is_plain(data: Any) -> bool:
    """Whether BSON holds it as it is: no key that MongoDB or a driver could take for an operator, a path or a
    reference ({"$ref", "$id"} reads back as another type), no NUL in a key, and not as deep as MongoDB allows at most:
    a message is deeper than the document in it."""
    level = [data]
    for _ in range(_PLAIN_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                for key in item:
                    if key[:1] == "$" or "." in key or "\0" in key:
                        return False
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
        if not below:
            return True
        level = below
    return False


def _data(document: dict[str, Any]) -> Any:
    return msgspec.json.decode(document["j"]) if "j" in document else document.get("d")


def _same(one: Any, other: Any) -> bool:
    def canonical(data: Any) -> bytes:
        return msgspec.json.encode(data, enc_hook=int, order="sorted")

    return canonical(one) == canonical(other)


def _message(document: dict[str, Any], epoch: str) -> Message:
    """Of the channel's present epoch, whatever it had when the message came: after a reset all cursors are new."""
    channel, offset = document["_id"]["c"], document["_id"]["o"]
    images = _images(document) if "x" in document else None
    return Message(channel, epoch, offset, document["k"], document["u"], document["t"], _data(document), images=images)


def _contiguous(documents: Iterable[dict[str, Any]], after: int, epoch: str) -> list[Message]:
    """The messages from `after` + 1 on, up to the first hole (to be read again: it can only be a matter of time)."""
    messages: list[Message] = []
    expected = after + 1
    for document in documents:
        offset = document["_id"]["o"]
        if offset < expected:
            continue
        if offset != expected:
            break
        messages.append(_message(document, epoch))
        expected += 1
    return messages


def _cut(page: Page, upto: int, limit: int) -> Page:
    messages = page.messages
    if messages and (len(messages) > limit or messages[-1].offset > upto):
        messages = [message for message in messages[:limit] if message.offset <= upto]
    return Page(messages, page.gap)
