"""How often values fell between given bounds: two plain numbers changed per value, for what is on the hot path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf


class Histogram:
    """`bounds`: ascending, each inclusive; what is above the last one counts as infinite."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(bound, how many were at most that), the last bound infinite."""
        return zip((*self._bounds, inf), accumulate(self._counts), strict=True)
