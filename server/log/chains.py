"""The chain of what was appended to a message (appends.py): which parts of it there are, and what comes next."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from server.core.errors import Error
from server.log.pending import Receipt
from server.wire.amendments import AmendedMessage
from server.wire.codec import JSON


class Piece:
    """Something to be appended, until `future` is done. `part`: its number, if it has one; `again` raises if the right
    to it is gone; `size`: the bytes by which the message grows."""

    __slots__ = ("text", "user", "part", "key", "done", "again", "size", "arrived", "future")

    def __init__(
        self, text: str, user: str | None, part: int | None, key: str | None, done: bool, again: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.text = text
        self.user = user
        self.part = part
        self.key = key
        self.done = done
        self.again = again
        self.size = len(JSON.encode(text)) - 2
        self.arrived = loop.time()
        self.future: asyncio.Future[Receipt] = loop.create_future()

    def fail(self, error: Error) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # the asker may be gone; that is not worth a warning


class Link(NamedTuple):
    """An entry of the chain. `last`: the last of the numbered parts up to there."""

    last: int
    offset: int
    user: str | None
    key: str


class Chain:
    """What was appended to the message `of`, as far as it was read or written here."""

    def __init__(self, of: int) -> None:
        self._of = of
        self.original: AmendedMessage
        self.size = 0
        """Bytes of its data."""
        self.read = 0.0
        """When, by the loop's clock."""
        self.entries = 0
        self.offset = 0
        """Of the newest entry."""
        self.advanced = 0.0
        """When the newest entry with numbered parts was found or written, by the same clock."""
        self._first = 0
        self._links: list[Link] = []
        """Those that have numbered parts."""
        self._keys: dict[tuple[str | None, str], Link] = {}

    @property
    def last(self) -> int | None:
        """The number of the last part; None: there is none."""
        return self._links[-1].last if self._links else None

    @property
    def next_key(self) -> str:
        return f"{self._of}+{self.entries + 1}"

    def add(self, offset: int, user: str | None, parts: Sequence[int] | None, keys: Sequence[str]) -> None:
        link = Link((parts or (0, 0))[1], offset, user, self.next_key)
        self.entries += 1
        self.offset = offset
        if parts is not None:
            self.advanced = asyncio.get_running_loop().time()
            if not self._links:
                self._first = parts[0]
            self._links.append(link)
        for key in keys:
            self._keys[user, key] = link

    def stored(self, piece: Piece) -> Link | None:
        """The entry that has it already; raises `conflict` if what is there cannot be this one."""
        if piece.part is None:
            return None if piece.key is None else self._keys.get((piece.user, piece.key))
        if self.last is None or piece.part > self.last:
            return None
        if piece.part < self._first:
            raise Error("conflict", f"part: {piece.part} came late, the first one was {self._first}")
        link = self._links[bisect_left(self._links, piece.part, key=lambda one: one.last)]
        if link.user != piece.user:
            raise Error("conflict", f"part: {piece.part} is somebody else's")
        return link


def without_numbers(waiting: Sequence[Piece]) -> list[Piece]:
    """As they have come, of each key the first: the others are answered when that is stored."""
    others = [piece for piece in waiting if piece.part is None]
    first: dict[tuple[str | None, str], Piece] = {}
    for piece in others:
        if piece.key is not None:
            first.setdefault((piece.user, piece.key), piece)
    return [piece for piece in others if piece.key is None or first[piece.user, piece.key] is piece]


def in_order(waiting: Sequence[Piece], chain: Chain) -> list[Piece]:
    """The parts that follow what is stored, one after the other. The first one is 1, or 0."""
    run: list[Piece] = []
    last = chain.last
    for part, piece in sorted(((piece.part, piece) for piece in waiting if piece.part is not None), key=itemgetter(0)):
        if part == last:
            continue  # twice: the second is answered when the first is stored
        if part not in ((0, 1) if last is None else (last + 1,)):
            break
        run.append(piece)
        last = part
    return run
