"""What one WebSocket may ask for: publishes and reads at a rate, and everything else at a cost."""

from __future__ import annotations

from typing import Final

from server.core.config import Limits
from server.core.errors import Error
from server.core.principals import Principal
from server.core.rates import TokenBucket

FRAME: Final = 1
"""For a ping, a pong, a fragment or a command. Commands that `messages_per_second` counts are free unless refused."""
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


class Allowance:
    """What one session may do. Guests and users have a rate and a budget; back ends a rate of their own only."""

    __slots__ = ("budget", "limited", "_rate", "_bucket", "_cost")

    def __init__(self, limits: Limits, principal: Principal | None, now: float) -> None:
        self._rate: tuple[str, float]
        burst: float
        if principal is not None and principal.server:
            self._rate = "key_messages_per_second", limits.key_messages_per_second
            burst = limits.key_burst or limits.key_messages_per_second
            self.budget = Budget(0, 0, now)
        else:
            self._rate, burst = ("messages_per_second", limits.messages_per_second), limits.burst
            self.budget = Budget(limits.cost_per_second, limits.cost_burst, now)
        self.limited = bool(self._rate[1])
        """Whether `spend` ever refuses."""
        self._bucket = TokenBucket(self._rate[1], burst, now)
        self._cost = limits.cost_per_second

    def spend(self, now: float) -> None:
        """One publish or read, or `rate_limited`."""
        wait = self._bucket.take(now)
        if wait:
            name, rate = self._rate
            raise Error("rate_limited", f"{name} is {rate:g}", limit=name, retry_after=wait)

    def exhausted(self, now: float) -> Error | None:
        """How to refuse what comes, while there is no budget."""
        wait = self.budget.wait(now)
        name = "cost_per_second"
        return Error("rate_limited", f"{name} is {self._cost}", limit=name, retry_after=wait) if wait else None
