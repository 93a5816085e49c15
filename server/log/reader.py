"""Reading the log: heads, pages, and who has them in common.

    channels  {_id: channel, floor: highest offset that is gone, epoch: if not the database's}

Whatever is read is a majority's. Messages are read before the floor, mostly by the same command as its last stage: what
was trimmed between the two reads is then a gap, never a silent hole.

What many ask for at the same time is read together (groups.py): the heads of their channels, with a few messages near
them if they are wanted (endings.py), and short ranges of messages, of which MongoDB is told the offsets so that it only
has to look them up (lookups.py). No answer is much larger than 4 MiB, whatever the messages are like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Final, TypeVar

from motor.motor_asyncio import AsyncIOMotorClientSession
from pymongo import ASCENDING, DESCENDING

from server.core.cursors import MAX_OFFSET, Position, Tally
from server.core.loop_share import LoopShare
from server.core.tasks import Keeper
from server.core.worker import Worker
from server.log.endings import ENDINGS, Ending, Head, Near, Wanted, answers, heads_of, offsets_near, taken
from server.log.folding import Overlays, fold, originals_of, overlaid
from server.log.foundation import MESSAGES_INDEX, Foundation
from server.log.groups import GroupReader
from server.log.lookups import SIZE, Lookups
from server.log.pages import Pages, Read
from server.log.ranges import (
    LARGE,
    LARGE_BYTES,
    PAGE,
    SHORT,
    Fit,
    Found,
    Large,
    Offsets,
    Range,
    Rows,
    State,
    all_of,
    cut,
    fit_in,
    made_of,
    whole_of,
)
from server.log.rows import Row, between, counted, id_of, tally_of
from server.mongo.client import LINEARIZABLE, mapped
from server.mongo.databases import Database
from server.wire.amendments import AmendedMessage, Amendment
from server.wire.messages import Message, Page

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

GROUP: Final = 1000
"""Channels, and rows, of one command: rows up to LARGE are 4 MiB."""
OWN_READS: Final = 4
"""Reads that are not part of a group, at a time."""

_OR_SIZE: Final = {"_id": 1, "m": {"$cond": [{"$gt": [SIZE, LARGE]}, SIZE, "$$ROOT"]}}


class Reader:
    """`timeout`: seconds that a linearizable read may take."""

    def __init__(
        self, database: Database, foundation: Foundation, keeper: Keeper, timeout: float, loop_share: LoopShare
    ) -> None:
        self._messages = database.own("messages")
        self.overlays = Overlays()
        self._lookups = Lookups(database, foundation, self.overlays)
        self._foundation = foundation
        self._keeper = keeper
        self._timeout = timeout
        self._heads = GroupReader(keeper, "heads", _mapped(self._read_lone_heads), GROUP, loop_share)
        self._endings = GroupReader(keeper, "endings", _mapped(self._read_endings), ENDINGS, loop_share)
        self._states = GroupReader(keeper, "floors", _mapped(self._lookups.states), GROUP)
        self._ranges = GroupReader(keeper, "messages", _mapped(self._read_ranges), GROUP)
        self._pending = GroupReader(keeper, "amendments", _mapped(self._read_pending), GROUP)
        self._room = asyncio.Semaphore(OWN_READS)
        self._worker = Worker("log")
        self._pages = Pages()
        self._reading: dict[tuple[str, Position, int], tuple[asyncio.Task[Read], float]] = {}
        """And when each has begun, by the monotonic clock."""

    @property
    def count(self) -> int:
        """Commands so far."""
        return self._lookups.count

    def forget(self) -> None:
        """What was read so far is of another history."""
        self._pages.clear()
        self.overlays.clear()

    # --- heads --------------------------------------------------------------------------------------------------------

    async def head(self, channel: str) -> Head:
        return (await self._heads.ask(channel)).head

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
            "aggregate": self._messages.name,
            "pipeline": [*heads_of(channels), self._lookups.then_states(channels)],
            # One more than there can be, so that MongoDB knows that this is all.
            "cursor": {"batchSize": 2 * len(channels) + 1},
        }
        rows = await self._lookups.rows(newest, session)
        offsets = {row["_id"]: row["o"] for row in rows if "o" in row}
        states = self._lookups.states_in(channels, (row for row in rows if "o" not in row))
        return {
            channel: Head(Position(state.epoch, offsets.get(channel, 0)), state.floor, state.amended)
            for channel, state in states.items()
        }

    async def _read_lone_heads(self, channels: Sequence[str]) -> dict[str, Ending]:
        return {channel: Ending(channel, head) for channel, head in (await self._read_heads(channels)).items()}

    def ending(self, channel: str, near: Near | None) -> asyncio.Future[Ending]:
        """The head, and the messages near it if they are wanted, few, and as they were published."""
        if near is None or near.number > SHORT or self.overlays.known(channel):
            return self._heads.ask(channel)
        return self._endings.ask((channel, near))

    async def _read_endings(self, wanted: Sequence[Wanted]) -> dict[Wanted, Ending]:
        base = self._foundation.base
        read, answered = taken(wanted)
        batch = {"batchSize": len(read) + 1}
        heads = {"aggregate": self._messages.name, "pipeline": heads_of(list(read)), "cursor": batch}
        newest = {row["_id"]: row["o"] for row in await self._lookups.rows(heads)}
        offsets = {channel: offsets_near(near, newest.get(channel, 0)) for channel, near in read.items()}
        found, states = await self._lookups.lines(offsets)
        if self._foundation.base is not base:  # the heads are of another history than the states
            return await self._read_endings(wanted)
        return answers(read, answered, newest, offsets, found, states)

    async def tallies(
        self, heads: Mapping[str, Head], session: AsyncIOMotorClientSession | None = None
    ) -> dict[str, Tally]:
        """Of the entries up to these heads, where messages have been amended. Raises PyMongoError."""
        ids = [
            id_of(name, head.position.offset) for name, head in heads.items() if head.amended and head.position.offset
        ]
        if not ids:
            return {}
        command = {"find": self._messages.name, "filter": {"_id": {"$in": ids}}, "projection": {"m": 1, "l": 1}}
        rows = await self._lookups.rows(command | {"batchSize": len(ids) + 1}, session)
        return {row["_id"]["c"]: tally_of(row) for row in rows}

    async def state(self, channel: str) -> State:
        return await self._states.ask(channel)

    async def states(self, channels: Sequence[str]) -> dict[str, State]:
        """Of up to GROUP channels, in a command of their own."""
        with mapped():
            return await self._lookups.states(channels)

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
        self, keys: Mapping[tuple[str, str | None], list[str]], session: AsyncIOMotorClientSession | None = None
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

        Concurrent readers of the same page share one read, and if somebody else asked for it just before, for a second
        its result: of a herd that comes back, nearly everybody asks the same.
        """
        last = min(upto, after.offset + limit)
        page = self._pages.get(channel, after, last, self.overlays.changed(channel))
        if page is None:
            began = time.monotonic()
            found = await self._behind(channel, after, last)
            if after.epoch not in ("", found.epoch):
                return Page([], None)
            page = found.page
            self._pages.put(channel, after, found, began)
        return cut(page, upto, limit)

    async def _behind(self, channel: str, after: Position, last: int) -> Read:
        if last - after.offset <= SHORT:
            some = Range(channel, after.offset + 1, last, False)
            found = await self._folded(channel, partial(self._ranges.ask, some))
            if found.page.gap is None:  # what comes behind a gap is not known by its offset
                return found
        return await self._read_long(channel, after, last - after.offset)

    async def _read_long(self, channel: str, after: Position, limit: int) -> Read:
        limit = min(limit, PAGE)
        request = (channel, after, limit)
        task, began = self._reading.get(request, (None, 0.0))
        if task is None or began <= self.overlays.changed(channel):
            work = self._folded(channel, partial(self._read_behind, channel, after.offset, limit))
            task = self._keeper.spawn("log read", work, awaited=True)
            self._reading[request] = task, time.monotonic()
            task.add_done_callback(partial(self._has_read, request))
        return await asyncio.shield(task)

    def _has_read(self, request: tuple[str, Position, int], task: asyncio.Task[Read]) -> None:
        if request in self._reading and self._reading[request][0] is task:
            del self._reading[request]

    async def _read_behind(self, channel: str, after: int, limit: int) -> Read:
        with mapped():
            async with self._room:
                found = await self._some(channel, after, MAX_OFFSET, ASCENDING, limit)
        return await self._made_of(found, await self.state(channel), after)

    async def read_back(self, channel: str, before: int, limit: int) -> tuple[list[Message], int]:
        """The `limit` newest messages with offset < `before`, oldest first, and the floor; about 4 MiB of them. They
        are read with others' if they are few and `before` is not beyond the head. Amendments are not among them."""
        limit = min(limit, PAGE)
        if self.overlays.known(channel):
            return await self._read_amended_back(channel, before, limit)
        if limit <= SHORT and before < MAX_OFFSET:
            read = await self._ranges.ask(Range(channel, max(1, before - limit), before - 1, True))
        else:
            with mapped():
                async with self._room:
                    found = await self._some(channel, 0, before - 1, DESCENDING, limit)
            read = await self._made_of(found, await self.state(channel), None)
        if read.amended:
            return await self._read_amended_back(channel, before, limit)
        return read.page.messages, read.floor

    # --- where messages have been amended (folding.py) ----------------------------------------------------------------

    async def original(self, channel: str, offset: int) -> AmendedMessage | None:
        """The message at `offset` as it is now; None if there is none (any more)."""
        # Where nothing was ever amended there is no index of it either, and the whole channel would be looked through.
        amended = self._foundation.amends or self.overlays.known(channel)
        pending = await self._pending.ask(channel) if amended else ()
        with mapped():
            rows = await self._lookups.find({"filter": {"_id": id_of(channel, offset)}}, 1)
        floor, epoch, _ = await self.state(channel)
        message = counted(rows[0], epoch) if rows and offset > floor else None
        return overlaid(message, pending) if isinstance(message, AmendedMessage) else None

    async def nth_newest(self, channel: str, number: int, upto: int = MAX_OFFSET) -> int:
        """The offset of the newest message up to `upto` (1), of the one before it (2)…; 0 if there are not as many."""
        only = {"skip": number - 1, "limit": 1, "projection": {"_id": 1}}
        with mapped():
            rows = await self._lookups.find(self._messages_only(channel, upto) | only, 1)
        return int(rows[0]["_id"]["o"]) if rows else 0

    async def _folded(self, channel: str, read: Callable[[], Awaitable[Read]]) -> Read:
        """What `read` finds, as it is shown. What is pending is asked for before it."""
        pending: Sequence[Amendment] | None = None
        if self.overlays.known(channel):
            pending = await self._pending.ask(channel)
        found = await read()
        if found.amended and pending is None:  # which is news
            pending = await self._pending.ask(channel)
            found = await read()
        return found if pending is None else await self._fold(channel, found, pending)

    async def _fold(self, channel: str, found: Read, pending: Sequence[Amendment]) -> Read:
        messages = found.page.messages
        originals: dict[int, AmendedMessage] = {}
        size = found.bytes
        wanted = originals_of(messages, found.floor)
        if wanted:
            with mapped():
                there = (await self._lookups.small_or_sizes({channel: set(wanted)}))[0][channel]
                parts = [(offset, there[offset]) for offset in wanted if offset in there]
                fit = fit_in(channel, parts)
                rows = whole_of(channel, parts[: fit.messages], await self._lookups.large(fit.large))
            entries = [counted(row, found.epoch) for row in rows]
            originals = {entry.offset: entry for entry in entries if isinstance(entry, AmendedMessage)}
            size += fit.bytes
            left = {offset for offset, _ in parts[fit.messages :]}
            messages = list(takewhile(lambda one: not (isinstance(one, Amendment) and one.of in left), messages))
        page = Page(fold(messages, pending, originals, found.floor), found.page.gap)
        return found._replace(page=page, bytes=size, cut=found.cut or len(messages) < len(found.page.messages))

    async def _read_pending(self, channels: Sequence[str]) -> dict[str, list[Amendment]]:
        """What is not folded yet, in order."""
        self._lookups.count += 1
        found: dict[str, list[Amendment]] = {channel: [] for channel in channels}
        async for row in self._messages.find({"_id.c": {"$in": list(channels)}, "p": 1}).sort("_id", ASCENDING):
            entry = counted(row, "")
            if isinstance(entry, Amendment):
                found[entry.channel].append(entry)
        return found

    async def _read_amended_back(self, channel: str, before: int, limit: int) -> tuple[list[Message], int]:
        pending = await self._pending.ask(channel)
        with mapped():
            async with self._room:
                only = self._messages_only(channel, before - 1)
                found = await self._some(channel, 0, before - 1, DESCENDING, limit, only)
        floor, epoch, _ = await self.state(channel)
        entries = [counted(row, epoch) for row in found.rows if row["_id"]["o"] > floor]
        return [overlaid(entry, pending) for entry in entries if isinstance(entry, AmendedMessage)], floor

    def _messages_only(self, channel: str, upto: int) -> Row:
        """Parts of a command for the messages with offset ≤ `upto`, newest first, without the amendments."""
        query = {"_id.c": channel, "z": None, "_id.o": {"$lte": upto}}
        hint = {"hint": MESSAGES_INDEX} if self._foundation.amends else {}
        return {"filter": query, "sort": {"_id.o": DESCENDING}, **hint}

    async def _made_of(self, found: Rows, state: State, after: int | None) -> Read:
        """As `_read`: aside, if there are large messages among them."""
        return await self._worker.run(found.bytes - LARGE * len(found.rows), partial(made_of, found, state, after))

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _some(
        self, channel: str, after: int, upto: int, direction: int, limit: int, only: Row | None = None
    ) -> Rows:
        """Of the messages with `after` < offset ≤ `upto` the first in this direction: at most `limit` ≤ PAGE, and about
        4 MiB. `only`: parts of a command that choose others in the place of these."""
        command = {
            "filter": between(channel, after, upto),
            "sort": {"_id": direction},
            "limit": limit,
            "projection": _OR_SIZE,
        } | (only or {})
        found = [(row["_id"]["o"], row["m"]) for row in await self._lookups.find(command, limit)]
        fit = fit_in(channel, found)
        whole = whole_of(channel, found[: fit.messages], await self._lookups.large(fit.large))
        return Rows(whole[::direction], fit.messages < len(found) or len(found) == limit, fit.bytes)

    async def _read_ranges(self, ranges: Sequence[Range]) -> dict[Range, Read]:
        """As many as are GROUP rows, and whose large ones are as many bytes as one page may have."""
        wanted: dict[str, Offsets] = {}
        taken: list[Range] = []
        room = GROUP
        for one in ranges:
            offsets: Offsets = range(one.first, one.last + 1)
            if (others := wanted.get(one.channel)) is not None:
                room += len(others)
                offsets = {*others, *offsets}
            room -= len(offsets)
            if taken and room < 0:
                break
            wanted[one.channel] = offsets
            taken.append(one)
        there, states = await self._lookups.small_or_sizes(wanted)
        if states is not None:  # none of them is large
            return {
                one: made_of(all_of(one, there[one.channel]), states[one.channel], None if one.back else one.first - 1)
                for one in taken
            }
        parts: dict[Range, tuple[list[Found], Fit]] = {}
        large: Large = {}
        for one in taken:
            rows = there[one.channel]
            order = range(one.last, one.first - 1, -1) if one.back else range(one.first, one.last + 1)
            found = [(offset, rows[offset]) for offset in order if offset in rows]
            fit = fit_in(one.channel, found)
            if large and sum((large | fit.large).values()) > LARGE_BYTES:
                continue
            large |= fit.large
            parts[one] = found, fit
        large_rows = await self._lookups.large(large)
        states = await self._lookups.states(list({one.channel for one in parts}))
        answers: dict[Range, Read] = {}
        for one, (found, fit) in parts.items():
            whole = whole_of(one.channel, found[: fit.messages], large_rows)
            some = Rows(whole[::-1] if one.back else whole, fit.messages < len(found), fit.bytes)
            answers[one] = await self._made_of(some, states[one.channel], None if one.back else one.first - 1)
        return answers


def _mapped(
    read: Callable[[Sequence[Q]], Awaitable[Mapping[Q, A]]],
) -> Callable[[Sequence[Q]], Awaitable[Mapping[Q, A]]]:
    """The same, with what PyMongo raises as an Error: once for all who have asked."""

    async def mapped_read(questions: Sequence[Q]) -> Mapping[Q, A]:
        with mapped():
            return await read(questions)

    return mapped_read
