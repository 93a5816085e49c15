"""Which changes of the attendance this node has to tell the user's own back end of, so that of all nodes one does.

The node whose own table changes decides. Where two nodes lose the last sessions of a user at the same moment, each sees
the other one's go last; then the one whose id is less decides, but is unsure whether the other did not. Of a node that
has died all survivors decide, with the same key. So nothing is missed, but it may be told of twice, where two nodes
gain a user at the same moment or cannot hear each other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from server.core.names import ONLINE

RACE: Final = 5.0
"""Seconds within which two nodes may not have heard of each other's change."""


class Decision(NamedTuple):
    kind: str
    """`join`, `leave`, `occupied`, `vacated`, `connected`, `disconnected`."""
    key: str
    """The same one whichever node tells of it, as far as several do."""
    channel: str | None
    """None: it is about a user, not about a channel."""
    user: str | None
    """None: it is about all who are in the channel, guests too."""
    info: Any
    unsure: bool
    """Another node may have told of it already."""


class Decisions:
    """`tell(decision)` passes them on; `now()`: seconds, on a steady clock."""

    def __init__(self, node: str, tell: Callable[[Decision], None], now: Callable[[], float]) -> None:
        self._node = node
        self._tell = tell
        self._now = now
        self._tables: Counter[tuple[str, str | None]] = Counter()
        """(channel, user) → the tables the user is in; (channel, None) → the rows of the channel in all of them."""
        self._left: dict[tuple[str, str | None], float] = {}
        """What of it was lost here, and when."""

    def changed(
        self, channel: str, user: str | None, change: int, info: Any, *, by: str, died: int | None = None
    ) -> None:
        """A row of the node `by` has come (1) or gone (-1). `died`: the number of the node's last change, if it has
        died; the rows of its guests are all one."""
        if user is not None:
            self._count(channel, user, change, info, by, died)
        if channel != ONLINE:
            self._count(channel, None, change, None, by, died)

    def _count(self, channel: str, user: str | None, change: int, info: Any, by: str, died: int | None) -> None:
        of = channel, user
        before = self._tables[of]
        after = self._tables[of] = before + change
        if not after:
            del self._tables[of]
        own = by == self._node
        if own and change < 0:
            self._left[of] = self._now()
        if (before and after) or not (own or died is not None or self._is_ours(of, after, by)):
            return
        kind = _KINDS[channel == ONLINE, user is not None, change > 0]
        key = secrets.token_hex(12) if died is None else _digest(by, str(died), kind, channel, user or "")
        unsure = not own and died is None
        self._tell(Decision(kind, key, None if channel == ONLINE else channel, user, info, unsure))

    def _is_ours(self, of: tuple[str, str | None], after: int, by: str) -> bool:
        """Whether another node's change is this node's to tell: both have lost the last ones at the same moment."""
        return not after and self._now() - self._left.get(of, -RACE) < RACE and self._node < by

    def tick(self) -> None:
        """Once in a while: forget what is no race any more."""
        until = self._now() - RACE
        while self._left:
            of, at = next(iter(self._left.items()))
            if at > until:
                break
            del self._left[of]


_KINDS: Final = {
    (False, True, True): "join", (False, True, False): "leave",
    (False, False, True): "occupied", (False, False, False): "vacated",
    (True, True, True): "connected", (True, True, False): "disconnected",
}  # fmt: skip
"""(of ONLINE, of a user, has come) → what it is."""


def _digest(*of: str) -> str:
    return hashlib.blake2b("\0".join(of).encode(), digest_size=12).hexdigest()
