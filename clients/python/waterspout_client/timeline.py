"""A channel's messages as they are shown: merged, live, and changed by whoever may."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Amend, Deleted, Gap, Message, Page, Published, Push, Reacted
from waterspout_client.reacting import Reactions
from waterspout_client.rooms import Membership, Rooms
from waterspout_client.subscription import Subscription
from waterspout_client.writing import Writer, appended


class Room(Protocol):
    """What a timeline needs of a client."""

    session: Push

    def room(self, channel: str) -> Membership: ...

    def open_rooms(self) -> Rooms | None: ...

    async def react(self, channel: str, of: int, kind: str) -> Reacted: ...

    async def unreact(self, channel: str, of: int, kind: str) -> Reacted: ...

    def publish(
        self, channel: str, data: Any, *, key: str | None = None, mentions: Sequence[str] | None = None,
        broadcast: bool = False,
    ) -> Any: ...  # fmt: skip

    def subscribe(self, channel: str, *, last: int | None = None) -> Subscription: ...

    async def history(self, channel: str, *, before: str | None = None, limit: int | None = None) -> Page: ...

    async def edit(self, channel: str, of: int, data: Any) -> Published: ...

    async def append(self, channel: str, of: int, text: str, *, done: bool = False) -> Published: ...

    async def remove(self, channel: str, of: int) -> Published: ...

    async def pin(self, channel: str, of: int, pinned: bool = True) -> Published: ...


LOOKED_UP = 100
"""Messages that are looked up, to know which of their many reactions are one's own."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as it is shown. `pending`: it is, or is changed into, what is not known to be stored yet; `error`: it
    could not be sent, and stays until it is sent `again` or `discard`ed. `mine`: how this user has reacted."""

    message: Message
    pending: bool = False
    error: WaterspoutError | None = None
    mine: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Wish:
    change: Callable[[Message], Message]
    stored: int | None = None
    """Where the amendment is, once that is known."""


class Timeline:
    """`async with client.timeline("room:tea") as timeline: async for messages in timeline: …`

    `messages` is what there is to show, oldest first and behind it what is being sent; the loop goes round whenever
    something has come. What this program does shows at once, and is taken back if the server refuses it."""

    def __init__(self, client: Room, channel: str, last: int) -> None:
        self.channel = channel
        self.more: bool | None = None
        """Whether there are older messages than those shown; None until it is known."""
        self._client = client
        self._last = last
        self._subscription: Subscription | None = None
        self._known: dict[int, Message] = {}
        self._wanted: dict[int, list[_Wish]] = {}
        self._sending: dict[str, Shown] = {}
        self._broadcast: set[str] = set()
        """The keys of what is sent to the parent as well."""
        self._counted: dict[int, int] = {}
        """Of messages that were answered, the `at` of what is shown of that."""
        self._oldest: str | None = None
        self._seen = 0
        self._reactions = Reactions(lambda: client.session.get("user"))
        self._looking: asyncio.Task[None] | None = None
        self._meanwhile: list[list[Amend]] = []
        """What becomes of messages while pages of them are on their way."""

    async def __aenter__(self) -> Self:
        self._subscription = self._client.subscribe(self.channel, last=self._last)
        await self._subscription.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._subscription is not None:
            await self._subscription.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncIterator[list[Shown]]:
        if self._subscription is None:
            raise RuntimeError("use `async with`: it subscribes, and unsubscribes")
        async for event in self._subscription:
            match event:
                case Message(offset=int()):
                    self._take(event)
                case Amend():
                    self._amend(event)
                case Gap():
                    self._lose(event)
                case _:
                    pass
            yield self.messages

    @property
    def messages(self) -> list[Shown]:
        known = [self._as_wanted(message) for _, message in sorted(self._known.items())]
        return [*known, *self._sending.values()]

    @property
    def unread(self) -> int | None:
        """As the client's `rooms` know it while they are read (of a thread with `threads`); None where they do not."""
        rooms = self._client.open_rooms()
        room = rooms.all.get(self.channel) if rooms is not None else None
        return None if room is None else room.unread

    @property
    def following(self) -> bool | None:
        """Whether the channel is among these; None: nobody knows (yet)."""
        rooms = self._client.open_rooms()
        return None if rooms is None else rooms.has(self.channel)

    async def follow(self) -> None:
        """Follow the thread: it is among one's rooms then. Whoever answers does so anyway."""
        await self._client.room(self.channel).join()

    async def unfollow(self) -> None:
        """No more."""
        await self._client.room(self.channel).leave()

    async def mark_read(self, cursor: str | None = None, *, back: bool = False) -> str:
        """It is read up to there, by default to the newest message shown; where the marker is now. Refused for who does
        not follow the thread: to read is not to follow."""
        if cursor is None:
            cursor = self._known[max(self._known)].cursor if self._known else None
        return await self._client.room(self.channel).mark_read(cursor or "0", back=back)

    async def load_older(self, limit: int = 50) -> bool:
        """The page before the oldest message; whether there are more."""
        oldest = self._oldest
        meanwhile: list[Amend] = []
        self._meanwhile.append(meanwhile)
        try:
            page = await self._client.history(self.channel, before=oldest, limit=limit)
        finally:
            self._meanwhile = [one for one in self._meanwhile if one is not meanwhile]
        if oldest != self._oldest:
            return self.more is not False  # begun anew meanwhile
        for message in page.messages:
            self._put(message)
        self._reactions.learn(page.mine, page.messages)
        for amend in meanwhile:
            self._apply(amend)
        if page.messages:
            self._oldest = page.messages[0].cursor
        self.more = page.more
        return page.more

    async def send(
        self, data: Any, *, key: str | None = None, mentions: Sequence[str] = (), broadcast: bool = False
    ) -> Published:
        """Publish; it is shown at once. What is refused stays in the list with its `error`. `broadcast`: of a thread,
        in the parent as well."""
        key = key or secrets.token_hex(16)
        if broadcast:
            self._broadcast.add(key)
        draft = Message(self.channel, data, None, 0, key=key, mentions=tuple(mentions))
        self._sending[key] = Shown(draft, pending=True)
        try:
            published: Published = await self._client.publish(
                self.channel, data, key=key, mentions=mentions, broadcast=broadcast
            )
        except WaterspoutError as error:
            if key in self._sending:
                self._sending[key] = Shown(draft, error=error)
            raise
        return published

    async def again(self, key: str) -> Published:
        """Of a message that was refused."""
        message = self._sending[key].message
        return await self.send(message.data, key=key, mentions=message.mentions, broadcast=key in self._broadcast)

    def discard(self, key: str) -> None:
        """Of a message that was refused."""
        self._sending.pop(key, None)
        self._broadcast.discard(key)

    async def edit(self, offset: int, data: Any) -> Published:
        """Shown at once, and taken back if it is refused."""
        wish = _Wish(lambda message: replace(message, data=data, edited=True))
        return await self._want(offset, wish, self._client.edit(self.channel, offset, data))

    def append(self, offset: int) -> Writer:
        """Write on, piece by piece: `async with timeline.append(12) as answer: await answer.write("…")`. It is shown as
        it comes back from the server."""
        return Writer(partial(self._client.append, self.channel, offset))

    async def remove(self, offset: int) -> Published:
        """Erase it for everybody, for good."""
        wish = _Wish(lambda message: replace(message, data=None, deleted=Deleted(None, 0)))
        return await self._want(offset, wish, self._client.remove(self.channel, offset))

    async def pin(self, offset: int, pinned: bool = True) -> Published:
        wish = _Wish(lambda message: replace(message, pinned=pinned))
        return await self._want(offset, wish, self._client.pin(self.channel, offset, pinned))

    async def react(self, message: int | Message, kind: str) -> Reacted:
        """React to a message, or to the one at this offset: shown at once, and taken back if it is refused."""
        offset = _offset_of(message)
        return await self._reactions.want(offset, kind, True, self._client.react(self.channel, offset, kind))

    async def unreact(self, message: int | Message, kind: str) -> Reacted:
        """Take one's reaction back; as `react`."""
        offset = _offset_of(message)
        return await self._reactions.want(offset, kind, False, self._client.unreact(self.channel, offset, kind))

    def thread(self, message: int | Message, *, last: int = 50) -> Timeline:
        """What answers a message, or the one at this offset, as a timeline of its own. A message that was published in
        a thread as well has that one."""
        if isinstance(message, Message) and message.thread is not None:
            return Timeline(self._client, message.thread, last)
        return Timeline(self._client, f"$thread:{_offset_of(message)}:{self.channel}", last)

    async def _want(self, offset: int, wish: _Wish, asked: Any) -> Published:
        self._wanted.setdefault(offset, []).append(wish)
        try:
            published: Published = await asked
        except BaseException:
            self._drop(offset, wish)
            raise
        wish.stored = published.offset
        self._settle(offset)
        return published

    def _settle(self, offset: int) -> None:
        """What is stored up to what has come is in the message itself."""
        for wish in tuple(self._wanted.get(offset, ())):
            if wish.stored is not None and wish.stored <= self._seen:
                self._drop(offset, wish)

    def _drop(self, offset: int, wish: _Wish) -> None:
        left = [one for one in self._wanted.get(offset, ()) if one is not wish]
        if left:
            self._wanted[offset] = left
        else:
            self._wanted.pop(offset, None)

    def _as_wanted(self, message: Message) -> Shown:
        wanted = self._wanted.get(message.offset or 0)
        message, mine = self._reactions.shown(message)
        if not wanted or message.deleted is not None:
            return Shown(message, mine=mine)
        for wish in wanted:
            message = wish.change(message)
        return Shown(message, pending=True, mine=mine)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        self._seen = message.offset or 0
        if self._oldest is None:
            self._oldest, self.more = message.cursor, self._seen > 1
        self._sending.pop(message.key or "", None)
        self._broadcast.discard(message.key or "")
        self._put(message)
        if not self._reactions.put(message) and self._looking is None:
            self._looking = asyncio.create_task(self._look_up())

    async def _look_up(self) -> None:
        """Which of many reactions are one's own."""
        try:
            page = await self._client.history(self.channel, limit=LOOKED_UP)
        except WaterspoutError:
            return  # then it is shown without
        self._reactions.learn(page.mine, page.messages)

    def _put(self, message: Message) -> None:
        """The newer of the two."""
        assert message.offset is not None
        known = self._known.get(message.offset)
        if known is None or message.version >= known.version:
            self._known[message.offset] = message

    def _amend(self, amend: Amend) -> None:
        self._seen = amend.offset
        for amends in self._meanwhile:
            amends.append(amend)
        self._apply(amend)
        for offset in tuple(self._wanted):
            self._settle(offset)

    def _apply(self, amend: Amend) -> None:
        message = self._known.get(amend.of)
        if message is not None and message.deleted is None:
            if amend.op == "delete":
                gone = Deleted(amend.user, amend.time)
                self._reactions.forget(amend.of)
                message = replace(
                    message, data=None, version=amend.version, edited=False, pinned=False, deleted=gone, mentions=(),
                    reactions=(), replies=None,
                )  # fmt: skip
            elif amend.op == "reactions":
                message = self._reactions.counted(message, amend.at, amend.reactions)
            elif amend.op == "replies" and amend.at > self._counted.get(amend.of, 0):
                self._counted[amend.of] = amend.at
                message = replace(message, replies=amend.replies)
            elif amend.op == "pin":
                message = replace(message, pinned=amend.data is True)
            elif amend.op == "edit" and amend.version > message.version:
                edited = message.edited or amend.edited
                message = replace(message, data=amend.data, version=amend.version, edited=edited)
            elif amend.op == "append" and amend.version > message.version:
                message = replace(message, data=appended(message.data, amend.data), version=amend.version)
            self._known[amend.of] = message

    def _lose(self, gap: Gap) -> None:
        """Trimmed, or another history altogether."""
        for offset in tuple(self._known):
            if gap.last is None or offset <= gap.last:
                del self._known[offset]
                self._counted.pop(offset, None)
                self._reactions.forget(offset)
        if gap.last is None:
            self._oldest, self.more, self._seen = None, None, 0


def _offset_of(message: int | Message) -> int:
    offset = message if isinstance(message, int) else message.offset
    if offset is None:
        raise ValueError("the message is not stored yet")
    return offset
