"""What was read of the log, and for a moment pages of it that many ask for."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from server.core.cursors import Position
from server.wire.messages import Page

ENOUGH: Final = 64
"""Messages that are worth a page, though it does not reach as far as was asked."""
CACHED_BYTES: Final = 64 << 20
"""Of pages, each counted as if its messages were as large as they may be."""
CACHED_SECONDS: Final = 1.0
FREED_BYTES: Final = 2 << 20


class Read(NamedTuple):
    """What was read of a range: made once, for everybody who asked for it."""

    page: Page
    floor: int
    epoch: str
    cut: bool
    bytes: int
    amended: bool = False
    """There may be amendments in the channel: what is shown of it is to be folded first (folding.py)."""


class Pages:
    """Pages that were read within the last second, and asked for before that: most are asked for once only."""

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[str, Position], tuple[float, Read]] = OrderedDict()
        self._asked: set[tuple[str, Position]] = set()
        self._asked_before: set[tuple[str, Position]] = set()
        """In this second, and in the one before."""
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def get(self, channel: str, after: Position, last: int, since: float = 0.0) -> Page | None:
        """One that reaches `last`, or as far as a page may, and was not read before `since`."""
        found = self._pages.get((channel, after))
        if found is None:
            return None
        at, read = found
        messages = read.page.messages
        reaches = messages[-1].offset if messages else after.offset
        # One that does not reach it is good enough if much can be read from it.
        good = reaches >= last or read.cut or len(messages) >= ENOUGH
        return read.page if good and max(since, time.monotonic() - CACHED_SECONDS) < at else None

    def put(self, channel: str, after: Position, read: Read, at: float) -> None:
        """`at`: when it was begun to be read, by the monotonic clock."""
        if not after.epoch:  # nobody knows of which history it is
            return
        key = (channel, after)
        if key in self._asked or key in self._asked_before:
            self._remove(key)
            self._pages[key] = at, read
            self._bytes += read.bytes
            while self._bytes > CACHED_BYTES:
                self._remove(next(iter(self._pages)))
        else:
            self._asked.add(key)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CACHED_SECONDS, self._expire)

    def clear(self) -> None:
        self._pages.clear()
        self._bytes = 0

    def _remove(self, key: tuple[str, Position]) -> None:
        if key in self._pages:
            self._bytes -= self._pages.pop(key)[1].bytes

    def _expire(self) -> None:
        """Not only when the next one comes: a page may hold megabytes."""
        self._timer = None
        self._asked_before, self._asked = self._asked, set()
        old = time.monotonic() - CACHED_SECONDS
        self._let_go(old)
        if self._pages or self._asked_before:
            self._timer = asyncio.get_running_loop().call_later(CACHED_SECONDS, self._expire)

    def _let_go(self, old: float) -> None:
        """Of what was read before `old`, some megabytes in a turn of the loop: all that they are made of is freed."""
        left = self._bytes - FREED_BYTES
        while self._pages and next(iter(self._pages.values()))[0] <= old:
            if self._bytes < left:
                asyncio.get_running_loop().call_soon(self._let_go, old)
                return
            self._remove(next(iter(self._pages)))
