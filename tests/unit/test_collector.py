"""The garbage collector of the server's process."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc, weakref
from server.core import collector

class Node:
    pass

def circle():
    one = Node()
    one.self = one
    return weakref.ref(one), one

collector.DEEP_AFTER = {deep_after}
collector.Collector().start()
early, held = circle()
kept = [Node() for _ in range(300_000)]
young, one = circle()
del one
more = [[] for _ in range(2 * collector.YOUNG)]
print("young", young() is None)
del held
more += [[] for _ in range(700_000)]
print("old", early() is None)
print("frozen", gc.get_freeze_count() > 900_000)
"""


@pytest.mark.parametrize(("deep_after", "old"), [(10_000, True), (100_000_000, False)])
def test_what_is_old_is_looked_at_when_it_is_worth_a_pause(deep_after: int, old: bool) -> None:
    """A circle that dies young is gone soon; one that was set aside, with the next look at all there is."""
    script = SCRIPT.format(deep_after=deep_after)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["young", "True", "old", str(old), "frozen", "True"]
