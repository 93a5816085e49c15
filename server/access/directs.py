"""Channels of two users: who may do what there follows from their name, and from who takes no messages of whom.

Who is blocked is read with each right to publish or react there, many together, and believed for a second; so a block
counts everywhere within that, and nobody has to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from server.access.memberships import Unloaded
from server.core.config import Namespace
from server.core.errors import Error
from server.core.names import pair_of
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.log.groups import GroupReader

Block = tuple[str, str]
"""(a user, whom it takes no messages of)"""

FRESH: Final = 1.0
READ_TOGETHER: Final = 1000
REMEMBERED: Final = 10_000


class Directs:
    def __init__(self, keeper: Keeper) -> None:
        self.read: Callable[[Collection[Block]], Awaitable[Collection[Block]]]
        """Which of these there are: set by who has them (server/rooms)."""
        self._reader: GroupReader[Block, bool] = GroupReader(keeper, "blocks", self._read_all, READ_TOGETHER)
        self._known: dict[Block, tuple[bool, float]] = {}
        """And when that was read, by the event loop's time; the oldest in front."""

    def check(self, principal: Principal, action: str, channel: str, namespace: Namespace) -> None:
        """`permission_denied` for whoever is none of the two, or whose messages the other one does not take; `Unloaded`
        if that is not known; `bad_request` for what is no name of such a channel."""
        pair = pair_of(channel)
        if principal.server:
            return
        user = principal.user
        if user is None or user not in pair:
            raise Error("permission_denied", f"{principal.name} may not {action} in {channel}")
        if action != "subscribe":
            block = other_of(pair, user), user
            blocked, at = self._known.get(block, (False, -FRESH))
            if asyncio.get_running_loop().time() - at >= FRESH:
                raise Unloaded(namespace, partial(self._load, block))
            if blocked:
                raise Error("permission_denied", f"{principal.name} may not {action} in {channel}")

    def forget(self, block: Block) -> None:
        """It has changed."""
        self._known.pop(block, None)

    async def _load(self, block: Block) -> None:
        blocked = await self._reader.ask(block)
        self._known.pop(block, None)
        self._known[block] = blocked, asyncio.get_running_loop().time()
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    async def _read_all(self, blocks: Sequence[Block]) -> Mapping[Block, bool]:
        found = await self.read(blocks)
        return {block: block in found for block in blocks}


def other_of(pair: tuple[str, str], user: str) -> str:
    return pair[1] if pair[0] == user else pair[0]
