"""Memberships of which nobody was told what has become of them.

Who belongs to a channel, and how far they have read, is written first and told then. If MongoDB gives no answer to the
write, or none to what is still to be asked behind it, it may be stored all the same: its writer has been told of an
error, and whoever looks at their rooms sees what was. So it is looked at until MongoDB answers, and told as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from server.access.memberships import READ_TOGETHER, Membership
from server.core.errors import Error, leaves_doubt
from server.core.tasks import Keeper
from server.rooms.rows import Change, MemberRows

AGAIN_AFTER: Final = 1.0
"""Seconds until they are looked at, and then again: what was on its way to MongoDB has arrived by then."""


class Doubts:
    """`tell(changes)`: who is what where, for all nodes."""

    def __init__(self, keeper: Keeper, rows: MemberRows, tell: Callable[[Sequence[Change]], None]) -> None:
        self._keeper = keeper
        self._rows = rows
        self._tell = tell
        self._open: set[Membership] = set()
        self._settling = False

    @contextmanager
    def about(self, memberships: Collection[Membership]) -> Iterator[None]:
        """Around a write and the telling of it. An error that says no is no doubt."""
        try:
            yield
        except BaseException as error:
            if leaves_doubt(error):
                self._note(memberships)
            raise

    def _note(self, memberships: Collection[Membership]) -> None:
        self._open.update(memberships)
        if self._open and not self._settling:
            self._settling = True
            self._keeper.spawn("memberships in doubt", self._settle())

    async def _settle(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(AGAIN_AFTER)
                some = [self._open.pop() for _ in range(min(len(self._open), READ_TOGETHER))]
                try:
                    roles = await self._rows.roles(some)
                except Error:
                    self._open.update(some)
                    continue
                self._tell([(*membership, roles.get(membership)) for membership in some])
        finally:
            self._settling = False
