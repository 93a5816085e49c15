"""Markers: how far each member has read. One's own publish moves one's marker on as well, when that is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from server.access.admission import Admission
from server.access.memberships import READ_TOGETHER, Membership
from server.access.rights import Rights
from server.core.cursors import Position, parse_cursor
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.log.counts import Counts
from server.log.groups import GroupReader
from server.rooms.doubts import Doubts
from server.rooms.members import is_none_of
from server.rooms.rows import Marker, MemberRows

TOLD_EVERY: Final = 0.2
"""Seconds: of several moves within that the other sessions are told the last one."""

Read = tuple[str, str, str, int, int, int]
"""(user, channel, epoch, offset, amendments up to there, how often it had moved then)"""
_Question = tuple[Membership, Marker]


class Markers:
    """`tell(reads)`: how far who has read, for all nodes, this one too."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        rows: MemberRows,
        counts: Counts,
        rights: Rights,
        admission: Admission,
        lifecycle: Lifecycle,
        doubts: Doubts,
        tell: Callable[[Sequence[Read]], None],
    ) -> None:
        self._rows = rows
        self._doubts = doubts
        self._counts = counts
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle
        self._tell = tell
        self._writer: GroupReader[_Question, Marker | None] = GroupReader(
            keeper, "markers", self._move_all, READ_TOGETHER
        )
        self._news: dict[Membership, Marker] = {}

    async def read(
        self, principal: Principal, channel: str, cursor: str, *, back: bool = False, address: str = ""
    ) -> Position:
        """Move the user's marker on to the cursor, or with `back` to wherever that is. Answers where it is now;
        `permission_denied` for who is no member."""
        right = self._rights.to_room(principal, channel)
        self._admission.spend(principal, address)
        wanted = parse_cursor(cursor, "cursor")
        self._lifecycle.check()
        await self._rights.check_reading(principal, channel)
        count = await self._counts.of(channel)
        offset = min(wanted.offset, count.head.offset)  # also a cursor of a history that is over
        amendments = count.amendments
        if offset < count.head.offset:
            found = await self._counts.amendments(channel, offset) if offset > count.floor else None
            if found is None:
                offset = min(offset, count.floor)
                found = count.amended_floor if offset == count.floor else 0
            amendments = found
        right.again()
        marker = await self._move(principal, channel, Marker(count.head.epoch, offset, amendments, back=back))
        if marker is None:
            raise Error("permission_denied", f"{principal.name} {is_none_of(channel)}")
        return Position(marker.epoch, marker.offset)

    async def published(self, principal: Principal, channel: str, position: Position, earlier: bool = False) -> bool:
        """The user's own message is there: it is read, with all before it. Of one that was written `earlier` nothing is
        known of what has come meanwhile: if some of that is unread it stays so. False: nothing happens to who is no
        member."""
        amendments = await self._counts.amendments(channel, position.offset)
        if amendments is None:
            return False
        marker = Marker(position.epoch, position.offset, amendments, next=earlier)
        return await self._move(principal, channel, marker) is not None

    async def _move(self, principal: Principal, channel: str, marker: Marker) -> Marker | None:
        """Where it is then; None: the user is no member."""
        if principal.server or principal.user is None:
            return None
        return await self._writer.ask(((principal.user, channel), marker))

    async def _move_all(self, questions: Sequence[_Question]) -> dict[_Question, Marker | None]:
        """One move of each marker at a time: the farthest, or what is set."""
        moves: dict[Membership, Marker] = {}
        answered: list[_Question] = []
        for membership, marker in questions:
            known = moves.get(membership)
            if known is None or (known.is_farthest and marker.is_farthest and known.epoch == marker.epoch):
                moves[membership] = marker if known is None or marker.offset > known.offset else known
                answered.append((membership, marker))
        with self._doubts.about(moves):
            moved = await self._rows.move(moves)
        for membership, marker in moved.items():
            self._note(membership, marker)
        return {question: moved.get(question[0]) for question in answered}

    # --- telling the user's other sessions ----------------------------------------------------------------------------

    def _note(self, membership: Membership, marker: Marker) -> None:
        if not self._news:
            asyncio.get_running_loop().call_later(TOLD_EVERY, self._tell_news)
        self._news[membership] = marker

    def _tell_news(self) -> None:
        news, self._news = self._news, {}
        self._tell([(*membership, *marker[:4]) for membership, marker in news.items()])
