"""A client whose commands may have to wait, in their order, until somebody else has answered: whoever keeps the key of
its token, or the hook that is asked about who connects."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

from server.access.admission import ConnectionSeats
from server.access.arrivals import Arrival
from server.core.principals import Principal
from server.node import Node
from server.sessions.outbox import Connection
from server.sessions.subscribing import SubscribingClient
from server.wire.codec import Codec
from server.wire.commands import Command, Connect

LOT: Final = 64
"""Commands that are carried out in a row, of those that have waited."""


class WaitingClient(SubscribingClient):
    __slots__ = ("_held", "_arrival")

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self._held: deque[Command] | None = None
        """Commands that wait, the first of them for an answer; None: nothing is waited for."""
        self._arrival: Arrival | None = None
        """What the hook says about it, if it was asked."""
        super().__init__(node, connection, codec, principal, seats, origin)

    def _handle(self, command: Command) -> None:
        """Carry it out, or hold it."""
        raise NotImplementedError

    def _count(self, change: int) -> None:
        """So many more commands are under way."""
        raise NotImplementedError

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        raise NotImplementedError

    def _handle_in_turn(self, command: Command) -> None:
        if self._held is not None:
            self._held.append(command)
            self._count(1)
        else:
            self._handle(command)

    def _waits_for_key(self, command: Command, token: str | None) -> bool:
        fetching = self._node.authenticator.fetching(token)
        if fetching is None:
            return False
        self._hold(fetching, command)
        return True

    def _waits_for_hook(self, command: Command) -> bool:
        """Whether the hook has still to say whether this client may come in; Error if it may not."""
        node, principal = self._node, self._principal
        if not node.arrivals.wanted:
            return False
        assert principal is not None
        if self._arrival is not None:
            self._principal = self._arrival.admit(principal)
            return False
        said = (command.name, command.version) if isinstance(command, Connect) else ("", "")
        self._arrival = Arrival(node.arrivals, node.keeper, principal, self.address, self.transport, *said)
        self._hold(self._arrival.over(), command)
        return True

    def _hold(self, until: Awaitable[None], *commands: Command) -> None:
        """These, and all that come, wait `until` that is done. It must not raise."""
        self._held = deque(commands)
        self._count(len(commands))
        self._spawn(self._go_on_after(until))

    async def _go_on_after(self, until: Awaitable[None]) -> None:
        await until
        waiting, done = self._held, 0
        while waiting and not self._ended:
            self._held = None
            self._count(-1)
            self._handle(waiting.popleft())
            if self._held is not None:  # another one waits
                self._held.extend(waiting)
                return
            self._held = waiting  # what comes meanwhile stands behind it
            done += 1
            if not done % LOT:
                await self._node.loop_share.turn()
        self._held = None

    def _end(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
        super()._end()
