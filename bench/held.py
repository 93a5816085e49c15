"""How long does what one client sends hold the event loop? `python -m bench.held [--where] [ATTACK…]`

The server runs in this process, with the default limits (but without quotas and the rate of requests, so that an attack
can go on); the attacker is a process of its own (bench/attacks.py), everything from one address. Printed is, of each
attack, the longest that the loop was held at a stretch: how late it ran what was due every millisecond, but no longer
than this process computed meanwhile, in whatever thread: what a busy machine or a slow disk took is not in it. "late"
is the same with it. "ping" is the longest round trip of a client that does nothing but ping. `--where` shows as well
what the loop was at while it was held for more than 30 ms.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from tornado.netutil import bind_sockets

import run
from bench.attacks import ATTACKS, COLLECTIONS, CONNECTIONS, command, refusals
from handlers import make_app
from handlers.server import HTTPServer
from server.core import config
from server.core.collector import Collector
from server.mongo.embedded import EmbeddedMongoDB
from server.node import Node

LOOK_EVERY = 0.001
WHERE = "--where" in sys.argv


class Look:
    """What happened between two turns of the loop."""

    def __init__(self) -> None:
        self.held = 0.0
        self.late = 0.0
        self.turned = time.perf_counter()
        self.places: Counter[str] = Counter()

    async def go_on(self) -> None:
        while True:
            self.turned = time.perf_counter()
            due, began = time.perf_counter() + LOOK_EVERY, time.process_time()
            await asyncio.sleep(LOOK_EVERY)
            late = time.perf_counter() - due
            self.late = max(self.late, late)
            self.held = max(self.held, min(late, time.process_time() - began))

    def watch(self, thread: int, stop: threading.Event) -> None:
        """From another thread: note what `thread` is at while it is held."""
        while not stop.wait(0.003):
            if time.perf_counter() - self.turned > 0.03:
                stack = traceback.extract_stack(sys._current_frames()[thread])
                self.places[" < ".join(f"{one.name}:{one.lineno}" for one in reversed(stack[-5:]))] += 1


def ping(port: int, stop: threading.Event) -> float:
    """Until `stop`; the longest round trip."""
    longest = 0.0
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
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.02)
    return longest


async def measure(node: Node, name: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    pinger = loop.run_in_executor(None, ping, port, stop)
    await asyncio.sleep(0.3)
    look = Look()
    looking = loop.create_task(look.go_on())
    if WHERE:
        threading.Thread(target=look.watch, args=(threading.get_ident(), stop), daemon=True).start()
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.held", "--attack", name, str(port), "-v"
    )
    await attacker.wait()
    await asyncio.sleep(0.5)
    looking.cancel()
    stop.set()
    trip = await pinger
    codes = " ".join(f"{code}:{count}" for code, count in node.incidents.refusals.items() if count)
    node.incidents.refusals.clear()
    for place, count in look.places.most_common(8):
        print(f"    {count:4} {place}")
    return f"| {name} | {look.held * 1000:.0f} | {look.late * 1000:.0f} | {trip * 1000:.0f} | {codes} |"


async def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedMongoDB(Path(folder))
        values = {
            "limits.connections_per_ip": CONNECTIONS + 10,
            "limits.requests_per_second": 0,
            "quotas.enforced": False,
            "collections": {name: {"read": "anyone", "write": "anyone", **one} for name, one in COLLECTIONS.items()},
        }
        options = config.load(run.ROOT / "config.yaml", {}, values.items())
        node = Node(options, await embedded.start())
        await node.start()
        sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
        server = HTTPServer(make_app(node), sockets)
        Collector().start()
        print("| attack | held ms | late ms | ping ms | refused |\n|---|---:|---:|---:|---|")
        try:
            for name in names:
                print(await measure(node, name, sockets[0].getsockname()[1]), flush=True)
        finally:
            server.stop()
            await node.close()
            await embedded.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        ATTACKS[sys.argv[2]](int(sys.argv[3]))
        if refusals and "-v" in sys.argv:
            print(*refusals, sep="\n", file=sys.stderr)
    else:
        uvloop.run(main([name for name in sys.argv[1:] if name != "--where"] or list(ATTACKS)))
