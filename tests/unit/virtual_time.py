"""An event loop on a clock of its own: nothing waits, time jumps to whatever is due next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting `timeout` seconds it says that they have passed."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing is due")
            self.now += timeout
        return ready


def _new_loop() -> asyncio.AbstractEventLoop:
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    return loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, without waiting."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
