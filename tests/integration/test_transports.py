"""One cursor on every transport: a client that hops between them under load misses nothing and sees nothing twice.
And what people use: curl."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import Client
from tests.support.events import EventSource
from tests.support.ledger import SubscriberLedger, check, offset_of, read_log
from tests.support.load import Publisher
from tests.support.plain_http import plain
from tests.support.processes import UNLIMITED, Mongod, Redis, Server

CHANNEL = "chat:hop"
DATABASE = "transports"


@asynccontextmanager
async def two_servers(directory: Path, mongod: Mongod) -> AsyncIterator[list[Server]]:
    settings = {**UNLIMITED, "mongodb.database": DATABASE}
    async with Redis(directory) as redis:
        servers = [Server(directory, mongod.uri, redis.url, settings, name=f"server-{n}") for n in range(2)]
        async with servers[0], servers[1]:
            yield servers


class Hopper:
    """Takes some messages by WebSocket, then some by SSE, then by long poll, and so on, on one server after the other,
    leaving without a word each time."""

    STAGE = 25

    def __init__(self, name: str, servers: list[Server], http: httpx.AsyncClient) -> None:
        self.ledger = SubscriberLedger(name, CHANNEL)
        self.cursor = "0"
        self.hops = 0
        self._servers = itertools.cycle(servers)
        self._http = http

    def take(self, push: Any) -> None:
        self.ledger.take(push)
        self.cursor = push["cursor"]

    async def run(self, upto: asyncio.Future[int]) -> None:
        """Until the offset is reached that comes to be known some time."""
        while not upto.done() or self.ledger.last < upto.result():
            stage = (self.by_websocket, self.by_events, self.by_joined_events, self.by_polls)[self.hops % 4]
            self.hops += 1
            try:
                async with asyncio.timeout(3):
                    await stage(next(self._servers))
            except TimeoutError:
                assert upto.done(), f"{self.ledger.name} got nothing for a while"

    async def by_websocket(self, server: Server) -> None:
        client = Client([server.ws])
        try:
            await client.connect()
            subscription = await client.subscribe(CHANNEL, after=self.cursor)
            for _ in range(self.STAGE):
                self.take(await subscription.next())
        finally:
            client.abort()
            await client.close()

    async def by_events(self, server: Server) -> None:
        path = f"/v1/channels/{CHANNEL}/events"
        async with EventSource(server.base + path, {"Last-Event-ID": self.cursor}) as events:
            for _ in range(self.STAGE):
                event = await events.next()
                assert event.id == event.data["cursor"]
                self.take(event.data)

    async def by_joined_events(self, server: Server) -> None:
        """With another channel beside it, and half of the way with the joined cursor."""
        path = f"/v1/events?channel={CHANNEL}&channel=chat:quiet"
        async with EventSource(f"{server.base}{path}&after={self.cursor}&after=0") as events:
            for _ in range(self.STAGE // 2):
                self.take((event := await events.next()).data)
        async with EventSource(server.base + path, {"Last-Event-ID": str(event.id)}) as events:
            for _ in range(self.STAGE // 2):
                self.take((await events.next()).data)

    async def by_polls(self, server: Server) -> None:
        taken = 0
        while taken < self.STAGE:
            answer = await self._http.get(
                f"{server.base}/v1/channels/{CHANNEL}/messages",
                params={"after": self.cursor, "wait": 2, "limit": 10},
            )
            page = answer.json()
            assert page["gap"] is None
            for message in page["messages"]:
                self.take(message)
            taken += len(page["messages"])
            self.cursor = page["cursor"]


@pytest.mark.gen_test(timeout=120)
async def test_hopping_between_transports_and_servers(tmp_path: Path, mongod: Mongod) -> None:
    """0 lost, 0 duplicate, 0 out of order, by the ledgers."""
    async with (
        two_servers(tmp_path, mongod) as servers,
        plain(timeout=30) as http,
        Client([servers[0].ws]) as one,
        Client([servers[1].ws]) as two,
    ):
        publishers = [Publisher(client, CHANNEL, rate=100, name=client.name) for client in (one, two)]
        hoppers = [Hopper(f"hopper-{n}", servers[n % 2 :] + servers[: n % 2], http) for n in range(4)]
        upto: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(hopper.run(upto)) for hopper in hoppers]
        async with publishers[0], publishers[1]:
            await publishers[0].until_acknowledged(600)
        upto.set_result(max(offset_of(await _head(servers[0], http)), 1))
        await asyncio.gather(*tasks)
        log = await read_log(mongod.uri, DATABASE, [CHANNEL])
        assert min(hopper.hops for hopper in hoppers) >= 12
    ledgers = [publisher.ledger for publisher in publishers]
    verdict = check("hopping", ledgers, [hopper.ledger for hopper in hoppers], log)
    assert verdict.ok, str(verdict)


async def _head(server: Server, http: httpx.AsyncClient) -> str:
    return str((await http.get(f"{server.base}/v1/channels/{CHANNEL}/messages?limit=1")).json()["head"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.gen_test(timeout=60)
async def test_curl(base_url: str, http_server: object) -> None:
    """Publish, wait, listen: `curl -N` shows events as they come."""

    async def curl(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec("curl", "-sS", *arguments, stdout=asyncio.subprocess.PIPE)

    url = f"{base_url}/v1/channels/chat:a"
    listening = await curl("-N", "-H", "Last-Event-ID: 0", f"{url}/events")
    polling = await curl("--compressed", f"{url}/messages?after=0&wait=30")
    publishing = await curl("--json", '{"data": "ü"}', f"{url}/messages")
    try:
        async with asyncio.timeout(20):
            receipt, _ = await publishing.communicate()
            answer, _ = await polling.communicate()
            assert listening.stdout is not None
            lines = []
            while not (lines and lines[-1].startswith("data: ")):
                lines.append((await listening.stdout.readline()).decode().rstrip("\n"))
    finally:
        listening.terminate()
        await listening.communicate()
    cursor = json.loads(receipt)["cursor"]
    assert [message["data"] for message in json.loads(answer)["messages"]] == ["ü"]
    assert lines[-3:-1] == ["event: message", f"id: {cursor}"]
    assert json.loads(lines[-1].removeprefix("data: "))["data"] == "ü"
