"""What a connection may cost: spent without asking for the time, saved up again, and overdrawn at a price."""

from __future__ import annotations

from server.sessions.budget import PATIENCE, Budget


def test_what_is_saved_up_is_looked_at_when_nothing_is_left() -> None:
    """Below zero it says how long to wait; after that time there is enough again, and never more than the burst."""
    budget = Budget(10, 100, 0.0)
    assert budget.left == 100
    budget.left -= 105
    assert budget.wait(0.0) == 0.5
    assert budget.wait(0.5) == 0.0
    assert budget.wait(1000.0) == 0.0
    assert budget.left == 100


def test_who_goes_on_without_budget_has_overdrawn_it() -> None:
    """So many frames in a row are refused for want of budget, not one more; with something left, all is forgiven."""
    budget = Budget(1, 1, 0.0)
    for now in (0.0, 2.0):
        budget.left = -2
        for _ in range(PATIENCE):
            assert budget.wait(now)
            assert not budget.overdrawn
        assert not budget.wait(now + 2)
    budget.left = -2
    for _ in range(PATIENCE + 1):
        budget.wait(4.0)
    assert budget.overdrawn


def test_without_a_rate_there_is_no_limit() -> None:
    """A rate of 0 is no limit."""
    budget = Budget(0, 0, 0.0)
    budget.left -= 1_000_000
    assert budget.left > 0
    assert not budget.overdrawn
