"""All consumers of a node: what is new reaches those that follow it, and what they need from each other's nodes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from server.backend.backend import BackEnd
from server.consumers.batches import Batch, compose
from server.consumers.catching_up import CatchingUp
from server.consumers.cursors import Cursors
from server.consumers.deliveries import Deliveries, Parts
from server.consumers.events import Happenings
from server.consumers.figures import Board, Figures
from server.consumers.followed import Followed
from server.consumers.leases import Leases, group_of
from server.consumers.pulling import Pulling
from server.consumers.states import State, States
from server.core.clock import Clock
from server.core.config import Config, Consumer
from server.core.cursors import Position
from server.core.errors import Error
from server.core.names import DEAD, HAPPENINGS
from server.core.tasks import Keeper
from server.log.log import Log
from server.log.survey import Newest
from server.mongo.databases import Database, DatabaseApart
from server.presence.decisions import Decision
from server.wire.messages import Message

logger = logging.getLogger(__name__)

SHARE: Final = 20
"""Looks through all channels take no more than this part of the time."""
GATHER: Final = 0.02
"""Seconds in which heads gather for one word to the other nodes."""
LEAVE_WITHIN: Final = 2.0


class Consumers:
    """`announce(news)` tells other nodes of heads.

    Without consumers in the configuration nothing of this runs, and nothing is asked of MongoDB."""

    def __init__(
        self,
        config: Config,
        database: Database,
        apart: DatabaseApart,
        *,
        node: str,
        log: Log,
        clock: Clock,
        announce: Callable[[dict[str, tuple[str, int]]], None],
    ) -> None:
        self.options: Mapping[str, Consumer] = config.consumers
        self._log = log
        self._clock = clock
        self._announce = announce
        self._keeper = Keeper()
        self._catching_up = CatchingUp()
        self.states = States(apart, self.options, clock)
        self.leases = Leases(apart, node, busy=self._is_busy, changed=self._on_groups, told=self._on_told)
        self.cursors = Cursors(database, self._keeper, self._on_lost)
        retention, paced = config.retention, self._catching_up
        parts = Parts(log, self.cursors, self.leases, self.states, self._keeper, clock, retention, paced)
        durable = [name for name, namespace in config.known_namespaces().items() if namespace.durable]
        self.followed = Followed({name: _patterns(one) for name, one in self.options.items()}, durable)
        self.happenings = Happenings(config.wanted_events(), log, clock, self._keeper)
        self._targets = {
            name: BackEnd(f"consumers.{name}", one, concurrency=one.concurrency, clock=clock)
            for name, one in self.options.items()
            if not one.pulled
        }
        self.deliveries = {
            name: Deliveries(name, self.options[name], target, parts, bury=self._bury, stop=self._stop, look=self.look)
            for name, target in self._targets.items()
        }
        self._own = {
            name: Followed({name: _patterns(one)}, durable) for name, one in self.options.items() if one.pulled
        }
        self.pulling = {
            name: Pulling(
                name, self.options[name], database, log=log, states=self.states, clock=clock, keeper=self._keeper,
                bury=self._bury_message, tell=self._tell_soon, look=self.count,
            )
            for name in self._own
        }  # fmt: skip
        self.board = Board(apart, node, self.figures)
        self._opened = False
        self._wanted = asyncio.Event()
        self._news: dict[str, Position] = {}
        self._timer: asyncio.TimerHandle | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin; `unavailable` without MongoDB."""
        if not self.options or self._opened:
            return
        await self.states.load()
        await self.leases.look()
        self._opened = True
        self._wanted.set()
        await self.board.open(self._keeper)
        self.leases.start(self._keeper)
        self._keeper.keep("consumers", self._look_through)

    def problem(self) -> str | None:
        """What of it has ended in the background, by name."""
        return self._keeper.problem()

    async def close(self) -> None:
        """What is under way after LEAVE_WITHIN seconds is given up: it is delivered once more, by whoever has the
        channel then."""
        if not self._opened:
            return
        self._opened = False
        await self.happenings.flush(LEAVE_WITHIN)
        await asyncio.gather(*(one.schedule.leave(LEAVE_WITHIN) for one in self.deliveries.values()))
        await self.cursors.flush(LEAVE_WITHIN)
        await self._keeper.close()
        for pulled in self.pulling.values():
            pulled.close()
        for target in self._targets.values():
            await target.close()
        self._catching_up.close()
        if self._timer is not None:
            self._timer.cancel()
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN):
                await self.board.leave()
                await self.leases.leave()

    # --- what is new --------------------------------------------------------------------------------------------------

    def committed(self, messages: list[Message]) -> None:
        """Messages of one channel are stored for good, by this node. Who delivers them is to know it soon."""
        channel, head = messages[-1].channel, messages[-1].position
        followers = self.followed.by(channel)
        if followers and self._opened:
            self.note_head(channel, head)
            if self.leases.fence(group_of(channel)) is None or any(name in self.pulling for name in followers):
                self._tell_soon(channel, head)

    def decided(self, decision: Decision) -> None:
        """It is this node's to tell of."""
        kind, key, channel, user, info, unsure = decision
        if unsure:
            self._keeper.spawn("an event", self.happenings.note_unless_told(kind, key, channel=channel, user=user))
        else:
            self.happenings.note(kind, key, channel=channel, user=user, info=info)

    def subscribed(self, kind: str, channel: str, user: str | None, session: str) -> None:
        """Or unsubscribed, as `kind` says."""
        self.happenings.note(kind, secrets.token_hex(12), channel=channel, user=user, session=session)

    def note_head(self, channel: str, head: Position) -> None:
        """Somebody says that the channel reaches `head`."""
        if self._opened:
            for name in self.followed.by(channel):
                if name in self.deliveries:
                    self.deliveries[name].wake(channel, head)
                else:
                    if self.leases.fence(group_of(channel)) is not None:
                        self.pulling[name].beginnings.note(channel, head)
                    self.pulling[name].wake(channel, head)

    def _tell_soon(self, channel: str, head: Position) -> None:
        if self.leases.members > 1:
            self._news[channel] = head
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(GATHER, self._tell)

    def _tell(self) -> None:
        self._timer = None
        news, self._news = self._news, {}
        self._announce({channel: (head.epoch, head.offset) for channel, head in news.items()})

    def look(self) -> None:
        """Look through all channels soon: nobody knows what is new there."""
        self._wanted.set()

    def start_over(self) -> None:
        """The log has another history, and with it the cursors may be other ones."""
        self.cursors.forget()
        for one in self.deliveries.values():
            one.forget()
        for pulled in self.pulling.values():
            pulled.forget()
        self.look()

    async def _look_through(self) -> None:
        """Whenever somebody wants it: every 30 s, every second while the broker is away, and when groups change
        hands."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began = loop.time()
            try:
                await self._compare()
            except Error as error:
                logger.warning("consumers: %s", error.reason)
                self._wanted.set()
                await asyncio.sleep(1.0)
            await asyncio.sleep((loop.time() - began) * SHARE)

    async def _compare(self) -> None:
        waiting = {name: Figures() for name in self.pulling}
        async for heads in self._log.survey.newest(*self.followed.ranges()):
            wanted: dict[str, dict[str, Newest]] = {}
            for channel, newest in heads.items():
                for name in self.followed.by(channel):
                    wanted.setdefault(name, {})[channel] = newest
            for name, some in wanted.items():
                if name in self.deliveries:
                    await self.deliveries[name].compare(some)
                    continue
                counted = {one: newest for one, newest in some.items() if self.leases.fence(group_of(one)) is not None}
                await self.pulling[name].compare(counted, waiting[name])
                if self.pulling[name].active:
                    await self.pulling[name].compare({one: some[one] for one in some.keys() - counted.keys()})
        for name, figures in waiting.items():
            self.pulling[name].last = figures

    async def count(self, name: str) -> Figures:
        """What waits for the workers of a consumer, on whichever node. `unavailable` without MongoDB."""
        figures = Figures()
        async for heads in self._log.survey.newest(*self._own[name].ranges()):
            some = {channel: newest for channel, newest in heads.items() if self._own[name].by(channel)}
            await self.pulling[name].compare(some, figures)
        return figures

    # --- what has changed ---------------------------------------------------------------------------------------------

    def _is_busy(self, group: int) -> bool:
        return any(one.busy(group) for one in self.deliveries.values())

    def _on_groups(self) -> None:
        for one in self.deliveries.values():
            one.let_go()
        self.look()

    def _on_lost(self, cursor: Any) -> None:
        self.deliveries[cursor.consumer].forget(cursor)

    def _on_told(self) -> None:
        self._keeper.spawn("consumers' states", self._reload())

    async def _reload(self) -> None:
        try:
            paused = {name for name in self.deliveries if not self.states.runs(name)}
            await self.states.load()
            for name in paused:
                if self.states.runs(name):
                    self.deliveries[name].schedule.retry()
        except Error as error:
            logger.warning("consumers: %s", error.reason)
        for one in self.deliveries.values():
            one.reload()
        for pulled in self.pulling.values():
            pulled.forget()
        self.look()

    async def _stop(self, name: str, why: str) -> None:
        logger.error("consumer %s is stopped: its back end %s", name, why)
        await self.change([name], "stopped", why)

    async def change(self, names: list[str], state: State, why: str | None = None) -> None:
        """Let consumers run, pause or stop, on all nodes."""
        await self.states.change(names, state, why)
        await self.tell()

    async def tell(self) -> None:
        """A state or a cursor was set: have all nodes look at what is so now, this one at once."""
        await self.leases.tell()
        await self._reload()

    # --- figures ------------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Figures]:
        """Of this node's part, without those that have nothing left to do."""
        found = [(name, one.figures()) for name, one in self.deliveries.items()]
        found += [(name, one.last) for name, one in self.pulling.items()]
        return {name: one for name, one in found if one.channels}

    def dead_letter(self, name: str) -> str:
        return self.options[name].dead_letter or f"{DEAD}:{name}"

    # --- the dead -----------------------------------------------------------------------------------------------------

    async def _bury_message(self, name: str, message: Message, deliveries: int) -> None:
        batch = compose(name, message.channel, [message], None, message.position, 1)
        await self._bury(name, batch, "no worker has acknowledged it", deliveries)

    async def _bury(self, name: str, batch: Batch, error: str, attempts: int) -> None:
        """Put what cannot be delivered into the dead-letter channel, once; `unavailable`, and then it is not there."""
        body = {**msgspec.json.decode(batch.body), "error": error, "attempts": attempts}
        try:
            await self._log.append(self.dead_letter(name), None, batch.id, body, len(batch.body))
        except Error as failure:
            if failure.code != "conflict":  # it is there from an earlier time, with another error
                raise


def _patterns(consumer: Consumer) -> list[str]:
    """Of what it follows: the channels of events among them, if it wants any."""
    return [*consumer.channels, *([f"{HAPPENINGS}*"] if consumer.events else [])]
