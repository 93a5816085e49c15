"""Putting messages together that were written piece by piece (appends.py).

Once, when a message is said to be done or there are many entries of it, by the node that has written the last one; and
by any node when nothing has come for PENDING_SECONDS. The message is read with all that is pending of it, and written
if its version is still the same: edits are among it, in their order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.errors import ConnectionFailure, PyMongoError

from server.core.errors import Error
from server.log.amendments import AT_ONCE, PENDING_SECONDS, Amendments
from server.log.folding import overlaid
from server.log.foundation import PENDING_INDEX
from server.log.rows import ON_ITS_WAY, Row, counted, id_of
from server.mongo.client import brief
from server.mongo.databases import Database
from server.wire.amendments import AmendedMessage, Amendment

logger = logging.getLogger(__name__)

TRIES: Final = 10


class Assembly:
    def __init__(self, database: Database, amendments: Amendments) -> None:
        self._messages = database.own("messages")
        self._amendments = amendments
        self.folded = 0
        """How often this node has done so."""

    async def refold(self, seconds: float = PENDING_SECONDS) -> None:
        """Fold what nobody has appended to for so many seconds."""
        old = self._amendments.clock.now_ms() - int(seconds * 1000)
        pipeline: list[Row] = [
            {"$match": {"p": 1, "op": "append"}},
            {"$group": {"_id": {"c": "$_id.c", "z": "$z"}, "t": {"$max": "$t"}}},
            {"$match": {"t": {"$lte": old}}},
            {"$limit": AT_ONCE},
        ]
        try:
            quiet = await self._messages.aggregate(pipeline, hint=PENDING_INDEX).to_list(AT_ONCE)
        except PyMongoError as error:
            logger.warning("MongoDB: %s; appends are folded later", brief(error))
            return
        for row in quiet:
            try:
                await self._fold(row["_id"]["c"], row["_id"]["z"])
            except Exception as error:  # whatever is wrong with one, the others are not to wait for it
                logger.warning("what was appended to a message is folded later: %s", brief(error))
                if isinstance(error, ConnectionFailure):
                    return

    async def fold(self, channel: str, of: int) -> None:
        """All that was appended to this message by now; what cannot be folded now is folded later."""
        try:
            await self._fold(channel, of)
        except (PyMongoError, Error) as error:  # it is stored, readers see it, and it will be folded
            logger.warning("MongoDB: %s; appends are folded later", brief(error))

    async def _fold(self, channel: str, of: int) -> None:
        """Raises PyMongoError or Error: perhaps not, or in part."""
        query = {"_id.c": channel, "p": 1, "z": of, "op": {"$in": ["edit", "append"]}}
        for _ in range(TRIES):
            rows: list[Row] = await self._messages.find(query).sort("_id", ASCENDING).hint(PENDING_INDEX).to_list(None)
            entries = [entry for row in rows if isinstance(entry := counted(row, ""), Amendment)]
            if not entries:
                return
            row = await self._messages.find_one({"_id": id_of(channel, of)})
            message = None if row is None else counted(row, "")
            if isinstance(message, AmendedMessage) and not await self._written(message, entries):
                continue  # somebody else has folded something meanwhile
            folded = {"_id.c": channel, "_id.o": {"$in": [entry.offset for entry in entries]}}
            await self._amendments.update({"q": folded, "u": {"$unset": ON_ITS_WAY}, "multi": True})
            self.folded += 1
            return

    async def _written(self, message: AmendedMessage, entries: Sequence[Amendment]) -> bool:
        """Whether the message has all of them now, as it does if it is erased or knows better."""
        now = overlaid(message, entries)
        if message.deleted is not None or now.version == message.version:
            return True
        stored = self._amendments.content(message.channel, now.data)
        changes: dict[str, Any] = {"$set": stored | {"v": now.version}, "$unset": {"j" if "d" in stored else "d": 1}}
        changes["$unset" if now.edited else "$set"]["w"] = 1
        same = {"_id": id_of(message.channel, message.offset), "z": None, "gone": None, "v": message.version or None}
        return await self._amendments.update({"q": same, "u": changes}) > 0
