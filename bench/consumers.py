"""Measure consumers on one instance and one MongoDB: `python bench/consumers.py [--messages N]`. Two minutes.

`catch_up`: a back end comes back when so many messages wait for it: how fast it gets them, and how long a message of
other people's takes from its publishing to its subscriber meanwhile. Beside it the same without the consumer
(`without`), and with a process that sends the back end as much as the server would (`same_load`). Server, MongoDB, back
end and the live clients are a process each, and share the machine's cores: on two of them the difference between the
last two is what the server's own work costs. How long that holds its event loop at a stretch is told apart
(sampled.py): what other processes take is not in that.
`far`: of that only the consumer itself, for when so many messages wait that it takes minutes.
`idle`: what 200 consumers with nothing to do cost the instance and MongoDB, beside none.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from pymongo import MongoClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.servers import ROOT, process_cpu
from tests.support.client import Client
from tests.support.processes import UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until

CHANNELS = 20
BATCH = 100
PACE = 5500
"""Messages a second that a server delivers at least to who catches up (server/consumers/catching_up.py)."""
LIVE_RATE = 200
LIVE_SECONDS = 10.0
WARM_UP = 100
"""Messages behind which the clients have found their pace."""
IDLE_SECONDS = 30.0
CONSUMERS = 200
SECRET = "a secret between the two, of 32 bytes and more"
OPEN = {"publish": "anyone", "subscribe": "anyone", "history": {"size": 0, "ttl": 0}}
SETTINGS: dict[str, Any] = {**UNLIMITED, "namespaces.old": OPEN, "namespaces.live": OPEN, "mongodb.database": "bench"}


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


def send_as_much(port: int, per_second: float) -> None:
    """A process that sends the back end so many messages a second, in batches as the server's."""
    body = b'{"offset":' * BATCH + b"x" * 24_000

    async def run() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number * BATCH / per_second - time.monotonic()))
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"\r\n\r\n")

    asyncio.run(run())


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


async def catch_up(directory: Path, mongod: Mongod, messages: int, compared: bool) -> dict[str, Any]:
    port, taken = free_port(), multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=back_end, args=(port, taken), daemon=True)
    process.start()
    consumer = {"url": f"http://127.0.0.1:{port}/", "secret": SECRET, "channels": ["old:*"], "from": "beginning"}
    result: dict[str, Any] = {"messages": messages}
    async with Sampled(directory, mongod.uri, settings=SETTINGS, name="alone") as alone:
        await asyncio.to_thread(fill, mongod.uri, messages)
        await asyncio.sleep(5)  # MongoDB has a checkpoint to write
        if compared:
            result["without"] = await live(alone)
            other = multiprocessing.Process(target=send_as_much, args=(port, PACE), daemon=True)
            other.start()
            result["same_load"] = await live(alone)
            other.terminate()
            other.join()
    taken.value = 0
    async with Sampled(
        directory, mongod.uri, settings=SETTINGS | {"consumers": {"far": consumer}}, name="far"
    ) as server:
        await until(lambda: taken.value, 30, "the first message")
        await asyncio.sleep(2)
        cpu, began, first = process_cpu(server.pid), time.monotonic(), taken.value
        living = asyncio.create_task(live(server))
        goal = messages // CHANNELS * CHANNELS
        marks: list[tuple[float, int]] = []

        def done() -> bool:
            marks.append((time.monotonic() - began, taken.value - first))
            return living.done() or taken.value >= goal

        await until(done, 300, "all of them", every=0.1)
        seconds, delivered = marks[-1]
        busy = (process_cpu(server.pid) - cpu) / seconds
        during = await living
        await until(lambda: taken.value >= goal, 600, "all of them", every=0.1)
        whole = (taken.value - first) / (time.monotonic() - began)
    process.terminate()
    process.join()
    return result | {
        "during": during, "server_cpu": round(busy, 2), "per_second": round(delivered / seconds),
        "per_second_to_the_end": round(whole),
    }  # fmt: skip


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
            result["catch_up"] = await catch_up(directory, mongod, messages, "catch_up" in parts)
        if "idle" in parts:
            result["idle"] = await idle(directory, mongod)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--only", default="catch_up,idle")
    options = parser.parse_args()
    result = asyncio.run(measure(options.messages, options.only.split(",")))
    if options.only == "catch_up,idle":
        (ROOT / "bench" / "results" / "consumers.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
