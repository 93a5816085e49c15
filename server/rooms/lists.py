"""The rooms of users, read for many users at once: their rows, how far each channel reaches, and what was erased.

Of a thread that a user follows the row says how far it is read, and that of its parent whether it may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from server.access.memberships import Membership
from server.core.cursors import Position
from server.core.names import parent_of
from server.core.tasks import Keeper
from server.log.counts import Behind, Count, Counts
from server.log.groups import GroupReader
from server.log.mentions import Mentions, Unread
from server.rooms.rows import MemberRows, Row, marker_of

USERS: Final = 50
"""Read together: of a thousand rooms each."""


class Room(NamedTuple):
    """A channel that a user is a member of, as it was when it reached that far."""

    channel: str
    role: str
    right: str
    """The role that may read it: of a thread that in its parent."""
    read: Position
    moves: int
    """How often that has changed."""
    reach: Count
    seen: int
    """How many of its messages are not unread: read, erased, or gone."""
    mentions: int
    """How many of those that are unread mention the user."""
    mute: bool
    pin: bool

    @property
    def unread(self) -> int:
        return max(0, self.reach.messages - self.seen)


class Lists:
    def __init__(self, keeper: Keeper, rows: MemberRows, counts: Counts, mentions: Mentions) -> None:
        self._rows = rows
        self._counts = counts
        self._mentions = mentions
        self._users: GroupReader[tuple[str, bool], list[Room]] = GroupReader(keeper, "rooms", self._read_users, USERS)

    async def of(self, user: str, threads: bool = False) -> list[Room]:
        """All of them, in no order; `threads`: with those that the user follows."""
        return await self._users.ask((user, threads))

    async def reach(self, channel: str) -> Count:
        """How far a channel reaches."""
        return await self._counts.of(channel)

    async def some(self, memberships: Sequence[Membership]) -> dict[Membership, Room]:
        """Of these what there is."""
        parents = [(user, parent_of(channel)) for user, channel in memberships]
        rows = await self._rows.some({*memberships, *parents})
        allowed = rights_of(rows.values())
        wanted = {one: rows[one] for one in memberships if one in allowed}
        return dict(zip(wanted, await self._rooms(wanted.values(), allowed), strict=True))

    async def _read_users(self, questions: Sequence[tuple[str, bool]]) -> dict[tuple[str, bool], list[Room]]:
        answers: dict[tuple[str, bool], list[Room]] = {}
        for threads in (False, True):
            if users := [user for user, wanted in questions if wanted == threads]:
                found = await self._rows.of_users(users, threads)
                allowed = rights_of(row for rows in found.values() for row in rows)
                shown = {user: [row for row in rows if _place(row) in allowed] for user, rows in found.items()}
                rooms = iter(await self._rooms((row for rows in shown.values() for row in rows), allowed))
                answers |= {(user, threads): [next(rooms) for _ in rows] for user, rows in shown.items()}
        return answers

    async def _rooms(self, rows: Iterable[Row], rights: Mapping[Membership, str]) -> list[Room]:
        """In the order of the rows."""
        rows = list(rows)
        counts = await self._counts.of_all(list({row["_id"]["c"] for row in rows}))
        starts = [start_of(row, counts[row["_id"]["c"]]) for row in rows]
        places: list[tuple[str, Behind]] = []
        behind: set[Behind] = set()
        for row, (start, amendments) in zip(rows, starts, strict=True):
            channel = row["_id"]["c"]
            count = counts[channel]
            place = Behind(channel, start, count.head.offset)
            places.append((row["_id"]["u"], place))
            # Whoever erases what is unread does so behind the marker: where nothing was amended, nothing was erased.
            if start < count.head.offset and (amendments is None or amendments < count.amendments):
                behind.add(place)
        erased = await self._counts.erased(behind)
        unread = [Unread(user, *place) for user, place in places if place.start < place.head]
        mentions = await self._mentions.count(unread, [*{place.channel for place in behind}])
        rooms: list[Room] = []
        for row, (start, amendments), (user, place) in zip(rows, starts, places, strict=True):
            count = counts[place.channel]
            if amendments is None:  # of a history that is over
                amendments = await self._counts.amendments(place.channel, start) or 0
            read = Position(count.head.epoch, min(row["o"], count.head.offset))
            seen = start - amendments + erased[place]
            rooms.append(
                Room(
                    place.channel, row["role"], rights[user, place.channel], read, row["n"], count, seen,
                    mentions[user, place.channel],
                    row.get("mute", False), row.get("pin", False),
                )
            )  # fmt: skip
        return rooms


def rights_of(rows: Iterable[Row]) -> dict[Membership, str]:
    """Whom the rows give a role that may read the channel: of a thread that in its parent, whose row has to be among
    them."""
    roles = {_place(row): row["role"] for row in rows}
    return {(user, one): role for user, one in roles if (role := roles.get((user, parent_of(one)))) is not None}


def _place(row: Row) -> Membership:
    return row["_id"]["u"], row["_id"]["c"]


def start_of(row: Row, count: Count) -> tuple[int, int | None]:
    """Behind which offset messages are unread, and how many amendments there are up to there; None: not known."""
    marker = marker_of(row)
    if marker.offset <= count.floor:
        return count.floor, count.amended_floor
    if marker.offset >= count.head.offset:
        return count.head.offset, count.amendments
    return marker.offset, marker.amendments if marker.epoch == count.head.epoch else None
