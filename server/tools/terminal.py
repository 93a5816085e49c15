"""What commands have in common that work beside the servers that are running."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from server.core.config import Config
from server.core.errors import StartError
from server.mongo.embedded import EmbeddedMongoDB


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
