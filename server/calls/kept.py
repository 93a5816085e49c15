"""Answers that are kept for whoever calls again with the same key, through whichever node.

    calls  {_id, data, owner, until, expires, answer?, user?}

Whoever inserts the row asks the back end: until `until` (milliseconds since 1970), which it moves on as long as it
waits, it belongs to that one call, its `owner`. Then there is an answer in it, or it is deleted, because there is none;
if neither happens the node has died, and the next one takes the row over. `data` is a digest of what the call was
given: a retry is given the same. MongoDB deletes a row when it `expires`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pymongo.errors import DuplicateKeyError

from server.core.clock import Clock
from server.core.errors import Error
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

LONGEST: Final = 86400.0
"""Seconds for which a row is kept that has no answer yet; or else it would be gone in the middle of a long call."""
LEASE: Final = 5.0
"""Seconds for which a row belongs to its owner; renewed after a third of that."""
LOOK_EVERY: Final = 0.1
"""Seconds between looks whether another call with the same key has its answer."""


class Reservation(NamedTuple):
    """Of a key, by one call with it."""

    identifier: str
    """The `_id`."""
    data: str
    owner: str
    user: str | None = None
    """Who calls, if it is a person: their answers go when they are erased."""


def digest(of: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(JSON.encode(of)).hexdigest()


def conflict() -> Error:
    return Error("conflict", "key: another call of this method has it already, with other data")


class KeptAnswers:
    """`window`: seconds for which an answer is kept."""

    def __init__(self, database: Database, window: float, clock: Clock) -> None:
        self._rows = database.own("calls")
        self._window = window
        self._clock = clock

    async def open(self) -> None:
        with mapped():
            await self._rows.create_index("expires", expireAfterSeconds=0)

    async def reserve(self, wanted: Reservation, patience: float) -> bytes | None:
        """The answer that is kept; None: there is none, and the row is the owner's, who is to ask. While it is
        another's it is waited for: `outcome_unknown` if it takes more than `patience` seconds. `conflict`: it is kept
        for other data."""
        try:
            async with asyncio.timeout(patience):
                return await self._reserve(wanted)
        except TimeoutError:
            raise Error("outcome_unknown", "key: another call with it is under way", retry_after=1.0) from None

    async def _reserve(self, wanted: Reservation) -> bytes | None:
        while True:
            with mapped():
                if await self._insert(wanted):
                    return None
                row = await self._rows.find_one({"_id": wanted.identifier})
                if row is not None:
                    now = self._clock.time()
                    expired = row["expires"].replace(tzinfo=UTC).timestamp() <= now
                    if expired or ("answer" not in row and row["until"] <= now * 1000):
                        if await self._take_over(row, wanted):
                            return None
                    elif row["data"] != wanted.data:
                        raise conflict()
                    elif "answer" in row:
                        answer: bytes = row["answer"]
                        return answer
            await asyncio.sleep(LOOK_EVERY)

    async def renew(self, reserved: Reservation) -> None:
        """The row stays the owner's, until this is cancelled."""
        query = {"_id": reserved.identifier, "owner": reserved.owner}
        while True:
            await asyncio.sleep(LEASE / 3)
            try:
                with mapped():
                    await self._rows.update_one(query, {"$set": {"until": self._until()}})
            except Error as error:
                logger.warning("the lease of a key is not renewed: %s", error.reason)

    async def keep(self, reserved: Reservation, answer: bytes) -> bool:
        """False: the row is not the owner's any more, who took too long."""
        query = {"_id": reserved.identifier, "owner": reserved.owner}
        update = {"$set": {"answer": answer, "expires": self._in(self._window)}}
        with mapped():
            return (await self._rows.update_one(query, update)).matched_count > 0

    async def release(self, reserved: Reservation) -> None:
        """There is no answer: whoever calls again asks again."""
        query = {"_id": reserved.identifier, "owner": reserved.owner, "answer": {"$exists": False}}
        with mapped():
            await self._rows.delete_one(query)

    async def _insert(self, wanted: Reservation) -> bool:
        try:
            await self._rows.insert_one({"_id": wanted.identifier, **self._owned(wanted)})
        except DuplicateKeyError:
            return False
        return True

    async def _take_over(self, before: dict[str, Any], wanted: Reservation) -> bool:
        """False: meanwhile its owner has renewed it, or kept an answer; or another one was faster."""
        update = {"$set": self._owned(wanted), "$unset": {"answer": ""}}
        query = {name: before[name] for name in ("_id", "owner", "until", "expires")}
        return (await self._rows.update_one(query, update)).modified_count > 0

    def _owned(self, wanted: Reservation) -> dict[str, object]:
        expires = self._in(LONGEST + self._window)
        row = {"data": wanted.data, "owner": wanted.owner, "until": self._until(), "expires": expires}
        return row if wanted.user is None else row | {"user": wanted.user}

    def _until(self) -> int:
        return int((self._clock.time() + LEASE) * 1000)

    def _in(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self._clock.time() + seconds, UTC)
