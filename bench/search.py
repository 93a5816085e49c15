"""How long a search takes: a common word, a rare one and the beginning of one, in a channel of many messages and over
the 50 rooms of a user; and what words cost: publishes a second with and without them, in turn, and bytes of the index.

    python -m bench.search [messages]
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from server.log.words import words_of
from tests.support.client import Client, make_token
from tests.support.processes import UNLIMITED, Mongod, Server

SECRET = "a secret of at least thirty-two bytes"
ROOMS = 50
WORDS = [
    f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in ("n", "r", "s", "lo", "ti")
]


def text(number: int, chosen: random.Random) -> str:
    """Twelve words of 300, the first ones most often; `hello` in every second message, `quixotic` in one of 10,000."""
    words = [WORDS[min(int(chosen.expovariate(0.02)), len(WORDS) - 1)] for _ in range(12)]
    return " ".join(words + ["hello"] * (number % 2) + ["quixotic"] * (number % 10_000 == 77))


def fill(mongod: Mongod, channel: str, number: int, epoch: str) -> None:
    chosen = random.Random(channel)
    now = int(1000 * time.time()) - number  # younger than what retention takes
    with MongoClient[Any](mongod.uri) as client:
        messages = client["waterspout"]["waterspout.messages"]
        for begin in range(1, number + 1, 5000):
            rows = []
            for offset in range(begin, min(begin + 5000, number + 1)):
                data = text(offset, chosen)
                place = {
                    "_id": {"c": channel, "o": offset},
                    "e": epoch,
                    "u": "bob",
                    "k": f"k{offset}",
                    "t": now + offset,
                }
                rows.append(place | {"d": data, "ws": words_of(data)})
            messages.insert_many(rows, ordered=False)


async def timed(client: Client, name: str, q: str, channels: list[str]) -> None:
    times = []
    for _ in range(30):
        began = time.perf_counter()
        page = await client.request("search", q=q, limit=20, **({"channels": channels} if channels else {}))
        times.append(1000 * (time.perf_counter() - began))
    print(f"{name:28} {statistics.median(times):7.1f} ms, {len(page['messages'])} found")


async def rate(server: Server, namespace: str) -> float:
    stored = 0
    async with Client(server.ws, token=make_token(SECRET, "ann")) as ann:
        until = time.monotonic() + 3

        async def run(number: int) -> None:
            nonlocal stored
            chosen = random.Random(number)
            while time.monotonic() < until:
                await ann.publish(f"{namespace}:rate", text(number, chosen))
                stored += 1

        await asyncio.gather(*(run(number) for number in range(64)))
    return stored / 3


async def main(number: int) -> None:
    directory = Path(tempfile.mkdtemp())
    mongod = Mongod(directory)
    await mongod.start()
    room = {"publish": "user", "subscribe": "user", "members": True, "join": "anyone"}
    spaces = {"namespaces.room": room | {"search": True}, "namespaces.plain": {"publish": "user", "subscribe": "user"}}
    spaces["namespaces.found"] = spaces["namespaces.plain"] | {"search": True}
    server = Server(directory, mongod.uri, settings={**UNLIMITED, "auth.secret": SECRET, **spaces})
    await server.start()
    try:
        with MongoClient[Any](mongod.uri) as client:
            epoch = client["waterspout"]["waterspout.meta"].find_one({"_id": "epoch"})["epoch"]
        async with Client(server.ws, token=make_token(SECRET, "ann")) as ann:
            for index in range(ROOMS):
                await ann.request("join", channel=f"room:{index}")
            await asyncio.to_thread(fill, mongod, "room:0", number, epoch)
            for index in range(1, ROOMS):
                await asyncio.to_thread(fill, mongod, f"room:{index}", number // ROOMS, epoch)
            with MongoClient[Any](mongod.uri) as client:
                sizes = client["waterspout"].command("collStats", "waterspout.messages")
                words, every = sizes["indexSizes"]["words"], number + (ROOMS - 1) * (number // ROOMS)
            print(f"{every} messages; the index of words has {words / every:.0f} bytes for each")
            for name, q in (
                ("common word", "hello "),
                ("rare word", "quixotic "),
                ("common and rare", "hello quixotic "),
                ("beginning of a common word", "hel"),
                ("beginning of a rare word", "quix"),
                ("none", "nothing "),
            ):
                await timed(ann, f"{name}, one channel", q, ["room:0"])
                await timed(ann, f"{name}, {ROOMS} rooms", q, [])
        rates: dict[str, list[float]] = {"plain": [], "found": []}
        for _ in range(3):
            for namespace, found in rates.items():
                found.append(await rate(server, namespace))
        print({name: round(statistics.median(found)) for name, found in rates.items()}, "publishes/s")
    finally:
        await server.stop()
        await mongod.stop()


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["200000"])[0])))
