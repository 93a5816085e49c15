"""A fleet comes back: many clients with many private channels each, all with history, after the server was killed.

Every channel belongs to one client, which has missed the newest few messages of each of its channels. The server is
killed (SIGKILL) and started again on its data, so no channel is open and nothing is in memory; then all clients connect
at once and subscribe to all of their channels, each with its cursor. Who has everything it has missed is whole.
"""

from __future__ import annotations

import json
import time
from urllib.parse import quote_plus

from pymongo import MongoClient

from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Waterspout
from bench.load import Stopwatch, fill
from bench.servers import Server

MESSAGES = 8
BEHIND = 5
DATA = "x" * 128
# Connections begun between two looks at what has come.
AT_ONCE = 64
PATIENCE = 20.0


def measure(server: Server, dialect: Waterspout, clients: int, channels: int) -> dict[str, float]:
    """`clients` clients with `channels` channels each."""
    cursors = fill(server.port, dialect, clients * channels, MESSAGES, BEHIND, DATA)
    server.kill()
    server.restart()
    return _come_back(server, dialect, cursors, clients, channels)


def _come_back(server: Server, dialect: Waterspout, cursors: list[str], count: int, channels: int) -> dict[str, float]:
    clients = Clients(server.port, dialect)
    clients.spins = 0
    owed: dict[Client, set[tuple[str, int]]] = {}
    greeted: set[Client] = set()
    whole: list[float] = []
    doubled = 0

    def on_text(client: Client, text: str, _: int) -> None:
        nonlocal doubled
        push = json.loads(text)
        if push["type"] == "message":
            place = (push["channel"], push["offset"])
            doubled += place not in owed[client]
            owed[client].discard(place)
            if not owed[client]:
                whole.append(time.perf_counter() - started)
        elif push["type"] != "reply" or not push["recovered"]:
            raise BenchError(f"not recovered: {text[:300]}")

    clients.on_text = on_text
    frames: dict[Client, bytes] = {}
    try:
        with MongoClient[dict[str, object]](_mongodb(server), directConnection=True) as mongodb:
            before, database = _commands(mongodb), server.children_cpu()
            watch = Stopwatch(server.cpu, clients)
            started = time.perf_counter()

            def look(within: float) -> bool:
                ready = clients.ready(within)
                for client in ready:
                    clients.receive(client)
                    if client.upgraded and client not in greeted:
                        greeted.add(client)
                        clients.send(client, frames.pop(client))
                return bool(ready)

            for place in range(count):
                mine = range(place * channels, (place + 1) * channels)
                client = clients.dial([])
                frames[client] = b"".join(_resuming(dialect, channel, cursors[channel]) for channel in mine)
                offsets = range(MESSAGES - BEHIND + 1, MESSAGES + 1)
                owed[client] = {(dialect.channel(channel), offset) for channel in mine for offset in offsets}
                if place % AT_ONCE == 0:
                    look(0.0)
            while len(whole) < count and look(PATIENCE):
                pass
            measured = watch.stop(count * channels, whole)
            commands = _commands(mongodb) - before
            database = server.children_cpu() - database
    finally:
        clients.close()
    if len(whole) < count:
        raise BenchError(f"{count - len(whole)} of {count} clients are not whole")
    return {
        "clients": count,
        "subscriptions": count * channels,
        "per_cpu_second": measured.per_cpu_second,
        "p50_s": measured.p50,
        "max_s": whole[-1],
        "server_cpu_s": measured.server_cpu,
        "database_cpu_s": database,
        "commands": commands,
        "doubled": doubled,
        "server_cpu": measured.server_cpu / measured.seconds,
        "generator_cpu": measured.generator_cpu / measured.seconds,
        "other_cpu": measured.other_cpu / measured.seconds,
    }


def _resuming(dialect: Waterspout, channel: int, cursor: str) -> bytes:
    ((text, _),) = dialect.resuming(channel, cursor)
    return frame(text.encode())


def _mongodb(server: Server) -> str:
    return f"mongodb://{quote_plus(str(server.home / 'data' / 'mongodb' / 'mongod.sock'))}/"


def _commands(mongodb: MongoClient[dict[str, object]]) -> int:
    """Reads of any kind that MongoDB has answered, whoever asked."""
    counts = mongodb.admin.command("serverStatus")["metrics"]["commands"]
    return sum(int(counts[name]["total"]) for name in ("find", "aggregate", "getMore", "count", "distinct"))
