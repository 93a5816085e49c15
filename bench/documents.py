"""Live documents, measured on this machine: `python bench/documents.py`, some two minutes. Nothing is compared; it says
what the way from a write to whoever watches it costs. The server has its embedded MongoDB, all on loopback."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server.delivery.hub import Delivery, Hub
from server.documents.views import View
from server.documents.where import parse
from server.wire.codec import JSON
from server.wire.messages import Message
from tests.support.client import Client
from tests.support.documents import watch
from tests.support.processes import Server

RATE = 500
FILTERS = 10
WATCHERS = 1000
SETTINGS = {
    "collections.bench": {"read": "anyone", "write": "anyone"},
    "limits.messages_per_second": 0,
    "limits.connections_per_ip": 0,
}


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def cpu(server: Server) -> float:
    """CPU seconds of the server process, without its MongoDB."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def paced(client: Client, rate: float, seconds: float, fields: dict[str, Any]) -> int:
    """Writes at a steady rate, each to another of 1,000 documents, as they fall due and not one after the other."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    under_way: set[asyncio.Task[Any]] = set()
    count = int(rate * seconds)
    for number in range(count):
        await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
        document = {**fields, "sent": time.time(), "group": number % FILTERS, "number": number}
        task = asyncio.create_task(
            client.request("put", collection="bench", document_id=f"d{number % 1000}", document=document)
        )
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    return count


async def latency(server: Server, seconds: float) -> dict[str, float]:
    """From the moment a writer sends a put to the moment a watcher has read the change."""
    delays: list[float] = []
    async with Client(server.ws) as writer, Client(server.ws) as reader:

        def take(push: dict[str, Any]) -> None:
            if push["type"] == "message":
                delays.append(time.time() - push["data"]["document"]["sent"])

        await reader.subscribe("docs:bench", on_push=take)
        await paced(writer, RATE, 2, {})
        delays.clear()
        count = await paced(writer, RATE, seconds, {"text": "x" * 100})
        while len(delays) < count:
            await asyncio.sleep(0.01)
    return {"p50 ms": 1000 * statistics.median(delays), "p99 ms": 1000 * percentile(delays, 0.99)}


async def requests(server: Server, method: str, path: str, bodies: list[bytes]) -> None:
    """One after the other on a kept connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for number, body in enumerate(bodies):
        head = f"{method} {path.format(number)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.split()[1] in (b"200", b"201"), answer
        length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
    writer.close()


async def rest(server: Server, seconds: float) -> dict[str, float]:
    body = json.dumps({"name": "x" * 100, "price": 1.5}).encode()
    each = int(15 * seconds)
    begin, used = time.monotonic(), cpu(server)
    jobs = [requests(server, "PUT", f"/v1/documents/bench/{n}-{{}}", [body] * each) for n in range(32)]
    await asyncio.gather(*jobs)
    singles = 32 * each / (time.monotonic() - begin)
    per_write = (cpu(server) - used) / (32 * each)
    batches = int(2 * seconds)

    def batch(worker: int, number: int) -> bytes:
        puts = [
            {"op": "put", "document_id": f"{worker}-{number}-{n}", "document": {"name": "x" * 100, "price": n}}
            for n in range(500)
        ]
        return json.dumps({"writes": puts}).encode()

    begin = time.monotonic()
    many = [[batch(worker, number) for number in range(batches)] for worker in range(2)]
    await asyncio.gather(*(requests(server, "POST", "/v1/documents/bench:batch", bodies) for bodies in many))
    batched = 2 * batches * 500 / (time.monotonic() - begin)
    return {"single puts/s": singles, "ms of CPU per put": 1000 * per_write, "puts/s in batches of 500": batched}


async def snapshot(server: Server) -> dict[str, float]:
    """10,000 documents of some 200 bytes."""
    puts = [{"op": "put", "document_id": f"s{n}", "document": {"name": "x" * 150, "n": n}} for n in range(10_000)]
    bodies = [json.dumps({"writes": puts[i : i + 500]}).encode() for i in range(0, len(puts), 500)]
    await requests(server, "POST", "/v1/documents/bench:batch", bodies)
    where = {"n": {"$gte": 0}}
    async with Client(server.ws) as client:
        await watch(client, "docs:bench/s1")  # what is imported and cached at the first time
        before, begin = server.rss(), time.monotonic()
        copy, _ = await watch(client, "docs:bench", where=where)
        took = time.monotonic() - begin
        assert len(copy.documents) == 10_000, len(copy.documents)
        grown = server.rss() - before
    clients = [await Client(server.ws).connect() for _ in range(10)]
    begin = time.monotonic()
    await asyncio.gather(*(watch(client, "docs:bench", where=where) for client in clients))
    ten = time.monotonic() - begin
    memory = server.rss() - before
    for client in clients:
        await client.close()
    return {
        "seconds": took,
        "MiB grown": grown / 2**20,
        "seconds, ten at once": ten,
        "MiB grown by ten": memory / 2**20,
    }


class Counter(asyncio.Protocol):
    """A watcher that costs next to nothing: it counts bytes."""

    def __init__(self, command: dict[str, Any]) -> None:
        self.bytes = 0
        self.transport: asyncio.Transport
        self._command = json.dumps(command).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert len(self._command) < 126
        # Masked with zeros, which change nothing.
        transport.write(bytes((0x81, 0x80 | len(self._command), 0, 0, 0, 0)) + self._command)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)


async def watchers(server: Server, seconds: float) -> dict[str, float]:
    """CPU of the server per change: with nobody watching, with 10 filters, and with 1,000 watchers of those filters."""
    loop = asyncio.get_running_loop()
    counters: list[Counter] = []

    async def per_change(writer: Client) -> float:
        await paced(writer, 200, 1, {})
        used = cpu(server)
        count = await paced(writer, 200, seconds, {})
        await asyncio.sleep(0.5)
        return (cpu(server) - used) / count * 1e6

    figures: dict[str, float] = {}
    async with Client(server.ws) as writer:
        for total in (0, FILTERS, WATCHERS):
            while len(counters) < total:
                where = {"group": len(counters) % FILTERS}
                command = {"type": "subscribe", "channel": "docs:bench", "where": where}
                _, counter = await loop.create_connection(lambda c=command: Counter(c), "127.0.0.1", server.port)
                counters.append(counter)
            figures[f"µs of CPU per change, {total} watchers of {FILTERS} filters"] = await per_change(writer)
    assert all(counter.bytes > 1000 for counter in counters)
    for counter in counters:
        counter.transport.abort()
    return figures


class Null:
    """A sink that takes everything."""

    id = ""
    codec = JSON

    def send(self, delivery: Delivery) -> None: ...

    def flush(self) -> None: ...


async def hub(server: Server) -> dict[str, float]:
    """The hub's own share, without sockets and MongoDB, whose cost hides it: a change before 10 filters, of which one
    shows it, and its way to that filter's 1 or 100 watchers."""
    del server
    figures: dict[str, float] = {}
    documents = [
        {"_id": f"d{n}", "_rev": "r", "group": n % FILTERS, "price": n, "text": "x" * 100} for n in range(1000)
    ]
    for total in (FILTERS, WATCHERS):
        under_test = Hub()
        for number in range(total):
            view = View("docs:bench", "bench", where=parse({"group": number % FILTERS, "price": {"$gte": 0}}))
            under_test.add("docs:bench", Null(), view=view)
        used = time.process_time()
        for number in range(20_000):
            document = documents[number % 1000]
            data = {"op": "put", "id": document["_id"], "rev": "r", "document": document}
            change = Message("docs:bench", "e", number + 1, "k", None, 0, data, images=(document, None))
            under_test.deliver([change])
            await asyncio.sleep(0)
        figures[f"µs per change, {total} watchers of {FILTERS} filters"] = (time.process_time() - used) / 20_000 * 1e6
    few, many = figures.values()
    figures["µs per change and watcher"] = (many - few) / (WATCHERS - FILTERS)
    return figures


async def main(seconds: float) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    for name, scenario in {
        f"write → watcher at {RATE}/s": lambda server: latency(server, seconds),
        "REST": lambda server: rest(server, seconds),
        "snapshot of 10,000 documents": snapshot,
        "views": lambda server: watchers(server, seconds),
        "views, in the hub alone": hub,
    }.items():
        with tempfile.TemporaryDirectory() as directory:
            async with Server(Path(directory), settings=SETTINGS) as server:
                results[name] = await scenario(server)
        for what, value in results[name].items():
            print(f"{name:30} {what:55} {value:10.1f}", flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="how long each measurement takes")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    figures = asyncio.run(main(options.seconds))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
