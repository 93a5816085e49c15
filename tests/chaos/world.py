"""One case's world: real servers on a real MongoDB and Redis, clients with ledgers, bystanders, and the verdict."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.chaos.report import Report
from tests.support.client import Client
from tests.support.ledger import MIB, PublisherLedger, SubscriberLedger, Verdict, check, read_log
from tests.support.load import Publisher, Resident, Watcher
from tests.support.processes import UNLIMITED, Redis, RedisCluster, SentinelSet, Server
from tests.support.waiting import until

LONG = os.environ.get("WATERSPOUT_CHAOS") == "long"
PATIENCE = 5.0  # s from the acknowledgement to every subscriber, whatever has failed besides MongoDB
HOT, CALM = "chat:hot", "chat:calm"  # where the fault is provoked, and where the bystanders are

T = TypeVar("T")
S = TypeVar("S", Redis, SentinelSet, RedisCluster)


def span(short: T, long: T) -> T:
    """The value for this run: `make test` is short, `make chaos` long."""
    return long if LONG else short


# Messages a second of one publisher. This process plays all the subscribers and can receive some 8,000 messages a
# second; beyond that the figures would be its own. So the long runs, with their crowds, are slower.
RATE = span(50, 25)


class World:
    """`async with World(...) as world`: it owns what is started and connected through it, and ends it in reverse."""

    def __init__(self, directory: Path, mongodb_uri: str, report: Report, settings: Mapping[str, Any] | None = None):
        self.directory = directory
        self.mongodb_uri = mongodb_uri
        self.report = report
        self.name = f"chaos_{uuid.uuid4().hex[:12]}"  # cases share a MongoDB, each with a database of its own
        self.settings = {**UNLIMITED, "mongodb.database": self.name, **(settings or {})}
        self.servers: list[Server] = []
        self.publishers: list[Publisher] = []
        self.ledgers: list[PublisherLedger] = []
        self.watchers: list[Watcher | Resident] = []
        self._stack = AsyncExitStack()
        self._rss: dict[int, int] = {}  # by pid, when the load began

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # --- what there is ----------------------------------------------------------------------------------------------

    async def redis(self) -> Redis:
        return await self.start(Redis(self.directory))

    async def start(self, servers: S) -> S:
        return await self._stack.enter_async_context(servers)

    async def start_servers(self, redis_urls: Sequence[str], mongodb_uris: Sequence[str] = ()) -> list[Server]:
        """One server for each Redis address (the same one, or that of a proxy); with MongoDB addresses likewise."""
        started = [
            Server(self.directory, uri, url, self.settings, name=f"server-{len(self.servers) + number}")
            for number, (url, uri) in enumerate(zip(redis_urls, mongodb_uris or repeat(self.mongodb_uri), strict=False))
        ]
        self.servers += started
        for server in started:
            server.launch()
            self._stack.push_async_callback(server.__aexit__, None, None, None)
        await asyncio.gather(*(server.wait_ready() for server in started))
        return started

    async def client(self, *servers: Server, name: str = "", stay: bool = True) -> Client:
        client = Client([server.ws for server in servers], name=name, stay=stay)
        self._stack.push_async_callback(client.close)
        return await client.connect()

    async def publisher(self, *servers: Server, channel: str = HOT, **options: Any) -> Publisher:
        """A publisher connected to the first of these servers, and to the next when that one is lost. Not started."""
        client = await self.client(*servers, name=f"publisher-{len(self.publishers)}")
        publisher = Publisher(client, channel, **options)
        self.publishers.append(publisher)
        self.ledgers.append(publisher.ledger)
        return publisher

    async def watch(
        self, count: int, *servers: Server, channel: str = HOT, control: bool = False, punctual: bool = True
    ) -> list[Watcher]:
        """So many subscribers, connected as a publisher would be."""

        async def one(number: int) -> Watcher:
            name = f"{'control' if control else 'watcher'}-{number}"
            client = await self.client(*servers, name=name)
            return await Watcher(client, channel, control=control, punctual=punctual).begin()

        begun = [asyncio.create_task(one(len(self.watchers) + number)) for number in range(count)]
        watchers = list(await asyncio.gather(*begun))
        self.watchers += watchers
        return watchers

    async def resident(self, server: Server, *, rate: float = 10.0, window: int = 1) -> Resident:
        """A user of the Python client; it reads already, and does not publish yet."""
        resident = Resident(server.base, HOT, rate=rate, window=window)
        self._stack.push_async_callback(resident.close)
        self.ledgers.append(resident.publishes)
        self.watchers.append(await resident.begin())
        return resident

    async def bystanders(self, *servers: Server, rate: float = 10.0) -> Publisher:
        """The control clients: well-behaved, on a channel of their own, spread over servers that are not struck
        themselves. Returns their publisher, not started."""
        for number, server in enumerate(servers):
            total = span(12, 200)
            share = total // len(servers) + (number < total % len(servers))
            await self.watch(share, server, channel=CALM, control=True)
        return await self.publisher(servers[-1], channel=CALM, rate=rate)

    def remember_memory(self) -> None:
        """From here on memory must not grow: everything is connected and warm."""
        self._rss = {server.pid: server.rss() for server in self.servers if server.running}

    def growth(self) -> int:
        """Of the server that has grown most; one that was restarted has no beginning to compare with."""
        alive = [server for server in self.servers if server.running and server.pid in self._rss]
        return max((server.rss() - self._rss[server.pid] for server in alive), default=0)

    # --- how it ends ------------------------------------------------------------------------------------------------

    async def settled(self, within: float = 30.0) -> None:
        """Send one last message into every channel and wait until all have it: nobody's subscription has silently died,
        and what was to arrive twice or late has had its chance. (Leave the publishers' `async with` before.)"""
        last = PublisherLedger("the last word")
        self.ledgers.append(last)
        client = await self.client(*(server for server in self.servers if server.running), name="last word")
        for channel in {watcher.ledger.channel for watcher in self.watchers}:
            last.sent(channel, channel, "the end")
            last.acknowledged(channel, (await client.publish_surely(channel, "the end", key=channel))["offset"])
        ledgers = [watcher.ledger for watcher in self.watchers]
        ends = {one.channel: one.offsets[0] for one in last.publications.values()}
        try:
            await until(lambda: all(one.last >= ends[one.channel] for one in ledgers), within, "quiet")
        except TimeoutError:
            pass  # the verdict names who misses what; a bare TimeoutError would not

    async def verdict(
        self, case: str, *remarks: str, patience: float = PATIENCE, growth_limit: int = 64 * MIB
    ) -> Verdict:
        """Compare all accounts, print the line and enter it in the report."""
        await self.settled()
        for watcher in self.watchers:
            watcher.close_ledger()
        subscribers: list[SubscriberLedger] = [watcher.ledger for watcher in self.watchers]
        log = await read_log(self.mongodb_uri, self.name)
        verdict = check(
            case, self.ledgers, subscribers, log, growth=self.growth(), growth_limit=growth_limit, patience=patience
        )
        self.report.add(verdict, *remarks)
        return verdict
