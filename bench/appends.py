"""What an answer costs that streams in: 2,000 tokens appended to a message, a hundred a second, and as many edits of
the whole text to compare: entries of the channel, bytes of the oplog of MongoDB, and how long a token waits.

    python -m bench.appends [tokens [tokens a second]]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from tests.support.client import Client, make_token
from tests.support.processes import UNLIMITED, Mongod, Server

SECRET = "a secret of at least thirty-two bytes"
TOKEN = "token "


def oplog(mongod: Mongod, since: Any) -> tuple[int, Any]:
    """Bytes written of messages behind `since`, and where it is now."""
    with MongoClient[Any](mongod.uri, directConnection=True) as client:
        rows = client["local"]["oplog.rs"]
        last = next(iter(rows.find().sort("$natural", -1).limit(1)))["ts"]
        if since is None:
            return 0, last
        about = [{"ns": "waterspout.waterspout.messages"}, {"o.applyOps.ns": "waterspout.waterspout.messages"}]
        found = rows.aggregate(
            [
                {"$match": {"ts": {"$gt": since}, "$or": about}},
                {"$group": {"_id": 1, "n": {"$sum": {"$bsonSize": "$$ROOT"}}}},
            ]
        )
        return next(iter(found), {"n": 0})["n"], last


async def answer(server: Server, mongod: Mongod, op: str, tokens: int, rate: float) -> None:
    async with Client(server.ws, token=make_token(SECRET, "ann")) as ann:
        channel = f"room:{op}"
        of = (await ann.publish(channel, ""))["offset"]
        since = oplog(mongod, None)[1]
        waits: list[float] = []

        async def send(number: int) -> None:
            began = time.monotonic()
            fields = {"data": TOKEN, "part": number} if op == "append" else {"data": TOKEN * number}
            await ann.request("amend", channel=channel, of=of, op=op, **fields)
            waits.append(1000 * (time.monotonic() - began))

        start = time.monotonic()
        sending = []
        for number in range(1, tokens + 1):
            await asyncio.sleep(start + number / rate - time.monotonic())
            if op == "append":
                sending.append(asyncio.create_task(send(number)))
            else:
                await send(number)
        await asyncio.gather(*sending)
        if op == "append":
            await ann.request("amend", channel=channel, of=of, op="append", data="", part=tokens + 1, done=True)
        seconds = time.monotonic() - start
        page = await ann.history(channel)
        assert page["messages"][0]["data"] == TOKEN * tokens
        await asyncio.sleep(1)
        size, _ = oplog(mongod, since)
        entries = int(page["head"].partition(":")[2]) - 1
        late = statistics.quantiles(waits, n=100)[-1]
        print(
            f"{op:7} {tokens} tokens in {seconds:.1f} s: {entries} entries, {size / 1000:.0f} kB of oplog, stored "
            f"after {statistics.median(waits):.0f} ms, 99 % within {late:.0f} ms"
        )


async def main(tokens: int, rate: float) -> None:
    directory = Path(tempfile.mkdtemp())
    mongod = Mongod(directory)
    await mongod.start()
    room = {"publish": "user", "subscribe": "anyone", "amend": "own"}
    server = Server(directory, mongod.uri, settings={**UNLIMITED, "auth.secret": SECRET, "namespaces.room": room})
    await server.start()
    try:
        for op in ("append", "edit"):
            await answer(server, mongod, op, tokens, rate)
    finally:
        await server.stop()
        await mongod.stop()


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["2000"])[0]), float((sys.argv[2:] or ["100"])[0])))
