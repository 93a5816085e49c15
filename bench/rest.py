"""REST's figures: what a waiting poll and an open event stream cost in memory, event streams against WebSockets in
deliveries per second of the server's CPU, and how soon a poll is answered.

    .venv/bin/python -m bench.rest [--waiting 5000] [--subscribers 500] [--rounds 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.client import Client
from tests.support.processes import UNLIMITED, Mongod, Server

CHANNEL = "chat:bench"
MARK = b'"offset":'
"""Once in each delivery."""
WINDOW = 32
STALL = 30.0

POLL = f"GET /v1/channels/{CHANNEL}/messages?after=0&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = f"GET /v1/channels/{CHANNEL}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2F0ZXJzcG91dCBiZW5jaA==\r\n\r\n"
)


def subscribe_frame() -> bytes:
    payload = json.dumps({"type": "subscribe", "id": 1, "channel": CHANNEL}).encode()
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload  # masked with zeros


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Listeners:
    """So many connections that have asked for the same, on one epoll. They count what they get and do nothing else."""

    def __init__(self, port: int, count: int, request: bytes, answered: Callable[[bytes], bool]) -> None:
        self.delivered = 0
        self._rest: dict[int, bytes] = {}
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=STALL)
            one.sendall(request)
            seen = b""
            while not answered(seen):
                seen += one.recv(65536)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._rest[one.fileno()] = b""
            self._epoll.register(one.fileno(), select.EPOLLIN)

    def until(self, deliveries: int) -> None:
        last = time.monotonic()
        while self.delivered < deliveries:
            for descriptor, _ in self._epoll.poll(0.1):
                data = self._sockets[descriptor].recv(1 << 18)
                if not data:
                    raise SystemExit("a connection was closed")
                data = self._rest[descriptor] + data
                self.delivered += data.count(MARK)
                self._rest[descriptor] = data[-len(MARK) + 1 :]
                last = time.monotonic()
            if time.monotonic() - last > STALL:
                raise SystemExit(f"{self.delivered} of {deliveries} deliveries came")

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._epoll.close()


async def memory(server: Server, count: int, request: str) -> float:
    """KiB of the server's resident memory for each of so many that wait."""
    # The first ones fill what the process keeps anyway.
    warm = await asyncio.to_thread(Listeners, server.port, 500, request.encode(), lambda seen: True)
    await settled(server, 500)
    warm.close()
    await settled(server, 0)
    before = server.rss()
    listeners = await asyncio.to_thread(Listeners, server.port, count, request.encode(), lambda seen: True)
    await settled(server, count)
    grown = server.rss() - before
    listeners.close()
    await settled(server, 0)
    return grown / count / 1024


async def settled(server: Server, connections: int) -> None:
    """Wait until the server has that many sockets more than when it listens to nobody."""
    quiet = server.__dict__.setdefault("quiet", server.open_files() if not connections else 0)
    for _ in range(600):
        if abs(server.open_files() - quiet - connections) < 5:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)


async def fanout(server: Server, subscribers: int, rounds: int, kind: str) -> tuple[float, float]:
    """(deliveries per second of the server's CPU, deliveries per second)."""
    if kind == "WebSocket":
        request, answered = UPGRADE.encode() + subscribe_frame(), lambda seen: b'"recovered"' in seen
    else:
        request, answered = EVENTS.encode(), lambda seen: b"\nid: " in seen
    listeners = await asyncio.to_thread(Listeners, server.port, subscribers, request, answered)
    async with Client([server.ws]) as publisher:
        data = "x" * 128

        async def burst(number: int) -> None:
            waiting = asyncio.to_thread(listeners.until, (number + 1) * WINDOW * subscribers)
            await asyncio.gather(waiting, *(publisher.publish(CHANNEL, data) for _ in range(WINDOW)))

        warm = rounds // 10 + 1
        for number in range(warm):
            await burst(number)
        began, used = time.monotonic(), cpu(server.pid)
        for number in range(warm, warm + rounds):
            await burst(number)
        took, used = time.monotonic() - began, cpu(server.pid) - used
    listeners.close()
    count = rounds * WINDOW * subscribers
    return count / used, count / took


async def poll_delay(server: Server, rounds: int) -> list[float]:
    """Milliseconds from a publish to the answer of a poll that waits for it, and to the publish's own answer."""
    delays = []
    async with Client([server.ws]) as publisher:
        cursor = (await publisher.publish(CHANNEL, 0))["cursor"]
        for _ in range(rounds):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(POLL.replace("after=0", f"after={cursor}").encode())
            await asyncio.sleep(0.02)  # it waits
            began = time.perf_counter()
            publishing = asyncio.ensure_future(publisher.publish(CHANNEL, 0))
            await reader.read()
            delays.append(1000 * (time.perf_counter() - began))
            cursor = (await publishing)["cursor"]
            writer.close()
            await writer.wait_closed()
    return delays


async def main(options: argparse.Namespace) -> None:
    settings = {**UNLIMITED, "limits.connections": 0}
    with tempfile.TemporaryDirectory() as directory:
        async with Mongod(Path(directory)) as mongod:

            def server(name: str) -> Server:
                return Server(Path(directory), mongod.uri, settings={**settings, "mongodb.database": name}, name=name)

            for name, request in (("long poll that waits", POLL), ("event stream", EVENTS)):
                async with server(f"memory-{name.split()[0]}") as one:
                    await settled(one, 0)
                    print(f"{name:24} {await memory(one, options.waiting, request):8.1f} KiB each", flush=True)
            async with server("delay") as one:
                delays = await poll_delay(one, options.rounds)
                print(f"publish → answered poll  {statistics.median(delays):8.1f} ms (p50)", flush=True)
            rates: dict[str, list[float]] = {"WebSocket": [], "event stream": []}
            for turn in range(3):
                for kind, found in rates.items():
                    async with server(f"fanout-{turn}-{kind.split()[0]}") as one:
                        per_cpu, per_second = await fanout(one, options.subscribers, options.rounds, kind)
                        found.append(per_cpu)
                        print(f"{kind:24} {per_cpu:10,.0f} deliveries/CPU s {per_second:10,.0f}/s", flush=True)
            medians = [statistics.median(found) for found in rates.values()]
            print(f"event stream / WebSocket {medians[1] / medians[0]:8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=5000)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=100)
    asyncio.run(main(parser.parse_args()))
