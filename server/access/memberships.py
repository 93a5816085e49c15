"""Which role a user has in a channel, as far as this node knows: what rules with `member` are decided by.

Rights are decided without waiting, and memberships are in MongoDB. So whoever waits for a right has them read before
(`Unloaded` says what is missing, and how to get it), many at a time; and they are remembered. What is remembered may
only ever allow something: before anybody is turned away it is read anew, so that nobody has to be told of new members.
Who is not a member any more is: by a numbered revocation (revocations.py), which every node hears of within a second,
and when it cannot ask, it delivers nothing that needs a right. Besides, what is remembered is read anew now and then,
for the sake of a node that has died between taking a membership away and saying so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from server.core.config import Namespace
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log.groups import GroupReader

logger = logging.getLogger(__name__)

Membership = tuple[str, str]
"""(user, channel)"""

FRESH: Final = 1.0
"""Seconds within which whoever has had something read asks what was found."""
READ_TOGETHER: Final = 1000
REMEMBERED: Final = 200_000
"""Memberships, of which the oldest are forgotten first."""
RENEW_EVERY: Final = 30.0


class Unloaded(Error):
    """Whether there is a right is not known before `load` has been awaited. Who cannot wait hands it on: `unavailable`,
    try again. `options`: of what it is a right to."""

    def __init__(self, options: Namespace, load: Callable[[], Awaitable[None]]) -> None:
        super().__init__("unavailable", "what the right depends on is being read", retry_after=0.1)
        self.options = options
        self.load = load


class _Known:
    __slots__ = ("role", "at", "used")

    def __init__(self, role: str | None, at: float) -> None:
        self.role = role
        self.at = at
        self.used = True
        """Since it was last looked through."""


class _Load:
    """One that is under way."""

    __slots__ = ("waiting", "spoiled")

    def __init__(self) -> None:
        self.waiting = 0
        self.spoiled = False
        """What it finds may be older than what has been said since."""


class Memberships:
    """`listens(user, channel)`: whether the user is subscribed to it here. `on_change(user)`: what was remembered of
    the user has turned out to be wrong, without anybody having said so."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        listens: Callable[[str, str], bool],
        on_change: Callable[[str], None],
    ) -> None:
        self._keeper = keeper
        self._reader: GroupReader[Membership, str | None] = GroupReader(
            keeper, "memberships", self._read_all, READ_TOGETHER
        )
        self.read: Callable[[Sequence[Membership]], Awaitable[Mapping[Membership, str]]]
        """The roles of those that there are: set by who has them (server/rooms)."""
        self._listens = listens
        self._on_change = on_change
        self._known: dict[Membership, _Known] = {}
        self._loading: dict[Membership, _Load] = {}
        self._read_for_now: Membership | None = None
        """Read for who asks next, and for nobody else."""

    def open(self) -> None:
        """From now on what is remembered is read anew now and then."""
        self._keeper.every("memberships", RENEW_EVERY, self.renew)

    def role(self, user: str, channel: str) -> tuple[str | None, bool]:
        """The user's role (None: none that is known), and whether it has been read for who asks: else it is only good
        for allowing something. So `load` is awaited and this asked in one go."""
        read, self._read_for_now = self._read_for_now, None
        known = self._known.get((user, channel))
        if known is None:
            return None, False
        known.used = True
        return known.role, read == (user, channel) and asyncio.get_running_loop().time() - known.at < FRESH

    async def load(self, user: str, channel: str) -> None:
        """Read what role the user has now, together with what others ask for. `unavailable` if that cannot be known."""
        if await self._load((user, channel)):
            self._read_for_now = user, channel

    def forget(self, user: str, channel: str) -> None:
        """It has changed, or may have. Whoever reads it just now reads it again."""
        self._known.pop((user, channel), None)
        load = self._loading.pop((user, channel), None)
        if load is not None:
            load.spoiled = True

    async def renew(self) -> None:
        """Read what is remembered anew, and forget what nobody asks about any more."""
        now = asyncio.get_running_loop().time()
        due: list[tuple[Membership, _Known]] = []
        for membership, known in tuple(self._known.items()):
            if known.used or self._listens(*membership):
                known.used = False
                if now - known.at > RENEW_EVERY / 2:
                    due.append((membership, known))
            else:
                del self._known[membership]
        for index in range(0, len(due), READ_TOGETHER):
            part = due[index : index + READ_TOGETHER]
            await asyncio.gather(*(self._load(membership) for membership, _ in part))
            for membership, before in part:
                after = self._known.get(membership)
                if after is not None:
                    after.used = before.used
                    if after.role != before.role:
                        self._on_change(membership[0])

    async def _load(self, membership: Membership) -> bool:
        """Whether it is known now."""
        load = self._loading.get(membership)
        if load is None:
            load = self._loading[membership] = _Load()
        load.waiting += 1
        try:
            role = await self._reader.ask(membership)
        finally:
            load.waiting -= 1
            if not load.waiting and self._loading.get(membership) is load:
                del self._loading[membership]
        if load.spoiled:
            return False
        self._known.pop(membership, None)  # so that the oldest stand in front
        self._known[membership] = _Known(role, asyncio.get_running_loop().time())
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return True

    async def _read_all(self, memberships: Sequence[Membership]) -> Mapping[Membership, str | None]:
        found: dict[Membership, Any] = dict.fromkeys(memberships)
        return found | dict(await self.read(memberships))
