"""How long does the event loop stand still while one address floods it? `python bench/flood.py [ATTACK…]`

The server runs in this process, the attackers in another one: CONNECTIONS sockets of one address, each sending what the
attack says as fast as it is taken. Printed is how late, at most, the loop ran what was due every 2 ms; how much of that
it had computed for (the rest, the machine has kept the processor from it); and the longest round trip of a client that
does nothing but ping.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from tornado.netutil import bind_sockets

from handlers import make_app
from handlers.server import HTTPServer
from server.core import config
from server.mongo.embedded import EmbeddedMongoDB
from server.node import Node

CONNECTIONS = 50
LOOK_EVERY = 0.002


def frame(payload: bytes, opcode: int = 1, final: bool = True) -> bytes:
    first, size = final << 7 | opcode, len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 0xFE, size) + bytes(4) + payload
    return struct.pack("!BBQ", first, 0xFF, size) + bytes(4) + payload


def command(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


ATTACKS: dict[str, Callable[[], bytes]] = {
    "malformed": lambda: frame(b"0") * 10_000,
    "pings": lambda: command(type="ping", id=1) * 3_000,
    "control-pings": lambda: frame(b"", 9) * 20_000,
    "fragments": lambda: frame(b"", 1, False) + frame(b"", 0, False) * 60_000,
    "subscribes": lambda: b"".join(command(type="subscribe", id=n, channel=f"chat:f{n}") for n in range(2_000)),
    "unsubscribes": lambda: command(type="unsubscribe", id=1, channel="chat:nowhere") * 3_000,
    "denied": lambda: command(type="publish", id=1, channel="feed:news", data=1) * 3_000,
    "wide": lambda: frame(b"[" + b",".join([b"0"] * 9_990) + b"]") * 50,
    "deep": lambda: frame(b'{"a":' * 30 + b"0" + b"}" * 30) * 3_000,
    "large": lambda: command(type="publish", id=1, channel="chat:large", data="x" * 60_000) * 30,
}


def attack(name: str, port: int) -> None:
    data = ATTACKS[name]()
    key = base64.b64encode(os.urandom(16)).decode()
    hello = (
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()

    def one() -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(hello)
                connection.recv(4096)
                reader = threading.Thread(target=drain, args=(connection,))
                reader.start()
                connection.sendall(data)
                reader.join(15)
        except OSError:
            pass

    def drain(connection: socket.socket) -> None:
        try:
            connection.settimeout(2)
            while connection.recv(1 << 18):
                pass
        except OSError:
            pass

    threads = [threading.Thread(target=one) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def measure(node: Node, name: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    lags: list[float] = []
    computed: list[float] = []

    async def look() -> None:
        while True:
            due, began = time.perf_counter() + LOOK_EVERY, time.thread_time()
            await asyncio.sleep(LOOK_EVERY)
            lags.append(time.perf_counter() - due)
            computed.append(min(lags[-1], time.thread_time() - began))

    trips: list[float] = []
    stop = threading.Event()

    def ping() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            connection.recv(4096)
            while not stop.is_set():
                began = time.perf_counter()
                connection.sendall(command(type="ping", id=1))
                connection.recv(4096)
                trips.append(time.perf_counter() - began)
                time.sleep(0.02)

    pinger = loop.run_in_executor(None, ping)
    await asyncio.sleep(0.5)
    looking = loop.create_task(look())
    attackers = await asyncio.create_subprocess_exec(sys.executable, __file__, "--attack", name, str(port))
    await attackers.wait()
    looking.cancel()
    stop.set()
    await pinger
    codes = {code: count for code, count in node.incidents.refusals.items() if count}
    node.incidents.refusals.clear()
    late, busy, trip = (max(seconds) * 1000 for seconds in (lags, computed, trips))
    return f"{name:14} at most: loop late by {late:.0f} ms, computing {busy:.0f} ms; a ping {trip:.0f} ms; {codes}"


async def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedMongoDB(Path(folder))
        values = {"limits.connections_per_ip": 200, "limits.requests_per_second": 0}
        options = config.load(Path(__file__).resolve().parents[1] / "config.yaml", {}, values.items())
        node = Node(options, await embedded.start())
        await node.start()
        sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
        server = HTTPServer(make_app(node), sockets)
        try:
            for name in names:
                print(await measure(node, name, sockets[0].getsockname()[1]), flush=True)
        finally:
            server.stop()
            await node.close()
            await embedded.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        attack(sys.argv[2], int(sys.argv[3]))
    else:
        uvloop.run(main(sys.argv[1:] or list(ATTACKS)))
