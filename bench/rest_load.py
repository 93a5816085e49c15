"""Requests per CPU second of the server: publishing, reading history and batches over REST, and opening WebSockets,
beside plain Tornado that echoes JSON and opens WebSockets.

    .venv/bin/python -m bench.rest_load [--requests 6000] [--runs 3] [--connections 32]

Fixed work on `--connections` kept connections, one request at a time on each; medians of the runs. History is of
channels that nobody has open, with ten messages of 128 bytes each; a batch has twenty messages.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.support.processes import LOOPBACK, UNLIMITED, Mongod, Server, free_port

CHANNELS = 500
MESSAGES = 10
BATCH = 20
SETTINGS = {
    **UNLIMITED,
    "limits.connections": 0,
    "limits.user_messages_per_second": 0,
    "mongodb.database": "bench",
}
UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
)


def data(number: int) -> str:
    """128 bytes on the average: not all requests have the same headers, as their bodies differ in length."""
    return "x" * (64 + number % 129)


def post(path: str, value: object) -> bytes:
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    more = f"User-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + more).encode() + body


def publish(number: int) -> bytes:
    return post(f"/v1/channels/chat:{number % CHANNELS}/messages", {"data": data(number)})


def batch(number: int) -> bytes:
    channels = [f"chat:batch-{(number * BATCH + at) % CHANNELS}" for at in range(BATCH)]
    return post("/v1/publish", {"messages": [{"channel": channel, "data": data(number)} for channel in channels]})


def history(number: int) -> bytes:
    path = f"/v1/channels/chat:{number % CHANNELS}/messages?limit={MESSAGES}"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n".encode()


def echo(number: int) -> bytes:
    return post("/echo", {"data": data(number)})


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(port: int, pid: int, connections: int, request: Callable[[int], bytes], count: int, status: bytes) -> float:
    """Requests per CPU second."""
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    pending: dict[int, bytes] = {}
    sent = done = 0
    for _ in range(connections):
        one = socket.create_connection((LOOPBACK, port), timeout=30)
        sockets[one.fileno()] = one
        poller.register(one.fileno(), select.EPOLLIN)
    used = cpu(pid)
    for descriptor, one in sockets.items():
        one.sendall(request(sent))
        pending[descriptor] = b""
        sent += 1
    while done < count:
        events = poller.poll(30)
        if not events:
            raise SystemExit(f"{done} of {count} answers came")
        for descriptor, _ in events:
            data = pending[descriptor] + sockets[descriptor].recv(1 << 18)
            head, end, body = data.partition(b"\r\n\r\n")
            at = head.find(b"ontent-Length: ")
            if end and len(body) >= int(head[at + 15 :].partition(b"\r")[0]):
                if status not in head[:20]:
                    raise SystemExit(f"not what was asked for: {data[:300]!r}")
                data = b""
                done += 1
                if sent < count:
                    sockets[descriptor].sendall(request(sent))
                    sent += 1
            pending[descriptor] = data
    used = cpu(pid) - used
    for one in sockets.values():
        one.close()
    return count / used


def connect(port: int, pid: int, count: int) -> float:
    """WebSockets opened per CPU second, with those that are kept open in hundreds."""
    used = cpu(pid)
    for _ in range(count // 100):
        crowd = [socket.create_connection((LOOPBACK, port), timeout=30) for _ in range(100)]
        for one in crowd:
            one.sendall(UPGRADE % base64.b64encode(os.urandom(16)))
        for one in crowd:
            if b" 101 " not in one.recv(4096):
                raise SystemExit("no WebSocket")
        for one in crowd:
            one.close()
    return count / (cpu(pid) - used)


@contextmanager
def plain_tornado() -> Iterator[tuple[int, int]]:
    port = free_port()
    peer = Path(__file__).parent / "peers" / "tornado_echo.py"
    process = subprocess.Popen([sys.executable, str(peer)], env={**os.environ, "PORT": str(port)})
    try:
        for _ in range(200):
            try:
                socket.create_connection((LOOPBACK, port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


async def main(options: argparse.Namespace) -> None:
    figures: dict[str, list[float]] = {}

    async def measure(name: str, work: Callable[..., float], *arguments: object) -> None:
        figures.setdefault(name, []).append(await asyncio.to_thread(work, *arguments))

    count = options.requests
    with tempfile.TemporaryDirectory() as directory:
        async with Mongod(Path(directory)) as mongod:
            server = Server(Path(directory), mongod.uri, settings=SETTINGS)
            async with server:
                await asyncio.to_thread(
                    ask, server.port, server.pid, options.connections, publish, CHANNELS * MESSAGES, b" 201 "
                )
            for _ in range(options.runs):
                async with server:
                    address = server.port, server.pid
                    await measure("publish", ask, *address, options.connections, publish, count, b" 201 ")
                    await measure("history", ask, *address, options.connections, history, count // 4, b" 200 ")
                    await measure("batch of 20", ask, *address, options.connections, batch, count // 20, b" 200 ")
                    await measure("connect", connect, *address, count // 2)
                with plain_tornado() as address:
                    await measure("Tornado echo", ask, *address, options.connections, echo, count, b" 201 ")
                    await measure("Tornado connect", connect, *address, count // 2)
    medians = {name: median(found) for name, found in figures.items()}
    for name, found in figures.items():
        runs = ", ".join(f"{one:,.0f}" for one in found)
        print(f"{name:16} {medians[name]:8,.0f} / CPU s   ({runs})")
    print(f"publish / Tornado echo      {medians['publish'] / medians['Tornado echo']:5.2f}")
    print(f"connect / Tornado connect   {medians['connect'] / medians['Tornado connect']:5.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
