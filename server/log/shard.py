"""A shard: some of the channels, their queues, and one batch in flight."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from motor.motor_asyncio import AsyncIOMotorClientSession
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

from server.core.cursors import NO_TALLY, Position, Tally
from server.core.errors import Error, WaterspoutError
from server.log.foundation import Base, Foundation
from server.log.inserts import Inserts
from server.log.pending import Pending, PendingPublish, Receipt, key_taken
from server.log.reader import Reader
from server.log.rows import Row, tally_fields, tally_of
from server.log.write_turns import WriteTurns
from server.mongo.client import DUPLICATE_KEY, brief, brief_refusal
from server.mongo.databases import Database
from server.wire.messages import Message

logger = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 1 << 20
"""Of 100, 500 and 1,000 messages a batch, 500 gave the most inserts a second; beyond 1 MiB a batch only adds delay."""
IDLE_LANES: Final = 10_000
"""Heads remembered for each shard of channels that nobody publishes to at the moment."""


class Listener(NamedTuple):
    """Who is told what happens in the log. `on_commit(messages)`: contiguous messages of one channel that are durable
    now. `on_head(channel, position, tally)`: the channel is known to reach there, though the messages are not at hand.
    `on_contention(channel)`: another node has taken an offset that we wanted; tell it that we write too. `on_epoch()`:
    all channels have another history."""

    on_commit: Callable[[list[Message]], None]
    on_head: Callable[[str, Position, Tally], None]
    on_contention: Callable[[str], None]
    on_epoch: Callable[[], None]


class Lane:
    """One channel's queue. `shard` changes only while it is idle, so that its messages keep their order."""

    __slots__ = ("channel", "shard", "waiting", "head", "known_at", "tally", "used", "not_before", "failures", "turns")

    def __init__(self, channel: str, shard: Shard) -> None:
        self.channel = channel
        self.shard = shard
        self.waiting: deque[PendingPublish] = deque()
        self.head: Position | None = None
        """The newest known position, or None: to be read."""
        self.known_at = 0.0
        """When it was the newest."""
        self.tally = NO_TALLY
        """Of the entries up to there."""
        self.used = False
        """It has had messages, as far as is known, also while its head has to be read again."""
        self.not_before = 0.0
        self.failures = 0
        self.turns = WriteTurns()


class Lanes:
    """All channels that are remembered. Those of which nothing waits or is in flight are `idle`, the longest idle
    first: they alone may be forgotten, or go to another shard."""

    def __init__(self, most_idle: int) -> None:
        self.by_channel: dict[str, Lane] = {}
        self.idle: OrderedDict[str, Lane] = OrderedDict()
        self._most_idle = most_idle

    def rest(self, lane: Lane) -> None:
        """Nothing of it waits or is in flight any more."""
        self.idle[lane.channel] = lane
        while len(self.idle) > self._most_idle:
            channel, _ = self.idle.popitem(last=False)
            del self.by_channel[channel]


_Batch = list[tuple[Lane, list[PendingPublish]]]


class Shard:
    """`node`: our name among those that take turns. `window`: seconds that messages stay stored at least.

    A head is believed for half of that: whatever others have written behind it meanwhile is still there, so that the
    unique index refuses a number that is taken, also if nobody could tell us. The other half is for what is under way.

    Inserts beside the batch go without the session, which cannot serve several at once. What one of them leaves in
    doubt, or another shard that had the channel before, is looked up by a majority read that need not be causally after
    it: if that misses a message, the next insert is refused by the same unique index, and it is looked up again."""

    def __init__(
        self,
        database: Database,
        node: str,
        foundation: Foundation,
        pending: Pending,
        window: float,
        inserts: Inserts,
        reader: Reader,
        listener: Listener,
        on_append: Callable[[str], None],
        lanes: Lanes,
    ) -> None:
        self.load = 0
        """Messages that wait or are in flight."""
        self._database = database
        self._node = node
        self._foundation = foundation
        self._pending = pending
        self._believed = window / 2
        self._inserts = inserts
        self._reader = reader
        self._listener = listener
        self._on_append = on_append
        self._lanes = lanes
        self._ready: deque[Lane] = deque()
        self._batch: _Batch = []
        """In flight."""
        self._wake = asyncio.Event()
        self._session: AsyncIOMotorClientSession | None = None
        self._latency = 0.005
        """Seconds a batch takes, smoothed."""
        self._heads_are_old = False
        self.conflicts = 0

    # --- from outside -------------------------------------------------------------------------------------------------

    def put(self, lane: Lane, entry: PendingPublish) -> None:
        """Of a lane that is not idle any more."""
        if not lane.waiting:
            self._ready.append(lane)
        lane.waiting.append(entry)
        self.load += 1
        self._wake.set()

    def forget_heads(self) -> None:
        """Those of its channels are to be read anew."""
        self._heads_are_old = True

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever. It may be started again after an exception, wherever that came from: what was in flight is in doubt
        then, and every channel in which something waits is served."""
        loop = asyncio.get_running_loop()
        self._doubt(self._batch, certain=False)
        self._ready = deque(lane for lane in self._own_lanes() if lane.waiting)
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
        """After a batch: what of it has nothing more to do is idle."""
        for lane, _ in self._batch:
            if not lane.waiting:
                self._lanes.rest(lane)
        self._batch = []
        self.load = sum(len(lane.waiting) for lane in self._ready)
        self._drop_old_heads()

    def _own_lanes(self) -> list[Lane]:
        return [lane for lane in self._lanes.by_channel.values() if lane.shard is self]

    def _drop_old_heads(self) -> None:
        """Only while nothing is in flight: what is acknowledged has a head again."""
        if self._heads_are_old:
            self._heads_are_old = False
            for lane in self._own_lanes():
                lane.head = None

    def _take(self, now: float) -> None:
        """Make the next batch: whole queues, channel by channel in turn, up to the batch's limits."""
        messages, size = 0, 0
        for _ in range(len(self._ready)):
            lane = self._ready.popleft()
            if lane.turns.contended(now) and lane.not_before <= now:
                wait = lane.turns.wait(lane.channel, self._node, self._latency, now)
                lane.not_before = now + wait
                if wait:
                    lane.head = None  # the others write now
            if lane.not_before > now:
                self._ready.append(lane)
                continue
            if now - lane.known_at > self._believed:
                lane.head = None
            taken: list[PendingPublish] = []
            self._batch.append((lane, taken))
            while lane.waiting and messages < BATCH_MESSAGES:
                entry = lane.waiting[0]
                if entry.future.done():
                    self._pending.drop(entry)
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

    def take_turns(self, lane: Lane, now: float) -> None:
        """With the other nodes that write to it, from now on for a while."""
        if lane.turns.begin(now):
            self._listener.on_contention(lane.channel)

    # --- one batch ----------------------------------------------------------------------------------------------------

    async def _write(self, batch: _Batch) -> None:
        """One attempt at a batch. Whatever is not decided by it goes back to the front of its queue."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if not self._foundation.sure:
                await self._foundation.look()
            base = self._foundation.base
            self._drop_old_heads()  # the look may have found another history
            batch = await self._prepare(batch)
        except (PyMongoError, WaterspoutError) as error:
            # Nothing of this attempt was sent, also if MongoDB has what the log cannot stand on (StartError).
            self._report(error)
            for lane, entries in batch:
                self._retry(lane, entries, backoff=True)
            return
        # What was refused a moment ago goes by itself, so that it holds up nobody else; the others go together.
        calm = [(lane, entries) for lane, entries in batch if not lane.failures]
        parts = [[(lane, entries)] for lane, entries in batch if lane.failures]
        if not parts:
            await self._store(calm, base, self._session)
        else:
            parts.append(calm)
            storing = (self._store(part, base, self._session if part is calm else None) for part in parts)
            for part, result in zip(parts, await asyncio.gather(*storing, return_exceptions=True), strict=True):
                if isinstance(result, Exception):
                    logger.error("a batch failed", exc_info=result)
                    self._doubt(part, certain=False)
        self._latency += 0.1 * (min(loop.time() - started, 0.1) - self._latency)

    async def _prepare(self, batch: _Batch) -> _Batch:
        """Find the heads that are not known, and settle what is in doubt."""
        if self._session is None:
            # Causally consistent: a read through it sees whatever made an earlier write through it fail.
            self._session = await self._database.client.start_session(causal_consistency=True)
        unknown = [lane for lane, _ in batch if lane.head is None]
        if unknown:
            now = asyncio.get_running_loop().time()
            heads = await self._reader.heads([lane.channel for lane in unknown], self._session)
            tallies = await self._reader.tallies(heads, self._session)
            for lane in unknown:
                head = heads[lane.channel].position
                if heads[lane.channel].amended and head.offset and lane.channel not in tallies:
                    raise Error("unavailable", f"{lane.channel} was trimmed just now")
                lane.used = head.offset > 0
                if lane.head is None or head.offset > lane.head.offset:
                    lane.head, lane.tally, lane.known_at = head, tallies.get(lane.channel, NO_TALLY), now
        doubtful = [(lane, entries) for lane, entries in batch if any(entry.in_doubt for entry in entries)]
        if doubtful:
            wanted: dict[tuple[str, str | None], list[str]] = {}
            for lane, entries in doubtful:
                for entry in entries:
                    wanted.setdefault((lane.channel, entry.user), []).append(entry.key)
            found = await self._reader.by_keys(wanted, self._session)
            batch = [(lane, self._settle_found(lane, entries, found)) for lane, entries in batch]
            batch = [(lane, entries) for lane, entries in batch if entries]
        return batch

    def _settle_found(
        self, lane: Lane, entries: list[PendingPublish], found: Mapping[tuple[str, str | None, str], Row]
    ) -> list[PendingPublish]:
        """Answer the entries that are stored; the others are no longer in doubt."""
        assert lane.head is not None
        rest: list[PendingPublish] = []
        reached: tuple[Position, Tally] | None = None
        for entry in entries:
            row = found.get((lane.channel, entry.user, entry.key))
            entry.in_doubt = False
            if row is None:
                rest.append(entry)
                continue
            position = Position(lane.head.epoch, row["_id"]["o"])
            ours = position.offset in entry.attempts and entry.is_own(row)
            if ours:
                here = position, tally_of(row)
                reached = max(reached or here, here)
            if not ours and not entry.matches(row):
                self._pending.fail(entry, key_taken())
            else:
                self._pending.settle(entry, Receipt(position, entry.key, not ours))
        if reached is not None:
            lane.head, lane.tally = max((lane.head, lane.tally), reached)
            self._listener.on_head(lane.channel, *reached)
        return rest

    async def _store(self, batch: _Batch, base: Base, session: AsyncIOMotorClientSession | None) -> None:
        """Insert, and decide what the reply decides."""
        documents = [document for lane, entries in batch for document in self._number(lane, entries)]
        if not documents:
            return
        try:
            outcome = await self._inserts.insert(documents, base, session)
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
                    self._pending.fail(entry, Error("internal", "the message could not be stored"))
            return
        if outcome.of_another_base:
            self._foundation.doubt()
            self._doubt(batch, certain=True)
            return
        self._foundation.works()
        stored, refusal = outcome
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

    def _number(self, lane: Lane, entries: list[PendingPublish]) -> list[Row]:
        """The rows of `entries`, numbered on from the head. Whoever has been answered meanwhile, at the deadline, is
        taken out: it was told that nothing is stored, or not to rely on it. So is what cannot be made a row: a bug, but
        it must not stop the shard."""
        assert lane.head is not None
        epoch, offset = lane.head.epoch, lane.head.offset
        tally = lane.tally
        documents: list[Row] = []
        for entry in tuple(entries):
            if entry.future.done():
                self._pending.drop(entry)
                entries.remove(entry)
                continue
            try:
                row = entry.row(lane.channel, epoch, offset + 1)
            except Error as error:
                self._pending.fail(entry, error)
                entries.remove(entry)
                continue
            except Exception:
                logger.exception("a message of %s cannot be stored", lane.channel)
                self._pending.fail(entry, Error("internal", "the message could not be stored"))
                entries.remove(entry)
                continue
            offset += 1
            if entry.amends or tally.amendments:
                tally = tally.after_amendment(offset) if entry.amends else tally.after_message(offset)
                row |= tally_fields(tally, offset)
            entry.tally = tally
            entry.attempts.append(offset)
            documents.append(row)
        return documents

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def _commit(self, lane: Lane, entries: list[PendingPublish], now: float) -> None:
        if not entries:
            return
        assert lane.head is not None
        epoch = lane.head.epoch
        # Numbered as the rows were: whatever `learn` has said meanwhile is older or the same.
        offset = entries[0].attempts[-1] - 1
        messages: list[Message] = []
        for entry in entries:
            offset += 1
            messages.append(entry.message(lane.channel, epoch, offset))
            self._pending.settle(entry, Receipt(Position(epoch, offset), entry.key, False))
        if offset >= lane.head.offset:
            lane.head, lane.tally, lane.known_at = Position(epoch, offset), entry.tally, now
        lane.used = True
        lane.failures = 0
        lane.turns.wrote(now)
        self._on_append(lane.channel)
        self._listener.on_commit(messages)

    def _refused(self, lane: Lane, entries: list[PendingPublish], refusal: Mapping[str, Any], now: float) -> None:
        """The first of `entries` was refused by MongoDB, those behind it were not attempted."""
        for entry in entries:
            entry.attempts.pop()  # this attempt has stored none of them
        if refusal.get("code") != DUPLICATE_KEY:
            logger.error("MongoDB refused a message of %s: %s", lane.channel, brief_refusal(refusal))
            self._pending.fail(entries[0], Error("internal", "the message could not be stored"))
            self._retry(lane, entries[1:])
            return
        lane.head = None
        if "_id" in refusal.get("keyPattern", {}):  # the offset is taken
            self.conflicts += 1
            lane.failures += 1
            lane.not_before = now + random.random() * self._latency
            self.take_turns(lane, now)
        else:  # the key is stored already
            entries[0].in_doubt = True
        self._retry(lane, entries)

    def _doubt(self, batch: _Batch, certain: bool) -> None:
        """Nobody knows what of the batch is stored; `certain`: nothing."""
        for lane, entries in batch:
            for entry in entries:
                if certain:
                    entry.attempts.pop()
                else:
                    entry.in_doubt = True
            lane.head = None
            self._retry(lane, entries, backoff=True)

    def _retry(self, lane: Lane, entries: list[PendingPublish], backoff: bool = False) -> None:
        if backoff:
            lane.failures += 1
            pause = min(1.0, 0.05 * 2 ** min(lane.failures, 5)) * random.uniform(0.5, 1.0)
            lane.not_before = asyncio.get_running_loop().time() + pause
        if not entries:
            return
        if not lane.waiting:
            self._ready.append(lane)
        lane.waiting.extendleft(reversed(entries))

    def _report(self, error: PyMongoError | WaterspoutError) -> None:
        logger.warning("MongoDB: %s; publishes wait", brief(error))
        self._foundation.fails(error)
