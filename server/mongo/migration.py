"""What an older version made gets the names with the prefix: `messages` becomes `waterspout.messages`, and so on.

    PREFIXmeta  {_id: "names", moved: the names of then}       written with a majority once all is done: never again

It happens at the first start of this version, before anything else reads or writes. MongoDB renames a collection as a
whole: its documents, its indexes and its UUID, which the epoch belongs to, stay. What makes it safe:

- `meta` is the last one. As long as the plain `meta` has the epoch, the work is not finished, and whoever starts goes
  on with it: after a kill -9, or together with other nodes. What somebody else has renamed is not there any more.
- A node of the older version writes to `meta` once a second. While one does, nothing is renamed, and this node waits.
  One that is started afterwards finds an empty database, makes its collections anew, and nobody here sees what is in
  them: the start says so.
- A collection is taken for ours only if an epoch of ours is in `meta`, and by its documents, each of them: or, if it is
  empty, by its indexes. One that a product has put documents of its own into stays; what is ours in it is copied.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from pymongo.errors import OperationFailure

from server.core.errors import Error, StartError
from server.mongo.client import UNAUTHORIZED, mapped
from server.mongo.databases import Database, DatabaseApart

logger = logging.getLogger(__name__)

QUIET: Final = 4.0
"""Seconds within which a node of the older version would have written to `meta`."""
_NOT_FOUND: Final = 26
_EXISTS: Final = 48


def _shape(identifier: Any, **others: Any) -> dict[str, Any]:
    """A schema of documents with this `_id` and no other fields than these."""
    return {"properties": {"_id": identifier, **others}, "additionalProperties": False}


def _object(*names: str) -> dict[str, Any]:
    return {"bsonType": "object", "required": list(names), "minProperties": len(names), "maxProperties": len(names)}


_TEXT: Final = {"bsonType": "string"}
_NUMBER: Final = {"bsonType": "number"}
_DATE: Final = {"bsonType": "date"}
_SHAPES: Final[dict[str, dict[str, Any]]] = {
    "messages": {"properties": {"_id": _object("c", "o"), "k": _TEXT, "t": _NUMBER}, "required": ["k", "t"]},
    "channels": {**_shape(_TEXT, floor=_NUMBER, epoch=_TEXT), "minProperties": 2},
    "creations": {"properties": {"_id": {"anyOf": [_object("c", "u", "k"), _object("page")]}, "t": _DATE}},
    "accounts": {
        **_shape(_TEXT, user=_TEXT, password={"pattern": r"^\$argon2"}, info=_TEXT, created=_NUMBER),
        "required": ["user", "password", "info", "created"],
    },
    "refresh_tokens": {
        **_shape(_TEXT, user=_TEXT, current=_TEXT, expires=_DATE),
        "required": ["user", "current", "expires"],
    },
    "revocations": {
        "properties": {"_id": _NUMBER, "kind": {"enum": ["revoke", "disconnect", "unsubscribe"]}, "user": _TEXT},
        "required": ["kind", "user", "at"],
    },
    "seen": {**_shape(_object("c", "u"), t=_DATE), "required": ["t"]},
    "meta": {"properties": {"_id": {"enum": ["epoch", "tailer", "mark", "secret", "tickets", "doctor"]}}},
}
"""What the older version made: its collections, in the order in which they are renamed, and their documents."""
_INDEXES: Final = {
    "messages": {"key", "head"},
    "creations": {"t_1"},
    "refresh_tokens": {"expires_1", "user_1"},
    "seen": {"t_1", "_id.c_1_t_-1"},
}
_EPOCH: Final = {"_id": "epoch", "epoch": {"$type": "string"}}


async def is_older(database: Database | DatabaseApart) -> bool:
    """Whether the collections of an older version are there."""
    return await database["meta"].find_one(_EPOCH, {"_id": 1}) is not None


class Migration:
    """`quiet`: seconds in which nothing of the older version may write."""

    def __init__(self, database: DatabaseApart, quiet: float = QUIET) -> None:
        self._database = database
        self._quiet = quiet

    async def run(self) -> None:
        """Return when all that is ours has its name. `unavailable`: not yet, try again; StartError: it never will."""
        with mapped():
            meta = self._database.own("meta")
            if await meta.find_one({"_id": "names"}, {"_id": 1}):
                if await is_older(self._database):
                    logger.error(
                        "an older version has run on %s since its collections got their names, or a backup of one was "
                        "restored: what is in messages, channels, meta … is not seen. Rename or drop them",
                        self._database.name,
                    )
                return
            moved = await self._move_all() if await is_older(self._database) else []
            await meta.update_one({"_id": "names"}, {"$setOnInsert": {"moved": moved}}, upsert=True)

    async def _move_all(self) -> list[str]:
        await self._wait_for_quiet()
        left = [name for name in _SHAPES if await self._is_ours(name)]
        # Nobody has followed these names as documents. One that is declared now begins now, not with what was ours.
        known = {"$setUnion": [{"$ifNull": ["$known", {"$ifNull": ["$names", []]}]}, left]}
        await self._database["meta"].update_one({"_id": "tailer"}, [{"$set": {"known": known}}])
        for name in tuple(left):
            if not await is_older(self._database):
                break  # another node has done it all, and the names may be somebody else's by now
            await self._move(name, left)
            left.remove(name)
        logger.warning("the server's own collections in %s have the prefix %s now", self._database.name, self._prefix)
        return list(_SHAPES)

    @property
    def _prefix(self) -> str:
        return self._database.prefix

    async def _wait_for_quiet(self) -> None:
        meta = self._database["meta"]
        before = await meta.find_one(_EPOCH)
        await asyncio.sleep(self._quiet)
        after = await meta.find_one(_EPOCH)
        if after is not None and after != before:
            raise Error(
                "unavailable",
                f"MongoDB: an older version runs on {self._database.name}: it has to stop before its collections get "
                f"names with {self._prefix}",
            )

    async def _is_ours(self, name: str) -> bool:
        """Whether something in the collection is: the documents, or if there are none the indexes."""
        collection = self._database[name]
        if await collection.find_one({"$jsonSchema": _SHAPES[name]}, {"_id": 1}):
            return True
        if await collection.find_one({}, {"_id": 1}):
            return False
        try:
            indexes = set(await collection.index_information()) - {"_id_"}
        except OperationFailure:
            return False
        return bool(indexes) and indexes <= _INDEXES.get(name, set())

    async def _is_mixed(self, name: str) -> bool:
        collection, foreign = self._database[name], {"$nor": [{"$jsonSchema": _SHAPES[name]}]}
        if name != "messages":
            return await collection.find_one(foreign, {"_id": 1}) is not None
        for direction in (1, -1):  # there may be many of them, and their `_id`s of one type lie together
            async for one in collection.find().sort("_id", direction).limit(1):
                if await collection.find_one({"$and": [{"_id": one["_id"]}, foreign]}, {"_id": 1}):
                    return True
        return False

    async def _move(self, name: str, left: list[str]) -> None:
        if await self._is_mixed(name):
            await self._copy(name)
            return
        await self._move_views(name)
        try:
            await self._database[name].rename(self._prefix + name)
        except OperationFailure as error:
            if error.code == _NOT_FOUND or not await is_older(self._database):
                return  # another node was faster
            if error.code == _EXISTS:
                raise StartError(
                    f"MongoDB: {name} and {self._prefix}{name} of {self._database.name} are both the server's: an "
                    "older version has run since they were renamed, or a backup of one was restored. Drop one of them"
                ) from None
            if error.code != UNAUTHORIZED:
                raise
            raise StartError(
                f"mongodb.uri: its user may not rename collections (readWrite may). As an administrator, while no "
                f"server runs: {left}.forEach(name => db[name].renameCollection('{self._prefix}' + name))"
            ) from None

    async def _copy(self, name: str) -> None:
        """What is ours among documents that are not."""
        if name == "messages":
            raise StartError(
                f"MongoDB: messages of {self._database.name} has documents in it that are not the server's: move them "
                f"elsewhere, so that it can be renamed to {self._prefix}messages"
            )
        into = {"into": self._prefix + name, "whenMatched": "keepExisting"}
        cursor = await self._database[name].aggregate([{"$match": {"$jsonSchema": _SHAPES[name]}}, {"$merge": into}])
        await cursor.to_list()
        if name == "meta":
            await self._database["meta"].delete_one(_EPOCH)
        logger.warning(
            "%s has documents in it that are not the server's, and stays; what is ours is copied to %s%s, and may be "
            "deleted there, with the indexes %s",
            *(name, self._prefix, name, sorted(_INDEXES.get(name, ()))),
        )

    async def _move_views(self, name: str) -> None:
        """A view that somebody has made of the collection shows it under its new name."""
        try:
            cursor = await self._database.list_collections(filter={"type": "view", "options.viewOn": name})
            for view in await cursor.to_list():
                change = {"viewOn": self._prefix + name, "pipeline": view["options"].get("pipeline", [])}
                await self._database.command({"collMod": view["name"], **change})
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            logger.warning("views of %s, if any, cannot be changed: make them anew, of %s%s", name, self._prefix, name)
