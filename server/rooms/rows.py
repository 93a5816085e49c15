"""Memberships as MongoDB has them: membership and marker are one row.

    members  {_id: {u: user, c: channel}, role, o, e, m, n, t: when, by: who has made it so, p?: 1, mute?, pin?}

o, e, m: how far the user has read: an offset, its epoch, and how many of the entries up to it are no messages.
n: how often that has moved, or mute or pin has changed: what the user wants of the room.
role: None of who is no member any more, as long as that is being told (p).
p: the row has been changed, and not everybody may have heard of it yet.

Who follows a thread has a row for the thread's own channel, which gives no right to anything. In the order of `_id` a
user's threads stand in front of the rooms, so that each are found without the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bson import MaxKey, MinKey
from pymongo import ASCENDING, DeleteOne, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from server.access.memberships import Membership
from server.core.names import THREADS
from server.mongo.client import duplicates, mapped
from server.mongo.databases import Database

Row = dict[str, Any]

TOGETHER: Final = 500
"""Rows that are deleted at a time."""
_BEHIND_THREADS: Final = f"{THREADS};"
_IS_MEMBER: Final = {"role": {"$ne": None}}
_SHOWN: Final = {"role": 1, "t": 1, "o": 1, "e": 1, "m": 1, "n": 1, "mute": 1, "pin": 1}


class Member(NamedTuple):
    user: str
    role: str
    joined: int
    """Milliseconds since 1970, UTC."""
    read: int
    """The offset of the marker."""


class Standing(NamedTuple):
    """What a user is in a channel."""

    role: str | None = None
    there: bool = False
    """Whether there is a row."""
    untold: bool = False
    """It has changed, and not everybody may have heard of it."""


Change = tuple[str, str, str | None]
"""(user, channel, the role, or None: no member any more)"""


class Marker(NamedTuple):
    """How far a member has read."""

    epoch: str
    offset: int
    amendments: int
    """Up to there."""
    moves: int = 0
    """How often it had moved when it came there: what is told of it may overtake other such news."""
    back: bool = False
    """It is to be there in any case; else only if it was not as far."""
    next: bool = False
    """It is to be there only if nothing before it is unread."""

    @property
    def is_farthest(self) -> bool:
        """Of several such the farthest one counts."""
        return not (self.back or self.next)


STRANGER: Final = Standing()


def id_of(user: str, channel: str) -> Row:
    return {"u": user, "c": channel}


class MemberRows:
    """`mapped` errors of MongoDB: `unavailable`."""

    def __init__(self, database: Database) -> None:
        self._rows = database.own("members")

    async def open(self) -> None:
        """Make the index of a channel's members."""
        with mapped():
            await self._rows.create_index([("_id.c", ASCENDING), ("_id.u", ASCENDING)])

    # --- who is what --------------------------------------------------------------------------------------------------

    async def roles(self, memberships: Sequence[Membership]) -> Mapping[Membership, str]:
        """Of those that there are."""
        found = await self.standings(memberships)
        return {membership: one.role for membership, one in found.items() if one.role is not None}

    async def standings(self, memberships: Collection[Membership]) -> dict[Membership, Standing]:
        """Of those that have a row."""
        query = {"_id": {"$in": [id_of(*membership) for membership in memberships]}}
        with mapped():
            rows = await self._rows.find(query, {"role": 1, "p": 1}).to_list(len(memberships))
        return {(row["_id"]["u"], row["_id"]["c"]): Standing(row["role"], True, "p" in row) for row in rows}

    async def page(self, channel: str, after: str, limit: int) -> tuple[list[Member], bool]:
        """By name, the first `limit` behind `after`, and whether there are more."""
        query = {"_id.c": channel, "_id.u": {"$gt": after}, **_IS_MEMBER}
        with mapped():
            found = self._rows.find(query, {"role": 1, "t": 1, "o": 1}).sort(
                [("_id.c", ASCENDING), ("_id.u", ASCENDING)]
            )
            rows = await found.limit(limit + 1).to_list(limit + 1)
        members = [Member(row["_id"]["u"], row["role"], int(row["t"]), row["o"]) for row in rows[:limit]]
        return members, len(rows) > limit

    async def members_of(self, channel: str, most: int) -> int:
        """How many there are, counted up to `most`."""
        with mapped():
            return await self._rows.count_documents({"_id.c": channel, **_IS_MEMBER}, limit=most)

    async def rooms_of(self, user: str, most: int) -> int:
        """How many channels the user is a member of, counted up to `most`."""
        with mapped():
            return await self._rows.count_documents({**_of_user(user), **_IS_MEMBER}, limit=most)

    async def of_users(self, users: Collection[str], threads: bool = False) -> dict[str, list[Row]]:
        """All rows of these users who are members somewhere; `threads`: also of the threads that they follow."""
        found: dict[str, list[Row]] = {user: [] for user in users}
        with mapped():
            rows = self._rows.find({"$or": [_of_user(user, threads) for user in users], **_IS_MEMBER}, _SHOWN)
            async for row in rows:
                found[row["_id"]["u"]].append(row)
        return found

    async def some(self, memberships: Collection[Membership]) -> dict[Membership, Row]:
        """The rows of these, as far as they are members."""
        query = {"_id": {"$in": [id_of(*one) for one in memberships]}, **_IS_MEMBER}
        with mapped():
            rows = await self._rows.find(query, _SHOWN).to_list(None)
        return {(row["_id"]["u"], row["_id"]["c"]): row for row in rows}

    # --- how far they have read ---------------------------------------------------------------------------------------

    async def move(self, moves: Mapping[Membership, Marker]) -> dict[Membership, Marker]:
        """Move markers on, those that are not there already; in one go. Where they are then, of members."""
        with mapped():
            await self._rows.bulk_write([_moved(*one) for one in moves.items()], ordered=False)
        rows = await self.some(moves)
        return {membership: marker_of(row) for membership, row in rows.items()}

    # --- changing it --------------------------------------------------------------------------------------------------

    async def add(self, rows: Sequence[Row]) -> set[Membership]:
        """Write new rows; of those that are there already nothing happens. Answers which of them were new."""
        taken: set[int] = set()
        with mapped():
            try:
                await self._rows.bulk_write([InsertOne(row) for row in rows], ordered=False)
            except BulkWriteError as error:
                there = duplicates(error)
                if there is None:
                    raise
                taken = set(there)
        return {(row["_id"]["u"], row["_id"]["c"]) for index, row in enumerate(rows) if index not in taken}

    async def replace(self, row: Row) -> bool:
        """The row of who is no member any more, by that of a new one; False: there is none such."""
        with mapped():
            return (await self._rows.replace_one({"_id": row["_id"], "role": None}, row)).matched_count == 1

    async def change(self, user: str, channel: str, old: str, new: str | None, by: str | None) -> bool:
        """Another role, which is to be told to everybody before `told`; False: the role is not `old` (any more)."""
        change = {"$set": {"role": new, "by": by, "p": 1}}
        with mapped():
            done = await self._rows.update_one({"_id": id_of(user, channel), "role": old}, change)
        return done.matched_count == 1

    async def prefer(self, user: str, channel: str, wanted: Mapping[str, bool]) -> Row | None:
        """What the user wants of the room (`mute`, `pin`); the row then, or None: it is no member."""
        row = {"_id": id_of(user, channel), **_IS_MEMBER}
        change: Row = {"$set": dict(wanted), "$inc": {"n": 1}}
        with mapped():
            found: Row | None = await self._rows.find_one_and_update(
                row, change, _SHOWN, return_document=ReturnDocument.AFTER
            )
        return found

    async def told(self, user: str, channel: str, role: str | None) -> None:
        """Everybody has heard of it."""
        row = {"_id": id_of(user, channel), "role": role}
        with mapped():
            if role is None:
                await self._rows.delete_one(row)
            else:
                await self._rows.update_one(row, {"$unset": {"p": ""}})

    # --- threads ------------------------------------------------------------------------------------------------------

    async def threads_of(self, user: str) -> list[str]:
        """That the user follows, in no order."""
        with mapped():
            rows = await self._rows.find(_threads_of(user), {"_id": 1}).to_list(None)
        return [row["_id"]["c"] for row in rows]

    async def too_many_threads(self, user: str, most: int, new: str) -> list[str]:
        """Those that would have to go for `most` to be left, the `new` one among them. First those that others have
        made the user follow, and in which it has read nothing since: else who mentions it again and again would push
        out what it has chosen. What is pinned goes last; of the same kind what has been followed for the longest."""

        def weight(row: Row) -> tuple[bool, bool, bool, int]:
            chosen = row["by"] == user or row["n"] > 0
            return row["_id"]["c"] == new, row.get("pin", False), chosen, row["t"]

        with mapped():
            if await self._rows.count_documents(_threads_of(user)) <= most:
                return []
            rows = await self._rows.find(_threads_of(user), {"t": 1, "n": 1, "by": 1, "pin": 1}).to_list(None)
        rows.sort(key=weight)
        return [row["_id"]["c"] for row in rows[: len(rows) - most]]

    async def some_of(self, channel: str) -> list[Membership]:
        """Some of those that have a row."""
        with mapped():
            rows = await self._rows.find({"_id.c": channel}, {"_id": 1}).limit(TOGETHER).to_list(TOGETHER)
        return [(row["_id"]["u"], channel) for row in rows]

    async def remove(self, memberships: Collection[Membership]) -> None:
        """Delete rows that nobody has to hear of before they go, or that have just been made."""
        with mapped():
            await self._rows.bulk_write([DeleteOne({"_id": id_of(*one)}) for one in memberships], ordered=False)


def new_row(user: str, channel: str, role: str | None, read: Marker, now_ms: int, by: str | None) -> Row:
    """Of who has `read` that far there, and nothing since."""
    place = {"o": read.offset, "e": read.epoch, "m": read.amendments, "n": 0}
    return {"_id": id_of(user, channel), "role": role, **place, "t": now_ms, "by": by}


def _of_user(user: str, threads: bool = False) -> Row:
    first = MinKey() if threads else _BEHIND_THREADS
    return {"_id": {"$gt": {"u": user, "c": first}, "$lt": {"u": user, "c": MaxKey()}}}


def _threads_of(user: str) -> Row:
    return {"_id": {"$gt": {"u": user, "c": MinKey()}, "$lt": {"u": user, "c": _BEHIND_THREADS}}}


def marker_of(row: Row) -> Marker:
    return Marker(row["e"], row["o"], row["m"], row["n"])


def _moved(membership: Membership, marker: Marker) -> UpdateOne:
    query: Row = {"_id": id_of(*membership), **_IS_MEMBER}
    if not marker.back:
        query["$or"] = [{"o": {"$lt": marker.offset}}, {"e": {"$ne": marker.epoch}}]
    if marker.next:
        read = {"$subtract": ["$o", "$m"]}
        query |= {"e": marker.epoch, "$expr": {"$gte": [read, marker.offset - marker.amendments - 1]}}
    place = {"e": marker.epoch, "o": marker.offset, "m": marker.amendments}
    return UpdateOne(query, {"$set": place, "$inc": {"n": 1}})
