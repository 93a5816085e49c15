"""The end of background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

AGAIN: Final = 0.5


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel, and return when they have ended, however. Again and again: a cancellation that comes in the moment in
    which what is awaited ends can be lost (`asyncio.wait_for` before Python 3.12), and a loop goes on."""
    pending = {task for task in tasks if task is not None}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=AGAIN)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen, so that nobody warns of it
