"""Followers of threads: whose own list has a thread, with what they have not read of it.

A follower has a row as a member has one (rows.py), for the thread's own channel. It gives no right: who may read is
decided by the parent, whose members alone may follow; and it goes when its user leaves the parent, when the message
that the thread is about is erased (then nobody answers any more), and when that is trimmed.

Whoever answers follows, and so does who is mentioned, and with the first reply who has written the message. Such a
reply costs a few reads and one row for each who is new; any other moves its writer's marker, as in a room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from server.access.memberships import Membership
from server.access.rights import Right, Rights
from server.access.threads import root_message
from server.core.clock import Clock
from server.core.config import Limits, Namespace
from server.core.cursors import Position
from server.core.errors import Error, bad_request
from server.core.names import is_thread, parent_of, thread_of
from server.core.principals import Principal
from server.core.rules import MEMBER
from server.log.log import Log
from server.log.mentions import EVERYBODY
from server.rooms.doubts import Doubts
from server.rooms.markers import Markers
from server.rooms.members import Members, Seat, checked, each, user_of
from server.rooms.rows import STRANGER, Change, Marker, Member, MemberRows, new_row
from server.wire.amendments import AmendedMessage
from server.wire.rooms import MembersPage, Preferred

TOGETHER: Final = 20
"""Changes of one request that are made at the same time."""


class Followers:
    """`tell(changes)`: who follows what, or no more, for all nodes, this one too."""

    def __init__(
        self,
        *,
        rows: MemberRows,
        members: Members,
        markers: Markers,
        log: Log,
        rights: Rights,
        limits: Limits,
        clock: Clock,
        doubts: Doubts,
        tell: Callable[[Sequence[Change]], None],
    ) -> None:
        self._rows = rows
        self._doubts = doubts
        self._members = members
        self._markers = markers
        self._log = log
        self._rights = rights
        self._most = limits.threads_per_user
        self._clock = clock
        self._tell = tell

    # --- asking -------------------------------------------------------------------------------------------------------

    async def page(
        self, principal: Principal, thread: str, after: str | None, limit: int, *, address: str = ""
    ) -> MembersPage:
        """Who follows, by name, for who may read the thread, and for API keys that are `admin`."""
        right = self._members.begin(principal, address, thread)
        if principal.admin:
            return await self._page(right, thread, after or "", limit)
        async with self._rights.reading(principal, thread):
            return await self._page(right, thread, after or "", limit)

    async def _page(self, right: Right[Namespace], thread: str, after: str, limit: int) -> MembersPage:
        """Without those whose row has not gone yet with their membership of the parent."""
        found: list[Member] = []
        more = True
        while more and len(found) <= limit:
            some, more = await self._rows.page(thread, after, limit)
            own = await self._rows.roles([(one.user, parent_of(thread)) for one in some])
            found += [one for one in some if (one.user, parent_of(thread)) in own]
            after = some[-1].user if some else after
        rows = await self._members.shown(thread, found[:limit], right.options.receipts)
        return {"members": rows, "more": len(found) > limit}

    # --- changing -----------------------------------------------------------------------------------------------------

    async def join(self, principal: Principal, thread: str, *, address: str = "") -> str:
        """Follow, which every member of the parent may; the role of all who do."""
        role = await self.set_role(principal, thread, user_of(principal), MEMBER, address=address)
        assert role is not None
        return role

    async def leave(self, principal: Principal, thread: str, *, address: str = "") -> None:
        """Follow no more."""
        await self.set_role(principal, thread, user_of(principal), None, address=address)

    async def set_role(
        self, principal: Principal, thread: str, user: str, role: str | None, *, address: str = ""
    ) -> str | None:
        """Make the user follow, or (None) follow no more: for oneself, and for API keys that are `admin`."""
        right = self._members.begin(principal, address, thread)
        return (await self._set(right, principal, thread, checked(user, role))).role

    async def set_roles(
        self, principal: Principal, thread: str, wanted: Sequence[Seat | Error], *, address: str = ""
    ) -> list[Seat | Error]:
        """The same for many, each by itself: what has become of it."""
        right = self._members.begin(principal, address, thread)
        turns = asyncio.Semaphore(TOGETHER)

        async def change(seat: Seat) -> Seat:
            async with turns:
                return await self._set(right, principal, thread, seat)

        return await each(wanted, change)

    async def prefer(
        self, principal: Principal, thread: str, user: str | None, wanted: Mapping[str, bool], *, address: str = ""
    ) -> Preferred:
        """How the user wants to see it among its own: `mute`, `pin`."""
        return await self._members.prefer(principal, thread, user, wanted, address=address)

    async def _set(self, right: Right[Namespace], principal: Principal, thread: str, seat: Seat) -> Seat:
        own = not principal.server and seat.user == principal.user
        if not (own or principal.admin):
            raise Error("permission_denied", f"{principal.name} may not say what {seat.user} follows")
        if seat.role is None:
            await self._end([(seat.user, thread)])
            return seat
        if seat.role != MEMBER:
            raise bad_request(f"role: who follows a thread is {MEMBER}, whatever else in its parent")
        if own:
            await self._rights.check_reading(principal, thread)
        await root_message(self._log, thread)
        if not await self._rows.roles([(seat.user, parent_of(thread))]):
            raise _no_member(seat.user, thread)
        assert self._log.replies is not None
        await self._log.replies.write_down(thread)
        count = await self._log.counts.of(thread)
        right.again()
        place = Marker(count.head.epoch, count.head.offset, count.amendments)
        refusal = await self._follow(thread, {seat.user: place}, principal.user)
        if refusal is not None:
            raise refusal
        return seat

    async def _root(self, thread: str) -> AmendedMessage | None:
        try:
            return await root_message(self._log, thread)
        except Error as error:
            if error.retry:
                raise
            return None

    # --- what is answered ---------------------------------------------------------------------------------------------

    async def replied(self, principal: Principal, thread: str, position: Position, mentions: Sequence[str]) -> None:
        """A reply is stored. Its retry makes up for what a node has left undone that died in between."""
        writer = None if principal.server else principal.user
        follows, root = await asyncio.gather(
            self._markers.published(principal, thread, position),
            self._root(thread) if position.offset == 1 else _nothing(),
        )
        new = {name for name in mentions if name != EVERYBODY}
        if root is not None and root.user is not None and not root.by_server:
            new.add(root.user)
        new.discard(writer or "")
        if (not new and (writer is None or follows)) or (
            amendments := await self._log.counts.amendments(thread, position.offset)
        ) is None:
            return
        before = Marker(position.epoch, position.offset - 1, amendments)
        places = dict.fromkeys(new, before)
        if writer is not None and not follows:
            places[writer] = Marker(position.epoch, position.offset, amendments)
        await self._follow(thread, places, principal.user)

    async def _follow(self, thread: str, places: Mapping[str, Marker], by: str | None) -> Error | None:
        """Make followers of those that are members of the parent. Error: the message has gone, or one of them."""
        parent = parent_of(thread)
        known = await self._rows.standings({(user, channel) for user in places for channel in (parent, thread)})
        rows = [
            new_row(user, thread, MEMBER, place, self._clock.now_ms(), by)
            for user, place in places.items()
            if known.get((user, parent), STRANGER).role is not None and (user, thread) not in known
        ]
        if not rows:
            return None
        with self._doubts.about([(row["_id"]["u"], thread) for row in rows]):
            added = [user for user, _ in await self._rows.add(rows)]
            if not added:
                return None
            # Looked at once more when they are there: the message, or who has left the parent, may have gone in the
            # meantime, and what was followed then with it.
            members_of = self._rows.roles([(user, parent) for user in added])
            root, members = await asyncio.gather(self._root(thread), members_of)
            left = [user for user in added if root is None or (user, parent) not in members]
            if left:
                await self._rows.remove([(user, thread) for user in left])
            stay = [user for user in added if user not in left]
            if stay:
                self._tell([(user, thread, MEMBER) for user in stay])
        await self._make_room(stay, thread)
        if root is None:
            return Error("not_found", f"channel: what {thread} is about has just gone")
        return _no_member(left[0], thread) if left else None

    async def _make_room(self, users: Collection[str], new: str) -> None:
        """What is too much with the `new` thread these follow no more."""
        if not self._most:
            return
        too_many = await asyncio.gather(*(self._rows.too_many_threads(user, self._most, new) for user in users))
        await self._end([(user, thread) for user, threads in zip(users, too_many, strict=True) for thread in threads])

    async def _end(self, followed: Sequence[Membership]) -> None:
        """Nobody follows these any more."""
        if followed:
            with self._doubts.about(followed):
                await self._rows.remove(followed)
                self._tell([(user, thread, None) for user, thread in followed])

    # --- what goes ----------------------------------------------------------------------------------------------------

    async def left(self, user: str, channel: str) -> None:
        """The user is no member of the channel any more: what it follows there goes as well."""
        threads = await self._rows.threads_of(user)
        await self._end([(user, thread) for thread in threads if parent_of(thread) == channel])

    async def erased(self, channel: str, offset: int) -> None:
        """A message is erased: nobody answers it any more."""
        if not is_thread(channel):
            await self.ended(thread_of(channel, offset))

    async def ended(self, thread: str) -> None:
        """Nobody follows it any more."""
        while some := await self._rows.some_of(thread):
            await self._end(some)


def _no_member(user: str, thread: str) -> Error:
    return Error("permission_denied", f"{user} is no member of {parent_of(thread)}")


async def _nothing() -> None:
    pass
