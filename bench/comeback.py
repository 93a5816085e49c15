"""Everybody comes back, in Centrifugo's protocol: after all connections were cut, and after the server was killed.

The clients are subscribed to one channel, and all of them are gone when more is published and acknowledged. Then they
dial all at once, each with the position it had. One is back when it has everything it missed, from the moment the
first one dialled, or when it is told that nothing is recovered. Afterwards all bytes every client has read are gone
through. Between the two the server is killed (SIGKILL) and started again on its data, if it keeps any.
"""

from __future__ import annotations

import re
import time

from bench.centrifuge import CentrifugeJson
from bench.clients import BenchError, Client, Clients
from bench.fanout import GROWTH
from bench.load import Stopwatch
from bench.servers import Server

CHANNEL = 1_000_000  # nobody else's
HAD = 10
# Connections begun between two looks at what has come.
AT_ONCE = 64
DATA = b'"data":"'
NUMBER = re.compile(DATA + rb"(\d{10})x")
EPOCH = re.compile(rb'"epoch":"([^"]+)"')


def measure(server: Server, dialect: CentrifugeJson, count: int, missed: int) -> dict[str, float]:
    epoch, sizes = _learn(server, dialect)
    clients = Clients(server.port, dialect)
    clients.open([(CHANNEL,)] * count)
    clients.close()

    _publish(server, dialect, range(HAD, HAD + missed))
    cut = _come_back(server, dialect, [epoch] * count, range(HAD, HAD + missed), sizes)
    if cut["lost"]:
        raise BenchError(f"{cut['lost']} messages were lost by a cut")

    later = range(HAD + missed, HAD + 2 * missed)
    _publish(server, dialect, later)
    server.kill()
    server.restart()
    killed = _come_back(server, dialect, [epoch] * count, later, sizes)
    return {f"cut_{key}": value for key, value in cut.items()} | {f"killed_{key}": one for key, one in killed.items()}


def _publish(server: Server, dialect: CentrifugeJson, numbers: range) -> None:
    """All of them acknowledged."""
    clients = Clients(server.port, dialect)
    waiting = set(numbers)

    def on_text(client: Client, text: str, size: int) -> None:
        if (acknowledged := dialect.acknowledgement(text)) is None:
            raise BenchError(f"not an acknowledgement: {text[:300]}")
        waiting.remove(acknowledged[0])

    try:
        writer = clients.open([()])[0]
        clients.on_text = on_text
        texts = (dialect.acknowledged_publish(one, CHANNEL, f"{one:010d}".ljust(128, "x")) for one in numbers)
        clients.send(writer, b"".join(map(clients.framed, texts)))
        while waiting:
            for client in clients.ready():
                clients.receive(client)
    finally:
        clients.close()


def _learn(server: Server, dialect: CentrifugeJson) -> tuple[str, range]:
    """The epoch of the channel, and how long a delivery is."""
    clients = Clients(server.port, dialect)
    sizes: list[int] = []
    clients.on_text = lambda client, text, size: sizes.append(size)
    try:
        client = clients.dial(dialect.opening((CHANNEL,)))
        client.record = []
        while client.steps:
            clients.ready()
            clients.receive(client)
        _publish(server, dialect, range(HAD))
        while len(sizes) < HAD:
            clients.ready()
            clients.receive(client)
        found = EPOCH.search(b"".join(client.record))
    finally:
        clients.close()
    if found is None:
        raise BenchError("a subscription without an epoch")
    return found[1].decode(), range(min(sizes), max(sizes) + GROWTH)


class _Returning:
    """One client on its way back. `owed` is how many messages it has yet to get."""

    def __init__(self, client: Client, owed: int) -> None:
        self.client = client
        self.owed = owed
        self.recovered: bool | None = None
        self.record: list[bytes] = []
        client.record = self.record
        self._looked_at = 0

    @property
    def back(self) -> bool:
        return self.recovered is False or (self.recovered is True and self.owed <= 0)

    def look(self) -> None:
        """At what has been read since the last time; a message may be cut in two by a read."""
        for place in range(self._looked_at, len(self.record)):
            read = self.record[place]
            before = self.record[place - 1][1 - len(DATA) :] if place else b""
            self.owed -= read.count(DATA) + (before + read[: len(DATA) - 1]).count(DATA)
        self._looked_at = len(self.record)
        if self.recovered is None and self.client.upgraded and not self.client.steps:
            self.recovered = b'"recovered":true' in b"".join(self.record)


def _come_back(
    server: Server, dialect: CentrifugeJson, epochs: list[str], missed: range, sizes: range
) -> dict[str, float]:
    """All at once, with the position before `missed`."""
    clients = Clients(server.port, dialect)
    clients.spins = 0  # a database has this core too
    clients.count(sizes)
    herd: list[_Returning] = []
    away: dict[Client, _Returning] = {}
    back: list[float] = []

    def look(within: float | None) -> None:
        for client in clients.ready(within):
            clients.receive(client)
            if one := away.get(client):
                one.look()
                if one.back:
                    del away[client]
                    back.append(time.perf_counter() - started)

    try:
        database = server.children_cpu()
        watch = Stopwatch(server.cpu, clients)
        started = time.perf_counter()
        for epoch in epochs:
            one = _Returning(clients.dial(dialect.recovering(CHANNEL, missed.start, epoch)), len(missed))
            herd.append(one)
            away[one.client] = one
            if len(herd) % AT_ONCE == 0:
                look(0.0)
        while away:
            look(None)
        measured = watch.stop(len(herd), back)
        database = server.children_cpu() - database
        clients.quiet(0.2)
    finally:
        clients.close()
    lost = doubled = 0
    for one in herd:
        numbers = [int(number) for number in NUMBER.findall(b"".join(one.record))]
        if numbers != sorted(numbers) or not set(numbers) <= set(missed):
            raise BenchError("a client's messages are out of order, or not what it missed")
        lost += len(missed) - len(set(numbers))
        doubled += len(numbers) - len(set(numbers))
    return {
        "recovered": sum(bool(one.recovered) for one in herd) / len(herd),
        "p50_s": measured.p50,
        "max_s": max(back),
        "server_cpu_s": measured.server_cpu,
        "database_cpu_s": database,
        "lost": lost,
        "doubled": doubled,
    }
