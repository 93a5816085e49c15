"""Turns to write: how nodes that write to the same channel at once keep out of each other's way.

Who writes at once with others is refused more often than not, and fairness is chance. So after the first conflict the
nodes that write to a channel have it in turn, by the clock and in the order of their names. This is a courtesy: what
keeps the offsets whole is the unique index. Clocks that differ, or nodes that do not know of each other yet, only bring
back a few refusals.
"""

from __future__ import annotations

import time
from typing import Final
from zlib import crc32

CONTENDED_SECONDS: Final = 2.0
"""How long nodes take turns after the last sign of a conflict."""
TURN: Final = 0.05
"""Seconds a node has a contended channel to itself: a few batches."""


class WriteTurns:
    """When this node may write to one channel. `now` is the event loop's time."""

    __slots__ = ("_rivals", "_until", "_wrote_at")

    def __init__(self) -> None:
        self._rivals: dict[str, float] = {}
        """Other nodes that write to the channel → when we last heard of it."""
        self._until = 0.0
        """Until then we write in our own turns only."""
        self._wrote_at = 0.0

    def wrote(self, now: float) -> None:
        """This node has written to the channel."""
        self._wrote_at = now

    def heard_of(self, node: str, now: float) -> None:
        """Another node has written to it. That is of interest only while we write as well."""
        if now - self._wrote_at < CONTENDED_SECONDS:
            self._rivals[node] = now

    def wanted_by(self, node: str, now: float) -> None:
        """Another node cannot get its messages in."""
        self._rivals[node] = now

    def begin(self, now: float) -> bool:
        """Take turns from now on; whether that is news, to be told to the other nodes."""
        begins = self._until < now
        self._until = now + CONTENDED_SECONDS
        return begins

    def contended(self, now: float) -> bool:
        return self._until > now

    def wait(self, channel: str, node: str, latency: float, now: float) -> float:
        """Seconds until `node` may write, 0 if that is now. `latency`: seconds that a batch takes."""
        self._rivals = {rival: heard for rival, heard in self._rivals.items() if now - heard < CONTENDED_SECONDS}
        if not self._rivals:
            return 0.0
        nodes = sorted((*self._rivals, node))
        clock = time.time()
        turn = int(clock / TURN)
        turns = (nodes.index(node) - turn - crc32(channel.encode())) % len(nodes)
        if turns == 0 and (turn + 1) * TURN - clock > min(latency, TURN / 2):
            return 0.0
        return (turn + (turns or len(nodes))) * TURN - clock
