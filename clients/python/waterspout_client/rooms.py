"""Channels with members: who belongs to one, how far it is read, and the list of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

from waterspout_client.events import Live, Push
from waterspout_client.subscription import Home, Item, Stream

ROOMS = "$rooms"
PUSHES = ("rooms", "room", "activity", "read")
_NOT_IN_NAMES = re.compile(r"[,%\s\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class ThreadOf:
    """What a thread is about."""

    channel: str
    """Its parent."""
    of: int
    """The offset of the message."""


@dataclass(frozen=True, slots=True)
class Room:
    """A channel that this user is a member of, or a thread that it follows."""

    channel: str
    role: str | None
    """None: no member any more."""
    read: str = "0"
    """The cursor up to which it is read."""
    head: str = "0"
    count: int = 0
    """Messages so far."""
    unread: int = 0
    mentions: int = 0
    """How many of the unread ones mention this user."""
    newest: str | None = None
    """The cursor of the newest message."""
    seen: int = 0
    """So many of them are not unread."""
    mute: bool = False
    """It is listed, and not counted but for mentions."""
    pin: bool = False
    thread: ThreadOf | None = None


@dataclass(frozen=True, slots=True)
class Member:
    user: str
    role: str
    joined: int
    """Milliseconds since 1970."""
    read: str | None = None
    """The cursor up to which it has read, where the namespace has receipts."""


def direct_name(namespace: str, one: str, other: str) -> str:
    """The name of the channel of two users, whichever is named first: `dm:ann,bob`."""
    names = (_NOT_IN_NAMES.sub(lambda found: quote(found[0], safe=""), name) for name in sorted((one, other)))
    return f"{namespace}:{','.join(names)}"


class Asking(Protocol):
    async def request(self, kind: str, /, *, again: bool = True, **fields: Any) -> Push: ...


class Membership:
    """What `client.room("chat:tea")` gives: all of it does no harm twice, so it is sent again after a loss. Of a thread
    the members are those who follow it: `join` follows, `leave` does so no more."""

    def __init__(self, client: Asking, channel: str) -> None:
        self._client = client
        self.channel = channel

    async def join(self) -> str:
        """Become a member, where anyone may; the role."""
        return str((await self._client.request("join", channel=self.channel))["role"])

    async def leave(self) -> None:
        await self._client.request("leave", channel=self.channel)

    async def set_member(self, user: str, role: str = "member") -> None:
        """For who may: make the user a member with this role."""
        await self._client.request("member", channel=self.channel, user=user, role=role)

    async def members(self, *, after: str | None = None, limit: int | None = None) -> list[Member]:
        """By name, the first `limit` (100) behind the name `after`."""
        reply = await self._client.request("members", channel=self.channel, after=after, limit=limit)
        return [Member(one["user"], one["role"], one["joined"], one.get("read")) for one in reply["members"]]

    async def prefer(self, *, mute: bool | None = None, pin: bool | None = None) -> None:
        """How this user wants to see the room among its own: listed but not counted, in front."""
        await self._client.request("member", channel=self.channel, mute=mute, pin=pin)

    async def mark_read(self, cursor: str, *, back: bool = False) -> str:
        """It is read up to there; with `back` no further. The cursor where the marker is now."""
        fields = {"set": True} if back else {}
        return str((await self._client.request("read", channel=self.channel, cursor=cursor, **fields))["cursor"])


class Rooms(Stream[Room]):
    """`async with client.rooms() as rooms: async for room in rooms: …`: each room as it has changed; one with the role
    None is no room any more. `rooms.all` has all of them, and with `threads` the threads that are followed."""

    def __init__(self, home: Home, max_pending: int, user: Callable[[], str | None], threads: bool) -> None:
        super().__init__(home, ROOMS, {"threads": True} if threads else {}, max_pending=max_pending)
        self._user = user
        self._with_threads = threads
        self.all: dict[str, Room] = {}
        self.ready = False
        """All pages have come."""

    @property
    def unread(self) -> int:
        """Of all rooms together that are not muted. Threads count apart."""
        return sum(room.unread for room in self.all.values() if not (room.mute or room.thread))

    @property
    def mentions(self) -> int:
        """How many mention this user, also in rooms that are muted."""
        return sum(room.mentions for room in self.all.values() if not room.thread)

    @property
    def thread_unread(self) -> int:
        """Of all threads together that are followed and not muted."""
        return sum(room.unread for room in self.all.values() if room.thread and not room.mute)

    @property
    def thread_mentions(self) -> int:
        return sum(room.mentions for room in self.all.values() if room.thread)

    def threads(self, channel: str | None = None) -> list[Room]:
        """Those that are followed, of one channel or all."""
        return [room for room in self.all.values() if room.thread and channel in (None, room.thread.channel)]

    def has(self, channel: str) -> bool | None:
        """Whether the channel is among them; None: nobody knows (yet)."""
        known = self.ready and (self._with_threads or not channel.startswith("$thread:"))
        return channel in self.all if known else None

    def _make(self, item: Item) -> Room | None:
        if not isinstance(item, Live) or item.channel == ROOMS:
            return None
        return self.all.get(item.channel) or Room(item.channel, None)

    def take(self, push: Push) -> None:
        if push["type"] not in PUSHES:
            return super().take(push)
        if push["type"] == "rooms":
            if push.get("start"):
                self.all.clear()
            self.ready = not push["more"]
        for room in self._changed(push):
            if room.role is None:
                self.all.pop(room.channel, None)
            else:
                self.all[room.channel] = room
            if len(self._items) < self._max_pending or self._make_room():
                self._put(Live(room.channel, False), None)

    def _changed(self, push: Push) -> list[Room]:
        kind = push["type"]
        if kind == "rooms":
            return [_row(row) for row in push["rooms"]]
        if kind == "room":
            return [_row(push) if push["role"] is not None else Room(push["channel"], None)]
        room = self.all.get(push["channel"])
        if room is None:
            return []
        if kind == "read":
            mentions = push.get("mentions", room.mentions)
            room = replace(room, read=push["cursor"], seen=push.get("seen", room.seen), mentions=mentions)
        else:
            read = _offset(room.read)
            erased = sum(1 for offset in push.get("deleted", ()) if offset > read)
            mentions = sum(1 for offset in self._mine(push) if offset > read)
            room = replace(
                room, head=push["head"], count=push["count"], newest=push["newest"], seen=room.seen + erased,
                mentions=room.mentions + mentions,
            )  # fmt: skip
        return [replace(room, unread=max(0, room.count - room.seen))]

    def _mine(self, activity: Push) -> set[int]:
        """Messages of others that mention this user."""
        mentioned, user = activity.get("mentioned", {}), self._user()
        return {*mentioned.get(user, ()), *mentioned.get("*", ())} - {*activity.get("by", {}).get(user, ())}


def _row(row: Push) -> Room:
    count, unread = row["count"], row["unread"]
    return Room(
        row["channel"], row["role"], row["read"], row["head"], count, unread, row["mentions"], row["newest"],
        count - unread, row.get("mute", False), row.get("pin", False),
        ThreadOf(**row["thread"]) if "thread" in row else None,
    )  # fmt: skip


def _offset(cursor: str) -> int:
    return int(cursor.rpartition(":")[2])
