"""Change streams, by the commands themselves: their replies show batches and tokens as they are, so that whoever
follows one knows up to where it has everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from bson import Timestamp
from bson.codec_options import CodecOptions
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError

from server.core.errors import Error

AWAIT: Final = 400
"""Milliseconds MongoDB waits for a change."""
BATCH: Final = 500
LOST: Final = {280, 286, 260, 10334}
"""ChangeStreamFatalError, ChangeStreamHistoryLost, InvalidResumeToken, BSONObjectTooLarge"""


class Batch(NamedTuple):
    events: list[Any]
    token: str
    """Everything up to here was in this batch or before it."""


class ChangeStream:
    """Of a whole database: the collections in it may be dropped and made anew."""

    def __init__(self, database: AsyncDatabase[Any], session: Any, codec: CodecOptions[Any]) -> None:
        self._database = database
        self.session = session
        """What is read with it is not older than what the stream has shown."""
        self._codec = codec
        self._cursor: Any = None
        self.token = ""
        """Where it has begun."""

    async def open(self, options: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        """`options`: of `$changeStream`, where it starts among them; `stages` behind it."""
        reply = await self._database.command(
            {"aggregate": 1, "pipeline": [{"$changeStream": options}, *stages], "cursor": {"batchSize": 0}},
            session=self.session,
            codec_options=self._codec,
        )
        self._cursor = reply["cursor"]["id"]
        self.token = reply["cursor"]["postBatchResumeToken"]["_data"]

    async def next(self, wait: int = AWAIT) -> Batch:
        """What has come, after `wait` milliseconds at most."""
        reply = await self._database.command(
            {"getMore": self._cursor, "collection": "$cmd.aggregate", "batchSize": BATCH, "maxTimeMS": wait},
            session=self.session,
            codec_options=self._codec,
        )
        return Batch(reply["cursor"]["nextBatch"], reply["cursor"]["postBatchResumeToken"]["_data"])

    async def found_at(self, token: str, command: dict[str, Any]) -> AsyncIterator[list[Any]]:
        """Batches of what a `find` finds as of just before a token: all of it has been in the stream until then, or is
        older than that."""
        snapshot = {"level": "snapshot", "atClusterTime": just_before(time_of(token))}
        next_one: dict[str, Any] = {**command, "batchSize": BATCH, "readConcern": snapshot}
        async with self._database.client.start_session(causal_consistency=False) as session:
            while True:
                reply = await self._database.command(next_one, session=session, codec_options=self._codec)
                cursor = reply["cursor"]
                yield cursor["firstBatch"] if "firstBatch" in cursor else cursor["nextBatch"]
                if not cursor["id"]:
                    return
                next_one = {"getMore": cursor["id"], "collection": command["find"], "batchSize": BATCH}

    async def close(self) -> None:
        if self._cursor is not None:
            with suppress(PyMongoError):
                await self._database.command(
                    {"killCursors": "$cmd.aggregate", "cursors": [self._cursor]}, session=self.session
                )


@asynccontextmanager
async def following(
    database: AsyncDatabase[Any], codec: CodecOptions[Any], options: dict[str, Any], stages: list[dict[str, Any]]
) -> AsyncIterator[ChangeStream]:
    async with database.client.start_session() as session:
        stream = ChangeStream(database, session, codec)
        await stream.open(options, stages)
        try:
            yield stream
        finally:
            await stream.close()


def is_lost(error: OperationFailure) -> bool:
    """Whether a stream cannot be gone on with, so that changes are lost."""
    return error.code in LOST


def time_of(token: str) -> Timestamp:
    """A token is a string that sorts: a type byte (82: a timestamp), seconds and increment, then the rest."""
    if token[:2] != "82":
        raise Error("unavailable", "MongoDB: a resume token of an unknown kind")
    return Timestamp(int(token[2:10], 16), int(token[10:18], 16))


def just_before(time: Timestamp) -> Timestamp:
    """A cluster time up to which a stream that has come to `time` has shown everything: several changes may have one
    time, and only some of them been shown."""
    return Timestamp(time.time, time.inc - 1) if time.inc else Timestamp(time.time - 1, 2**32 - 1)
