"""Pulling: the messages of one consumer, handed out to workers that ask for them, on any node.

Workers share the work by what MongoDB says (work.py): no node holds a channel, so any may hand out of any. What this
node has in memory is which channels may have something to hand out, and when the next one is free.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

from server.consumers.beginnings import Beginnings
from server.consumers.events import Wanted
from server.consumers.figures import Figures
from server.consumers.states import States
from server.consumers.work import Receipt, Work, Works
from server.core.alarms import Alarms
from server.core.clock import Clock
from server.core.config import Consumer
from server.core.cursors import Position
from server.core.errors import Error
from server.core.in_turn import InTurn
from server.core.tasks import Keeper
from server.log.log import Log
from server.log.survey import Newest
from server.mongo.databases import Database
from server.wire.messages import Message

logger = logging.getLogger(__name__)

CHANNELS: Final = 10_000
"""Channels that are remembered as having something; the others are looked for when these are done."""
TOGETHER: Final = 16
"""Channels that are looked at together for one fetch."""
UNREADABLE: Final = 200
"""Milliseconds until what is there and could not be read is tried once more."""
FIRST_LOOK: Final = 5.0
"""Seconds that the first worker waits for a look through the channels."""
TRIES: Final = 10
"""How often a change is tried that others were faster with."""
ACTIVE: Final = 90.0
"""Seconds after a fetch in which channels are looked for."""


class Job(NamedTuple):
    id: str
    delivery: int
    message: Message


class Lost(NamedTuple):
    """A gap in a channel."""

    channel: str
    first: int | None
    last: int | None


Change = Callable[[Work], Work]


class Pulling:
    """`bury(name, message, deliveries)` puts a message into the dead-letter channel; `tell(channel, head)` wakes the
    other nodes; `look(name)` compares all its channels."""

    def __init__(
        self,
        name: str,
        options: Consumer,
        database: Database,
        *,
        log: Log,
        states: States,
        clock: Clock,
        bury: Callable[[str, Message, int], Awaitable[None]],
        tell: Callable[[str, Position], None],
        look: Callable[[str], Coroutine[Any, Any, object]],
        keeper: Keeper,
    ) -> None:
        self.name = name
        self.options = options
        self._wanted = Wanted(options)
        self._works = Works(database, name)
        self._log = log
        self._states = states
        self._clock = clock
        self._bury = bury
        self._tell = tell
        self._look = look
        self._keeper = keeper
        self._looking: asyncio.Task[object] | None = None
        self._heads: OrderedDict[str, Position] = OrderedDict()
        """Channels that may have something to hand out, whose turn is next first."""
        self._later: Alarms[tuple[str, Position]] = Alarms(self._free)
        self._tops: OrderedDict[str, Position] = OrderedDict()
        """How far channels reach."""
        self._turns = InTurn()
        """Of those that change what is under way in a channel."""
        self._changes: dict[str, list[tuple[Change, asyncio.Future[None]]]] = {}
        """What waits for its turn in a channel, to be made together."""
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.beginnings = Beginnings(name, self._works, log.survey, states, keeper)
        self._more = False
        self._asked = -ACTIVE
        self.last = Figures()
        """What waits in the channels that are this node's to count, as of the last look."""
        self.delivered = 0
        """Messages that were handed out; done; dead."""
        self.done = 0
        self.dead = 0

    @property
    def waiting(self) -> int:
        """Workers that wait for something."""
        return len(self._waiters)

    # --- what is new --------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether anybody has asked this node lately."""
        return bool(self._waiters) or asyncio.get_running_loop().time() - self._asked < ACTIVE

    def wake(self, channel: str, head: Position) -> None:
        """The channel reaches `head`, or something of it is free again."""
        if not self.active:
            return  # whoever asks first has all channels looked through
        self._heads[channel] = head
        self._remember(channel, head)
        if len(self._heads) > CHANNELS:
            self._heads.popitem(last=False)
            self._more = True
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    async def compare(self, heads: Mapping[str, Newest], figures: Figures | None = None) -> None:
        """Of some channels, how far they reach: the log itself says so. What waits in them is added to `figures`."""
        since, now = self._states[self.name].since, self._clock.now_ms()
        works = await self._works.load(heads)
        behind: dict[str, tuple[int, int]] = {}
        for channel, (head, floor, time) in heads.items():
            work = works.get(channel)
            if work is None and time < since:
                continue
            free = now if work is None else work.free_at(head, now, ordered=self.options.ordered)
            if free == now:
                self.wake(channel, head)
            elif free is not None and self.active:
                self._wait(channel, head, free)
            if work is None and figures is not None:
                self.beginnings.note(channel, head)
            waits = head.offset - floor if work is None else work.behind(head)
            if waits > 0:
                behind[channel] = waits, (floor if work is None else max(work.position.offset, floor)) + 1
        if figures is not None:
            times = await self._log.survey.times({channel: first for channel, (_, first) in behind.items()})
            for channel, (waits, _) in behind.items():
                figures.add(Figures(1, waits, times.get(channel, 0)))

    def forget(self) -> None:
        """What is known of heads is not true any more."""
        self._heads.clear()
        self._tops.clear()
        self.beginnings.forget()

    def _wait(self, channel: str, head: Position, until: int) -> None:
        if len(self._later) < 2 * CHANNELS:
            due = asyncio.get_running_loop().time() + (until - self._clock.now_ms()) / 1000
            self._later.set(due, (channel, head))

    def _free(self, place: tuple[str, Position]) -> None:
        channel, head = place
        self.wake(channel, max(head, self._heads.get(channel, head), key=lambda one: one.offset))

    def close(self) -> None:
        self._later.close()
        for waiter in self._waiters:
            waiter.cancel()

    # --- handing out --------------------------------------------------------------------------------------------------

    async def fetch(
        self, limit: int, wait: float, there: Callable[[], bool] = lambda: True
    ) -> tuple[list[Job], list[Lost]]:
        """At most `limit` messages, as soon as there are any, after `wait` seconds at the latest. `there`: whether the
        worker still is, asked before anything is handed out to it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        new = not self.active
        self._asked = loop.time()
        if new:
            self._look_soon()
        if self._looking is not None:
            await asyncio.wait((self._looking,), timeout=max(wait, FIRST_LOOK))
        lost: list[Lost] = []
        while True:
            jobs: list[Job] = []
            if self._states.runs(self.name) and there():
                jobs = await self._some(limit, lost)
            if jobs or lost or loop.time() >= until or not there():
                return jobs, lost
            await self._woken(until)

    async def _woken(self, until: float) -> None:
        """Something is new, or so much time has passed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + 1.0)):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)
            if self._heads and self._waiters and not self._waiters[0].done():
                self._waiters[0].set_result(None)

    async def _some(self, limit: int, lost: list[Lost]) -> list[Job]:
        jobs: list[Job] = []
        while self._heads and len(jobs) < limit:
            some = [self._heads.popitem(last=False) for _ in range(min(TOGETHER, len(self._heads)))]
            share = -(-(limit - len(jobs)) // len(some))
            found = await asyncio.gather(
                *(self._take(channel, head, share, lost) for channel, head in some), return_exceptions=True
            )
            for one in found:
                if isinstance(one, list):
                    jobs += one
            failed = next((one for one in found if isinstance(one, BaseException)), None)
            if failed is not None and not jobs:
                raise failed
        if not self._heads and self._more:
            self._more = False
            self._look_soon()
        return jobs

    def _look_soon(self) -> None:
        if self._looking is None:
            self._looking = self._keeper.spawn(f"consumer {self.name}", self._look(self.name))
            self._looking.add_done_callback(self._looked)

    def _looked(self, looking: asyncio.Task[object]) -> None:
        self._looking = None

    async def _take(self, channel: str, head: Position, most: int, lost: list[Lost]) -> list[Job]:
        try:
            async with self._turns.take(channel):
                return await self._hand_out(channel, head, most, lost)
        except BaseException:
            self._heads.setdefault(channel, head)
            raise

    async def _hand_out(self, channel: str, head: Position, most: int, lost: list[Lost]) -> list[Job]:
        for _ in range(TRIES):
            self._remember(channel, head)
            work = before = await self._work(channel, head)
            gaps: list[Lost] = []
            if work.position.epoch != head.epoch:
                head = (await self._log.head(channel)).position
            if work.position.epoch != head.epoch:
                work = Work(Position(head.epoch, 0), {}, frozenset(), work.version)
                gaps.append(Lost(channel, None, None))
            offsets = work.choose(head, most, self._clock.now_ms(), ordered=self.options.ordered)
            messages: list[Message] = []
            if offsets:
                messages, work = await self._read(channel, work, offsets, gaps)
                messages, work = await self._without_the_dead(channel, work, messages)
                if not messages and work == before:
                    head = (await self._log.head(channel)).position
                    if head.offset >= offsets[0]:  # it can only be a matter of time
                        self._wait(channel, head, self._clock.now_ms() + UNREADABLE)
                        return []
            if work == before and not messages:
                self._put_back(channel, head, work)
                return []
            lease = secrets.token_hex(8)
            until = self._clock.now_ms() + int(self.options.lease * 1000)
            work = work.with_lent((message.offset for message in messages), until, lease)
            stored = await self._works.exchange(channel, before, work)
            if stored is not None:
                self._put_back(channel, head, stored)
                self.delivered += len(messages)
                lost += gaps
                return [
                    Job(str(Receipt(channel, one.offset, lease)), stored.lent[one.offset].deliveries, one)
                    for one in messages
                ]
        self._heads.setdefault(channel, head)
        return []

    def _put_back(self, channel: str, head: Position, work: Work) -> None:
        """It has its turn again, when there is something to hand out."""
        now = self._clock.now_ms()
        free = work.free_at(head, now, ordered=self.options.ordered)
        if free == now:
            self._heads.setdefault(channel, head)
        elif free is not None:
            self._wait(channel, head, free)

    async def _read(
        self, channel: str, work: Work, offsets: Sequence[int], gaps: list[Lost]
    ) -> tuple[list[Message], Work]:
        """Those of the messages that can be read at once; what is gone, or not to be told, is done."""
        first, last = offsets[0], offsets[-1]
        page = await self._log.read(channel, Position(work.position.epoch, first - 1), last, last - first + 1)
        if page.gap is not None:
            gaps.append(Lost(channel, work.position.offset + 1, page.gap[1]))
            work = work.from_floor(page.gap[1])
        wanted = [one for one in page.messages if one.offset in offsets]
        shown = [one for one in wanted if self._wanted.wants(one)]
        if len(shown) < len(wanted):
            work = work.with_done({one.offset for one in wanted} - {one.offset for one in shown})
        return shown, work

    async def _without_the_dead(self, channel: str, work: Work, messages: list[Message]) -> tuple[list[Message], Work]:
        most = self.options.max_deliveries
        tried = {one.offset: work.lent[one.offset].deliveries for one in messages if most and one.offset in work.lent}
        dead = [one for one in messages if tried.get(one.offset, 0) >= most > 0]
        if not dead:
            return messages, work
        for one in dead:
            await self._bury(self.name, one, tried[one.offset])
        self.dead += len(dead)
        return [one for one in messages if one not in dead], work.with_done(one.offset for one in dead)

    # --- what has become of it ----------------------------------------------------------------------------------------

    async def ack(self, receipts: Sequence[Receipt]) -> None:
        """They are done. What is somebody else's meanwhile stays that."""

        def change(mine: list[Receipt]) -> Change:
            return lambda work: work.with_done(one.offset for one in mine if work.holds(one))

        await self._change(receipts, change)
        self.done += len(receipts)

    async def nack(self, receipts: Sequence[Receipt], delay: float) -> None:
        """They are to be handed out again, after so many seconds."""

        def change(mine: list[Receipt]) -> Change:
            def given_back(work: Work) -> Work:
                until = self._clock.now_ms() + int(delay * 1000)
                return work.with_given_back([one.offset for one in mine if work.holds(one)], until)

            return given_back

        await self._change(receipts, change)

    async def _change(self, receipts: Sequence[Receipt], change: Callable[[list[Receipt]], Change]) -> None:
        by_channel: dict[str, list[Receipt]] = {}
        for one in receipts:
            by_channel.setdefault(one.channel, []).append(one)
        await asyncio.gather(*(self._apply(channel, change(mine)) for channel, mine in by_channel.items()))

    async def _apply(self, channel: str, change: Change) -> None:
        """Together with what else waits for this channel."""
        waiting = self._changes.setdefault(channel, [])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((change, done))
        try:
            async with self._turns.take(channel):
                if not done.done():
                    await self._make(channel, self._changes.pop(channel))
            await done
        finally:
            if self._changes.get(channel) is waiting:  # it was not even begun
                waiting.remove((change, done))
                if not waiting:
                    del self._changes[channel]

    async def _make(self, channel: str, waiting: Sequence[tuple[Change, asyncio.Future[None]]]) -> None:
        error: Error | None = Error("unavailable", "the server is leaving", retry_after=1.0)
        try:
            await self._exchange(channel, [change for change, _ in waiting])
            error = None
        except Error as failed:
            error = failed
        finally:
            for _, done in waiting:
                if not done.done():
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)

    async def _exchange(self, channel: str, changes: Sequence[Change]) -> None:
        for _ in range(TRIES):
            before = (await self._works.load([channel])).get(channel)
            if before is None:
                return
            after = before
            for change in changes:
                after = change(after)
            if after == before:
                return
            stored = await self._works.exchange(channel, before, after)
            if stored is not None:
                await self._changed(channel, stored)
                return
        raise Error("unavailable", "other workers were faster again and again", retry_after=0.1)

    async def _changed(self, channel: str, work: Work) -> None:
        """More of the channel may be free now, here and on other nodes."""
        head = self._tops.get(channel) or (await self._log.head(channel)).position
        now = self._clock.now_ms()
        free = work.free_at(head, now, ordered=self.options.ordered)
        if free == now:
            self.wake(channel, head)
            self._tell(channel, head)
        elif free is not None:
            self._wait(channel, head, free)

    # --- a channel ----------------------------------------------------------------------------------------------------

    async def _work(self, channel: str, head: Position) -> Work:
        """As MongoDB has it now."""
        found = (await self._works.load([channel])).get(channel)
        if found is not None:
            return found
        return Work(await self.beginnings.find(channel, head), {}, frozenset(), 0)

    def _remember(self, channel: str, head: Position) -> None:
        self._tops[channel] = head
        self._tops.move_to_end(channel)
        if len(self._tops) > CHANNELS:
            self._tops.popitem(last=False)
