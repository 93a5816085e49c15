"""The time of day. All nodes have the same one: MongoDB's, which each node compares its own clock with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TOLERATED: Final = 1.0
"""Seconds by which a node's clock may differ before an operator is told."""
_RESOLUTION: Final = 0.001
"""Seconds: MongoDB tells its time in whole milliseconds."""


def now_ms() -> int:
    """Milliseconds since 1970, UTC, by this machine's clock."""
    return time.time_ns() // 1_000_000


class Clock:
    """MongoDB's time, as this node knows it; this machine's until the two have been compared.

    What several nodes compare or delete by (the life of a token, a ticket or a login, the time of a revocation, when
    somebody was last seen) is read from here, so that a node whose clock is wrong decides as the others do. Durations
    within one node are measured with a clock that nobody sets (`time.monotonic`), not with this one.
    """

    def __init__(self, own: Callable[[], float] = time.time) -> None:
        """`own`: this machine's clock, in seconds since 1970, UTC."""
        self.own = own
        self.skew = 0.0
        """Seconds by which MongoDB's clock is ahead of this machine's."""

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return self.own() + self.skew

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return int(self.time() * 1000)

    def compare(self, theirs: float, asked: float, answered: float) -> None:
        """MongoDB said `theirs`, at some moment between `asked` and `answered`, which are this machine's times. What is
        known already stays as it is unless the answer contradicts it, so time does not tremble."""
        least, most = theirs - answered, theirs - asked + _RESOLUTION
        if least <= most and not least <= self.skew <= most:
            self.skew = (least + most) / 2

    def problem(self) -> str | None:
        """For readiness: by how much this machine's clock is wrong, if that is more than is tolerated."""
        if abs(self.skew) <= TOLERATED:
            return None
        return f"clock: this node's is {abs(self.skew):.1f} s {'behind' if self.skew > 0 else 'ahead of'} MongoDB's"
