"""Token buckets."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_ROOM: Final = 10_000
"""Buckets before the full ones are looked for."""
PAUSE: Final = 0.2
"""Seconds for which a refusal holds, if as much is saved up meanwhile: a token that came 20 ms later would let through
what was sent behind the refused message, and their order would be lost."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. Time is the caller's, in seconds on any steady clock.

    A rate of 0 means no limit.
    """

    __slots__ = ("_rate", "_burst", "_tokens", "_at", "_shut_until")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at = now
        self._shut_until = now

    def take(self, now: float) -> float:
        """Take one token: 0.0, or, if there is none, the seconds until there will be one."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if now >= self._shut_until:
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                return 0.0
            wait = (1.0 - self._tokens) / self._rate
            self._shut_until = now + max(wait, min(PAUSE, (self._burst - self._tokens) / self._rate))
        return max(self._shut_until - now, 1e-6)  # 0.0 by rounding would say that one was taken

    def wait(self, now: float) -> float:
        """What `take` would say, without taking one."""
        if now < self._shut_until:
            return self._shut_until - now
        tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        return (1.0 - tokens) / self._rate if self._rate and tokens < 1.0 else 0.0

    def full(self, now: float) -> bool:
        return self._tokens + (now - self._at) * self._rate >= self._burst


class Buckets:
    """A bucket for each key: users, addresses. A bucket that is full again is forgotten."""

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self._rate = rate
        self._burst = burst or rate
        self._buckets: dict[Hashable, TokenBucket] = {}
        self._room = _ROOM

    def take(self, key: Hashable, now: float) -> float:
        """As `TokenBucket.take`. `burst` of 0: a second's worth."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._room:
                self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full(now)}
                self._room = max(_ROOM, 2 * len(self._buckets))
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
        return bucket.take(now)

    def wait(self, key: Hashable, now: float) -> float:
        """What `take` would say, without taking one."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else bucket.wait(now)
