"""Opening what is kept in MongoDB: tried again as long as that can help, and ended with one line where it cannot."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from pymongo.errors import OperationFailure, PyMongoError

from server.core.clock import Clock
from server.core.errors import Error, StartError
from server.core.lifecycle import Lifecycle
from server.mongo.client import UNAUTHORIZED, brief
from server.mongo.clock import greet
from server.mongo.databases import Database, DatabaseApart

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
_LASTING: Final = {
    UNAUTHORIZED: "its user may not do this: it needs readWrite on the database {database}",
    18: "the user or the password is wrong, or authSource is missing",
    8000: "the user or the password is wrong",
    85: "an index of {database} is there with other options: drop it, and start again",
    86: "an index of {database} is there with other fields: drop it, and start again",
    11000: "a unique index of {database} cannot be made: there are doubles of {fields}; delete them and start again",
}
"""Codes that the same attempt meets for ever, and how they are mended."""


class Opening:
    """One start's way through MongoDB. `lifecycle` is told what it waits for."""

    def __init__(self, database: Database, lifecycle: Lifecycle) -> None:
        self._name = database.name
        self._lifecycle = lifecycle

    async def persist(self, step: Callable[[], Awaitable[object]]) -> None:
        """Take the step, again and again while MongoDB cannot be worked with; StartError if it never will."""
        pause = FIRST_PAUSE
        while True:
            try:
                await step()
                return
            except Error as error:
                if (fix := self._fix(error.__cause__)) is not None:
                    raise StartError(f"mongodb.uri: {fix}") from None
                self._lifecycle.waits_for = error.reason
                logger.warning("%s; trying again in %.1f s", error.reason, pause)
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _fix(self, cause: BaseException | None) -> str | None:
        if not isinstance(cause, OperationFailure) or cause.code not in _LASTING:
            return None
        fields = ", ".join((cause.details or {}).get("keyPattern", ()))
        return f"{_LASTING[cause.code].format(database=self._name, fields=fields)} ({brief(cause)})"


async def find_replica_set(database: DatabaseApart, clock: Clock) -> None:
    """`unavailable` if there is none yet, StartError if there will be none. `clock` is compared with MongoDB's: nothing
    that asks for the time is opened before."""
    hello = await greet(database, clock)
    if "setName" not in hello:
        if hello.get("isreplicaset"):
            raise Error("unavailable", "MongoDB: the replica set is not initiated: run rs.initiate() in mongosh")
        text = "a replica set is needed (one node will do), this is a standalone mongod"
        raise StartError(f"mongodb.uri: {text}")


async def renew_if_unknown(*databases: Database | DatabaseApart) -> None:
    """New connections if MongoDB does not let us read any more: those of a user that was made anew stay strangers."""
    for database in databases:
        try:
            await database.own("meta").find_one({"_id": "probe"}, {"_id": 1})
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                logger.warning("MongoDB: %s; the connections are made anew", brief(error))
                client = database.client.delegate if isinstance(database, Database) else database.client
                for server in client._topology._servers.values():  # PyMongo has no other way
                    resetting = server.pool.reset()
                    if resetting is not None:
                        await resetting
        except PyMongoError:
            pass  # not there: the log says so
