"""One session's view of its user's rooms (views.py), a subscription like others as far as the session has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from server.core.cursors import Position
from server.core.names import ROOMS
from server.core.principals import Principal
from server.core.seats import Seat
from server.log.mentions import EVERYBODY
from server.wire.codec import Codec
from server.wire.pushes import Push
from server.wire.rooms import ReadPush


class Listener(Protocol):
    """Where pushes go: an outbox."""

    id: str
    codec: Codec

    @property
    def writable(self) -> bool: ...

    def put(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class Told(NamedTuple):
    """What a client knows of a room."""

    right: str
    """The role that lets the user read it."""
    moves: int
    """How often the marker had moved."""
    read: int
    """The marker's offset."""
    head: int
    """Up to where the row has counted."""
    mentions: bool
    """Whether something that is unread may mention the user."""


class Rooms(Protocol):
    """Whoever makes views."""

    def begin(self, view: View) -> None: ...

    def end(self, view: View) -> None: ...

    def check(self, view: View) -> None: ...

    def note_missed(self, view: View, channel: str) -> None: ...


class View:
    """Of one session. Made by `MyRooms.subscribe`, begun with `start`, ended with `close`."""

    channel = ROOMS
    durable = False
    live = True
    position: None = None
    owner: None = None

    def __init__(
        self, rooms: Rooms, principal: Callable[[], Principal], listener: Listener, threads: bool = False
    ) -> None:
        self.threads = threads
        """It shows the threads that the user follows as well."""
        self.seat: Seat | None = None
        self.rooms: dict[str, Told] = {}
        self.missed: set[str] = set()
        """Rooms of which something was not told, because the client did not read."""
        self.user = principal().user or ""
        self.principal = principal
        self.listener = listener
        self.codec = listener.codec
        self.begun = False
        """All rows have been told."""
        self.run: object = None
        """The last telling of all rows."""
        self.closed = False
        self.suspended = False
        self._rooms = rooms

    def start(self) -> None:
        """The reply is sent."""
        self._rooms.begin(self)

    def close(self, for_good: bool = False) -> None:
        """Twice is fine."""
        self.closed = True
        self._rooms.end(self)
        seat, self.seat = self.seat, None
        if seat is not None:
            seat.give_back()

    def suspend(self, take_back: Callable[[], object]) -> None:
        self.suspended = True

    def unsuspend(self) -> None:
        """All is told anew."""
        if self.suspended:
            self.suspended = False
            self.start()

    def fall_behind(self, first: int) -> None:
        """It never does: nothing of it is dropped from an outbox."""

    def check(self) -> None:
        """Rights of the principal may be gone."""
        self._rooms.check(self)

    def push(self, push: Push) -> None:
        if not self.closed:
            self.listener.put(self.codec.frame(push))

    # --- what heads.py tells ------------------------------------------------------------------------------------------

    def active(self, channel: str, frame: bytes, mentioned: Mapping[str, Sequence[int]], erased: bool) -> None:
        told = self.rooms.get(channel)
        if told is None or self.suspended:
            return
        mine = (*mentioned.get(self.user, ()), *mentioned.get(EVERYBODY, ())) if mentioned else ()
        # What was erased says no more whom it mentioned; and what the row knew already is not to be counted again.
        unclear = (erased and told.mentions) or (mine and min(mine) <= told.head)
        if not self.listener.writable or channel in self.missed or unclear:
            self._rooms.note_missed(self, channel)
            return
        if mine:
            self.rooms[channel] = told._replace(mentions=True)
        self.listener.put(frame)

    def read(self, channel: str, position: Position, moves: int, seen: int | None, upto: int) -> None:
        """The user has read up to there, elsewhere perhaps. `seen`: of so many messages, if that is known; `upto`: what
        the client has been told of."""
        told = self.rooms.get(channel)
        if not self.begun or not self.listener.writable or channel in self.missed:
            self._rooms.note_missed(self, channel)
        elif told is not None and not self.suspended and moves > told.moves:
            push = ReadPush(channel, self.user, str(position))
            none = position.offset >= upto or (position.offset >= told.read and not told.mentions)
            if seen is not None and none:
                push.seen, push.mentions = seen, 0
            else:
                self._rooms.note_missed(self, channel)
            self.rooms[channel] = told._replace(moves=moves, read=position.offset, mentions=not none)
            self.push(push)

    def restarted(self, channel: str) -> None:
        if channel in self.rooms:
            self._rooms.note_missed(self, channel)
