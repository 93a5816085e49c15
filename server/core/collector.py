"""The garbage collector of a process that keeps much and makes hardly any circles.

Nearly all that the server lets go of is freed at once, by its count of references. Only what is in a circle waits for
the collector, which looks at all that lives, in one go, while nothing else runs: a second for a million objects, which
is 20,000 connections. Therefore what it has once found alive is set aside. That is looked at again, for the circles
that have died among it, only when as much has come as makes it worth a pause.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 20_000
"""New objects before a look at them: what is in flight is no garbage, and a batch of messages is ten thousand objects.
A look takes some milliseconds."""
DEEP_AFTER: Final = 1_000_000
"""Objects set aside before a look at all of them; at least half as many as there are, if that is more."""


class Collector:
    """There is one in a process."""

    def __init__(self) -> None:
        self._kept = 0
        """Objects that the last look at all of them has found."""
        self._since = 0
        """Objects that were set aside since, at most."""

    def start(self) -> None:
        """What there is now stays."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, 0, 0)
        gc.callbacks.append(self._looked)

    def _looked(self, phase: str, about: dict[str, int]) -> None:
        """What is not set aside after a look is looked at again by the next one, and then by one at everything."""
        if phase == "start":
            return
        if about["generation"] == 2:
            gc.freeze()
            self._kept, self._since = gc.get_freeze_count(), 0
        elif self._since <= max(DEEP_AFTER, self._kept // 2):
            gc.freeze()
            self._since += YOUNG
        else:
            gc.unfreeze()
