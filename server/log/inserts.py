"""The one command that puts messages into the log, and what its reply says for certain."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from motor.motor_asyncio import AsyncIOMotorClientSession

from server.core.histogram import Histogram
from server.log.foundation import COLLECTION_MISMATCH, Base
from server.log.rows import Row
from server.mongo.client import brief_refusal
from server.mongo.databases import Database

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How many messages were stored for good, from the first on, and why the next one was not (an entry of
    `writeErrors`). `stored` −1: nothing is certain."""

    stored: int
    refusal: Mapping[str, Any] | None = None

    @property
    def of_another_base(self) -> bool:
        """The collection is not the one that the messages were numbered for: none of them is in the log."""
        return self.refusal is not None and self.refusal.get("code") == COLLECTION_MISMATCH


class Inserts:
    """`timeout`: seconds after which a publish is answered."""

    def __init__(self, database: Database, timeout: float) -> None:
        self._database = database
        self._messages = database.own("messages").name
        self._concern = {"w": "majority", "j": True, "wtimeout": int(timeout * 900)}
        self.count = 0
        self.batch_messages = Histogram(1, 2, 5, 10, 20, 50, 100, 200, 500)

    async def insert(
        self, documents: list[Row], base: Base, session: AsyncIOMotorClientSession | None = None
    ) -> Outcome:
        """In order, and durable as far as they were stored; into the collection that they were numbered for, or not at
        all. Raises PyMongoError: nothing is certain, unless there was no server to send it to."""
        self.count += 1
        self.batch_messages.observe(len(documents))
        # The command itself: its reply says in one place what the driver's bulk API spreads over exceptions.
        command = {"insert": self._messages, "documents": documents, "ordered": True, "writeConcern": self._concern}
        reply = await self._database.command(command | base.guard(), session=session)
        if reply.get("writeConcernError"):
            logger.warning("MongoDB: %s", brief_refusal(reply["writeConcernError"]))
            return Outcome(-1)
        errors = reply.get("writeErrors")
        return Outcome(errors[0]["index"], errors[0]) if errors else Outcome(len(documents))
