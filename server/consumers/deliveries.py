"""Pushing: one consumer's messages on this node, of the channels whose groups are this node's.

What is in memory are the channels that have something new, and for a while those that have had; all others are found
again by their heads and their cursors. A channel is worked on by one task at a time, so its order is kept; its batch
stays the same until it is delivered or in the dead-letter channel.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from server.backend.answers import Busy, Failed, Reply
from server.consumers.batches import Batch
from server.consumers.beginnings import beginnings
from server.consumers.catching_up import CatchingUp
from server.consumers.channel import Channel, is_behind
from server.consumers.cursors import Cursors, Failure, Stored
from server.consumers.events import Wanted
from server.consumers.figures import Figures, figures
from server.consumers.leases import GROUPS, Leases, group_of
from server.consumers.schedule import AGAIN, Schedule
from server.consumers.states import States
from server.core.clock import Clock
from server.core.config import Consumer, Retention
from server.core.cursors import Position
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log.log import Log
from server.log.survey import Newest

logger = logging.getLogger(__name__)

LAGGING: Final = 10_000
"""Channels with something new that one consumer has in memory; the others are looked for when these are done."""
IDLE: Final = 1000
"""Channels without anything new that it still has there, which saves reading their cursors."""
EARLY: Final = 0.2
"""Seconds before its time from which on a try is no attempt."""
ADMITTED: Final = 1000
"""Channels whose cursors are read together."""


class Asked(Protocol):
    """What is pushed to: see `server.backend.backend.BackEnd.ask`."""

    async def ask(
        self, question: Any, *, timeout: float, message_id: str | None = None, most: int | None = None
    ) -> Reply: ...


class Parts(NamedTuple):
    """What all consumers of a node share."""

    log: Log
    cursors: Cursors
    leases: Leases
    states: States
    keeper: Keeper
    clock: Clock
    retention: Callable[[str], Retention | None]
    catching_up: CatchingUp


class Deliveries:
    """`bury(consumer, batch, error, attempts)` puts a batch into the dead-letter channel; `stop(consumer, why)` stops
    the consumer on all nodes; `look()` has the channels looked through again."""

    def __init__(
        self,
        name: str,
        options: Consumer,
        target: Asked,
        parts: Parts,
        *,
        bury: Callable[[str, Batch, str, int], Awaitable[None]],
        stop: Callable[[str, str], Awaitable[None]],
        look: Callable[[], None],
    ) -> None:
        self.name = name
        self.options = options
        self._wanted = Wanted(options)
        self._target = target
        self._parts = parts
        self._bury = bury
        self._stop = stop
        self._look = look
        self.schedule = Schedule(name, parts.keeper, most=self._most, work=self._work, settle=self._settle)
        self._channels: dict[str, Channel] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._unknown: dict[str, Position] = {}
        self._admitting: asyncio.Task[None] | None = None
        self._more = False
        """Whether there are channels with something new that there was no room for."""
        self.delivered = 0
        """Messages; and requests, by what came of them."""
        self.requests = {"delivered": 0, "failed": 0, "dead": 0}

    # --- what is new --------------------------------------------------------------------------------------------------

    def wake(self, channel: str, head: Position) -> None:
        """The channel reaches `head`."""
        one = self._channels.get(channel)
        if one is None:
            if self._parts.leases.fence(group_of(channel)) is None:
                return
            self._unknown[channel] = head
            if len(self._unknown) > LAGGING:
                self._unknown.pop(next(iter(self._unknown)))
                self._more = True
            if self._admitting is None or self._admitting.done():
                self._admitting = self._parts.keeper.spawn(f"consumer {self.name}", self._admit_unknown())
        elif head.epoch != one.head.epoch or head.offset > one.head.offset:
            if not one.oldest:
                one.oldest = self._parts.clock.now_ms()
            one.head = head
            if one.place == "idle":
                self._put(one)

    async def compare(self, heads: Mapping[str, Newest]) -> None:
        """Of some channels that this consumer follows, how far they reach: the log itself says so."""
        leases, since = self._parts.leases, self._parts.states[self.name].since
        unknown: dict[str, Newest] = {}
        for channel, newest in heads.items():
            if channel in self._channels:
                self.wake(channel, newest.position)
            elif leases.fence(group_of(channel)) is not None:
                unknown[channel] = newest
        if not unknown:
            return
        stored = await self._parts.cursors.load((self.name, channel) for channel in unknown)
        behind: dict[str, Position] = {}
        for channel, newest in unknown.items():
            there = stored.get((self.name, channel))
            if newest.time >= since if there is None else is_behind(there.position, newest.position):
                behind[channel] = newest.position
        await self._admit(behind, stored)

    async def _admit_unknown(self) -> None:
        while self._unknown:
            some = {channel: self._unknown[channel] for channel in list(self._unknown)[:ADMITTED]}
            try:
                stored = await self._parts.cursors.load((self.name, channel) for channel in some)
                for channel in some:
                    some[channel] = self._unknown.pop(channel, some[channel])
                await self._admit(some, stored)
            except Error as error:
                logger.warning("consumer %s: %s", self.name, error.reason)
                for channel, head in some.items():
                    self._unknown.setdefault(channel, head)
                await asyncio.sleep(AGAIN)

    async def _admit(self, heads: Mapping[str, Position], stored: Mapping[tuple[str, str], Stored]) -> None:
        """Take these channels into memory, as far as there is room."""
        new: dict[str, Channel] = {}
        unseen = {channel: head for channel, head in heads.items() if (self.name, channel) not in stored}
        begin = await beginnings(self._parts.log.survey, unseen, self._parts.states[self.name].since)
        for channel, head in heads.items():
            there = stored.get((self.name, channel))
            position = begin[channel] if there is None else there.position
            fence = self._parts.leases.fence(group_of(channel))
            if channel in self._channels or fence is None:
                self.wake(channel, head)
                continue
            if len(self._channels) + len(new) - len(self._idle) >= LAGGING:
                self._more = True
                break
            one = new[channel] = Channel(self.name, channel, position, head, fence, self._wanted)
            if there is not None:
                one.stored, one.failure, one.settings = there
        places = {one.channel: one.position.offset + 1 for one in new.values() if one.lags}
        times = await self._parts.log.survey.times(places)
        for channel, one in new.items():
            if channel in self._channels or self._parts.leases.fence(one.group) != one.fence:
                continue
            self._channels[channel] = one
            one.oldest = times.get(channel, 0)
            if one.stored is None:
                # From the first moment on: what retention takes before it is delivered is a gap then.
                self._parts.cursors.note(one)
            pause = (one.failure.due - self._parts.clock.now_ms()) / 1000 if one.failure is not None else 0.0
            if pause > 0:
                self.schedule.wait(one, pause)
            else:
                self._settle(one)

    # --- what is in memory --------------------------------------------------------------------------------------------

    def _put(self, one: Channel) -> None:
        self._idle.pop(one.channel, None)
        self.schedule.put(one)

    def _settle(self, one: Channel) -> None:
        """Nothing runs for it: it is dropped, or has its next turn, or is idle."""
        if one.stale:
            self._drop(one)
            self.wake(one.channel, one.head)
        elif one.lags:
            self._put(one)
        else:
            one.oldest = 0
            self._idle[one.channel] = None
            while len(self._idle) > IDLE:
                oldest = self._channels[next(iter(self._idle))]
                if oldest.dirty:
                    break
                self._drop(oldest)
            if self._more and len(self._channels) - len(self._idle) < LAGGING // 2:
                self._more = False
                self._look()

    def _drop(self, one: Channel) -> None:
        self._parts.cursors.drop(one)
        if self._channels.get(one.channel) is one:
            self._idle.pop(one.channel, None)
            del self._channels[one.channel]

    def forget(self, one: Channel | None = None) -> None:
        """What is known of this channel (None: of all) is not true any more."""
        for some in [one] if one is not None else list(self._channels.values()):
            some.stale = True
            if some.place != "running":
                some.place = "idle"
                self._settle(some)

    def reload(self) -> None:
        """An operator may have set cursors. Those that are about to be written find out by that."""
        for one in list(self._channels.values()):
            if one.place != "running" and not one.dirty:
                self.forget(one)
        self.schedule.go_on()

    def let_go(self) -> None:
        """Drop the channels that are another node's now."""
        for one in list(self._channels.values()):
            if self._parts.leases.fence(one.group) != one.fence:
                self.forget(one)
        self.schedule.go_on()

    def busy(self, group: int) -> bool:
        return any(one.group == group and (one.place == "running" or one.dirty) for one in self._channels.values())

    def figures(self) -> Figures:
        """Of what it has in memory, which is what is not delivered yet."""
        if len(self._idle) == len(self._channels):
            return Figures()
        behind = (one for one in self._channels.values() if one.place != "idle")
        return figures(behind, self._parts.retention, self._parts.clock.now_ms())

    # --- delivering ---------------------------------------------------------------------------------------------------

    def _most(self) -> int:
        if not self._parts.states.runs(self.name):
            return 0
        return max(1, -(-self.options.concurrency * self._parts.leases.held // GROUPS))

    def _may(self, one: Channel) -> bool:
        if one.stale or self.schedule.leaving or not self._parts.states.runs(self.name):
            return False
        if self._parts.leases.fence(one.group) != one.fence:
            one.stale = True
        return not one.stale

    async def _work(self, one: Channel) -> float | None:
        while self._may(one):
            catching_up = self._parts.catching_up
            batch = await one.next(self._parts.log, self.options.batch, catching_up.reading)
            if batch is None and one.position != one.stored:
                self._parts.cursors.note(one)
            if batch is None or not self._may(one):
                break
            pause = await self._deliver(one, batch)
            if pause is not None:
                return pause
            if one.far_behind(self.options.batch):
                await catching_up.rest(batch.messages)
            if self.schedule.others_wait:
                break
        return None

    async def _deliver(self, one: Channel, batch: Batch) -> float | None:
        """None: it is delivered; or the seconds until it is to be tried again."""
        question = batch.body if self.options.url is not None else msgspec.json.decode(batch.body)
        retry_after = None
        try:
            reply = await self._target.ask(question, timeout=self.options.timeout, message_id=batch.id)
        except Busy:
            return AGAIN
        except Failed as failed:
            error = str(failed)
        else:
            if reply.ok:
                self._advance(one, batch, "delivered")
                return None
            error, retry_after = _refusal(reply), reply.retry_after
            if reply.status == 410:
                await self._stop(self.name, error)
                return AGAIN
        self.requests["failed"] += 1
        if (early := self._early(one)) is not None and not retry_after:
            return early
        attempts = (one.failure.attempts if one.failure else 0) + 1
        if 0 < self.options.retries.attempts <= attempts:
            await self._bury(self.name, batch, error, attempts)
            self._advance(one, batch, "dead")
            return None
        return self._fail(one, error, attempts, retry_after)

    def _early(self, one: Channel) -> float | None:
        """The seconds that were left when it was tried, because another channel's batch had arrived: that is no
        attempt of its own. None: it was due."""
        left = (one.failure.due - self._parts.clock.now_ms()) / 1000 if one.failure is not None else 0.0
        return left if left > EARLY else None

    def _fail(self, one: Channel, error: str, attempts: int, retry_after: float | None) -> float:
        retries = self.options.retries
        pause = float(min(retries.first * 2.0 ** min(attempts - 1, 32), retries.most)) * random.uniform(0.5, 1.0)
        if retry_after is not None:
            pause = min(retry_after, retries.most) * random.uniform(1.0, 1.1)
            self.schedule.rest(pause)  # it speaks for itself, not for this channel
        now = self._parts.clock.now_ms()
        if attempts == 1:
            logger.warning("consumer %s: its back end %s", self.name, error)
        one.failure = Failure(attempts, error, now, now + int(pause * 1000))
        self._parts.cursors.note(one)
        return pause

    def _advance(self, one: Channel, batch: Batch, outcome: str) -> None:
        failed = one.failure is not None
        one.advance(batch)
        self._parts.cursors.note(one)
        self.requests[outcome] += 1
        if outcome == "delivered":
            self.delivered += batch.messages
            if failed:
                self.schedule.retry()  # the back end is well again: nobody waits for an hour to be over


def _refusal(reply: Reply) -> str:
    return f"answered {reply.status}" + ("; redirects are not followed" if 300 <= reply.status < 400 else "")
