"""Receipts: where a namespace says so, whoever is subscribed to a channel is told how far each member has read.

They are passed on as joins are: who cannot take one now does not get it, and asks who the members are. Of what a user
reads within a round the last is told, and of many users some in each round, so that a large room is not told of each by
each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from server.core.config import Namespace
from server.core.cursors import Position
from server.core.names import namespace_of
from server.wire.messages import Notice
from server.wire.rooms import ReceiptPush

ROUND: Final = 0.25
"""Seconds."""
AT_ONCE: Final = 25
"""Receipts of one channel in a round."""


class Receipts:
    """`deliver(notices)`: to the subscribers of their channel here."""

    def __init__(self, namespaces: Mapping[str, Namespace], deliver: Callable[[list[Notice]], None]) -> None:
        self._namespaces = namespaces
        self._deliver = deliver
        self._waiting: dict[str, dict[str, int]] = {}
        """Channel → user → offset."""

    def wanted(self, channel: str) -> bool:
        namespace = self._namespaces.get(namespace_of(channel))
        return namespace is not None and namespace.receipts

    def note(self, user: str, channel: str, position: Position) -> None:
        """The user has read up to there."""
        if self.wanted(channel):
            if not self._waiting:
                asyncio.get_running_loop().call_later(ROUND, self._tell)
            self._waiting.setdefault(channel, {})[user] = position.offset

    def _tell(self) -> None:
        for channel, reads in list(self._waiting.items()):
            some = list(reads)[:AT_ONCE]
            self._deliver([Notice(channel, ReceiptPush(channel, user, reads.pop(user))) for user in some])
            if not reads:
                del self._waiting[channel]
        if self._waiting:
            asyncio.get_running_loop().call_later(ROUND, self._tell)
