"""Snapshots: what a view shows as of one moment, page by page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator
from functools import partial
from itertools import accumulate
from typing import Any, Final

from bson import Timestamp

from server.core.worker import Worker
from server.documents import document_json
from server.documents.document_json import Json
from server.documents.queries import beyond, by_id, filter_of, owned
from server.documents.views import View
from server.mongo.client import mapped
from server.mongo.databases import Database

SNAPSHOT_PAGE: Final = 500
SNAPSHOT_BYTES: Final = 256 << 10
"""What a page of a snapshot aims at: it is one frame, and many clients take frames of up to 1 MiB only."""
LARGE: Final = 1 << 20
"""Documents over this are not in the log, so they are not in a snapshot either."""


async def snapshot(
    database: Database, worker: Worker, view: View, at: Timestamp
) -> AsyncGenerator[tuple[list[Json], bool], None]:
    """(documents, whether there are more), page by page, all as of one moment; each page is a read of its own, so that
    nothing is held while a client is slow. `unavailable` if MongoDB cannot go back there (any more)."""
    last: Any = None
    more, limit = True, SNAPSHOT_PAGE // 5
    which = [
        document_json.VISIBLE if view.id is None else by_id(view.id),
        filter_of(view.where),
        owned(view.owner),
    ]
    async with await database.client.start_session() as session:
        while more:
            pipeline = [
                {"$match": {"$and": [*which, *([] if last is None else [beyond(last)])]}},
                {"$sort": {"_id": 1}},
                {"$limit": limit},
                {"$project": {"_id": 1, "d": {"$cond": [{"$gt": [{"$bsonSize": "$$ROOT"}, LARGE]}, None, "$$ROOT"]}}},
            ]
            with mapped():
                reply = await database.command(
                    {
                        "aggregate": view.collection,
                        "pipeline": pipeline,
                        "cursor": {"batchSize": limit},
                        "readConcern": {"level": "snapshot", "atClusterTime": at},
                    },
                    session=session,
                    codec_options=document_json.RAW,
                )
                cursor = reply["cursor"]
                rows = cursor["firstBatch"]
                if cursor["id"]:  # a reply ends at 16 MB
                    await database.command({"killCursors": view.collection, "cursors": [cursor["id"]]}, session=session)
            sizes = list(accumulate(len(row.raw) for row in rows))
            # What does not fit is read again, rather than held while the client is slow.
            fitting = max(1, bisect_right(sizes, SNAPSHOT_BYTES))
            more = len(rows) == limit or len(rows) > fitting or bool(cursor["id"])
            rows = rows[:fitting]
            limit = max(1, min(SNAPSHOT_PAGE, limit * SNAPSHOT_BYTES // max([1, *sizes[-1:]])))
            if rows:
                last = rows[-1]["_id"]
            yield await worker.run(sizes[fitting - 1] if rows else 0, partial(_shown, rows)), more


def _shown(rows: list[Any]) -> list[Json]:
    return [
        {"_id": str(row["_id"]), "_rev": None, "_truncated": True}
        if row["d"] is None
        else document_json.document(row["d"].raw)
        for row in rows
    ]
