"""MongoDB's time, as a node knows it by comparing."""

from __future__ import annotations

import pytest

from server.core.clock import Clock

NOW = 1_800_000_000.0


@pytest.mark.parametrize("ahead", [-3600.0, -10.0, 10.0, 3600.0])
def test_after_a_comparison_the_time_is_mongodbs(ahead: float) -> None:
    """Whatever this machine's clock says; before it there is nothing else to go by."""
    clock = Clock(lambda: NOW + ahead)
    assert clock.time() == NOW + ahead
    clock.compare(NOW, NOW + ahead - 0.01, NOW + ahead + 0.01)
    assert clock.time() == pytest.approx(NOW, abs=0.002)
    assert clock.now_ms() == pytest.approx(NOW * 1000, abs=2)


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (0.0, None),
        (0.9, None),
        (-0.9, None),
        (10.0, "clock: this node's is 10.0 s ahead of MongoDB's"),
        (-3600.0, "clock: this node's is 3600.0 s behind MongoDB's"),
    ],
)
def test_over_a_second_is_a_problem_with_its_size(ahead: float, told: str | None) -> None:
    """Less than that is what clocks do."""
    clock = Clock(lambda: NOW + ahead)
    clock.compare(NOW, NOW + ahead, NOW + ahead)
    assert clock.problem() == told


def test_time_does_not_tremble() -> None:
    """What an answer says no more exactly than is known already changes nothing; what contradicts it does."""
    clock = Clock(lambda: NOW)
    clock.compare(NOW + 0.2, NOW - 0.5, NOW + 0.5)
    assert clock.skew == 0.0
    clock.compare(NOW + 5.0, NOW - 0.1, NOW + 0.1)
    first = clock.skew
    assert first == pytest.approx(5.0, abs=0.1)
    clock.compare(NOW + 5.3, NOW - 0.5, NOW + 0.5)
    assert clock.skew == first
    clock.compare(NOW, NOW - 0.1, NOW + 0.1)
    assert clock.skew == pytest.approx(0.0, abs=0.1)


def test_a_clock_that_is_set_meanwhile_is_not_believed() -> None:
    """An answer that came before it was asked for says nothing."""
    clock = Clock(lambda: NOW)
    clock.compare(NOW + 50, NOW, NOW - 3600)
    assert clock.skew == 0.0
