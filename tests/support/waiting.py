"""Waiting for an event with a deadline, the only way the tests wait."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def until(
    condition: Callable[[], Awaitable[T | None]], within: float = ..., what: str = ..., every: float = ...
) -> T: ...
@overload
async def until(condition: Callable[[], T | None], within: float = ..., what: str = ..., every: float = ...) -> T: ...
async def until(condition: Callable[[], Any], within: float = 10.0, what: str = "", every: float = 0.02) -> Any:
    """Return the first truthy value of `condition` (plain or async); TimeoutError, naming `what`, after `within` s."""
    deadline = time.monotonic() + within
    try:
        async with asyncio.timeout(within):  # a condition that hangs is a condition that does not hold
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                if time.monotonic() >= deadline:
                    raise TimeoutError
                await asyncio.sleep(every)
    except TimeoutError:
        raise TimeoutError(f"no {what or 'success'} within {within:g} s") from None
