"""Who is in a channel: the same answer from every node.

Every node holds the table of every node, its own among them, and shows the sum. Redis is only how they hear of each
other, and may lose what it likes. A node numbers its changes and says the last number with its beat, each second: who
has missed one asks, and gets the node's whole table. A node that is silent for LEASE beats takes its users with it. Who
hears nothing at all, not even itself, forgets nobody: it says what it knows.

A user whose last connection is lost stays GRACE seconds in the table of the node that had it, with 0 sessions, so that
a reload is not a leave. Whoever unsubscribes leaves at once. So a join or a leave is always one thing: the user's
first row in all the tables came, or the last one went.

Leases are counted in this node's own beats, and graces measured with its steady clock, so no node's time of day matters
to them. When somebody was last seen is told to others, and is MongoDB's time (core/clock.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from server.brokers.base import AttendanceUpdate, Row
from server.core.clock import Clock
from server.presence.clients import Visitor, Visitors, chunks
from server.presence.decisions import Decisions
from server.wire.messages import Notice
from server.wire.pushes import Fields, JoinPush, LeavePush, OccupancyPush

GRACE: Final = 15.0
LEASE: Final = 15
"""Beats that a peer may miss. With the beat itself its users are gone within 17 s."""
GATHER: Final = 0.05
"""Seconds in which changes gather for one announcement, and for one delivery to each subscriber."""
ROWS: Final = 1000
"""In one announcement."""


class Departure(NamedTuple):
    channel: str
    user: str
    time: int
    """Last seen: milliseconds since 1970, UTC."""


class _Entry(NamedTuple):
    sessions: int
    info: Any


class _Table:
    """Who is where on one node. The user None: its guests."""

    __slots__ = ("node", "channels", "number", "parts", "silent", "snapshot")

    def __init__(self, node: str) -> None:
        self.node = node
        self.channels: dict[str, dict[str | None, _Entry]] = {}
        self.number = 0
        """Of the last change that is in it."""
        self.silent = 0
        """Beats missed."""
        self.snapshot = 0
        """The number of the snapshot that is coming in, and what has come of it."""
        self.parts: dict[int, AttendanceUpdate] = {}


class _News(NamedTuple):
    joined: bool
    info: Any
    session: str | None
    """The session whose coming is the news, and which is not told."""


class Attendance:
    """Who is in which channel, on all nodes, as this one knows it. PresenceService (service.py) shows it to clients.

    `announce(**fields)` reaches the peers; `deliver(notices)` the subscribers here, for channels where
    `tells(channel)`. `limit`: users above which a channel only tells their number; 0: never. `visitors`: who is there
    client by client, where that can be asked for; `decisions`: what back ends are told, where they want to be.
    """

    def __init__(
        self,
        node: str,
        *,
        announce: Callable[..., None],
        deliver: Callable[[list[Notice]], None],
        tells: Callable[[str], bool],
        limit: int,
        clock: Clock | None = None,
        visitors: Visitors | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._visitors = visitors
        self._decisions = decisions
        self.departures: list[Departure] = []
        """Who has left since the list was last emptied."""
        self._own = _Table(node)
        self._tables = {node: self._own}
        self._node = node
        self._announce = announce
        self._deliver = deliver
        self._tells = tells
        self._limit = limit
        self._users: dict[str, dict[str, int]] = {}
        """Channel → user → the number of tables the user is in."""
        self._graces: dict[tuple[str, str], tuple[float, int]] = {}
        """Users without a session here → (when they have left, when they were last seen), the next one first."""
        self._changed: set[tuple[str, str | None]] = set()
        self._news: dict[str, dict[str, _News]] = {}
        self._crowded: set[str] = set()
        """Channels above the limit whose number is to be told at the next tick, and those that were told."""
        self._told: set[str] = set()
        self._missed: set[str] = set()
        """Nodes whose table is to be asked for."""
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    # --- here ---------------------------------------------------------------------------------------------------------

    def enter(
        self, channel: str, user: str | None, info: Any, session: str, channel_info: Any = None
    ) -> Callable[[bool], None]:
        """A session of a user, or of a guest (None), has come; the function returned says that it is gone: at once, or
        (`False`) perhaps to come back."""
        if user is not None:
            self._graces.pop((channel, user), None)
        entry = self._own.channels.get(channel, {}).get(user)
        self._set(self._own, channel, user, _Entry(entry.sessions + 1 if entry else 1, info), session)
        self._changed.add((channel, user))
        if self._visitors is not None:
            self._visitors.enter(channel, Visitor(session, user, info, channel_info))

        def leave(at_once: bool) -> None:
            self._leave(channel, user, at_once)
            if self._visitors is not None:
                self._visitors.leave(channel, session)

        return leave

    def _leave(self, channel: str, user: str | None, at_once: bool) -> None:
        sessions, info = self._own.channels[channel][user]
        if sessions > 1 or not (at_once or user is None):
            self._set(self._own, channel, user, _Entry(sessions - 1, info))
        else:
            self._set(self._own, channel, user, None)
            self._depart(channel, user, self._clock.now_ms())
        if sessions == 1 and user is not None and not at_once:
            self._graces[channel, user] = asyncio.get_running_loop().time() + GRACE, self._clock.now_ms()
        self._changed.add((channel, user))

    def _depart(self, channel: str, user: str | None, seen: int) -> None:
        if user is not None and user not in self._users.get(channel, ()):
            self.departures.append(Departure(channel, user, seen))

    def count(self, channel: str) -> tuple[int, int]:
        """(users, guests) on all nodes."""
        guests = sum(
            table.channels.get(channel, {}).get(None, _Entry(0, None)).sessions for table in self._tables.values()
        )
        return len(self._users.get(channel, ())), guests

    def show(self, channel: str) -> Fields:
        """{"users": [{"user", "sessions", "info"?}], "count", "guests"}, by name. `count` counts users; above the limit
        there is only that, and `users` is empty."""
        count, guests = self.count(channel)
        rows: dict[str, Fields] = {}
        if not self._limit or count <= self._limit:
            for _, table in sorted(self._tables.items()):  # all nodes take the info of the same one
                for user, (sessions, info) in table.channels.get(channel, {}).items():
                    if user is not None:
                        row = rows.setdefault(user, {"user": user, "sessions": 0})
                        row["sessions"] += sessions
                        if info is not None:
                            row.setdefault("info", info)
        return {"users": [row for _, row in sorted(rows.items())], "count": count, "guests": guests}

    def visitors(self, channel: str) -> list[Visitor]:
        """Each client on all nodes; none where they are not told apart."""
        return [] if self._visitors is None else self._visitors.show(channel)

    def users(self, channel: str) -> list[str]:
        return list(self._users.get(channel, ()))

    # --- between nodes ------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Of this node's last change that was announced."""
        return self._own.number

    def hear_beat(self, node: str, number: int) -> None:
        """Another node is alive and has announced so many changes."""
        table = self._tables.get(node)
        if table is None:
            table = self._tables[node] = _Table(node)
        table.silent = 0
        if number > table.number:
            self._ask(node)

    def hear(self, node: str, attendance: AttendanceUpdate) -> None:
        """Another node's changes, or a part of its table."""
        table = self._tables.setdefault(node, _Table(node))
        number = attendance.number
        if number <= table.number:
            return
        if attendance.parts:
            if number != table.snapshot:
                table.snapshot, table.parts = number, {}
            table.parts[attendance.part] = attendance
            if len(table.parts) == attendance.parts:
                self._replace(table, [row for part in table.parts.values() for row in part.rows])
                if self._visitors is not None:
                    self._visitors.replace(node, [row for part in table.parts.values() for row in part.clients])
                table.number, table.parts = number, {}
        elif number == table.number + 1:
            self._apply(table, attendance.rows)
            if self._visitors is not None:
                self._visitors.apply(node, attendance.clients)
            table.number = number
        else:
            self._ask(node)

    def hear_question(self) -> None:
        """Somebody has missed something of this node."""
        self._asked = True
        self._schedule()

    def _ask(self, node: str) -> None:
        self._missed.add(node)
        self._schedule()

    def _apply(self, table: _Table, rows: list[Row]) -> None:
        for channel, user, sessions, info in rows:
            self._set(table, channel, user, None if sessions < 0 else _Entry(sessions, info))

    def _replace(self, table: _Table, rows: list[Row]) -> None:
        kept = {(channel, user) for channel, user, _, _ in rows}
        self._empty(table, kept)
        self._apply(table, rows)

    def _empty(self, table: _Table, kept: AbstractSet[tuple[str, str | None]] = frozenset()) -> None:
        for channel, users in tuple(table.channels.items()):
            for user in tuple(users):
                if (channel, user) not in kept:
                    self._set(table, channel, user, None)

    def _set(
        self, table: _Table, channel: str, user: str | None, entry: _Entry | None, session: str | None = None
    ) -> None:
        """The one place where a table changes, and where it shows who has come or gone."""
        users = table.channels.setdefault(channel, {})
        change = (entry is not None) - (user in users)
        if entry is not None:
            users[user] = entry
        else:
            users.pop(user, None)
            if not users:
                del table.channels[channel]
        if change and self._decisions is not None:
            info = entry.info if entry is not None else None
            died = None if table.node in self._tables else table.number
            self._decisions.changed(channel, user, change, info, by=table.node, died=died)
        if user is not None and change:
            tables = self._users.setdefault(channel, {})
            before = tables.get(user, 0)
            tables[user] = before + change
            if not tables[user]:
                del tables[user]
                if not tables:
                    del self._users[channel]
            if not before or before + change == 0:
                self._tell(channel, user, _News(change > 0, entry.info if entry else None, session))
        self._schedule()

    def _tell(self, channel: str, user: str, news: _News) -> None:
        if self._tells(channel):
            waiting = self._news.setdefault(channel, {})
            if user in waiting:  # and gone again before anybody was told, or the other way round
                del waiting[user]
            else:
                waiting[user] = news

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, hearing: bool) -> None:
        """Once a second. `hearing`: this node hears itself, so who is silent has something wrong."""
        now = asyncio.get_running_loop().time()
        while self._graces:
            (channel, user), (until, seen) = next(iter(self._graces.items()))
            if until > now:
                break
            del self._graces[channel, user]
            self._set(self._own, channel, user, None)
            self._changed.add((channel, user))
            self._depart(channel, user, seen)
        for node, table in tuple(self._tables.items()) if hearing else ():
            if table is not self._own:
                table.silent += 1
                if table.silent > LEASE:
                    self._forget(node, table)
        if self._decisions is not None:
            self._decisions.tick()
        crowded, self._crowded = self._crowded, set()
        for channel in crowded:
            self._told.add(channel)
            self._deliver([self._occupancy(channel)])

    def _forget(self, node: str, table: _Table) -> None:
        seen = self._clock.now_ms() - table.silent * 1000
        users = [(channel, user) for channel, users in table.channels.items() for user in users]
        del self._tables[node]
        self._empty(table)
        if self._visitors is not None:
            self._visitors.forget(node)
        for channel, user in users:
            self._depart(channel, user, seen)

    def close(self) -> None:
        """The node leaves: its users are seen here for the last time. The peers wait for them to turn up elsewhere."""
        if self._timer is not None:
            self._timer.cancel()
        for channel, users in self._own.channels.items():
            for user in users:
                if user is not None:
                    _, seen = self._graces.get((channel, user), (0.0, self._clock.now_ms()))
                    self.departures.append(Departure(channel, user, seen))

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._flush)

    def _flush(self) -> None:
        self._timer = None
        own = self._own
        changed, self._changed = [(*key, own.channels.get(key[0], {}).get(key[1])) for key in self._changed], set()
        clients = [] if self._visitors is None else self._visitors.take_changes()
        for part, those in chunks(changed, clients, size=ROWS) if changed or clients else ():
            own.number += 1
            rows = [_row(*change) for change in part]
            self._announce(attendance=AttendanceUpdate(own.number, rows, clients=those))
        if self._asked:
            self._asked = False
            self._announce_all()
        if self._missed:
            missed, self._missed = self._missed, set()
            self._announce(ask=sorted(missed))
        news, self._news = self._news, {}
        for channel, of in news.items():
            self._publish(channel, of)
        if self._visitors is not None:
            self._visitors.take_news()

    def _announce_all(self) -> None:
        own = self._own
        rows = [_row(channel, user, entry) for channel, users in own.channels.items() for user, entry in users.items()]
        parts = list(chunks(rows, [] if self._visitors is None else self._visitors.rows(), size=ROWS))
        for part, (of, clients) in enumerate(parts):
            self._announce(attendance=AttendanceUpdate(own.number, of, part, len(parts), clients))

    def _publish(self, channel: str, news: dict[str, _News]) -> None:
        if self._limit and len(self._users.get(channel, ())) > self._limit:
            self._crowded.add(channel)
            return
        notices = []
        if channel in self._told or channel in self._crowded:
            self._told.discard(channel)
            self._crowded.discard(channel)
            notices.append(self._occupancy(channel))
        for user, (joined, info, session) in news.items():
            kind = JoinPush if joined else LeavePush
            notices.append(Notice(channel, kind(channel, user, UNSET if info is None else info), session))
        if notices:
            self._deliver(notices)

    def _occupancy(self, channel: str) -> Notice:
        count, guests = self.count(channel)
        return Notice(channel, OccupancyPush(channel, count, guests))


def _row(channel: str, user: str | None, entry: _Entry | None) -> Row:
    return (channel, user, -1, None) if entry is None else (channel, user, *entry)
