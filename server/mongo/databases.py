"""The database in MongoDB, and which of its collections are the server's own.

These have names with a prefix (`mongodb.prefix`): `waterspout.messages` and so on. All other names belong to whoever
uses the database: to the product, and to what is declared under `collections`.
"""

from __future__ import annotations

from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from server.core.config import MongoDB

_MAJORITY: Final[dict[str, Any]] = {
    "read_concern": ReadConcern("majority"),
    "write_concern": WriteConcern(w="majority", j=True),
    "read_preference": ReadPreference.PRIMARY,
}


class Database(AsyncIOMotorDatabase[dict[str, Any]]):
    """By Motor: commands wait for one of a few threads. A write is acknowledged by a majority that has it in the
    journal, and a read sees only such writes."""

    def __init__(self, client: AsyncIOMotorClient[dict[str, Any]], options: MongoDB) -> None:
        super().__init__(client, options.database, **_MAJORITY)
        self.prefix = options.prefix

    def own(self, name: str) -> AsyncIOMotorCollection[dict[str, Any]]:
        """One of the server's own collections: `own("messages")`."""
        return self[self.prefix + name]


class DatabaseApart(AsyncDatabase[dict[str, Any]]):
    """The same by PyMongo itself, for the little that must not wait for anything else."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], options: MongoDB, name: str | None = None) -> None:
        """`name`: of another database of the same cluster."""
        super().__init__(client, name or options.database, **_MAJORITY)
        self.prefix = options.prefix

    def own(self, name: str) -> AsyncCollection[dict[str, Any]]:
        """One of the server's own collections: `own("meta")`."""
        return self[self.prefix + name]
