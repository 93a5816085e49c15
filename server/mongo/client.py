"""The way to MongoDB: a client whose every wait ends, reads and writes with a majority, errors mapped once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.read_concern import ReadConcern

from server.core.config import MongoDB
from server.core.errors import Error, StartError

LINEARIZABLE: Final = ReadConcern("linearizable")
CURSOR_BATCH: Final = 50
"""Documents."""


def connect(options: MongoDB, uri: str) -> AsyncIOMotorDatabase[dict[str, Any]]:
    """The database. No socket hangs longer than a publish may take; a write is acknowledged by a majority that has it
    in the journal, and a read sees only such writes."""
    try:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            uri,
            serverSelectionTimeoutMS=3000,
            connectTimeoutMS=3000,
            socketTimeoutMS=int(options.publish_timeout * 1000),
            heartbeatFrequencyMS=2000,
            appname="waterspout",
        )
        return client.get_database(
            options.database,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        )
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise StartError(f"mongodb.uri: {error}") from None


async def agreed(database: AsyncIOMotorDatabase[dict[str, Any]], name: str, field: str, value: str) -> str:
    """What all nodes have as `name` in `meta`, kept in `field`: `value`, or what an earlier start has made."""
    with mapped():
        meta = database["meta"]
        await meta.update_one({"_id": name}, {"$setOnInsert": {field: value}}, upsert=True)
        document = await meta.find_one({"_id": name})
    assert document is not None
    found: str = document[field]
    return found


async def rows_up_to(cursor: Any, most: int) -> tuple[list[Any], int]:
    """What a cursor of raw documents has, and its bytes: `most` of them, and one batch (CURSOR_BATCH) beyond."""
    rows: list[Any] = []
    size = 0
    try:
        while size < most and (batch := await cursor.to_list(CURSOR_BATCH)):
            rows += batch
            size += sum(len(row.raw) for row in batch)
    finally:
        await cursor.close()
    return rows, size


@contextmanager
def mapped() -> Iterator[None]:
    """PyMongo's exceptions end here; what reads or writes for a client gets `unavailable`."""
    try:
        yield
    except PyMongoError as error:
        raise Error("unavailable", f"MongoDB: {brief(error)}", retry_after=1.0) from error


def brief(error: PyMongoError) -> str:
    """One line: PyMongo adds the whole topology to its timeouts."""
    return str(error).split(", Timeout:")[0].split(", full error:")[0][:200] or type(error).__name__
