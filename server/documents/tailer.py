"""The tailer: follows the change stream of the declared collections and puts every change into its channel's log.

One node at a time does it, by a lease in MongoDB, and another takes over when it is gone; the lease is for economy
only. What makes each change appear once, however many tail at once, is the log's compare-and-append: a change is
stored right behind a message whose token is smaller. And what makes none be missed is where the stream starts: at a
checkpoint written with majority after the appends that it stands for, never from now.

    meta  {_id: "tailer", token: resume token, names: collections it stands for, known: all that it ever stood for,
           holder: node, until: end of the lease}
          {_id: "mark"}    written to by whoever needs a checkpoint behind this moment

A stream that cannot be resumed, a collection dropped or renamed, and a change without its images (they were switched
off) all mean that changes are lost: the channel starts over with a new epoch. So it is with a collection that the
checkpoint does not stand for and once did: the node that wrote it had not declared it, and nobody has followed its
changes. Of one that no node has declared before, nobody has been told anything yet that could be out of date.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, Final, Protocol

from bson import Timestamp
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from server.core.config import Collection
from server.core.errors import Error, StartError
from server.core.tasks import Keeper
from server.core.worker import Pace, Worker
from server.documents import document_json
from server.mongo.client import brief, mapped
from server.mongo.databases import DatabaseApart
from server.mongo.leases import RENEW, Lease
from server.mongo.streams import BATCH, ChangeStream, following, is_lost, just_before, time_of
from server.wire.messages import Change, Images, Tail

logger = logging.getLogger(__name__)

MARK_WITHIN: Final = 8.0
BATCH_BYTES: Final = 1 << 20
DOCUMENT_BYTES: Final = 1 << 20
"""Larger documents are not in the log: an event of 16 MB would end the stream for good."""


class ChangeLog(Protocol):
    """What the tailer needs of the log; whatever it raises means: look at the tail again."""

    async def tail(self, channel: str) -> Tail: ...

    async def append(self, channel: str, tail: Tail, changes: Sequence[Change]) -> Tail: ...

    async def start_over(self, channel: str, tail: Tail, change: Change) -> Tail: ...


class Tailer:
    """`prepare(collection)` makes a collection that was dropped again what its declaration says."""

    def __init__(
        self,
        database: DatabaseApart,
        collections: Mapping[str, Collection],
        log: ChangeLog,
        *,
        node: str,
        prepare: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._collections = collections
        self._meta = database.own("meta")
        self._lease = Lease(database, "tailer", node)
        self._log = log
        self._prepare = prepare
        self._tails: dict[str, Tail] = {}
        self._keeper = Keeper()
        self._worker = Worker("tailer")
        self._marking: dict[str | None, asyncio.Task[Timestamp]] = {}
        self._announced = False
        """Whether it is known which collections this node serves, though another one tails."""
        self.holds = False
        """Whether this node is the one that tails."""
        self.changes = 0
        self.conflicts = 0

    async def open(self) -> None:
        """Write the first checkpoint of all, if there is none, and begin."""
        if self._collections:
            with mapped():
                await self._first_checkpoint()
            self._keeper.keep("changes of documents", self._run)

    async def _first_checkpoint(self) -> None:
        if not await self._has_checkpoint():
            await self._write_checkpoint(await self._now())

    async def _has_checkpoint(self) -> bool:
        return await self._meta.find_one({"_id": "tailer", "token": {"$exists": True}}) is not None

    async def _write_checkpoint(self, token: str) -> None:
        with suppress(DuplicateKeyError):  # another node has written it
            await self._meta.update_one(
                {"_id": "tailer", "token": {"$exists": False}},
                {"$set": {"token": token, "names": list(self._collections), "known": list(self._collections)}},
                upsert=True,
            )

    def problem(self) -> str | None:
        """What of it has ended in the background, by name."""
        return self._keeper.problem()

    async def close(self) -> None:
        """It may be opened again."""
        keeper, self._keeper = self._keeper, Keeper()
        await keeper.close()
        self._marking.clear()
        if self._collections:
            with suppress(PyMongoError):  # the lease ends by itself
                await self._lease.leave()

    async def position(self, collection: str | None = None) -> Timestamp:
        """A cluster time up to which every change of the collection (None: of all that are declared here) is in the
        log, not before what was written before the call."""
        marking = self._marking.get(collection)
        if marking is None:
            marking = self._marking[collection] = self._keeper.spawn("mark", self._mark(collection), awaited=True)
        return await asyncio.shield(marking)

    async def _mark(self, collection: str | None) -> Timestamp:
        """A write of our own, and a checkpoint behind it. Of a herd, those who come within a moment share one."""
        await asyncio.sleep(0.01)
        del self._marking[collection]
        wanted = set(self._collections) if collection is None else {collection}
        async with self._database.client.start_session() as session:
            await self._meta.update_one({"_id": "mark"}, {"$inc": {"n": 1}}, upsert=True, session=session)
            written = session.operation_time
        try:
            async with asyncio.timeout(MARK_WITHIN):
                while True:
                    checkpoint = await self._meta.find_one({"_id": "tailer"}) or {}
                    time = time_of(checkpoint["token"]) if "token" in checkpoint else None
                    if time is not None and time >= written and wanted <= set(checkpoint.get("names", ())):
                        break
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Error("unavailable", "documents: nobody tails their changes at the moment", retry_after=1.0) from None
        return just_before(time)

    # --- the lease ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                start = await self._take_lease()
                if start is not None:
                    self.holds = True
                    await self._tail(start)
            except OperationFailure as error:
                if is_lost(error):
                    await self._lose_all(error)
                else:
                    logger.warning("changes of documents: %s", brief(error))
            except (PyMongoError, Error, StartError) as error:
                logger.warning("changes of documents: %s", brief(error))
            except Exception:
                logger.exception("the tailer failed")
            self.holds = False
            await asyncio.sleep(random.uniform(0.5, 1.0))

    async def _take_lease(self) -> dict[str, Any] | None:
        """Where the stream starts, if the lease is ours, or is nobody's and now ours."""
        found = await self._lease.take()
        if found is None:
            if not await self._has_checkpoint():
                # Somebody has dropped the database, or this collection: nobody knows what has changed since.
                logger.error("changes of documents: the checkpoint is gone; all channels start over")
                await self._write_checkpoint(await self._start_over(self._collections))
            elif not self._announced:
                await self._meta.update_one({"_id": "tailer"}, [{"$set": {"known": self._known()}}])
                self._announced = True
            return None
        token: str = found["token"]
        names = set(found.get("names", ()))
        if names == self._collections.keys():
            return {"startAfter": {"_data": token}}
        unfollowed = (self._collections.keys() - names) & set(found.get("known") or self._collections)
        if unfollowed:
            logger.warning("changes of documents were not followed: %s", ", ".join(sorted(unfollowed)))
            await self._start_over(unfollowed)
        # The token may be that of a change which this stream does not show: MongoDB would look for it in vain. So by
        # its time; what comes again is dropped by the log. The checkpoint has our names with our stream's first token.
        return {"startAtOperationTime": time_of(token)}

    async def _renew(self, token: str) -> bool:
        fields = {"token": token, "names": list(self._collections), "known": self._known()}
        return await self._lease.renew(fields)

    def _known(self) -> dict[str, Any]:
        return {"$setUnion": [{"$ifNull": ["$known", "$names"]}, list(self._collections)]}

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def _tail(self, start: dict[str, Any]) -> None:
        """From the checkpoint on, until the lease is lost."""
        loop = asyncio.get_running_loop()
        self._tails.clear()
        renewed = loop.time()
        async with self._follow(start) as stream:
            while True:
                events, token = await stream.next()
                ended = await self._append_changes(events)
                marked = any(event.get("ns", {}).get("coll") == self._meta.name for event in events)
                if ended or marked or loop.time() - renewed > RENEW:
                    renewed = loop.time()
                    if not await self._renew(token) or ended:
                        return

    def _follow(self, start: dict[str, Any]) -> AbstractAsyncContextManager[ChangeStream]:
        names = list(self._collections)
        images = {"fullDocument": "whenAvailable", "fullDocumentBeforeChange": "whenAvailable"}
        wanted = [
            {"ns.coll": {"$in": names}},
            {"to.coll": {"$in": names}},
            {"ns.coll": self._meta.name, "documentKey._id": "mark"},
            {"operationType": "invalidate"},
        ]
        kept = dict.fromkeys(("operationType", "ns", "to", "documentKey", "clusterTime", "wallTime"), 1)
        shown = {"after": self._image("$fullDocument"), "before": self._image("$fullDocumentBeforeChange")}
        stages: list[dict[str, Any]] = [{"$match": {"$or": wanted}}, {"$project": kept | shown}]
        return following(self._database, document_json.RAW, images | start, stages)

    async def _now(self) -> str:
        """The token of this moment."""
        async with self._follow({}) as stream:
            return stream.token

    def _image(self, path: str) -> dict[str, Any]:
        """The document, or of one that is too large what decides who may see that it changed."""
        owners = {one.owner: f"{path}.{one.owner}" for one in self._collections.values() if one.owner}
        stub = {"_id": f"{path}._id", **owners, "_truncated": True}
        return {"$cond": [{"$gt": [{"$bsonSize": path}, DOCUMENT_BYTES]}, {"large": stub}, {"whole": path}]}

    async def _append_changes(self, events: list[Any]) -> bool:
        """Put what these events tell into the log of each collection; whether the change stream ends with them."""
        changes: dict[str, list[Change]] = {}
        ended = False
        pace = Pace()
        for event in events:
            await pace.rest()
            kind = event["operationType"]
            if kind == "invalidate":
                ended = True
                names = list(self._collections)
            else:
                names = [one["coll"] for one in (event.get("ns"), event.get("to")) if one and "coll" in one]
            for name in names:
                if name not in self._collections:
                    continue
                change = await self._worker.run(len(event.raw), partial(_change, event))
                if change is None:
                    continue
                if kind not in _WRITES:
                    logger.warning("collection %s: %s", name, kind)
                    await self._prepare(name)
                if change.data is None:
                    changes[name] = []  # whatever came before it is of a history that ends here
                changes.setdefault(name, []).append(change)
        await asyncio.gather(*(self._append(f"docs:{name}", some) for name, some in changes.items()))
        return ended

    async def _append(self, channel: str, changes: list[Change]) -> None:
        """Until all of them are in the log, by us or by somebody else."""
        while True:
            try:
                tail = self._tails.pop(channel, None) or await self._log.tail(channel)
                changes = [change for change in changes if change.token > tail.token]
                if not changes:
                    self._tails[channel] = tail
                    return
                if changes[0].data is None:
                    self._tails[channel] = await self._log.start_over(channel, tail, changes[0])
                else:
                    batch = _batch(changes)
                    self._tails[channel] = await self._log.append(channel, tail, batch)
                    self.changes += len(batch)
            except Exception as error:
                self.conflicts += 1
                logger.warning("%s: %s; looking again", channel, brief(error))
                await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _lose_all(self, error: PyMongoError) -> None:
        """The checkpoint cannot be gone on from: every channel starts over, now."""
        logger.error("changes of documents were lost: %s", brief(error))
        try:
            await self._renew(await self._start_over(self._collections))
        except (PyMongoError, Error) as failed:
            logger.warning("changes of documents: %s", brief(failed))

    async def _start_over(self, names: Iterable[str]) -> str:
        """The token of now, where they start."""
        token = await self._now()
        self._tails.clear()
        for name in names:
            await self._append(f"docs:{name}", [Change(token, time_of(token), _key(token), 0, None)])
        return token


_WRITES: Final = {"insert", "update", "replace", "delete"}


def _change(event: Any) -> Change | None:
    """None: of a document that is not ours to show."""
    token: str = event["_id"]["_data"]
    at: Timestamp = event["clusterTime"]
    wall = event.get("wallTime")
    time = int(wall) if wall is not None else at.time * 1000
    kind = event["operationType"]
    lost = Change(token, at, _key(token), time, None)
    if kind not in _WRITES:
        return lost
    identifier = event["documentKey"]["_id"]
    if not document_json.is_visible(identifier):
        return None
    before, _ = _image_json(event.get("before"))
    after, revision = _image_json(event.get("after"))
    if (before is None and kind != "insert") or (after is None and kind != "delete"):
        return lost
    data: dict[str, Any] = {"op": "put", "id": str(identifier), "rev": revision, "document": after}
    images: Images = (before, None)
    if after is None:
        data["op"] = "delete"
    elif "_truncated" in after and revision is None:
        data |= {"document": None, "truncated": True}
        images = (before, after)
    return Change(token, at, _key(token), time, data, images, len(event.raw))


def _image_json(image: Any) -> tuple[dict[str, Any] | None, str | None]:
    """An image and its revision."""
    if not image:
        return None, None
    if "large" in image:
        document = document_json.document(image["large"].raw)
        return {**document, "_rev": None}, None
    if "whole" not in image or image["whole"] is None:
        return None, None
    document = document_json.document(image["whole"].raw)
    return document, document["_rev"]


def _batch(changes: list[Change]) -> list[Change]:
    """From the first on, what one insert takes; a change that starts the channel over goes by itself."""
    batch: list[Change] = []
    size = 0
    for change in changes[:BATCH]:
        size += change.size
        if batch and (size > BATCH_BYTES or change.data is None):
            break
        batch.append(change)
    return batch


def _key(token: str) -> str:
    """A message's key goes out to clients; the token does not, it has ids in it."""
    return hashlib.blake2b(token.encode(), digest_size=12).hexdigest()
