"""The way to MongoDB: a client whose every wait ends, reads and writes with a majority, errors mapped once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from server.core.config import MongoDB
from server.core.errors import Error, StartError, WaterspoutError
from server.mongo.databases import Database, DatabaseApart
from server.mongo.renewal import Renewal

LINEARIZABLE: Final = ReadConcern("linearizable")
UNAUTHORIZED: Final = 13
DUPLICATE_KEY: Final = 11000
CURSOR_BATCH: Final = 50
"""Documents."""


def connect(options: MongoDB, uri: str) -> Database:
    """The database. No socket hangs longer than a publish may take; a write is acknowledged by a majority that has it
    in the journal, and a read sees only such writes."""
    with _understood():
        renewal = Renewal()
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            uri, event_listeners=[renewal], **_patience(options)
        )
        renewal.client = client.delegate
        return Database(client, options)


def connect_apart(options: MongoDB, uri: str) -> DatabaseApart:
    """The same, with connections of its own and without threads, for the little that must not wait for anything else:
    what confirms rights, what holds a lease, what tells how MongoDB is. Motor's commands wait for one of a few threads,
    first come, first served, so a herd of reads would keep them waiting until nobody's rights are certain any more."""
    with _understood():
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, **_patience(options))
        return DatabaseApart(client, options)


def _patience(options: MongoDB) -> dict[str, Any]:
    return {
        "serverSelectionTimeoutMS": 3000,
        "connectTimeoutMS": 3000,
        "socketTimeoutMS": int(options.publish_timeout * 1000),
        "heartbeatFrequencyMS": 2000,
        "appname": "waterspout",
    }


@contextmanager
def _understood() -> Iterator[None]:
    """What is wrong with mongodb.uri."""
    try:
        yield
    except OSError as error:
        raise StartError(f"mongodb.uri: {error.filename}: {error.strerror}") from None
    except (ConfigurationError, ValueError) as error:
        raise StartError(f"mongodb.uri: {_unquoted(error)}") from None


async def agreed(database: Database, name: str, field: str, value: str) -> str:
    """What all nodes have as `name` in `meta`, kept in `field`: `value`, or what an earlier start has made."""
    with mapped():
        meta = database.own("meta")
        await meta.update_one({"_id": name}, {"$setOnInsert": {field: value}}, upsert=True)
        document = await meta.find_one({"_id": name})
    assert document is not None
    found: str = document[field]
    return found


async def rows_up_to(cursor: Any, most: int) -> tuple[list[Any], bool]:
    """What a cursor of raw documents has, up to `most` bytes (but the first in any case), and whether that is all. Of
    what MongoDB has sent no more than a batch is held besides, which is 16 MiB at most."""
    rows: list[Any] = []
    size = 0
    try:
        async for row in cursor:
            size += len(row.raw)
            if rows and size > most:
                return rows, False
            rows.append(row)
    finally:
        await cursor.close()
    return rows, True


@contextmanager
def mapped() -> Iterator[None]:
    """PyMongo's exceptions end here; what reads or writes for a client gets `unavailable`."""
    try:
        yield
    except PyMongoError as error:
        raise Error("unavailable", f"MongoDB: {brief(error)}", retry_after=1.0) from error


def duplicates(error: PyMongoError) -> list[int] | None:
    """Which writes of many were refused for nothing but a key that is there already, by their places; None: there is
    more wrong than that. (Of writes in order all behind the first one were not tried.)"""
    details: Mapping[str, Any] = (error.details or {}) if isinstance(error, BulkWriteError) else {}
    errors = details.get("writeErrors", ())
    if not errors or details.get("writeConcernErrors") or any(one["code"] != DUPLICATE_KEY for one in errors):
        return None
    return [one["index"] for one in errors]


def brief(error: BaseException) -> str:
    """One line without any payload. MongoDB's own words may quote the document or the command, and so may the driver's
    of what it cannot encode: of both only names and codes are passed on."""
    if isinstance(error, WaterspoutError):
        return str(error)
    if isinstance(error, OperationFailure):
        return brief_refusal({"code": error.code, "codeName": (error.details or {}).get("codeName")})
    if isinstance(error, NotPrimaryError):
        return "the server is not the primary"
    if isinstance(error, ConnectionFailure):
        # Of the network: addresses and the system's words. The driver adds the whole topology to its time-outs.
        return str(error).partition(", Timeout:")[0].partition(", full error:")[0].partition(" (configured")[0][:200]
    if isinstance(error, ConfigurationError):
        return _unquoted(error)
    return type(error).__name__


def _unquoted(error: Exception) -> str:
    """Of a message about mongodb.uri: what it quotes may be a piece of the password."""
    return str(error).partition('"')[0].strip()


def brief_refusal(reply: Mapping[str, Any]) -> str:
    """The same of an error in a command's reply: {code, codeName, errmsg}."""
    code = reply.get("code")
    name = reply.get("codeName") or _CODES.get(code or 0)
    if isinstance(name, str) and name.isidentifier():
        return f"{name} (code {code})"
    return f"refused (code {code})"


_CODES: Final = {
    2: "BadValue", 13: "Unauthorized", 15: "Overflow", 17: "ProtocolError", 18: "AuthenticationFailed",
    50: "MaxTimeMSExpired", 64: "WriteConcernTimeout", 91: "ShutdownInProgress", 112: "WriteConflict",
    121: "DocumentValidationFailure", 10334: "BSONObjectTooLarge", 11000: "DuplicateKey",
    17280: "KeyTooLong", 17419: "BSONObjectTooLarge", 17420: "BSONObjectTooLarge",
}  # fmt: skip
"""MongoDB's own names, for errors that come without."""
