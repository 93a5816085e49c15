"""Reading the log: heads, pages, and who has them in common.

    channels  {_id: channel, floor: highest offset that is gone, epoch: if not the database's}

Whatever is read is a majority's. Messages are read before the floor, mostly by the same command as its last stage: what
was trimmed between the two reads is then a gap, never a silent hole.

What many ask for at the same time is read together (groups.py): the heads of their channels, and short ranges of
messages, which are named one by one so that MongoDB only has to look them up. A command is answered in one reply, since
it says how much it may be at most: so many rows, and of rows larger than LARGE only their sizes. The large ones follow
by themselves, as many as may be. Hence no answer is much larger than 4 MiB, whatever the messages are like.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import AutoReconnect

from server.core.cursors import MAX_OFFSET, Position
from server.core.tasks import Keeper
from server.core.worker import Worker
from server.log.foundation import Foundation
from server.log.groups import GroupReader
from server.log.rows import Row, between, contiguous, id_of
from server.mongo.client import LINEARIZABLE, mapped
from server.wire.messages import Message, Page

PAGE: Final = 500
SHORT: Final = 64
"""Messages up to which a range is read together with others."""
LARGE: Final = 4 << 10
"""Bytes. PAGE rows up to this size are 2 MiB."""
LARGE_BYTES: Final = 2 << 20
"""Of the larger ones in a page: together so many, or one."""
GROUP: Final = 500
"""Channels, and rows, of one command."""
OWN_READS: Final = 4
"""Reads that are not part of a group, at a time."""
_CACHED_BYTES: Final = 64 << 20
"""Of pages, each counted as if its messages were as large as they may be."""
_CACHED_SECONDS: Final = 1.0

_Key = tuple[str, int]
"""Channel and offset."""
_Found = tuple[_Key, Row | int]
"""A message, or of a large one its bytes."""

_SIZE: Final = {"$bsonSize": "$$ROOT"}
_SMALL: Final = {"$expr": {"$lte": [_SIZE, LARGE]}}
_OR_SIZE: Final = {"_id": 1, "m": {"$cond": [{"$gt": [_SIZE, LARGE]}, _SIZE, "$$ROOT"]}}


class Head(NamedTuple):
    """Up to where a channel reaches (offset 0: nobody has published to it), and what of it is not retained."""

    position: Position
    floor: int


class _Range(NamedTuple):
    """The messages first…last; the newest of them if `back` and they are too many bytes, else the oldest."""

    channel: str
    first: int
    last: int
    back: bool


class _Rows(NamedTuple):
    """What there is of a range, in order."""

    rows: list[Row]
    cut: bool = False
    """Whether there is more than an answer may be."""
    bytes: int = 0
    """At most."""


class State(NamedTuple):
    """Of a channel: what is not retained any more, and its epoch."""

    floor: int
    epoch: str


class Reader:
    """`timeout`: seconds that a linearizable read may take."""

    def __init__(
        self, database: AsyncIOMotorDatabase[dict[str, Any]], foundation: Foundation, keeper: Keeper, timeout: float
    ) -> None:
        self._database = database
        self._messages = database["messages"]
        self._foundation = foundation
        self._keeper = keeper
        self._timeout = timeout
        self._heads = GroupReader(keeper, "heads", self._read_heads, GROUP)
        self._states = GroupReader(keeper, "floors", self._read_states, GROUP)
        self._ranges = GroupReader(keeper, "messages", self._read_ranges, GROUP)
        self._room = asyncio.Semaphore(OWN_READS)
        self._worker = Worker("log")
        self._pages = _Pages()
        self._reading: dict[tuple[str, Position], asyncio.Task[Page]] = {}
        self.count = 0
        """Commands."""

    def forget(self) -> None:
        """What was read so far is of another history."""
        self._pages.clear()

    # --- heads --------------------------------------------------------------------------------------------------------

    async def head(self, channel: str) -> Head:
        with mapped():
            return await self._heads.ask(channel)

    async def heads(self, channels: Sequence[str], session: AsyncIOMotorClientSession | None = None) -> dict[str, Head]:
        """Of many channels, in a command of their own; causally after what the session did. Raises PyMongoError."""
        heads: dict[str, Head] = {}
        for index in range(0, len(channels), GROUP):
            heads |= await self._read_heads(channels[index : index + GROUP], session)
        return heads

    async def _read_heads(
        self, channels: Sequence[str], session: AsyncIOMotorClientSession | None = None
    ) -> dict[str, Head]:
        newest = {
            "aggregate": "messages",
            "pipeline": [
                {"$match": {"_id.c": {"$in": list(channels)}}},
                {"$sort": {"_id.c": ASCENDING, "_id.o": DESCENDING}},
                {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}}},
                _then_states(channels),
            ],
            # One more than there can be, so that MongoDB knows that this is all.
            "cursor": {"batchSize": 2 * len(channels) + 1},
        }
        rows = await self._rows(newest, session)
        offsets = {row["_id"]: row["o"] for row in rows if "o" in row}
        states = self._states_in(channels, (row for row in rows if "o" not in row))
        return {
            channel: Head(Position(states[channel].epoch, offsets.get(channel, 0)), states[channel].floor)
            for channel in channels
        }

    async def state(self, channel: str) -> State:
        with mapped():
            return await self._states.ask(channel)

    async def _read_states(
        self, channels: Sequence[str], session: AsyncIOMotorClientSession | None = None
    ) -> dict[str, State]:
        command = {"find": "channels", "filter": {"_id": {"$in": list(channels)}}, "batchSize": len(channels) + 1}
        return self._states_in(channels, await self._rows(command, session))

    def _states_in(self, channels: Iterable[str], rows: Iterable[Row]) -> dict[str, State]:
        states = dict.fromkeys(channels, State(0, self._foundation.base.epoch))
        for row in rows:
            epoch = row.get("epoch", self._foundation.base.epoch)
            states[row["_id"]] = State(row.get("floor", 0), epoch)
        return states

    async def confirmed_head(self, channel: str) -> int:
        """The newest offset, by a linearizable read: whatever was acknowledged before the call is in it."""
        messages = self._messages.with_options(read_concern=LINEARIZABLE)
        with mapped():
            document = await messages.find_one(
                between(channel), {"_id": 1}, sort=[("_id", DESCENDING)], max_time_ms=int(self._timeout * 1000)
            )
        return document["_id"]["o"] if document else 0

    async def channels(self) -> list[str]:
        """Every channel that has messages."""
        with mapped():
            rows = self._messages.aggregate([{"$sort": {"_id.c": 1, "_id.o": -1}}, {"$group": {"_id": "$_id.c"}}])
            return [row["_id"] async for row in rows]

    async def by_keys(
        self, keys: Mapping[tuple[str, str | None], list[str]], session: AsyncIOMotorClientSession
    ) -> dict[tuple[str, str | None, str], Row]:
        """Which of these messages are stored: (channel, user) → keys. One read, causally after what the session did.
        Raises PyMongoError."""
        query = [{"_id.c": channel, "u": user, "k": {"$in": some}} for (channel, user), some in keys.items()]
        cursor = self._messages.find({"$or": query}, session=session)
        return {(row["_id"]["c"], row["u"], row["k"]): row async for row in cursor}

    # --- pages --------------------------------------------------------------------------------------------------------

    async def read(self, channel: str, after: Position, upto: int = MAX_OFFSET, limit: int = PAGE) -> Page:
        """The messages behind `after` with offset ≤ `upto`, oldest first, at most min(limit, 500) and about 4 MiB;
        fewer may come, and none if the channel has another epoch by now.

        Concurrent readers of the same page share one read, and for a second its result: of a herd that comes back,
        nearly everybody asks the same. They must agree on the epoch: what was read of a history that has ended since
        is of no use to who knows the next one.
        """
        last = min(upto, after.offset + limit)
        page = self._pages.get(channel, after, last)
        if page is None:
            if last - after.offset <= SHORT:
                page = await self._read_short(channel, after, last)
            if page is None or page.gap is not None:  # what comes behind a gap is not known by its offset
                page = await self._read_long(channel, after)
        return _cut(page, upto, limit)

    def at_hand(self, channel: str, after: Position, upto: int) -> list[Message]:
        """The messages behind `after` with offset ≤ `upto`, if they were read within the last second and nothing is
        missing before them; else none. It does not wait."""
        page = self._pages.get(channel, after, upto)
        return [] if page is None or page.gap is not None else _cut(page, upto, PAGE).messages

    async def _read_short(self, channel: str, after: Position, last: int) -> Page:
        with mapped():
            found, state = await self._ranges.ask(_Range(channel, after.offset + 1, last, False))
        return await self._page(channel, after, found, state)

    async def _read_long(self, channel: str, after: Position) -> Page:
        request = (channel, after)
        task = self._reading.get(request)
        if task is None:
            work = self._read_behind(channel, after)
            task = self._reading[request] = self._keeper.spawn("log read", work, awaited=True)
            task.add_done_callback(lambda _: self._reading.pop(request, None))
        return await asyncio.shield(task)

    async def _read_behind(self, channel: str, after: Position) -> Page:
        with mapped():
            async with self._room:
                found = await self._some(between(channel, after.offset), ASCENDING, PAGE)
            state = await self.state(channel)
        return await self._page(channel, after, found, state)

    async def _page(self, channel: str, after: Position, found: _Rows, state: State) -> Page:
        if after.epoch not in ("", state.epoch):
            return Page([], None)
        gap = (after.offset + 1, state.floor) if state.floor > after.offset else None
        messages = await self._made_of(
            found, partial(contiguous, found.rows, max(after.offset, state.floor), state.epoch)
        )
        page = Page(messages, gap)
        self._pages.put(channel, after, page, found)
        return page

    async def read_back(self, channel: str, before: int, limit: int) -> tuple[list[Message], int]:
        """The `limit` newest messages with offset < `before`, oldest first, and the floor; about 4 MiB of them. They
        are read with others' if they are few and `before` is not beyond the head."""
        limit = min(limit, PAGE)
        with mapped():
            if limit <= SHORT and before < MAX_OFFSET:
                found, state = await self._ranges.ask(_Range(channel, max(1, before - limit), before - 1, True))
            else:
                async with self._room:
                    found = await self._some(between(channel, 0, before - 1), DESCENDING, limit)
                state = await self.state(channel)
        visible = [row for row in found.rows if row["_id"]["o"] > state.floor]
        first = visible[0]["_id"]["o"] if visible else 1
        return await self._made_of(found, partial(contiguous, visible, first - 1, state.epoch)), state.floor

    async def _made_of(self, found: _Rows, make: Callable[[], list[Message]]) -> list[Message]:
        """The messages that `make` makes of what was found: aside, if there are large ones among them."""
        return await self._worker.run(found.bytes - LARGE * len(found.rows), make)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _some(self, query: Row, direction: int, limit: int) -> _Rows:
        """The first rows in this direction, in order: at most `limit` ≤ PAGE of them, and about 4 MiB."""
        command = {"filter": query, "sort": {"_id": direction}, "limit": limit, "projection": _OR_SIZE}
        found = [(_key(row), row["m"]) for row in await self._find(command, limit)]
        fit = _fit(found)
        rows = _whole(found[: fit.messages], await self._large(fit.large))
        return _Rows(rows[::direction], fit.messages < len(found) or len(found) == limit, fit.bytes)

    async def _read_ranges(self, ranges: Sequence[_Range]) -> dict[_Range, tuple[_Rows, State]]:
        """As many as are GROUP rows, and whose large ones are as many bytes as one page may have."""
        wanted: set[_Key] = set()
        taken: list[_Range] = []
        for one in ranges:
            keys = {(one.channel, offset) for offset in range(one.first, one.last + 1)}
            if taken and len(wanted) + len(keys) > GROUP:
                break
            wanted |= keys
            taken.append(one)
        there, states = await self._small_or_sizes(wanted, list({one.channel for one in taken}))
        parts: dict[_Range, tuple[list[_Found], _Fit]] = {}
        large: dict[_Key, int] = {}
        for one in taken:
            offsets = range(one.last, one.first - 1, -1) if one.back else range(one.first, one.last + 1)
            found = [(key, there[key]) for offset in offsets if (key := (one.channel, offset)) in there]
            fit = _fit(found)
            if large and sum((large | fit.large).values()) > LARGE_BYTES:
                continue
            large |= fit.large
            parts[one] = found, fit
        large_rows = await self._large(large)
        if states is None or large:
            states = await self._read_states(list({one.channel for one in parts}))
        answers: dict[_Range, tuple[_Rows, State]] = {}
        for one, (found, fit) in parts.items():
            rows = _whole(found[: fit.messages], large_rows)
            answers[one] = (
                _Rows(rows[::-1] if one.back else rows, fit.messages < len(found), fit.bytes),
                states[one.channel],
            )
        return answers

    async def _small_or_sizes(
        self, keys: set[_Key], channels: Sequence[str]
    ) -> tuple[dict[_Key, Row | int], dict[str, State] | None]:
        """The messages that are there, or of large ones their bytes; and the states of their channels if that was all
        there is to read. What the first look does not find is large, or is not there."""
        there: dict[_Key, Row | int] = {}
        if not keys:
            return there, None
        states: list[Row] = []
        query = {"_id": {"$in": [id_of(*key) for key in keys]}}
        command = {
            "aggregate": "messages",
            "pipeline": [{"$match": query | _SMALL}, _then_states(channels)],
            "cursor": {"batchSize": len(keys) + len(channels) + 1},
        }
        for row in await self._rows(command):
            if isinstance(row["_id"], str):
                states.append(row)
            else:
                there[_key(row)] = row
        if missing := keys - there.keys():
            query = {"_id": {"$in": [id_of(*key) for key in missing]}}
            command = {"filter": query, "projection": {"_id": 1, "m": _SIZE}}
            there |= {_key(row): row["m"] for row in await self._find(command, len(missing))}
            return there, None
        return there, self._states_in(channels, states)

    async def _large(self, sizes: Mapping[_Key, int]) -> dict[_Key, Row]:
        """The messages of which only the sizes were asked so far."""
        if not sizes:
            return {}
        query = {"_id": {"$in": [id_of(*key) for key in sizes]}}
        return {_key(row): row for row in await self._find({"filter": query}, len(sizes))}

    async def _find(self, command: dict[str, Any], most: int) -> list[Row]:
        return await self._rows({"find": "messages", **command, "batchSize": most + 1})

    async def _rows(self, command: dict[str, Any], session: AsyncIOMotorClientSession | None = None) -> list[Row]:
        """What one command finds, by the majority's word. The command itself takes half the time that the driver's
        cursor takes. Once more if the connection was lost, as the driver does it with its own."""
        concern: dict[str, Any] = {"level": "majority"}
        if session is not None and session.operation_time is not None:
            concern["afterClusterTime"] = session.operation_time
        command |= {"readConcern": concern}
        self.count += 1
        try:
            reply = await self._database.command(command, session=session)
        except AutoReconnect:
            self.count += 1
            reply = await self._database.command(command, session=session)
        rows: list[Row] = reply["cursor"]["firstBatch"]
        return rows


class _Pages:
    """Pages that were read within the last second."""

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[str, Position], tuple[float, Page, _Rows]] = OrderedDict()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def get(self, channel: str, after: Position, last: int) -> Page | None:
        """One that reaches `last`, or as far as a page may."""
        found = self._pages.get((channel, after))
        if found is None:
            return None
        at, page, rows = found
        reaches = page.messages[-1].offset if page.messages else after.offset
        # One that does not reach it is good enough if much can be read from it.
        good = reaches >= last or rows.cut or len(page.messages) >= SHORT
        return page if good and time.monotonic() - at < _CACHED_SECONDS else None

    def put(self, channel: str, after: Position, page: Page, rows: _Rows) -> None:
        if not after.epoch:  # nobody knows of which history it is
            return
        self._remove((channel, after))
        self._pages[channel, after] = time.monotonic(), page, rows._replace(rows=[])
        self._bytes += rows.bytes
        while self._bytes > _CACHED_BYTES:
            self._remove(next(iter(self._pages)))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CACHED_SECONDS, self._expire)

    def clear(self) -> None:
        self._pages.clear()
        self._bytes = 0

    def _remove(self, key: tuple[str, Position]) -> None:
        if key in self._pages:
            self._bytes -= self._pages.pop(key)[2].bytes

    def _expire(self) -> None:
        """Not only when the next one comes: a page may hold megabytes."""
        self._timer = None
        old = time.monotonic() - _CACHED_SECONDS
        while self._pages and next(iter(self._pages.values()))[0] <= old:
            self._remove(next(iter(self._pages)))
        if self._pages:
            self._timer = asyncio.get_running_loop().call_later(_CACHED_SECONDS, self._expire)


def _then_states(channels: Sequence[str]) -> Row:
    """The last stage of a pipeline over messages: after them, the states of these channels. It costs MongoDB less than
    a command does."""
    return {"$unionWith": {"coll": "channels", "pipeline": [{"$match": {"_id": {"$in": list(channels)}}}]}}


def _key(row: Row) -> _Key:
    place = row["_id"]
    return place["c"], place["o"]


def _whole(found: Iterable[_Found], large: Mapping[_Key, Row]) -> list[Row]:
    """The messages, with the large ones in their places. One that is gone meanwhile has been trimmed."""
    messages = (large.get(key) if isinstance(row, int) else row for key, row in found)
    return [message for message in messages if message is not None]


class _Fit(NamedTuple):
    """How many of the messages found, from the first on, an answer has room for."""

    messages: int
    bytes: int
    """At most."""
    large: dict[_Key, int]
    """Those of them that are still to be read."""


def _fit(found: Sequence[_Found]) -> _Fit:
    """Up to LARGE_BYTES of large ones, or one of them."""
    large: dict[_Key, int] = {}
    total = 0
    for index, (key, row) in enumerate(found):
        if isinstance(row, int):
            if large and total + row > LARGE_BYTES:
                return _Fit(index, total + LARGE * index, large)
            total += row
            large[key] = row
    return _Fit(len(found), total + LARGE * len(found), large)


def _cut(page: Page, upto: int, limit: int) -> Page:
    messages = page.messages
    if messages and (len(messages) > limit or messages[-1].offset > upto):
        messages = [message for message in messages[:limit] if message.offset <= upto]
    return Page(messages, page.gap)
