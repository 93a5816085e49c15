"""Catching up at a pace that nobody else notices.

Whoever is behind by more than a batch delivers so many messages a second, all consumers of the node together: as many
as leave the event loop on time, and FLOOR in any case. What is new is delivered at once and not counted.
"""

from __future__ import annotations

import asyncio
from typing import Final

FLOOR: Final = 5500.0
CEILING: Final = 100_000.0
"""Messages a second."""
PROBE: Final = 0.02
"""Seconds between looks at how late the loop is, while anybody catches up."""
LATE: Final = 0.001
"""Seconds that are late."""


class CatchingUp:
    def __init__(self) -> None:
        self.rate = FLOOR
        self.reading = asyncio.Lock()
        """Held while a page is read: while MongoDB's driver takes one apart nothing else runs, so one at a time."""
        self._free_at = 0.0
        self._probe: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def rest(self, messages: int) -> None:
        """So many were delivered: wait until there is room for more."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._free_at = max(self._free_at, now) + messages / self.rate
        if self._probe is None:
            self._due = now + PROBE
            self._probe = loop.call_at(self._due, self._look)
        await asyncio.sleep(self._free_at - now)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = now - self._due
        self.rate = max(FLOOR, self.rate * 0.7) if late > LATE else min(CEILING, self.rate * 1.005)
        self._probe = None
        if now < self._free_at + 1.0:
            self._due = now + PROBE
            self._probe = loop.call_at(self._due, self._look)
        else:
            self.rate = FLOOR

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
