"""One after the other, of those that are about the same."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class InTurn:
    """A lock for each key, as long as somebody has it or waits for it."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def take(self, key: Hashable) -> asyncio.Lock:
        """For `async with`: in the order of asking."""
        return self._locks.setdefault(key, asyncio.Lock())
