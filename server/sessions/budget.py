"""What one connection may cost: a budget that is drawn upon by everything it sends."""

from __future__ import annotations

from typing import Final

FRAME: Final = 1
"""A ping, a pong, a fragment, a command; of commands that `messages_per_second` counts only the refused ones."""
CHANGE: Final = 2
"""More for a subscription, or a token: others have to be asked."""
REFUSAL: Final = 10
"""More for whatever is answered with an error: it is built, sent, counted and told to operators."""
HEAVY: Final = 16384
"""Bytes of a frame that cost as much as one more frame."""
PATIENCE: Final = 100
"""Frames in a row that are refused for want of budget before the connection is closed."""


class Budget:
    """`rate` units a second, at most `burst` saved up; a rate of 0 means no limit.

    `left` is plain arithmetic for whoever draws on it. What has been saved up since is looked at only when nothing is
    left: most connections never ask for the time.
    """

    __slots__ = ("left", "_rate", "_burst", "_at", "_refused")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, rate, 1.0)
        self._refused = 0
        self._at = now
        self.left = self._burst if rate else float("inf")

    def wait(self, now: float) -> float:
        """0.0 if there is something left after all, or else the seconds until there will be."""
        self.left = min(self._burst, self.left + (now - self._at) * self._rate)
        self._at = now
        if self.left >= 0:
            self._refused = 0
            return 0.0
        self._refused += 1
        return -self.left / self._rate

    @property
    def overdrawn(self) -> bool:
        """It was told to wait again and again, and has gone on."""
        return self._refused > PATIENCE
