"""At most so many at a time."""

from __future__ import annotations

import pytest

from server.core.errors import Error
from server.core.seats import Seats


def test_a_seat_is_counted_at_once() -> None:
    """The one too many is refused with the limit's name, and others' keys are others' matter."""
    seats = Seats("connections_per_ip", 2)
    first = seats.take("a")
    seats.take("a")
    with pytest.raises(Error) as refused:
        seats.take("a")
    assert (refused.value.code, refused.value.reason, refused.value.retry_after) == (
        "limit_exceeded",
        "connections_per_ip is 2",
        5.0,
    )
    seats.take("b")
    assert (seats.count("a"), seats.count("b"), seats.total) == (2, 1, 3)
    first.give_back()
    seats.take("a")


def test_a_seat_is_given_back_once() -> None:
    """Giving back twice frees one seat, and a key without seats is forgotten."""
    seats = Seats("connections", 2)
    one, another = seats.take(), seats.take()
    one.give_back()
    one.give_back()
    assert (seats.count(), seats.total) == (1, 1)
    with another:
        pass
    assert (seats.count(), seats.total) == (0, 0)


def test_no_limit_counts_all_the_same() -> None:
    """A limit of 0 refuses nobody."""
    seats = Seats("connections", 0)
    for _ in range(100):
        seats.take("a")
    assert seats.count("a") == 100
