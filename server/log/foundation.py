"""What the log stands on: the collection of its messages with its unique indexes, and the epoch of their history.

    meta  {_id: "epoch", epoch, of: UUID of the collection of the messages, n: how often it has been looked at}

Somebody may drop the database under running nodes, or restore an older state of it. Then offsets that clients know are
given out again, to other messages, so the history needs a new epoch; and the indexes may be gone, without which a key
could be stored twice. This is how it is noticed, at a start and once a second:

- The collection's UUID is not the one that the epoch belongs to: it was dropped, or made anew by a restore. Besides,
  every insert names the UUID of the collection that it was numbered for, so that MongoDB itself refuses it in another.
- `n` is not higher than it was at the last look. It is raised by every look, with a majority, which nothing but a
  restore takes back. That is how the files of a stopped MongoDB show that were replaced by older ones: there the UUID
  stays. Therefore nothing is written after an error of MongoDB before the next look.

Of several nodes that notice it at once, one gives the new epoch (a compare-and-set), and all take it over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pymongo import ASCENDING, DESCENDING, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from server.core.errors import StartError
from server.core.tasks import Keeper
from server.log.rows import id_of
from server.mongo.client import UNAUTHORIZED, brief, mapped
from server.mongo.databases import Database, DatabaseApart

logger = logging.getLogger(__name__)

COLLECTION_MISMATCH: Final = 361
LOOK_EVERY: Final = 1.0
LOOK_WITHIN: Final = 2.5
HEADS_INDEX: Final = "head"
"""Of all, newest first."""
MESSAGES_INDEX: Final = "main"
"""Of what is no amendment, newest first."""
PENDING_INDEX: Final = "pending"
"""Of the few amendments that are not folded yet: who looks for them must not go through everything else."""
WORDS_INDEX: Final = "words"
"""Of the words of messages, where they may be searched."""
MARKED_INDEX: Final = "marked"
"""Of the few messages of which something is to be counted (marks.py)."""
MENTIONS_INDEX: Final = "mentions"
"""Of what mentions somebody, by whom."""
_NO_INDEX: Final = (67, 85, 86)
"""CannotCreateIndex, IndexOptionsConflict, IndexKeySpecsConflict: so is it with these."""
_NAMES_COLLECTIONS: Final = 17
"""The wire version (of MongoDB 6.0) from which on a command can name its collection's UUID."""


class Base(NamedTuple):
    """What positions are relative to. Whoever has numbered messages on one base cannot store them on another."""

    epoch: str
    """Of all channels that have none of their own."""
    collection: Any
    """The UUID of `messages`; None where MongoDB does not tell it, or does not know what to do with it."""

    def guard(self) -> dict[str, Any]:
        """What makes a command fail that would act on another collection."""
        return {} if self.collection is None else {"collectionUUID": self.collection}


class Foundation:
    """`apart`: a way to MongoDB that no other work holds up. `on_change` is called when `base` has become another one
    than it was. `amends`: messages may be amended somewhere, which takes three more indexes; `mentions`: they may
    mention members, which takes one; `searched`: they have words, which takes one."""

    def __init__(
        self,
        database: Database,
        apart: DatabaseApart,
        keeper: Keeper,
        on_change: Callable[[], None],
        amends: bool = False,
        mentions: bool = False,
        searched: bool = False,
    ) -> None:
        self.amends = amends
        self._mentions = mentions
        self._searched = searched
        self._database = database
        self._messages = database.own("messages")
        self._channels = database.own("channels")
        self._meta = database.own("meta")
        self._apart = apart
        self._keeper = keeper
        self._on_change = on_change
        self._looks = 0
        self._looking: asyncio.Task[None] | None = None
        self._names_collections = False
        self._said = (0.0, "MongoDB has not been reached yet")
        self._errors = 0
        self._errors_before_look = -1
        self.base = Base("", None)

    @property
    def sure(self) -> bool:
        """Whether `base` is known to be what MongoDB has: not after an error, before a look that has begun after it."""
        return self._errors_before_look == self._errors

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there (try again), StartError if it will never do."""
        with mapped():
            hello = await self._database.client.admin.command("hello")
            self._names_collections = hello["maxWireVersion"] >= _NAMES_COLLECTIONS
            await self._establish()
        self._errors_before_look = self._errors
        self.works()
        self._keeper.every("log foundation", LOOK_EVERY, self._look_again)

    # --- readiness ----------------------------------------------------------------------------------------------------

    async def probe(self) -> str | None:
        """Why a publish would fail, or None: a look, which writes with majority and journal, or a recent one."""
        if time.monotonic() - self._said[0] >= LOOK_EVERY:
            await self._look_again()
        return self.problem()

    def problem(self) -> str | None:
        """What the last look or write has said."""
        return self._said[1] or None

    def works(self) -> None:
        """A write has succeeded."""
        self._said = (time.monotonic(), "")

    def fails(self, error: Exception) -> None:
        """A write has failed, or its outcome is not known."""
        self.doubt()
        self._said = (time.monotonic(), f"MongoDB: {brief(error)}")

    def doubt(self) -> None:
        """`base` may be another one by now: nothing is to be written before the next look."""
        self._errors += 1

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                await self.look()
        except TimeoutError:
            self.doubt()
            self._said = (time.monotonic(), f"MongoDB: no write was acknowledged by a majority within {LOOK_WITHIN} s")
        except (PyMongoError, StartError) as error:
            self.fails(error)
        else:
            self.works()

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Return when `base` is what MongoDB has. Those who ask at once share one look."""
        if self._looking is None or self._looking.done():
            self._looking = self._keeper.spawn("log look", self._look(), awaited=True)
            # Who asked may have lost patience; what it fails with is then told as that.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        errors = self._errors
        collection = await self._collection()
        found = await self._apart.own("meta").find_one_and_update(
            {"_id": "epoch", "epoch": self.base.epoch}, {"$inc": {"n": 1}}, return_document=ReturnDocument.AFTER
        )
        if collection != self.base.collection or found is None or self._differs(found, collection):
            await self._establish()
        else:
            self._looks = found["n"]
        self._errors_before_look = errors

    def _differs(self, found: dict[str, Any], collection: Any) -> bool:
        """Whether what `meta` says was said of another state of the database."""
        dropped: bool = None not in (collection, found["of"]) and found["of"] != collection
        older: bool = found["epoch"] == self.base.epoch and found["n"] <= self._looks
        return dropped or older

    async def _collection(self) -> Any:
        """The UUID of `messages`; None if there is no such collection, or nobody tells us."""
        if not self._names_collections:
            return None
        try:
            found = await self._apart.command({"listCollections": 1, "filter": {"name": self._messages.name}})
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                return None
            raise
        rows = found["cursor"]["firstBatch"]
        return rows[0]["info"]["uuid"] if rows else None

    async def _establish(self) -> None:
        """Make what is missing, agree with the other nodes on the epoch, and take it over."""
        while True:
            await self._index()
            collection = await self._collection()
            found = await self._meta.find_one({"_id": "epoch"})
            if found is None:
                wanted = {"epoch": new_epoch(), "of": collection, "n": 0}
                await self._meta.update_one({"_id": "epoch"}, {"$setOnInsert": wanted}, upsert=True)
            elif found.get("of") is None is not collection or "n" not in found:  # nobody has looked at it so far
                of = found.get("of")
                unseen = {"_id": "epoch", "epoch": found["epoch"], "of": of}
                await self._meta.update_one(unseen, {"$set": {"of": of or collection, "n": 0}})
            elif self._differs(found, collection):
                await self._mend()
                epoch = new_epoch()
                logger.warning("MongoDB has another state than it had: epoch %s becomes %s", found["epoch"], epoch)
                await self._meta.update_one(
                    {"_id": "epoch", "epoch": found["epoch"], "of": found["of"]},
                    {"$set": {"epoch": epoch, "of": collection, "n": 0}},
                )
            else:
                break
        self._looks = found["n"]
        base = Base(found["epoch"], collection)
        if base != self.base:
            known, self.base = self.base.epoch, base
            if known:
                self._on_change()

    async def _index(self) -> None:
        try:
            await self._create_index("key", "_id.c u k", unique=True)
        except DuplicateKeyError:
            await self._part_twins()
            await self._create_index("key", "_id.c u k", unique=True)
        # For the heads of many channels in one distinct scan (1,000 in 8 ms; without it 120 ms).
        await self._create_index(HEADS_INDEX, "_id.c -_id.o")
        if self.amends:
            await self._create_index(MESSAGES_INDEX, "_id.c z -_id.o")
            await self._create_index(PENDING_INDEX, "_id.c _id.o", partialFilterExpression={"p": 1})
            await self._create_index(MARKED_INDEX, "rd.t", partialFilterExpression={"rd.t": {"$gt": 0}})
        if self._mentions:
            await self._create_index(
                MENTIONS_INDEX, "_id.c mentions _id.o", partialFilterExpression={"mentions": {"$exists": True}}
            )
        if self._searched:
            await self._create_index(WORDS_INDEX, "_id.c ws -_id.o", partialFilterExpression={"ws": {"$exists": True}})

    async def _create_index(self, name: str, fields: str, **options: Any) -> None:
        key = [(one.removeprefix("-"), DESCENDING if one[0] == "-" else ASCENDING) for one in fields.split()]
        try:
            await self._messages.create_index(key, name=name, **options)
        except OperationFailure as error:
            if error.code not in _NO_INDEX:
                raise
            messages = self._messages.name
            reason = f"MongoDB: {brief(error)}: an index of {messages} cannot be made. If another one has its name,"
            raise StartError(f'{reason} drop it with db["{messages}"].dropIndex("{name}")') from None

    async def _part_twins(self) -> None:
        """Messages with one key, stored while the index was missing: the first keeps it, the others get one of their
        own. All have been acknowledged and have their offsets, so none of them can go."""
        groups: list[dict[str, Any]] = [
            {"$group": {"_id": {"c": "$_id.c", "u": "$u", "k": "$k"}, "o": {"$push": "$_id.o"}, "n": {"$sum": 1}}},
            {"$match": {"n": {"$gt": 1}}},
        ]
        parted = 0
        async for group in self._messages.aggregate(groups, allowDiskUse=True):
            for offset in sorted(group["o"])[1:]:
                key = f"{group['_id']['k']} {offset} {new_epoch()}"
                await self._messages.update_one({"_id": id_of(group["_id"]["c"], offset)}, {"$set": {"k": key}})
                parted += 1
        logger.warning("%d messages had the key of another one: they have one of their own now", parted)

    async def _mend(self) -> None:
        """Make what is there a history that can be read, before it gets its epoch: no channel has an epoch of its own,
        and each has the floor that belongs to its messages, which a restored backup need not have."""
        await self._channels.update_many({"epoch": {"$exists": True}}, {"$unset": {"epoch": ""}})
        first: list[dict[str, Any]] = [
            {"$sort": {"_id.c": -1, "_id.o": 1}},
            {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}, "m": {"$first": "$m"}, "z": {"$first": "$z"}}},
        ]
        last: list[dict[str, Any]] = [
            {"$sort": {"_id.c": 1, "_id.o": -1}},
            {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}, "m": {"$first": "$m"}}},
        ]
        floors = {row["_id"]: row["floor"] async for row in self._channels.find({"floor": {"$exists": True}})}
        heads: dict[str, int] = {}
        marks: list[UpdateOne] = []
        async for row in self._messages.aggregate(last):
            heads[row["_id"]] = row["o"]
            if row.get("m"):  # what has amendments may be of another moment than the messages, in a backup
                marks.append(UpdateOne({"_id": row["_id"]}, {"$set": {"amended": True}}, upsert=True))
        firsts: dict[str, int] = {}
        amended: dict[str, int] = {}
        async for row in self._messages.aggregate(first):
            firsts[row["_id"]] = row["o"]
            if row.get("m"):  # so many of what is below the floor are amendments
                amended[row["_id"]] = row["m"] - (row.get("z") is not None)
        mended = {
            name: offset - 1 for name, offset in firsts.items() if not offset - 1 <= floors.get(name, 0) <= heads[name]
        }
        mended |= dict.fromkeys(floors.keys() - heads.keys(), 0)
        updates = [
            UpdateOne({"_id": name}, {"$set": {"floor": floor, "m": amended[name]}}, upsert=True)
            if name in amended
            else UpdateOne({"_id": name}, {"$set": {"floor": floor}, "$unset": {"m": ""}}, upsert=True)
            for name, floor in mended.items()
        ]
        if marks or updates:
            await self._channels.bulk_write([*marks, *updates], ordered=False)


def new_epoch() -> str:
    return "".join(random.SystemRandom().choices("0123456789abcdefghijklmnopqrstuvwxyz", k=8))
