"""Writing a message piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

ENOUGH = 16384
"""Characters that may wait before a writer is held up."""


class Writer:
    """What is written while something is on its way goes with the next. The block ends when all of it is stored and the
    message is said to be done, which it is not if the block raises something. What the server refuses is raised by the
    next `write`, or by the end of the block."""

    def __init__(self, append: Callable[..., Awaitable[Any]]) -> None:
        self._append = append
        self._text = ""
        self._done = False
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def write(self, text: str) -> None:
        if self._sending is not None and self._sending.done():
            self._sending.result()
            self._sending = None
        self._text += text
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        if len(self._text) > ENOUGH:
            await asyncio.shield(self._sending)

    async def _send(self) -> None:
        while self._text:
            text, self._text = self._text, ""
            await self._append(text)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending is not None:
            if kind is not None:
                self._text = ""
            await asyncio.gather(self._sending, return_exceptions=kind is not None)
        if kind is None:
            await self._append("", done=True)


def appended(data: Any, text: str) -> Any:
    """The data of a message with a text behind it."""
    if isinstance(data, str):
        return data + text
    if isinstance(data, dict) and isinstance(data.get("text"), str):
        return data | {"text": data["text"] + text}
    return data
