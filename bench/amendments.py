"""What amendments cost: publishes a second in a namespace with `amend` and in one without, in turn; and a page of
history of messages that were edited many times, with others still pending.

    python -m bench.amendments [seconds]
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
OPEN = {"publish": "user", "subscribe": "user"}
CONNECTIONS, WINDOW, ROUNDS = 8, 64, 3


async def publishes(server: Server, namespace: str, amended: bool, seconds: float) -> float:
    """A second, each connection in a channel of its own; `amended`: each has an amendment already, so entries are
    counted."""
    clients = [await Client(server.ws, token=make_token(SECRET, f"u{n}")).connect() for n in range(CONNECTIONS)]
    stored = 0
    until = time.monotonic() + seconds

    async def run(number: int, client: Client) -> None:
        nonlocal stored
        channel = f"{namespace}:{'amended' if amended else 'plain'}-{number}"
        if amended:
            first = await client.publish(channel, "first")
            await client.request("amend", channel=channel, of=first["offset"], op="edit", data="edited")

        async def one_by_one() -> None:
            nonlocal stored
            while time.monotonic() < until:
                await client.publish(channel, {"text": "x" * 100})
                stored += 1

        await asyncio.gather(*(one_by_one() for _ in range(WINDOW)))

    await asyncio.gather(*(run(number, client) for number, client in enumerate(clients)))
    for client in clients:
        await client.close()
    return stored / seconds


async def page(server: Server, mongod: Mongod, edits: int, pending: int) -> float:
    """Milliseconds of a page of 100, the median of 50, after so many edits, of which some are not folded."""
    async with Client(server.ws, token=make_token(SECRET, "ann")) as ann:
        channel = f"on:page-{edits}-{pending}"
        for number in range(100):
            await ann.publish(channel, {"text": "x" * 100, "n": number})
        for number in range(edits):
            await ann.request("amend", channel=channel, of=1 + number % 100, op="edit", data={"text": "y" * 100})
        if pending:
            with MongoClient[Any](mongod.uri) as client:
                rows = client["waterspout"]["waterspout.messages"]
                last = list(rows.find({"_id.c": channel, "z": {"$gt": 0}}).sort("_id", -1).limit(pending))
                soon = int(time.time() * 1000) + 600_000  # so that nobody folds them meanwhile
                for row in last:
                    rows.update_one({"_id": row["_id"]}, {"$set": {"p": 1, "d": {"text": "z"}, "t": soon}})
        times = []
        for _ in range(50):
            began = time.perf_counter()
            answer = await ann.history(channel, limit=100)
            times.append(1000 * (time.perf_counter() - began))
            assert len(answer["messages"]) == 100
        return statistics.median(times)


async def main(seconds: float) -> None:
    directory = Path(tempfile.mkdtemp())
    mongod = Mongod(directory)
    await mongod.start()
    settings = {
        **UNLIMITED, "auth.secret": SECRET, "namespaces.on": OPEN | {"amend": "own"}, "namespaces.off": OPEN,
    }  # fmt: skip
    server = Server(directory, mongod.uri, settings=settings)
    await server.start()
    try:
        rates: dict[str, list[float]] = {"off": [], "on": [], "on, counted": []}
        for _ in range(ROUNDS):
            for name in rates:
                rates[name].append(await publishes(server, name[:3].rstrip(","), "counted" in name, seconds))
        for name, found in rates.items():
            print(f"amend {name:12} {statistics.median(found):7.0f} publishes/s  {[round(one) for one in found]}")
        for edits, pending in ((0, 0), (100, 0), (1000, 0), (1000, 50)):
            print(f"page of 100, {edits} edits, {pending} pending: {await page(server, mongod, edits, pending):.1f} ms")
    finally:
        await server.stop()
        await mongod.stop()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0))
