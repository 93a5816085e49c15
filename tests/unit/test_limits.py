"""Token buckets, on a clock that the test holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.rates import PAUSE, TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    """The burst goes at once; then a token comes every 1/rate seconds, and the answer says when."""
    bucket = TokenBucket(rate=10, burst=1, now=100.0)
    assert bucket.take(100.0) == 0.0
    wait = bucket.take(100.0)
    assert abs(wait - 0.1) < 1e-9
    assert bucket.take(100.0 + wait + 1e-9) == 0.0
    assert bucket.take(100.0 + wait + 1e-9) > 0.0


def test_a_refusal_holds_for_a_while() -> None:
    """What was sent behind a refused message does not overtake it on the first token; what was saved up meanwhile is
    given out afterwards."""
    bucket = TokenBucket(rate=50, burst=100, now=0.0)
    assert [bucket.take(0.0) for _ in range(100)] == [0.0] * 100
    wait = bucket.take(0.0)
    assert wait == PAUSE
    assert bucket.take(0.15) == pytest.approx(0.05)
    assert [bucket.take(wait) == 0.0 for _ in range(11)] == [True] * 10 + [False]


def test_a_refusal_throws_nothing_away() -> None:
    """It holds no longer than until the bucket is full again."""
    bucket = TokenBucket(rate=5, burst=1, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.19) == pytest.approx(0.01)


def test_no_more_than_the_burst_is_saved_up() -> None:
    """An idle hour gives no more than one burst."""
    bucket = TokenBucket(rate=50, burst=5, now=0.0)
    assert [bucket.take(3600.0) == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_a_rate_of_0_means_no_limit() -> None:
    """With a rate of 0 everything passes."""
    bucket = TokenBucket(rate=0, burst=0, now=0.0)
    assert not any(bucket.take(0.0) for _ in range(1000))


def test_a_burst_below_one_still_lets_the_rate_through() -> None:
    """With a burst of 0 one at a time passes, at the rate."""
    bucket = TokenBucket(rate=2, burst=0, now=0.0)
    assert [bucket.take(now) == 0.0 for now in (0.0, 0.1, 0.5, 0.6, 1.0)] == [True, False, True, False, True]


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.floats(0, 1), max_size=200))
def test_never_more_than_burst_and_rate_allow(rate: int, burst: int, pauses: list[float]) -> None:
    """Whenever they are asked for, no more tokens go out than burst + rate · time."""
    now, taken = 0.0, 0
    bucket = TokenBucket(rate, burst, now)
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0.0
        assert taken <= burst + rate * now + 1e-6


@given(st.floats(0.1, 1000), st.floats(1, 100))
def test_who_waits_as_long_as_told_is_served(rate: float, burst: float) -> None:
    """`retry_after` keeps its word."""
    bucket = TokenBucket(rate, burst, 0.0)
    now = 0.0
    for _ in range(300):
        now += bucket.take(now) + 1e-9
    assert bucket.take(now + 1 / rate) == 0.0


@given(st.floats(0.1, 1000), st.integers(1, 20), st.lists(st.floats(0, 1), max_size=50))
def test_looking_takes_nothing_and_says_what_taking_would(rate: float, burst: int, pauses: list[float]) -> None:
    """Whether there is a token is the same question with and without taking it."""
    now = 0.0
    bucket = TokenBucket(rate, burst, now)
    for pause in pauses:
        now += pause
        looked = bucket.wait(now)
        assert bucket.wait(now) == looked
        assert (bucket.take(now) == 0.0) == (looked == 0.0)
