"""Measure presence on three instances, one MongoDB and one Redis: `python bench/presence.py`. A minute.

`killed`: seconds from `kill -9` of one instance until both others show exactly the users that are left.
`storm`: USERS who come within a moment, and go again: what each was told, what went through Redis, and the CPU of the
three instances together. All processes share the machine's cores with the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.clients import frame
from bench.servers import ROOT, process_cpu
from tests.support.client import make_token
from tests.support.processes import UNLIMITED, Mongod, Redis, Server
from tests.support.waiting import until

USERS = 1000
SECRET = "a secret of at least thirty-two bytes"
ROOM = "room:a"
SETTINGS: dict[str, Any] = {
    **UNLIMITED,
    "auth.secret": SECRET,
    "namespaces.room": {"presence": True, "publish": "anyone", "subscribe": "anyone"},
}
UPGRADE = (
    "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {token}\r\n\r\n"
)


class User(asyncio.Protocol):
    """One connection, which counts what it is told and reads nothing else of it."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.joins = self.leaves = 0
        self.upgraded = asyncio.get_running_loop().create_future()
        self._rest = b""

    async def connect(self) -> User:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        await self.upgraded
        return self

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(UPGRADE.format(port=self.port, token=make_token(SECRET, self.name)).encode())

    def data_received(self, data: bytes) -> None:
        if not self.upgraded.done():
            self.upgraded.set_result(None)
        data = self._rest + data
        self.joins += data.count(b'{"type":"join"')
        self.leaves += data.count(b'{"type":"leave"')
        # What may be the beginning of one; a whole one in it would be counted twice.
        start = data.rfind(b"{", len(data) - 14) if b"{" in data[-14:] else len(data)
        self._rest = data[start:] if len(data) - start < 14 else b""

    def send(self, command: str) -> None:
        self._transport.write(frame(json.dumps({"type": command, "channel": ROOM}).encode()))

    def close(self) -> None:
        self._transport.abort()


async def count(server: Server) -> int:
    body = (await server.get(f"/v1/channels/{ROOM}/presence")).body
    number: int = body["count"]
    return number


async def everywhere(servers: list[Server], number: int, within: float = 60.0) -> None:
    async def agreed() -> bool:
        return all([await count(server) == number for server in servers])

    await until(agreed, within, f"{number} users everywhere", every=0.1)


async def published(redis: Redis) -> int:
    """PUBLISH commands that Redis has carried out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    try:
        writer.write(b"INFO commandstats\r\n")
        size = int((await reader.readline())[1:])
        lines = (await reader.readexactly(size)).decode().splitlines()
        return next((int(line.split("=")[1].split(",")[0]) for line in lines if "cmdstat_publish:" in line), 0)
    finally:
        writer.close()


async def storm(servers: list[Server], redis: Redis) -> dict[str, Any]:
    users = [await User(f"user{n:04}", servers[n % 3].port).connect() for n in range(USERS)]
    result: dict[str, Any] = {}
    for command, what in (("subscribe", "joins"), ("unsubscribe", "leaves")):
        before, carried = sum(process_cpu(server.pid) for server in servers), await published(redis)
        began = time.perf_counter()
        for user in users:
            user.send(command)
        await everywhere(servers, USERS if command == "subscribe" else 0)
        agreed = time.perf_counter() - began
        told = 0
        while told != (told := sum(getattr(user, what) for user in users)):
            await asyncio.sleep(1)  # until nothing comes any more
        seconds = time.perf_counter() - began
        beats = round(seconds * len(servers))
        result[what] = {
            "users": USERS,
            "pushes": told,
            "redis_messages_without_beats": await published(redis) - carried - beats,
            "server_cpu_seconds": round(sum(process_cpu(server.pid) for server in servers) - before, 2),
            "seconds_until_all_agree": round(agreed, 2),
        }
    for user in users:
        user.close()
    return result


async def killed(servers: list[Server]) -> dict[str, Any]:
    users = [await User(f"user{n:04}", servers[n % 3].port).connect() for n in range(300)]
    for user in users:
        user.send("subscribe")
    await everywhere(servers, 300)
    await servers[2].kill()
    began = time.perf_counter()
    await everywhere(servers[:2], 200)
    seconds = time.perf_counter() - began
    for user in users:
        user.close()
    return {"users": 300, "of_the_killed_instance": 100, "seconds_until_right_everywhere": round(seconds, 1)}


async def measure() -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongod = await stack.enter_async_context(Mongod(directory))
        redis = await stack.enter_async_context(Redis(directory))
        servers = [
            await stack.enter_async_context(Server(directory, mongod.uri, redis.url, SETTINGS, name=f"server{n}"))
            for n in range(3)
        ]
        return {"storm": await storm(servers, redis), "killed": await killed(servers)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = asyncio.run(measure())
    (ROOT / "bench" / "results" / "presence.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
