"""Everybody comes back at once: a server is killed under its subscribers, and they all return with their cursors.

The server is killed (SIGKILL) in the middle of a burst and started again on its data; more is published, and then all
clients connect at once, each with the cursor of the last message it has processed. They are back when they have
everything they missed. Afterwards all bytes every client has read are gone through: each offset once, none missing.
At the end the server is asked to leave (SIGTERM), and the delays are collected with which it sends its clients away.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from urllib.parse import quote_plus

from pymongo import MongoClient

from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Waterspout
from bench.fanout import GROWTH, texts
from bench.load import Stopwatch
from bench.servers import Server

CHANNEL = 0
BURST, BATCH = 100, 10
# Connections begun between two looks at what has come.
AT_ONCE = 64
PATIENCE = 5.0
# A client may not have processed the last few messages it was sent: so many different cursors come back.
BEHIND = 10
POSITION = re.compile(r'"offset":(\d+),"cursor":"([^"]+)"')
BEGINNING = "0"


class Writer:
    """Publishes under keys of its own, and knows which publishes are acknowledged. What is not is tried again."""

    def __init__(self, clients: Clients, dialect: Waterspout, acknowledged: dict[int, int]) -> None:
        self.clients = clients
        self.dialect = dialect
        self.acknowledged = acknowledged  # number → offset
        self.client = clients.open([()])[0]

    def publish(self, numbers: range) -> None:
        for number in numbers:
            data = f"{number:010d}".ljust(128, "x")
            text = self.dialect.acknowledged_publish(number, CHANNEL, data, key=f"herd-{number:011d}")
            self.clients.send(self.client, frame(text.encode()))

    def take(self, text: str) -> None:
        reply = json.loads(text)
        if reply["type"] != "reply":
            raise BenchError(f"not an acknowledgement: {text[:300]}")
        self.acknowledged[reply["id"]] = reply["offset"]

    def until(self, count: int) -> None:
        while len(self.acknowledged) < count:
            for client in self.clients.ready():
                self.clients.receive(client)


def measure(server: Server, dialect: Waterspout, count: int, missed: int) -> dict[str, float]:
    acknowledged: dict[int, int] = {}
    streams, sizes = _until_killed(server, dialect, count, acknowledged)
    had = [_positions(stream) for stream in streams]
    had = [positions[: len(positions) - place % BEHIND] for place, positions in enumerate(had)]
    cursors = [positions[-1][1] if positions else BEGINNING for positions in had]
    server.restart()

    again = Clients(server.port, dialect)
    again.spins = 0  # the database has this core too
    try:
        writer = Writer(again, dialect, acknowledged)
        again.on_text = lambda client, text, size: writer.take(text)
        published = BURST + missed
        writer.publish(range(published))  # the first ones are retries
        writer.until(published)
        if sorted(acknowledged.values()) != list(range(1, published + 1)):
            raise BenchError("acknowledged offsets have holes or come twice")

        figures, herd = _come_back(server, again, dialect, cursors, [published - len(seen) for seen in had], sizes)
        again.quiet(0.2)
        lost = doubled = 0
        for before, client in zip(had, herd, strict=True):
            _, _, stream = b"".join(client.record or ()).partition(b"\r\n\r\n")
            offsets = [offset for offset, _ in (*before, *_positions(stream))]
            if offsets != sorted(offsets):
                raise BenchError("a client's messages are out of order")
            lost += published - len(set(offsets))
            doubled += len(offsets) - len(set(offsets))
        figures |= {"lost": lost, "doubled": doubled}
        figures |= _sent_away(server, again, herd)
    finally:
        again.close()
    return figures


def _positions(stream: bytes) -> list[tuple[int, str]]:
    """Offset and cursor of every message in it."""
    found = filter(None, map(POSITION.search, texts(stream)))
    return [(int(match[1]), match[2]) for match in found]


def _until_killed(
    server: Server, dialect: Waterspout, count: int, acknowledged: dict[int, int]
) -> tuple[list[bytes], range]:
    """What every client has read when the server dies under it, and how long a delivery is."""
    clients = Clients(server.port, dialect)
    clients.spins = 0
    sizes: set[int] = set()

    def on_text(client: Client, text: str, size: int) -> None:
        if client is writer.client:
            writer.take(text)
        else:
            sizes.add(size)

    try:
        herd = clients.open([(CHANNEL,)] * count)
        writer = Writer(clients, dialect, acknowledged)
        clients.on_text = on_text
        for client in herd:
            client.record = []
        for first in range(0, BURST, BATCH):
            writer.publish(range(first, first + BATCH))
            if first >= BURST // 2:
                break  # nobody waits for this batch
            writer.until(first + BATCH)
        server.kill()
        streams = [b"".join(client.record or ()) + _left_over(client) for client in herd]
    finally:
        clients.close()
    return streams, range(min(sizes), max(sizes) + GROWTH)


def _left_over(client: Client) -> bytes:
    """What the kernel has kept of a dead server."""
    left = b""
    try:
        while data := client.sock.recv(1 << 20):
            left += data
    except OSError:
        pass
    return left


def _come_back(
    server: Server, clients: Clients, dialect: Waterspout, cursors: list[str], owed: list[int], sizes: range
) -> tuple[dict[str, float], list[Client]]:
    """All at once; a client is back when it has got what it is owed."""
    clients.sizes = sizes
    herd: list[Client] = []
    left: dict[Client, int] = {}
    back: list[float] = []
    with MongoClient[dict[str, object]](_mongodb(server), directConnection=True) as mongodb:
        reads, database = _reads(mongodb), server.children_cpu()
        watch = Stopwatch(server.cpu, clients)
        started = time.perf_counter()

        def look(within: float) -> bool:
            ready = clients.ready(within)
            for client in ready:
                got = clients.receive(client)
                if client in left:
                    left[client] -= got
                    if left[client] <= 0:
                        del left[client]
                        back.append(time.perf_counter() - started)
            return bool(ready)

        for cursor, missing in zip(cursors, owed, strict=True):
            client = clients.dial(dialect.resuming(CHANNEL, cursor))
            client.record = []
            herd.append(client)
            left[client] = missing
            if len(herd) % AT_ONCE == 0:
                look(0.0)
        while left and look(PATIENCE):
            pass
        measured = watch.stop(len(cursors), back)
        reads = _reads(mongodb) - reads
        database = server.children_cpu() - database
    if not back:
        raise BenchError("nobody came back")
    return {
        "clients": len(cursors),
        "positions": len(set(cursors)),
        "deliveries": sum(owed),
        "p50_s": measured.p50,
        "p99_s": measured.p99,
        "max_s": back[-1],
        "reads": reads,
        "server_cpu_s": measured.server_cpu,
        "database_cpu_s": database,
        "server_cpu": measured.server_cpu / measured.seconds,
        "generator_cpu": measured.generator_cpu / measured.seconds,
        "other_cpu": measured.other_cpu / measured.seconds,
    }, herd


def _mongodb(server: Server) -> str:
    """Of the server's embedded MongoDB."""
    return f"mongodb://{quote_plus(str(server.home / 'data' / 'mongodb' / 'mongod.sock'))}/"


def _reads(mongodb: MongoClient[dict[str, object]]) -> int:
    """Queries of the log that MongoDB has answered, whoever asked (`top` counts by collection)."""
    messages = mongodb.admin.command("top")["totals"].get("waterspout.waterspout.messages", {})
    return sum(messages[kind]["count"] for kind in ("queries", "getmore", "commands") if kind in messages)


def _sent_away(server: Server, clients: Clients, herd: list[Client]) -> dict[str, float]:
    """The delays of the `disconnect` pushes of a server that leaves."""
    delays: list[float] = []

    def on_text(client: Client, text: str, size: int) -> None:
        push = json.loads(text)
        if push["type"] == "disconnect":
            delays.append(push["delay"])

    clients.on_text = on_text
    clients.sizes = range(0)
    there = set(clients.all)
    server.terminate()
    while there:
        for client in clients.ready():
            try:
                clients.receive(client)
            except BenchError:  # the close frame, behind the push
                clients.drop(client)
                there.discard(client)
    server.wait()
    if len(delays) < len(herd):
        raise BenchError(f"{len(delays)} of {len(herd)} clients were told when to come back")
    delays.sort()
    seconds = Counter(int(delay) for delay in delays)
    return {
        "delay_p50_s": delays[len(delays) // 2],
        "delay_max_s": delays[-1],
        "busiest_second": max(seconds.values()) / len(delays),
        **{f"delays_{second}_s": float(seconds[second]) for second in range(6)},  # 1 + 2,000 / 500 at most
    }
