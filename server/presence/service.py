"""Who is in a channel, for who may know it, and when the others were last seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from server.access.admission import Admission
from server.access.rights import Rights
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import ONLINE
from server.core.principals import Principal
from server.presence.attendance import Attendance
from server.presence.clients import Visitor
from server.presence.last_seen import LastSeen
from server.wire.pushes import Fields


class Present(NamedTuple):
    clients: list[Visitor]
    """Empty above limits.presence_users."""
    number: int
    users: int
    """All guests are one."""


class PresenceService:
    def __init__(
        self, *, attendance: Attendance, last_seen: LastSeen, rights: Rights, admission: Admission,
        lifecycle: Lifecycle, limit: int, counts_connections: bool = False,
    ) -> None:  # fmt: skip
        """`limit`: users above which none is named; 0: always. `counts_connections`: back ends are told who is
        connected at all."""
        self._counts_connections = counts_connections
        self._limit = limit
        self._attendance = attendance
        self._last_seen = last_seen
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle

    async def show(self, principal: Principal, channel: str, left: int = 0, *, address: str = "") -> Fields:
        """{"users": [{"user", "sessions", "info"?}], "count", "guests"}, and if asked for "left": [{"user",
        "last_seen"}]. Above limits.presence_users `users` is empty and `count` is not."""
        self._admission.spend(principal, address)
        async with self._rights.reading(principal, channel) as namespace:
            if not namespace.presence:
                raise bad_request(
                    f"channel: nobody's presence is kept in {channel}; its namespace says presence: false"
                )
            present = self._attendance.show(channel)
            if left:
                self._lifecycle.check()
                present["left"] = await self._last_seen.latest(channel, left, self._attendance.users(channel))
            return present

    async def clients(self, principal: Principal, channel: str, *, address: str = "") -> Present:
        """The same client by client, on nodes that tell them apart. `not_found` where nobody's presence is kept."""
        self._admission.spend(principal, address)
        async with self._rights.reading(principal, channel) as namespace:
            if not namespace.presence:
                raise Error("not_found", f"channel: nobody's presence is kept in {channel}")
            present = self._attendance.visitors(channel)
            users = len({one.user for one in present})
            crowded = self._limit and users > self._limit
            return Present([] if crowded else present, len(present), users)

    def online(self, user: str, session: str) -> Callable[[bool], None] | None:
        """A connection of the user has come; the function returned says that it is gone. None: nobody wants to know."""
        return self._attendance.enter(ONLINE, user, None, session) if self._counts_connections else None

    async def note_departures(self) -> None:
        """Write down who has left. What MongoDB does not take is kept for the next time."""
        departures, self._attendance.departures = self._attendance.departures, []
        self._last_seen.note(one for one in departures if one.channel != ONLINE)
        if self._lifecycle.opened:
            await self._last_seen.write()
