"""Databases that tests use one after the other: to make one, with all its collections and indexes, takes MongoDB longer
than most tests do."""

from __future__ import annotations

import itertools
from typing import Any, Final

from pymongo import MongoClient, WriteConcern
from pymongo.database import Database

OWN: Final = "waterspout."
MANY: Final = 1000
"""Documents that are quicker dropped with their collection than deleted one by one."""


class Databases:
    """Of one MongoDB. What `take` names is empty, or has empty collections of the server's own, with their indexes."""

    def __init__(self, uri: str) -> None:
        self._client = MongoClient[dict[str, Any]](uri)
        self._names = itertools.count(1)
        self._free: list[str] = []

    def take(self) -> str:
        return self._free.pop() if self._free else f"taken_{next(self._names)}"

    def give_back(self, name: str) -> None:
        """Once nobody writes into it any more."""
        database = self._client.get_database(name, write_concern=WriteConcern(w=1, j=False))
        for collection in database.list_collection_names():
            self._empty(database, collection)
        self._free.append(name)

    def _empty(self, database: Database[dict[str, Any]], name: str) -> None:
        collection = database[name]
        if not name.startswith(OWN) or collection.estimated_document_count() > MANY:
            collection.drop()
        else:
            collection.delete_many({})

    def close(self) -> None:
        self._client.close()
