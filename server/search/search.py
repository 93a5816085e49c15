"""Searching messages, newest first: in channels that are named, or in all that one is a member of or follows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import msgspec

from server.access.admission import Admission
from server.access.rights import Rights
from server.core.cursors import MAX_OFFSET
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import is_thread
from server.core.principals import Principal
from server.log.finder import Found
from server.log.log import Log
from server.log.words import Question, question
from server.rooms.lists import rights_of
from server.rooms.rows import MemberRows
from server.wire.search import MAX_CHANNELS, FoundPage

TOGETHER: Final = 10
"""Channels that are searched at the same time for one question."""

Places = Mapping[str, int]
"""By channel the offset down to which was looked; 0: to the beginning."""


class Search:
    """`searched(channel)`: whether its messages have words; `bad_request` for what can be no channel's name."""

    def __init__(
        self,
        *,
        rights: Rights,
        admission: Admission,
        lifecycle: Lifecycle,
        log: Log,
        members: MemberRows,
        searched: Callable[[str], bool],
    ) -> None:
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle
        self._log = log
        self._members = members
        self._searched = searched
        self._room = asyncio.Semaphore(TOGETHER)

    async def find(
        self, principal: Principal, text: str, channels: Sequence[str], after: str | None, limit: int,
        *, address: str = "",
    ) -> FoundPage:  # fmt: skip
        """Messages that have all these words. A page may be shorter than `limit`, or empty, though there are more. In
        channels that are named `permission_denied` for who may not read them; of one's own those that one may not read
        are left out."""
        asked = question(text)
        if not asked.words and not asked.prefix:
            raise bad_request("q: no word in it")
        self._admission.spend(principal, address)
        self._lifecycle.check()
        places = _places(after)
        named = list(dict.fromkeys(channels))
        for channel in named:
            if not self._searched(channel):
                raise bad_request(f"channel: {channel} is not searched; its namespace has no search: true")
        if named:
            async with AsyncExitStack() as stack:
                for channel in named:
                    await stack.enter_async_context(self._rights.reading(principal, channel))
                found = await self._find_in(named, asked, places, limit)
        else:
            found = await self._find_in_own(principal, asked, places, limit)
        return _page(found, places, limit)

    async def _find_in_own(self, principal: Principal, asked: Question, places: Places, limit: int) -> dict[str, Found]:
        """Read by their rights before, as their hooks say, and again by the rights when what was found is known."""
        if principal.user is None or principal.server:
            raise bad_request("channel: required of who is a member of none")
        rows = (await self._members.of_users([principal.user], threads=True))[principal.user]
        allowed = rights_of(rows)
        # The rooms, and as far as there is room for more the threads, those that were followed last in front.
        rows.sort(key=lambda row: (is_thread(row["_id"]["c"]), -row["t"] if is_thread(row["_id"]["c"]) else 0))
        every = [row["_id"]["c"] for row in rows if (principal.user, row["_id"]["c"]) in allowed]
        own = [channel for channel in every if self._searched(channel)][:MAX_CHANNELS]
        turns = asyncio.Semaphore(TOGETHER)  # its own: a slow hook keeps nobody else waiting
        may = await asyncio.gather(*(_allowed(self._ask(turns, principal, channel)) for channel in own))
        readable = [channel for channel, allowed in zip(own, may, strict=True) if allowed]
        found = await self._find_in(readable, asked, places, limit)
        check = partial(self._rights.check_reading, principal)
        return {channel: one for channel, one in found.items() if await _allowed(check(channel))}

    async def _ask(self, turns: asyncio.Semaphore, principal: Principal, channel: str) -> None:
        async with turns, self._rights.reading(principal, channel):
            pass

    async def _find_in(self, channels: Sequence[str], asked: Question, places: Places, limit: int) -> dict[str, Found]:
        wanted = [channel for channel in channels if places.get(_short(channel)) != 0]
        opened = await self._log.finder.open(wanted)

        async def find(channel: str) -> Found:
            before = places.get(_short(channel), MAX_OFFSET)
            async with self._room:
                return await self._log.finder.find(opened[channel], asked, before, limit)

        return dict(zip(wanted, await asyncio.gather(*(find(channel) for channel in wanted)), strict=True))


async def _allowed(asking: Awaitable[None]) -> bool:
    """Whether what is asked for is no refusal."""
    try:
        await asking
    except Error as error:
        if error.retry:
            raise
        return False
    return True


def _page(found: Mapping[str, Found], places: Places, limit: int) -> FoundPage:
    """The newest of all that was found."""
    every = [message for one in found.values() for message in one.messages]
    every.sort(key=lambda message: (message.time, message.channel, message.offset), reverse=True)
    shown = every[:limit]
    next_places = dict(places)
    for channel, one in found.items():
        mine = [message for message in shown if message.channel == channel]
        if len(mine) == len(one.messages):
            next_places[_short(channel)] = one.upto
        elif mine:
            next_places[_short(channel)] = mine[-1].offset
    more = any(next_places.get(_short(channel)) != 0 for channel in found)
    cursor = _cursor(next_places) if more else None
    return {"messages": [message.push() for message in shown], "cursor": cursor, "more": more}


def _short(channel: str) -> str:
    """A hundred of them fit into a URL."""
    return base64.urlsafe_b64encode(hashlib.blake2b(channel.encode(), digest_size=6).digest()).decode()


def _cursor(places: Places) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(places)).decode().rstrip("=")


def _places(after: str | None) -> Places:
    if after is None:
        return {}
    try:
        text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
        return msgspec.json.decode(text, type=dict[str, int])
    except (ValueError, msgspec.MsgspecError):
        raise bad_request("after: no cursor of a search") from None
