"""What MongoDB itself has seen of the server's commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pymongo import MongoClient


class Command(NamedTuple):
    name: str
    reply: int
    """Bytes."""


@contextmanager
def seen(uri: str, database: str, *collections: str) -> Iterator[list[Command]]:
    """The server's reads of these collections of its own while the context is open; they are there when it is left."""
    commands: list[Command] = []
    with MongoClient[dict[str, Any]](uri) as client:
        one = client[database]
        one.command("profile", 2)
        try:
            yield commands
        finally:
            one.command("profile", 0)
            names = {"$in": [f"{database}.waterspout.{name}" for name in collections]}
            reads = {"ns": names, "appName": "waterspout", "op": {"$in": ["query", "command", "getmore"]}}
            for row in one["system.profile"].find(reads):
                commands.append(Command(next(iter(row["command"])), row["responseLength"]))
            one["system.profile"].drop()
