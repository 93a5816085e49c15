"""At most so many of something at a time: connections of an address, channels of a connection.

A seat is taken before anything is awaited and given back however the attempt ends. Whoever looks whether there is
room, awaits, and counts itself afterwards lets in as many as ask at once.
"""

from __future__ import annotations

from collections.abc import Hashable

from server.core.errors import Error


class Seats:
    """`limit` seats for each key; 0: as many as are asked for, and counted all the same."""

    __slots__ = ("name", "limit", "total", "_retry_after", "_taken")

    def __init__(self, name: str, limit: int, *, retry_after: float | None = 5.0) -> None:
        """`name`: the option's, for whoever is refused; `retry_after`: the seconds after which they may ask again."""
        self.name = name
        self.limit = limit
        self.total = 0
        """Seats taken, of all keys."""
        self._retry_after = retry_after
        self._taken: dict[Hashable, int] = {}

    def take(self, key: Hashable = None) -> Seat:
        """`limit_exceeded` if all seats of `key` are taken."""
        self.reserve(key)
        return Seat(self, key)

    def reserve(self, key: Hashable = None) -> None:
        """As `take`, for who remembers by itself that `free` is to be called, once."""
        self.check(key)
        self._taken[key] = self._taken.get(key, 0) + 1
        self.total += 1

    def check(self, key: Hashable = None, others: int = 0) -> None:
        """`limit_exceeded` if there is no seat now, with so many `others` who sit elsewhere and count."""
        if self.limit and self._taken.get(key, 0) + others >= self.limit:
            raise Error(
                "limit_exceeded", f"{self.name} is {self.limit}", limit=self.name, retry_after=self._retry_after
            )

    def count(self, key: Hashable = None) -> int:
        return self._taken.get(key, 0)

    def free(self, key: Hashable = None) -> None:
        left = self._taken[key] - 1
        self.total -= 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]


class Seat:
    """One that is taken, until it is given back."""

    __slots__ = ("_seats", "_key")

    def __init__(self, seats: Seats, key: Hashable) -> None:
        self._seats: Seats | None = seats
        self._key = key

    def give_back(self) -> None:
        """Twice is fine."""
        if self._seats is not None:
            seats, self._seats = self._seats, None
            seats.free(self._key)

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
