"""A client whose commands are carried out in order, channel by channel (lanes.py): as tasks, or without one where all
there is to wait for is the end of a log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Final

from server.access.admission import ConnectionSeats
from server.channels.history import PageOutcome, Rest
from server.core.errors import Error
from server.core.principals import Principal
from server.log.ranges import LARGE, SHORT
from server.node import Node
from server.sessions.lanes import LaneCommand, Lanes
from server.sessions.outbox import Connection
from server.sessions.paging import Paging
from server.sessions.requests import Paged, Request, answer
from server.sessions.subscribing import Outcome, Served, Work
from server.sessions.waiting import WaitingClient
from server.wire.codec import Codec
from server.wire.commands import History, Publish, Subscribe, Unsubscribe

PIPELINED: Final = 1024
"""Commands under way per session; while there are more, nothing is read from it."""

Ordered = Subscribe | Unsubscribe | Request
"""What waits for all that is under way on its channel."""


class OrderedClient(WaitingClient):
    __slots__ = ("begun", "under_way", "_lanes", "_pages", "_reading")

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self.begun = 0
        """Commands that continue as tasks, in later turns of the loop. After each frame the WebSocket reads it, adds it
        to the load of its connection, and sets it back to 0."""
        self.under_way = 0
        """Commands that are not answered yet."""
        self._lanes = Lanes()
        self._pages: Paging | None = None
        self._reading = True
        super().__init__(node, connection, codec, principal, seats, origin)

    def _publish(self, command: Publish) -> None:
        raise NotImplementedError

    def _spend(self) -> None:
        """Count a message or a read; `rate_limited` if it is one too many for the connection."""
        raise NotImplementedError

    def _refuse(self, identifier: int | None, error: Error) -> None:
        raise NotImplementedError

    # --- one after another --------------------------------------------------------------------------------------------

    def _in_order(self, command: LaneCommand) -> None:
        self._count(1)
        name = self._lanes.enter(command)
        if name is None or self._carry_out_soon(name, command):
            return
        self._spawn(self._run_lane(name))

    def _carry_out_soon(self, name: str, command: LaneCommand) -> bool:
        """Carry out the first command of a lane without a task, if it is one that can be carried out so."""
        if self._lanes.publish_under_way(name):
            return False
        try:
            if type(command) is Subscribe:
                return self._subscribe_soon(command, partial(self._carried_out, name, command))
            return type(command) is History and self._read_soon(name, command)
        except Error as error:
            self._carried_out(name, command, error)
        except Exception:
            self._failed(command.id)
            self._carried_out(name, command, None)
        return True

    def _carried_out(self, name: str, command: LaneCommand, outcome: Outcome) -> None:
        if outcome is not None and not isinstance(outcome, Error):
            self._spawn(self._run_lane(name, outcome))
            return
        if outcome is not None:
            self._refuse(command.id, outcome)
        self._count(-1)
        if not self._lanes.done(name):
            self._spawn(self._run_lane(name))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.begun += 1
        self._node.keeper.spawn("a command", work)

    async def _run_lane(self, name: str, left: Work | None = None) -> None:
        """`left`: what is left to be done for the first command."""
        while not self._ended:
            command = self._lanes.first(name)
            try:
                if left is not None:
                    rest, left = left, None
                    await rest()
                elif isinstance(command, Publish):
                    self._publish(command)
                else:
                    if (publish := self._lanes.publish_under_way(name)) is not None:
                        await asyncio.wait((publish,))
                    if (work := self._carry_out(command)) is not None:
                        await work
            except Error as error:
                self._refuse(command.id, error)
            except Exception:
                self._failed(command.id)
            self._count(-1)
            if self._lanes.done(name):
                return

    def _carry_out(self, command: Ordered) -> Awaitable[None] | None:
        """What is left to be waited for."""
        assert self._principal is not None
        if isinstance(command, Served):
            return self._subscribe_served(command)
        if isinstance(command, Subscribe):
            return self._subscribe(self._principal, command)
        if isinstance(command, Unsubscribe):
            self._unsubscribe(command)
            return None
        self._spend()
        return self._answer(command)

    # --- how much of it -----------------------------------------------------------------------------------------------

    @property
    def reading(self) -> bool:
        """Whether commands are taken: not while too much of what they caused is unfinished or unread."""
        return self._reading

    def _count(self, change: int) -> None:
        self.under_way += change
        if self.under_way > PIPELINED or self.outbox.queued or not self._reading:
            self.queue_changed()

    def queue_changed(self) -> None:
        """Stop reading commands while too much of what they caused is unfinished or unread."""
        limit = self._node.config.limits.queue_bytes
        full = self.under_way > PIPELINED or (limit and self.queued > limit)
        if full and self._reading:
            self._reading = False
            self._connection.pause_reading()
        elif not full and not self._reading and not self._ended:
            self._reading = True
            self._connection.resume_reading()

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _answer(self, command: Request) -> None:
        assert self._principal is not None
        if isinstance(command, Paged):
            async with self._paging:
                self._reply(command, **await answer(self._node, self._principal, command, self))
        else:
            self._reply(command, **await answer(self._node, self._principal, command, self))

    @property
    def _paging(self) -> Paging:
        if self._pages is None:
            self._pages = Paging(self.outbox, self._node.config.limits.queue_bytes)
        return self._pages

    def _read_soon(self, name: str, command: History) -> bool:
        """Without a task, as `History.page_soon` of the channels says it, and beside other pages: if it is small, and
        there is room for it."""
        size = command.limit * LARGE
        if command.limit > SHORT or not self._paging.reserve(size):
            return False
        assert self._principal is not None
        try:
            self._spend()
            rest = self._node.history.page_soon(
                self._principal, command.channel, partial(self._has_read, name, command, size), after=command.after,
                before=command.before, limit=command.limit, where=command.where, address=self.address,
            )  # fmt: skip
        except BaseException:
            self._paging.free(size)
            raise
        if rest is not None:
            self._has_read(name, command, size, rest)
        return True

    def _has_read(self, name: str, command: History, size: int, outcome: PageOutcome) -> None:
        self._paging.free(size)
        if isinstance(outcome, Error):
            self._carried_out(name, command, outcome)
        elif isinstance(outcome, dict):
            try:
                self._reply(command, channel=command.channel, **outcome)
            except Exception:  # a bug, but this command's alone
                self._failed(command.id)
            self._carried_out(name, command, None)
        else:
            self._carried_out(name, command, partial(self._read_on, command, outcome))

    async def _read_on(self, command: History, rest: Rest) -> None:
        async with self._paging:
            self._reply(command, channel=command.channel, **await rest())
