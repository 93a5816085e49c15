"""Who is in a channel, for who may know it, and when the others were last seen."""

from __future__ import annotations

from server.access.admission import Admission
from server.access.rights import Rights
from server.core.errors import bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.presence.attendance import Attendance
from server.presence.last_seen import LastSeen
from server.wire.pushes import Fields


class PresenceService:
    def __init__(
        self, *, attendance: Attendance, last_seen: LastSeen, rights: Rights, admission: Admission, lifecycle: Lifecycle
    ) -> None:
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

    async def note_departures(self) -> None:
        """Write down who has left. What MongoDB does not take is kept for the next time."""
        departures, self._attendance.departures = self._attendance.departures, []
        self._last_seen.note(departures)
        if self._lifecycle.opened:
            await self._last_seen.write()
