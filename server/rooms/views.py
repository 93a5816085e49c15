"""My rooms: what each user sees of the channels that they are a member of. A view, and no log: it is told again when a
client comes back.

A view is a subscription like others as far as its session has to know: it begins, is suspended, and ends. What is told
of a room is its row, and after that steps (heads.py) and moves of the marker. A client that does not read is told the
rows anew of the rooms of which it has missed something, when it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import UNSET

from server.access.admission import Admission
from server.access.memberships import Membership
from server.access.permissions import Permissions
from server.access.rights import Rights
from server.core.cursors import Position
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.names import ROOMS, is_thread, namespace_of, parent_of, root_of
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.rooms.heads import Heads
from server.rooms.lists import Lists, Room, rights_of
from server.rooms.markers import Read
from server.rooms.rows import MemberRows
from server.rooms.view import Listener, Told, View
from server.wire.rooms import MAX_ROOMS, RoomPush, RoomRow, RoomsPage, RoomsPush, ThreadPlace

logger = logging.getLogger(__name__)

PAGE: Final = 50
AGAIN_AFTER: Final = 1.0


class MyRooms:
    def __init__(
        self,
        *,
        keeper: Keeper,
        rows: MemberRows,
        lists: Lists,
        heads: Heads,
        permissions: Permissions,
        rights: Rights,
        admission: Admission,
        lifecycle: Lifecycle,
    ) -> None:
        self._keeper = keeper
        self._rows = rows
        self._lists = lists
        self._heads = heads
        self._permissions = permissions
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle
        self._views: dict[str, set[View]] = {}
        """By user."""
        self._missing: set[View] = set()
        self._telling = False

    @property
    def any(self) -> bool:
        """Whether anybody looks."""
        return bool(self._views)

    # --- the use cases ------------------------------------------------------------------------------------------------

    async def page(
        self, principal: Principal, after: str | None, limit: int, threads: bool = False, *, address: str = ""
    ) -> RoomsPage:
        """The user's rooms behind the one that `after` names, the one with the newest message first; `threads`: and the
        threads that it follows among them."""
        self._admission.spend(principal, address)
        _check_user(principal)
        async with self._rights.reading(principal, ROOMS):
            self._lifecycle.check()
            rooms = self._shown(principal, await self._lists.of(principal.user or "", threads))
            start = 0 if after is None else await self._behind(rooms, after)
        limit = min(limit, MAX_ROOMS)
        return {"rooms": [_row(room) for room in rooms[start : start + limit]], "more": start + limit < len(rooms)}

    async def _behind(self, rooms: Sequence[Room], after: str) -> int:
        """Which is the first behind that channel, also if it is none of them any more."""
        namespace_of(after)
        for index, room in enumerate(rooms):
            if room.channel == after:
                return index + 1
        place = _place((await self._lists.reach(after)).time, after)
        return sum(1 for room in rooms if _place(room.reach.time, room.channel) < place)

    async def subscribe(self, principal: Callable[[], Principal], listener: Listener, threads: bool = False) -> View:
        """A view that is to be started once its reply is sent. `principal`: who the session is, from time to time."""
        _check_user(principal())
        async with self._rights.reading(principal(), ROOMS):
            self._lifecycle.check()
        view = View(self, principal, listener, threads)
        self._views.setdefault(view.user, set()).add(view)
        return view

    # --- a view's life ------------------------------------------------------------------------------------------------

    def begin(self, view: View) -> None:
        self._keeper.spawn("my rooms", self._begin(view))

    def end(self, view: View) -> None:
        self._missing.discard(view)
        self._forget(view, tuple(view.rooms))
        views = self._views.get(view.user)
        if views is not None:
            views.discard(view)
            if not views:
                del self._views[view.user]

    def _forget(self, view: View, channels: Iterable[str]) -> None:
        for channel in channels:
            view.rooms.pop(channel, None)
            view.missed.discard(channel)
            self._heads.leave(channel, view)

    async def _begin(self, view: View) -> None:
        rooms: list[Room] = []
        run = view.run = object()
        view.begun = False
        while not view.closed and view.run is run:  # else another one tells all, or nobody
            try:
                found = self._shown(view.principal(), await self._lists.of(view.user, view.threads))
                if view.closed or view.run is not run:
                    break
                self._forget(view, [*view.rooms, *(room.channel for room in rooms)])
                rooms = found
                for room in rooms:
                    self._heads.watch(room.channel, view)
                await self._heads.step({room.channel: room.reach for room in rooms})
                break
            except Error as error:
                if not await self._wait(view, error):
                    if view.closed or view.run is run:
                        self._forget(view, [room.channel for room in rooms])
                    return
        pages = [rooms[index : index + PAGE] for index in range(0, len(rooms), PAGE)] or [[]]
        for number, page in enumerate(pages):
            if view.closed or view.suspended or view.run is not run:
                break
            for room in page:
                view.rooms[room.channel] = _told(room)
                if not self._is_now(room):
                    self.note_missed(view, room.channel)
            push = RoomsPush([_row(room) for room in page], number < len(pages) - 1)
            if not number:
                push.start = True
            view.push(push)
            await view.listener.drained()
        if view.run is run:
            view.begun = not view.suspended
        if view.closed:
            for room in rooms:
                self._heads.leave(room.channel, view)

    async def _wait(self, view: View, error: Error) -> bool:
        """Before another attempt; False: it would be in vain, and the view stays empty."""
        if not error.retry:
            logger.warning("my rooms: %s", error.reason)
            return False
        await asyncio.sleep(error.retry_after or AGAIN_AFTER)
        return not view.closed

    def _is_now(self, room: Room) -> bool:
        """Whether the room has been told up to where this row was read."""
        at = self._heads.at(room.channel)
        return at is not None and at.head == room.reach.head

    def _shown(self, principal: Principal, rooms: Sequence[Room]) -> list[Room]:
        """Those that the principal may read, the one with the newest message first."""
        shown = [room for room in rooms if self._permissions.shows(principal, room.channel, room.right)]
        return sorted(shown, key=lambda room: _place(room.reach.time, room.channel))

    # --- single rooms -------------------------------------------------------------------------------------------------

    def note_missed(self, view: View, channel: str) -> None:
        """The row is to be told anew, when the client reads again."""
        view.missed.add(channel)
        self._missing.add(view)
        if not self._telling:
            self._telling = True
            self._keeper.spawn("rooms that were missed", self._tell_missed())

    async def _tell_missed(self) -> None:
        try:
            while self._missing:
                wanted = {
                    (view.user, channel)
                    for view in self._missing
                    if view.begun and view.listener.writable and not view.suspended
                    for channel in view.missed
                }
                if not wanted or not await self._tell_rows(wanted):
                    await asyncio.sleep(AGAIN_AFTER)
                self._missing = {view for view in self._missing if view.missed and not view.closed}
        finally:
            self._telling = False

    def changed(self, changes: Iterable[tuple[str, str, str | None]]) -> None:
        """Who has become what where: (user, channel, role, or None: no member any more)."""
        for user, channel, role in changes:
            for view in tuple(self._views.get(user, ())):
                for one in _concerned(view, channel):
                    if role is None and view.begun and one in view.rooms:
                        self._tell_gone(view, one)
                    else:
                        self.note_missed(view, one)

    def recheck(self, user: str, channels: Iterable[str]) -> None:
        """The user's roles in these have changed, to whatever."""
        for view in tuple(self._views.get(user, ())):
            for channel in channels:
                for one in _concerned(view, channel):
                    self.note_missed(view, one)

    def check(self, view: View) -> None:
        """Something was taken back: rooms that may not be read any more are none."""
        principal = view.principal()
        for channel, told in tuple(view.rooms.items()):
            if not self._permissions.shows(principal, channel, told.right):
                self._tell_gone(view, channel)

    async def compare(self) -> None:
        """Look for what nobody was told, while other nodes were not heard: other roles, and markers that have moved."""
        users = list(self._views)
        for index in range(0, len(users), PAGE):
            some = users[index : index + PAGE]
            threads = any(view.threads for user in some for view in self._views.get(user, ()))
            for user, rows in (await self._rows.of_users(some, threads)).items():
                allowed = rights_of(rows)
                moves = {row["_id"]["c"]: row["n"] for row in rows}
                now = {channel: (right, moves[channel]) for (_, channel), right in allowed.items()}
                for view in tuple(self._views.get(user, ())):
                    for channel in now.keys() | view.rooms.keys():
                        told = view.rooms.get(channel)
                        if is_thread(channel) and not view.threads:
                            continue
                        if now.get(channel) != (told and (told.right, told.moves)):
                            self.note_missed(view, channel)

    def _tell_gone(self, view: View, channel: str) -> None:
        self._forget(view, (channel,))
        view.push(RoomPush(channel, None))

    async def _tell_rows(self, wanted: set[Membership]) -> bool:
        """Tell views the rows of these as they are now; False: not all could be told."""
        for user, channel in wanted:
            for view in self._views.get(user, ()):
                self._heads.watch(channel, view)
        try:
            rooms = await self._lists.some(list(wanted))
            await self._heads.step({room.channel: room.reach for room in rooms.values()})
        except Error as error:
            logger.warning("my rooms: %s", error.reason)
            return False
        done = True
        for user, channel in wanted:
            room = rooms.get((user, channel))
            for view in tuple(self._views.get(user, ())):
                if channel not in view.missed or not view.begun or view.suspended:
                    if channel not in view.rooms:
                        self._heads.leave(channel, view)
                elif room is None or not self._permissions.shows(view.principal(), channel, room.right):
                    if channel in view.rooms:
                        self._tell_gone(view, channel)
                    self._forget(view, (channel,))
                elif self._is_now(room):
                    view.missed.discard(channel)
                    view.rooms[channel] = _told(room)
                    view.push(_room_push(room))
                else:
                    done = False
        return done

    # --- markers ------------------------------------------------------------------------------------------------------

    def read(self, reads: Iterable[Read]) -> None:
        """How far users have read: their other sessions see it."""
        for user, channel, epoch, offset, amendments, moves in reads:
            if user in self._views:
                self._read(user, channel, Position(epoch, offset), amendments, moves)

    def _read(self, user: str, channel: str, position: Position, amendments: int, moves: int) -> None:
        at = self._heads.at(channel)
        # Where something was amended behind the marker, some of that may have been erased: it has to be read.
        plain = at is not None and at.head.epoch == position.epoch and at.amendments <= amendments
        seen = position.offset - amendments if plain else None
        for view in tuple(self._views.get(user, ())):
            if is_thread(channel) and not view.threads:
                continue
            view.read(channel, position, moves, seen, at.head.offset if at is not None else 0)


def _check_user(principal: Principal) -> None:
    if principal.server or principal.user is None:
        raise Error("permission_denied", f"{principal.name} has no rooms")


def _concerned(view: View, channel: str) -> list[str]:
    """What a change of the user's row there may change in a view: of a room also its threads that are shown."""
    if is_thread(channel):
        return [channel] if view.threads else []
    threads = [one for one in view.rooms if is_thread(one) and parent_of(one) == channel] if view.threads else []
    return [channel, *threads]


def _place(time: int, channel: str) -> tuple[int, str]:
    """Among the rooms: the one with the newest message is in front."""
    return -time, channel


def _row(room: Room) -> RoomRow:
    count = room.reach
    return RoomRow(
        room.channel, room.role, str(room.read), str(count.head), count.messages, room.unread, room.mentions,
        count.newest_cursor, count.time or None, room.mute or UNSET, room.pin or UNSET,
        ThreadPlace(parent_of(room.channel), root_of(room.channel)) if is_thread(room.channel) else UNSET,
    )  # fmt: skip


def _told(room: Room) -> Told:
    return Told(room.right, room.moves, room.read.offset, room.reach.head.offset, room.mentions > 0)


def _room_push(room: Room) -> RoomPush:
    row = _row(room)
    return RoomPush(
        row.channel, row.role, row.read, row.head, row.count, row.unread, row.mentions, row.newest, row.time,
        row.mute, row.pin, row.thread,
    )  # fmt: skip
