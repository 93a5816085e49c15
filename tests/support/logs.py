"""A log by itself, on a real MongoDB."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pymongo import MongoClient

from server.core.config import MongoDB
from server.core.cursors import Position, Tally
from server.log.log import Log
from server.mongo.client import connect, connect_apart
from server.wire.messages import Message


def fresh(**options: Any) -> MongoDB:
    """Options with a database that nobody else has."""
    return MongoDB(database=f"test_{uuid.uuid4().hex[:12]}", **options)


@asynccontextmanager
async def opened(
    uri: str,
    options: MongoDB,
    *,
    node: str = "a",
    on_commit: Callable[[list[Message]], None] = lambda messages: None,
    on_head: Callable[[str, Position, Tally], None] = lambda channel, head, tally: None,
    on_contention: Callable[[str], None] = lambda channel: None,
    on_epoch: Callable[[], None] = lambda: None,
    amends: bool = False,
) -> AsyncIterator[Log]:
    """An open log that nobody listens to, unless told otherwise."""
    database, apart = connect(options, uri), connect_apart(options, uri)
    log = Log(
        database, apart, options, node=node, on_commit=on_commit, on_head=on_head, on_contention=on_contention,
        on_epoch=on_epoch, amends=amends,
    )  # fmt: skip
    try:
        await log.open()
        yield log
    finally:
        await log.close()
        database.client.close()
        await apart.client.close()


def raw(uri: str, options: MongoDB, channel: str) -> list[dict[str, Any]]:
    """The rows of a channel as MongoDB holds them, in order."""
    with MongoClient[dict[str, Any]](uri) as client:
        return list(client[options.database][f"{options.prefix}messages"].find({"_id.c": channel}).sort("_id", 1))


def stored(uri: str, options: MongoDB, channel: str) -> list[tuple[int, Any]]:
    """What MongoDB holds of a channel: (offset, data), in order."""
    with MongoClient[dict[str, Any]](uri) as client:
        rows = client[options.database]["waterspout.messages"].find({"_id.c": channel}).sort("_id", 1)
        return [(row["_id"]["o"], row["d"]) for row in rows]
