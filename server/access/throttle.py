"""Waits between attempts that fail: the more often, the longer."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from server.core.errors import Error

LONGEST_WAIT: Final = 300.0
"""Seconds."""
FORGET_AFTER: Final = 900.0
"""Seconds without an attempt, from the end of the last wait on, after which the next failure is the first again."""
KEYS: Final = 10_000
"""Remembered at a time; beyond them the one that has been quiet for longest is forgotten."""


class Throttle:
    """Counts failed attempts per key; after `free` of them each doubles the wait, from one second up to `longest`.

    An attempt counts as a failure from its beginning, so that a thousand at once are no more than a thousand in a row.
    Whoever succeeds gives it back. All times are in seconds.
    """

    def __init__(self, free: int, longest: float = LONGEST_WAIT, forget_after: float = FORGET_AFTER) -> None:
        self._free = free
        self._longest = longest
        self._forget_after = forget_after
        self._failures: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        """Key → failures in a row, and when the wait after the last one ends; the longest quiet first."""

    def wait(self, key: Hashable) -> float:
        """Seconds for which no attempt is let through."""
        return max(0.0, self._failures.get(key, (0, 0.0))[1] - time.monotonic())

    def attempt(self, key: Hashable) -> None:
        """Count an attempt; `rate_limited`, without counting it, while `key` has to wait."""
        wait = self.wait(key)
        if wait:
            raise Error("rate_limited", "too many attempts", retry_after=wait)
        now = time.monotonic()
        count, until = self._failures.pop(key, (0, now))
        count = 1 if now > until + self._forget_after else count + 1
        wait = 0.0 if count < self._free else min(2.0 ** min(count - self._free, 30), self._longest)
        self._failures[key] = count, now + wait
        if len(self._failures) > KEYS:
            self._failures.popitem(last=False)

    def give_back(self, key: Hashable) -> None:
        """An attempt of `key` has not failed: neither it nor its wait counts. What failed before still does."""
        count, _ = self._failures.get(key, (0, 0.0))
        if count > 1:
            self._failures[key] = count - 1, time.monotonic()
        else:
            self.forget(key)

    def forget(self, key: Hashable) -> None:
        """Forget all failures of `key`."""
        self._failures.pop(key, None)
