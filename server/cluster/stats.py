"""What a node tells of itself in `$sys:` channels: how it is, each second, and what went wrong, in bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from server.core.errors import Error
from server.core.histogram import Histogram
from server.core.principals import Principal

KINDS: Final = 20
"""Different events told of in a second; of the others only the number is."""
REASON: Final = 200
"""Characters of a reason, which may have long names in it."""


class Rates:
    """Counters that only grow, as a number per second since the last look."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: dict[str, int] = {}
        self._buckets: list[int] = []

    def look(self, now: float, counters: Mapping[str, int]) -> dict[str, float]:
        """`now`: seconds, on any steady clock."""
        passed, self._at = max(now - self._at, 0.001), now
        before, self._before = self._before or counters, dict(counters)
        return {name: round((value - before[name]) / passed, 1) for name, value in counters.items()}

    def quantiles(self, histogram: Histogram, *shares: float) -> list[float | None]:
        """The bounds below which such shares of the values since the last look were; None if there were none."""
        bounds, counts = zip(*histogram.cumulative(), strict=True)
        before, self._buckets = self._buckets or [0] * len(counts), list(counts)
        new = [count - old for count, old in zip(counts, before, strict=True)]
        last = bounds[-2]  # of what is above all bounds only that is known
        return [
            next((min(bound, last) for bound, count in zip(bounds, new, strict=True) if count >= share * new[-1]), None)
            if new[-1]
            else None
            for share in shares
        ]


class Incidents:
    """What went wrong here: counted for ever, and told of second by second, where equal events are one with a count."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        """Errors that clients were answered with, by code."""
        self.disconnects: Counter[str] = Counter()
        """Connections ended, by close code; `client`: not by us."""
        self.limits: Counter[str] = Counter()
        """Refusals by the limit that was met."""
        self._events: dict[tuple[tuple[str, Any], ...], int] = {}
        self._others = 0

    def refused(self, error: Error, principal: Principal | None, address: str) -> None:
        """A command or request was answered with an error."""
        self.refusals[error.code] += 1
        if error.limit is not None:
            self.limits[error.limit] += 1
        user = principal.user if principal is not None else None
        met: dict[str, Any] = {} if error.limit is None else {"limit": error.limit}
        self.note("refusal", code=error.code, reason=error.told[:REASON], user=user, address=address, **met)

    def note(self, event: str, count: int = 1, **fields: Any) -> None:
        """It happened `count` times. Events of the same name and fields are told of as one."""
        key = (("event", event), *fields.items())
        if key in self._events or len(self._events) < KINDS:
            self._events[key] = self._events.get(key, 0) + count
        else:
            self._others += count

    def take(self) -> list[dict[str, Any]]:
        """The events since the last time: {"event", …, "count"}."""
        taken, self._events = [dict(key) | {"count": count} for key, count in self._events.items()], {}
        if self._others:
            taken.append({"event": "others", "count": self._others})
            self._others = 0
        return taken
