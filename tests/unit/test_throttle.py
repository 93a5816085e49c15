"""Waits between failed attempts, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.access import throttle
from server.access.accounts import attempts
from server.access.throttle import FORGET_AFTER, KEYS, LONGEST_WAIT, Throttle
from server.core.errors import Error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(throttle, "time", clock)
    return clock


def test_a_wait_doubles_and_is_forgotten(clock: SimpleNamespace) -> None:
    """From one second on, up to five minutes; a success or a quiet quarter of an hour begins anew."""
    throttle = Throttle(3)
    waits = []
    for _ in range(40):
        throttle.attempt("ann")
        waits.append(throttle.wait("ann"))
        clock.now += waits[-1]
        assert not throttle.wait("bob")
    assert waits[:6] == [0, 0, 1, 2, 4, 8]
    assert waits[-1] == LONGEST_WAIT
    clock.now += FORGET_AFTER + 1
    for _ in range(3):
        throttle.attempt("ann")
    with pytest.raises(Error, match="rate_limited"):
        throttle.attempt("ann")
    throttle.forget("ann")
    throttle.attempt("ann")


def test_what_did_not_fail_is_given_back(clock: SimpleNamespace) -> None:
    """Neither the attempt nor its wait counts, but all that failed before."""
    throttle = Throttle(3)
    throttle.attempt("ann")
    throttle.attempt("ann")
    for _ in range(5):
        throttle.attempt("ann")
        assert throttle.wait("ann") == 1
        throttle.give_back("ann")
        assert not throttle.wait("ann")
    throttle.give_back("bob")
    assert not throttle.wait("bob")


def test_a_refused_attempt_is_not_counted(clock: SimpleNamespace) -> None:
    """Whoever asks too early does not wait for longer because of it."""
    throttle = Throttle(1)
    throttle.attempt("ann")
    for _ in range(10):
        with pytest.raises(Error, match="rate_limited"):
            throttle.attempt("ann")
    assert throttle.wait("ann") == 1


def test_the_number_of_keys_is_bounded(clock: SimpleNamespace) -> None:
    """The one that has been quiet for longest is forgotten, not the one that goes on."""
    throttle = Throttle(1, longest=0.5)
    throttle.attempt("first")
    for n in range(KEYS - 1):
        throttle.attempt(n)
    clock.now += 1
    throttle.attempt("first")
    throttle.attempt("last")
    assert throttle.wait("first")
    clock.now -= 1
    assert not throttle.wait(0)
    assert throttle.wait(1)


def test_right_passwords_are_looked_at_so_often(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is as much work as a wrong one: of one name from one address, and from one address for all names. What
    others do holds nobody up."""
    monkeypatch.setattr(attempts, "time", clock)
    one = attempts.Attempts()

    def sign_in(name: str, address: str) -> bool:
        try:
            with one.attempt(name, address) as attempt:
                attempt.good = True
        except Error:
            return False
        return True

    assert [sign_in("ann", "192.0.2.1") for _ in range(attempts.SIGN_INS + 1)] == [True] * attempts.SIGN_INS + [False]
    assert sign_in("ann", "192.0.2.2")
    assert sign_in("bob", "192.0.2.1")
    clock.now += attempts.SIGN_IN_EVERY + 1
    assert sign_in("ann", "192.0.2.1")
    names = range(attempts.ADDRESS_SIGN_INS + 1)
    assert [sign_in(f"user{n}", "192.0.2.3") for n in names].count(False) == 1
