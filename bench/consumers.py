"""Measure consumers on one instance and one MongoDB: `python bench/consumers.py [--messages N]`. Three minutes.

`catch_up`: a back end comes back when so many messages wait for it: how fast it gets them, and how long a message of
other people's takes from its publishing to its subscriber meanwhile (`during`). Beside it, on the same instance and in
turn with it, the same while the consumer is paused (`without`); and paused, while another process asks as much of
MongoDB and of the back end as the consumer has just done (`same_load`): the same pages, cursors and requests, without
what a server has to do with them. So `during` / `same_load` is what the server's own work costs other people, and
`same_load` / `without` what the machine takes for the rest of it, whoever asks. Medians of the rounds. The server has
core 0, which that other process shares with it; MongoDB, back end and the live clients share core 1.
How long the server's work holds its event loop at a stretch is told apart (sampled.py): what other processes take is
not in that.
`far`: only the consumer, until it has all of so many messages, with one look at other people's.
`idle`: what 200 consumers with nothing to do cost the instance and MongoDB, beside none.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, UpdateOne, WriteConcern

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.servers import GENERATOR_CORE, ROOT, SERVER_CORE, process_cpu
from tests.support.client import Client
from tests.support.processes import UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until

CHANNELS = 20
BATCH = 100
WRITE_AFTER = 3
"""Batches between two writes of cursors: about as many as there are in 50 ms."""
LIVE_RATE = 200
LIVE_SECONDS = 8.0
ROUNDS = 3
WARM_UP = 100
"""Messages behind which the clients have found their pace."""
IDLE_SECONDS = 30.0
CONSUMERS = 200
SECRET = "a secret between the two, of 32 bytes and more"
KEY = "the key of who measures"
OPEN = {"publish": "anyone", "subscribe": "anyone", "history": {"size": 0, "ttl": 0}}
SETTINGS: dict[str, Any] = {
    **UNLIMITED, "namespaces.old": OPEN, "namespaces.live": OPEN, "mongodb.database": "bench",
    "auth.api_keys": {"bench": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
}  # fmt: skip


def back_end(port: int, taken: Any) -> None:
    """A process that answers 204 and counts messages."""

    class Hook(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.data = transport, b""

        def data_received(self, data: bytes) -> None:
            self.data += data
            while (end := self.data.find(b"\r\n\r\n")) >= 0:
                head = self.data[:end].lower()
                size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = self.data[end + 4 : end + 4 + size]
                if len(body) < size:
                    return
                self.data = self.data[end + 4 + size :]
                with taken.get_lock():
                    taken.value += body.count(b'"offset":')
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def run() -> None:
        async with await asyncio.get_running_loop().create_server(Hook, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(run())


def ask_as_much(uri: str, port: int, each: int, per_second: Any, going: Any) -> None:
    """A process that, while it is `going`, asks MongoDB and the back end for what a server does that delivers so many
    messages a second out of channels with `each`: pages, requests, cursors."""
    os.sched_setaffinity(0, {SERVER_CORE})
    database = MongoClient[Any](uri, document_class=RawBSONDocument)["bench"]
    cursors = database["a server's cursors"].with_options(write_concern=WriteConcern("majority", j=True))
    body = b'{"offset":' * BATCH + b"x" * 24_000
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    size = {"$bsonSize": "$$ROOT"}
    only = {"_id": 1, "m": {"$cond": [{"$gt": [size, 4096]}, size, "$$ROOT"]}}
    majority = {"readConcern": {"level": "majority"}}
    with socket.create_connection(("127.0.0.1", port)) as back_end:
        due = time.monotonic()
        for number in itertools.count():
            if not going.is_set():
                going.wait()
                due = time.monotonic()
            due += BATCH / per_second.value
            time.sleep(max(0.0, due - time.monotonic()))
            channel, offset = f"old:{number % CHANNELS}", number // CHANNELS * BATCH % each
            behind = {"_id": {"$gt": {"c": channel, "o": offset}, "$lte": {"c": channel, "o": 1 << 40}}}
            page = {"filter": behind, "sort": {"_id": 1}, "projection": only, "limit": BATCH, "batchSize": BATCH + 1}
            database.command({"find": "waterspout.messages", **page, **majority})
            database.command({"find": "waterspout.channels", "filter": {"_id": {"$in": [channel]}}, **majority})
            back_end.sendall(request)
            back_end.recv(1 << 16)
            if number % WRITE_AFTER == 0:
                moved = [UpdateOne({"_id": one}, {"$set": {"o": number}}, upsert=True) for one in range(WRITE_AFTER)]
                cursors.bulk_write(moved, ordered=False)


class Sampled(Server):
    """A server that says how long its loop is held."""

    def command(self) -> list[str]:
        python, _, *flags = super().command()
        return [python, str(ROOT / "bench" / "sampled.py"), str(self._samples), *flags]

    @property
    def _samples(self) -> Path:
        return self.directory / f"{self.name}.held"

    async def samples(self) -> dict[str, Any]:
        """Since the last time."""
        self._samples.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        await until(self._samples.exists, 10, "the samples")
        told: dict[str, Any] = json.loads(self._samples.read_text())
        return told


def fill(uri: str, messages: int) -> None:
    """Write a log as the server would have, and faster."""
    with MongoClient[Any](uri) as client:
        database = client["bench"]
        epoch = database["waterspout.meta"].find_one({"_id": "epoch"})
        assert epoch is not None
        now = int(time.time() * 1000)
        each = messages // CHANNELS
        for number in range(CHANNELS):
            for first in range(1, each + 1, 10_000):
                rows = [
                    {
                        "_id": {"c": f"old:{number}", "o": offset}, "e": epoch["epoch"], "u": "ann", "k": f"k{offset}",
                        "t": now, "d": {"n": offset, "text": "x" * 100},
                    }
                    for offset in range(first, min(first + 10_000, each + 1))
                ]  # fmt: skip
                database["waterspout.messages"].insert_many(rows, ordered=False)


async def live(server: Sampled) -> dict[str, Any]:
    """How long messages took from publishing to the subscriber, in a calm channel that no consumer follows."""
    await server.samples()
    took: list[float] = []
    with suppress(PermissionError):  # to whom the clients' own machine is one of these cores
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    async with Client(server.ws) as publisher, Client(server.ws) as subscriber:
        subscription = await subscriber.subscribe("live:a")
        total = int(LIVE_RATE * LIVE_SECONDS) + WARM_UP

        async def read() -> None:
            for _ in range(total):
                message = await subscription.message(within=30)
                took.append(time.monotonic() - message["data"])

        reading = asyncio.create_task(read())
        began = time.monotonic()
        for number in range(total):
            await asyncio.sleep(max(0.0, began + number / LIVE_RATE - time.monotonic()))
            await publisher.send({"type": "publish", "channel": "live:a", "data": time.monotonic()})
        await reading
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    return quantiles(took[WARM_UP:]) | {"loop": await server.samples()}


def quantiles(took: list[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(took, n=100)
    return {f"p{part}_ms": round(cuts[part - 1] * 1000, 2) for part in (50, 90, 99)}


class CatchUp:
    """A server with a consumer that is far behind, its back end, and who asks as much in its place."""

    def __init__(self, directory: Path, mongod: Mongod, messages: int) -> None:
        self._directory, self._mongod, self._messages = directory, mongod, messages
        self._taken = multiprocessing.Value("q", 0)
        self._pace, self._asks = multiprocessing.Value("d", 1.0), multiprocessing.Event()

    async def measure(self, compared: bool) -> dict[str, Any]:
        async with Sampled(self._directory, self._mongod.uri, settings=SETTINGS, name="fills"):
            await asyncio.to_thread(fill, self._mongod.uri, self._messages)
        port = free_port()
        asked = self._mongod.uri, port, self._messages // CHANNELS - BATCH
        others = [
            multiprocessing.Process(target=back_end, args=(port, self._taken), daemon=True),
            multiprocessing.Process(target=ask_as_much, args=(*asked, self._pace, self._asks), daemon=True),
        ]
        for one in others:
            one.start()
        consumer = {"url": f"http://127.0.0.1:{port}/", "secret": SECRET, "channels": ["old:*"], "from": "beginning"}
        settings = SETTINGS | {"consumers": {"far": consumer}}
        try:
            async with Sampled(self._directory, self._mongod.uri, settings=settings, name="far") as server:
                await until(lambda: self._taken.value, 30, "the first message")
                found = await (self._compare(server) if compared else self._to_the_end(server))
        finally:
            for one in others:
                one.terminate()
                one.join()
        return {"messages": self._messages, **found}

    async def _compare(self, server: Sampled) -> dict[str, Any]:
        rounds: list[dict[str, Any]] = []
        for _ in range(ROUNDS):
            one: dict[str, Any] = {}
            await server.post("/v1/consumers/far/resume", {}, token=KEY)
            await asyncio.sleep(1)
            one["during"] = await self._live(server)
            await server.post("/v1/consumers/far/pause", {}, token=KEY)
            await asyncio.sleep(1)
            self._pace.value = max(one["during"]["per_second"], 1)
            self._asks.set()
            await asyncio.sleep(1)
            one["same_load"] = await self._live(server)
            self._asks.clear()
            await asyncio.sleep(1)
            one["without"] = await self._live(server)
            rounds.append(one)
        medians = {name: median_of([one[name] for one in rounds]) for name in ("without", "same_load", "during")}
        p99 = [{name: found["p99_ms"] for name, found in one.items()} for one in rounds]
        ratios = {
            other: round(statistics.median(one["during"] / one[other] for one in p99), 2)
            for other in ("same_load", "without")
        }
        return {**medians, "p99_during_by": ratios, "p99_of_rounds": p99}

    async def _to_the_end(self, server: Sampled) -> dict[str, Any]:
        await asyncio.sleep(2)
        began, first = time.monotonic(), self._taken.value
        during = await self._live(server)
        goal = self._messages // CHANNELS * CHANNELS
        await until(lambda: self._taken.value >= goal, 600, "all of them", every=0.1)
        return {"during": during, "per_second_to_the_end": round((goal - first) / (time.monotonic() - began))}

    async def _live(self, server: Sampled) -> dict[str, Any]:
        """The same as `live`, with what the server does meanwhile and what it and MongoDB need for it."""
        before = time.monotonic(), self._taken.value, process_cpu(server.pid), process_cpu(self._mongod.pid)
        found = await live(server)
        after = time.monotonic(), self._taken.value, process_cpu(server.pid), process_cpu(self._mongod.pid)
        seconds, taken, cpu, mongod_cpu = (one - other for one, other in zip(after, before, strict=True))
        figures = {"per_second": taken / seconds, "server_cpu": cpu / seconds, "mongod_cpu": mongod_cpu / seconds}
        return found | {name: round(figure, 2) for name, figure in figures.items()}


def median_of(some: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure, wherever it stands."""
    return {
        name: median_of([one[name] for one in some])
        if isinstance(value, dict)
        else round(statistics.median(one[name] for one in some), 2)
        for name, value in some[0].items()
    }


async def idle(directory: Path, mongod: Mongod) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for count in (0, CONSUMERS):
        consumers = {
            f"c{number}": {"url": "http://127.0.0.1:1/", "secret": SECRET, "channels": [f"old:{number}", "docs:none"]}
            for number in range(count)
        }
        async with Server(
            directory, mongod.uri, settings=SETTINGS | {"consumers": consumers}, name=f"idle{count}"
        ) as one:
            await asyncio.sleep(8)
            before = await mongod.admin("serverStatus")
            cpu = process_cpu(one.pid), process_cpu(mongod.pid)
            await asyncio.sleep(IDLE_SECONDS)
            after = await mongod.admin("serverStatus")
            kinds = ("insert", "query", "update", "getmore", "command")
            commands = sum(after["opcounters"][kind] - before["opcounters"][kind] for kind in kinds)
            result[str(count)] = {
                "server_cpu_percent": round((process_cpu(one.pid) - cpu[0]) / IDLE_SECONDS * 100, 2),
                "mongod_cpu_percent": round((process_cpu(mongod.pid) - cpu[1]) / IDLE_SECONDS * 100, 2),
                "commands_per_second": round(commands / IDLE_SECONDS, 1),
                "resident_mib": round(one.rss() / (1 << 20)),
            }
    return result


async def measure(messages: int, parts: list[str]) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongod = await stack.enter_async_context(Mongod(directory))
        result: dict[str, Any] = {}
        if {"catch_up", "far"} & {*parts}:
            result["catch_up"] = await CatchUp(directory, mongod, messages).measure("catch_up" in parts)
        if "idle" in parts:
            result["idle"] = await idle(directory, mongod)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--only", default="catch_up,idle")
    options = parser.parse_args()
    os.sched_setaffinity(0, {GENERATOR_CORE})  # and with it whoever is started here
    result = asyncio.run(measure(options.messages, options.only.split(",")))
    if options.only == "catch_up,idle":
        (ROOT / "bench" / "results" / "consumers.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
