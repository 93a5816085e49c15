"""Token buckets."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. Time is the caller's, in seconds on any steady clock.

    A rate of 0 means no limit.
    """

    __slots__ = ("_rate", "_burst", "_tokens", "_at")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one token: 0.0, or, if there is none, the seconds until there will be one."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate
