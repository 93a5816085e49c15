"""Summaries: what there is of something that belongs to a message, counted now and then and told by an amendment.

The message is marked (marks.py), then something is written that counts, and then everything is counted and an amendment
says how much there is now. Nothing is ever added up: a count that fails, comes twice or comes late does no harm, since
of two counts the one with the higher cluster time is right. So it is exact in the end, whatever dies in between.

Of a message that much happens to, all that comes between two counts is one round: with one mark, and one amendment.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from bson import Timestamp

from server.core.clock import Clock
from server.core.errors import Error, leaves_doubt
from server.core.tasks import Keeper
from server.log.amendments import Amendments
from server.log.marks import Claim, Marks
from server.mongo.client import brief
from server.mongo.cluster_time import number_of
from server.mongo.databases import Database
from server.wire.amendments import AmendedMessage, Op
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

EVERY: Final = 0.3
"""Seconds between two counts of a message, whichever nodes count."""
REST: Final = 3
"""Times as long as the last count has taken, if that is more."""
LEFT_SECONDS: Final = 5.0
"""After which what is marked is counted by whoever finds it. Whatever counts has to be written sooner than that."""
FINISH_EVERY: Final = 1.0
DRAIN_SECONDS: Final = 2.0


class Counter(Protocol):
    """What is counted. Its methods raise Error if they cannot do it now."""

    op: Op

    async def count(self, channel: str, offset: int, since: Timestamp) -> Any:
        """What there is of the message, with all that was written up to `since`."""

    async def forget(self, channel: str, offset: int) -> None:
        """The message is gone: so is what there is of it."""


class Round:
    """What is changed between two counts of a message."""

    def __init__(self, channel: str, offset: int, before: Round | None) -> None:
        self.channel = channel
        self.offset = offset
        self.original: asyncio.Future[AmendedMessage] = asyncio.get_running_loop().create_future()
        """The message as it was when it was marked; Error if that could not be done."""
        self.before = before
        """The round that was still to be counted then."""
        self.notes: set[str] = set()
        """For whoever changes something: what others who do so at the same time have to know."""
        self.task: asyncio.Task[None] | None = None
        self.took = 0.0
        """Seconds that the count has taken."""
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._first = asyncio.Event()
        self.has_changed = False
        self.at: Timestamp | None = None
        """When something was written last, as far as is known."""
        self.in_doubt = False
        """Nobody knows whether something was written, or will be."""

    def changed(self, at: Timestamp | None = None) -> None:
        """Something was written at that cluster time, or before; None: by now."""
        self.has_changed = True
        if at is not None:
            self.at = at if self.at is None else max(self.at, at)

    def enter(self) -> None:
        self._under_way += 1
        self._quiet.clear()

    def leave(self) -> None:
        self._under_way -= 1
        self._first.set()
        if not self._under_way:
            self._quiet.set()

    async def begun(self) -> None:
        """Return when the first of the changes is made."""
        await self._first.wait()

    async def ended(self) -> None:
        """Return when all of them are made."""
        await self._quiet.wait()


class Summaries:
    """Of one kind of thing, which `counter` counts, once in `every` seconds. `keeper` owns the tasks."""

    def __init__(
        self,
        database: Database,
        amendments: Amendments,
        clock: Clock,
        keeper: Keeper,
        counter: Counter,
        every: float = EVERY,
    ) -> None:
        self._every = every
        self._amendments = amendments
        self._keeper = keeper
        self._counter = counter
        self._marks = Marks(database, clock, counter.op)
        self._open: dict[tuple[str, int], Round] = {}
        """By channel and offset the rounds that take changes."""
        self._counting: dict[tuple[str, int], Round] = {}
        """Those that are being counted. The next one of a message waits for that."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.counted = 0
        """Amendments that this node has written, for the figures; and in `finished` those that others had to."""
        self.finished = 0
        amendments.on_erased.append(self._erased)

    def start(self) -> None:
        """Begin to look after what other nodes have left behind."""
        self._keeper.every(f"{self._counter.op} left behind", FINISH_EVERY, self.finish)

    async def drain(self) -> None:
        """Return when what is marked is counted, or that takes too long: then others do it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)

    @asynccontextmanager
    async def changing(self, channel: str, offset: int) -> AsyncIterator[Round]:
        """Around what changes something that is counted: the message is marked before the block, and counted soon after
        it, if the block says that something has `changed`. `not_found` if there is no such message (any more)."""
        round = self._open.get((channel, offset)) or self._begin(channel, offset)
        round.enter()
        try:
            await asyncio.shield(round.original)
            try:
                yield round
            except BaseException as error:
                if leaves_doubt(error):  # else it is a refusal, before anything was written
                    round.in_doubt = True
                raise
        finally:
            round.leave()

    def _begin(self, channel: str, offset: int) -> Round:
        place = channel, offset
        round = self._open[place] = Round(channel, offset, self._counting.get(place))
        task = round.task = self._keeper.spawn(f"{self._counter.op} of a message", self._run(round))
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._end(round))
        return round

    async def _erased(self, channel: str, offset: int) -> None:
        """What comes now is to find that the message is gone."""
        if (round := self._open.get((channel, offset))) is not None:
            self._close(round)
        await self._counter.forget(channel, offset)

    def _close(self, round: Round) -> None:
        """It takes no more changes."""
        place = round.channel, round.offset
        if self._open.get(place) is round:
            self._counting[place] = self._open.pop(place)

    def _end(self, round: Round) -> None:
        place = round.channel, round.offset
        self._close(round)
        if self._counting.get(place) is round:
            del self._counting[place]
        assert round.task is not None
        self._tasks.discard(round.task)
        round.before = None
        if not round.original.done():
            round.original.set_exception(Error("unavailable", "the server is leaving", retry_after=1.0))
        if not round.original.cancelled():
            round.original.exception()  # who has asked may be gone

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _run(self, round: Round) -> None:
        channel, offset, before = round.channel, round.offset, round.before
        try:
            token = await self._mark(round)
        except Error as error:
            self._close(round)
            round.original.set_exception(error)
            return
        try:
            await round.begun()
            if before is not None and before.task is not None and not before.task.done():
                await asyncio.wait((before.task,))
            claim = await self._turn(channel, offset, 0.0 if before is None else REST * before.took)
            self._close(round)
            await round.ended()
            began = time.monotonic()
            if round.has_changed or round.in_doubt:
                written = await self._marks.now() if round.has_changed and round.at is None else round.at
                await self._count(channel, offset, claim, written)
            if not round.in_doubt:  # else what was not seen now is seen by whoever counts what is left behind
                await self._marks.remove(channel, offset, (token,))
            round.took = time.monotonic() - began
        except Error as error:
            logger.warning("%s of a message are counted later: %s", self._counter.op, error.reason)

    async def _mark(self, round: Round) -> str:
        channel, offset = round.channel, round.offset
        original = await self._amendments.original(channel, offset)
        token = None
        if original is not None and original.deleted is None:
            token = await self._marks.add(channel, offset)
        if original is None or token is None:
            raise Error("not_found", f"offset: there is no message {offset} in {channel} (any more)")
        round.original.set_result(original)
        return token

    async def _turn(self, channel: str, offset: int, rest: float = 0.0) -> Claim | None:
        """Return when it is time to count, so many seconds after the last time; None: the message is gone."""
        while True:
            claim = await self._marks.claim(channel, offset, max(self._every, rest))
            if claim is None or not claim.wait:
                return claim
            await asyncio.sleep(claim.wait)

    async def _count(self, channel: str, offset: int, claim: Claim | None, written: Timestamp | None = None) -> None:
        original = await self._amendments.original(channel, offset)
        if claim is None or original is None or original.deleted is not None:
            await self._counter.forget(channel, offset)
            return
        at = claim.at if written is None else max(claim.at, written)
        value = await self._counter.count(channel, offset, at)
        await self._amendments.append(
            original, self._counter.op, (value, number_of(at)), user=None, key=secrets.token_urlsafe(12),
            size=len(JSON.encode(value)),
        )  # fmt: skip
        self.counted += 1

    # --- what others have left behind ---------------------------------------------------------------------------------

    async def finish(self, seconds: float = LEFT_SECONDS) -> None:
        """Count what was marked so many seconds ago."""
        for channel, offset, tokens in await self._marks.left(seconds):
            try:
                claim = await self._turn(channel, offset)
                if claim is not None and claim.tokens.isdisjoint(tokens):
                    continue  # another node has counted
                await self._count(channel, offset, claim)
                await self._marks.remove(channel, offset, tokens)
                self.finished += 1
            except Error as error:
                logger.warning("%s of a message are counted later: %s", self._counter.op, brief(error))
