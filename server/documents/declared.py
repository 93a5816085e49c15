"""The declared collections in MongoDB: made at start, and again when they have been dropped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from pymongo.errors import OperationFailure

from server.core.config import Collection
from server.core.errors import Error, StartError
from server.documents.failures import is_passing
from server.documents.queries import parse_sort
from server.mongo.client import DUPLICATE_KEY, brief, mapped
from server.mongo.databases import Database

logger = logging.getLogger(__name__)

CREATIONS_KEPT: Final = 7 * 86400
_UNAUTHORIZED: Final = 13
_IMAGES: Final = {"changeStreamPreAndPostImages": {"enabled": True}}


class Declared:
    """Collections that store the images of what changes in them, and have the declared indexes."""

    def __init__(self, database: Database, collections: Mapping[str, Collection]) -> None:
        self._database = database
        self._collections = collections
        self._without_images: set[str] = set()

    async def open(self) -> None:
        """Make what is not there. StartError if MongoDB cannot have it, and says how to mend that."""
        if self._collections:
            with mapped():
                await self._database.own("creations").create_index("t", expireAfterSeconds=CREATIONS_KEPT)
        for name in self._collections:
            await self.prepare(name)

    async def check(self) -> None:
        """The same under a running node: somebody may have dropped indexes, a collection, the whole database."""
        try:
            await self.open()
        except StartError as error:
            raise Error("unavailable", str(error)) from None

    def problem(self) -> str | None:
        """Which collections do not store the images of changed documents, and how that is mended; None: all do."""
        if not self._without_images:
            return None
        name = min(self._without_images)
        command = f'{{collMod: "{name}", changeStreamPreAndPostImages: {{enabled: true}}}}'
        return (
            f"collections.{name}: it does not store the images of changed documents, and this MongoDB user may not "
            f"switch that on: have an administrator run db.runCommand({command}), once; until then its watchers begin "
            "anew with every update"
        )

    async def prepare(self, name: str) -> None:
        with mapped():
            await self._make(name)
            await self._index(name)

    async def _make(self, name: str) -> None:
        """Only what has to be done: it takes a lock that waits for whoever is writing, and makes others wait."""
        found = await self._find(name)
        if found is None:
            try:
                await self._database.command({"create": name, **_IMAGES})
                return
            except OperationFailure as error:
                if error.code != 48:  # NamespaceExists: another node has made it
                    raise _unfit(name, error) from None
            found = await self._find(name) or {"type": "collection", "options": {}}
        if found["type"] != "collection":
            raise StartError(
                f"collections.{name}: it is a {found['type']} in MongoDB; only collections can be declared"
            )
        if collation := found["options"].get("collation"):
            raise StartError(
                f"collections.{name}: it has a collation ({collation.get('locale')}), by which MongoDB would find and "
                "sort otherwise than live views do; copy it into a collection without one"
            )
        if not found["options"].items() >= _IMAGES.items():
            try:
                await self._database.command({"collMod": name, **_IMAGES})
            except OperationFailure as error:
                if error.code != _UNAUTHORIZED:
                    raise _unfit(name, error) from None
                if name not in self._without_images:
                    self._without_images.add(name)
                    logger.warning("%s", self.problem())
                return
        self._without_images.discard(name)

    async def _find(self, name: str) -> Any:
        reply = await self._database.command({"listCollections": 1, "filter": {"name": name}})
        return next(iter(reply["cursor"]["firstBatch"]), None)

    async def _index(self, name: str) -> None:
        declared = self._collections[name]
        wanted = {index.replace(" ", ""): (index, False) for index in declared.indexes}
        wanted |= {f"unique:{index.replace(' ', '')}": (index, True) for index in declared.unique}
        if declared.owner:
            wanted[f"owner:{declared.owner}"] = (declared.owner, False)
        there = await self._database[name].index_information()
        for called, (index, unique) in wanted.items():
            if called in there:
                continue
            key = dict(parse_sort(index)[: -1 if unique else None])
            try:
                await self._database.command(
                    {
                        "createIndexes": name,
                        # Unique among those that have the field at all.
                        "indexes": [{"key": key, "name": called, "unique": unique, "sparse": unique}],
                        # The vote of the members hangs over a socket in the file system (MongoDB 6.0.5).
                        "commitQuorum": 0,
                    }
                )
            except OperationFailure as error:
                if is_passing(error):
                    raise
                fix = "; delete the doubles and start again" if error.code == DUPLICATE_KEY else ""
                raise StartError(f"collections.{name}: index {index}: {brief(error)}{fix}") from None


def _unfit(name: str, error: OperationFailure) -> Exception:
    if is_passing(error):
        return error
    return StartError(
        f"collections.{name}: MongoDB 6.0 or newer has to store the images of changed documents: {brief(error)}"
    )
