"""What commands have in common that work beside the servers that are running."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from server.core.config import Config
from server.core.errors import Error, StartError
from server.core.principals import Principal
from server.mongo.embedded import EmbeddedMongoDB

OPERATOR: Final = Principal(user="run.py", server=True, admin=True)
"""Who has asked for what such a command does."""
LOOK_EVERY: Final = 0.5
NOBODY_SECONDS: Final = 30.0
"""After which it is clear that no server takes it up."""


def carry_out(command: str, work: Coroutine[Any, Any, None]) -> int:
    """Its exit code. StartError with what `work` fails with."""
    try:
        asyncio.run(work)
    except Error as error:
        raise StartError(f"{command}: {error.reason}") from None
    return 0


class Waiting:
    """Between two looks at what the servers that are running do for a command."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._idle = 0.0

    async def look_again(self, taken: bool) -> None:
        """`taken`: a server is at it. StartError if none has been for NOBODY_SECONDS."""
        self._idle = 0.0 if taken else self._idle + LOOK_EVERY
        if self._idle > NOBODY_SECONDS:
            raise StartError(f"{self._command}: no server has taken it up yet; it is done as soon as one runs")
        await asyncio.sleep(LOOK_EVERY)


def running_mongodb(options: Config, command: str) -> str:
    """The servers' MongoDB. StartError if it is the embedded one and no server runs here."""
    uri: str | None = options.mongodb.uri
    if uri == "embedded":
        uri = EmbeddedMongoDB(Path(options.server.data_dir)).running()
    if uri is None:
        raise StartError(f"{command}: no server runs here; start one first (`make run`)")
    return uri


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """In columns as wide as what is in them."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
