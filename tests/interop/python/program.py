"""A user of PyPI's `centrifuge-python`, as README.md of this folder describes them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import centrifuge

ENV = os.environ
BINARY = ENV["INTEROP_PROTOCOL"] == "protobuf"


def encode(value: Any) -> Any:
    return json.dumps(value).encode() if BINARY else value


def decode(data: Any) -> Any:
    return json.loads(data) if BINARY else data


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


async def step(name: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
        say(step=name)
    except Exception as error:
        say(step=name, failed=f"{type(error).__name__}: {error}")


class Publications(centrifuge.SubscriptionEventHandler):
    def __init__(self) -> None:
        self.recoverable = False
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def on_subscribed(self, context: centrifuge.SubscribedContext) -> None:
        self.recoverable = context.recoverable

    async def on_publication(self, context: centrifuge.PublicationContext) -> None:
        self.queue.put_nowait(decode(context.pub.data))


async def main() -> None:
    refreshed = asyncio.Event()

    async def get_token() -> str:
        refreshed.set()
        return ENV["INTEROP_NEXT_TOKEN"]

    client = centrifuge.Client(
        ENV["INTEROP_URL"],
        token=ENV["INTEROP_TOKEN"],
        get_token=get_token,
        use_protobuf=BINARY,
        max_reconnect_delay=1.0,
        proxy=None,
    )
    publications = Publications()
    own = client.new_subscription(ENV["INTEROP_CHANNEL"], publications)

    async def connect() -> None:
        await client.connect()
        await client.ready(10)

    async def subscribe() -> None:
        await own.subscribe()
        await own.ready(10)
        assert publications.recoverable, "the subscription is not recoverable"

    async def publish() -> None:
        await own.publish(encode({"hello": "world"}))
        async with asyncio.timeout(10):
            assert (await publications.queue.get())["hello"] == "world"

    async def history() -> None:
        found = await own.history(limit=10)
        assert (
            decode(
                found.publications[0].pub.data if hasattr(found.publications[0], "pub") else found.publications[0].data
            ),
            found.offset,
        ) == ({"hello": "world"}, 1)

    async def presence() -> None:
        found = await own.presence()
        assert any(one.user == ENV["INTEROP_USER"] for one in found.clients.values()), "the client is not there"

    async def refresh() -> None:
        async with asyncio.timeout(30):
            await refreshed.wait()
        await own.presence()

    for work in (connect, subscribe, publish, history, presence, refresh):
        await step(work.__name__, work)

    storm = Publications()
    listening = client.new_subscription(ENV["INTEROP_STORM"], storm)
    await listening.subscribe()
    await listening.ready(10)
    say(step="ready")
    seen: list[int] = []
    while len(set(seen)) < int(ENV["INTEROP_COUNT"]):
        seen.append((await storm.queue.get())["n"])
    ordered = seen == list(range(1, len(seen) + 1))
    say(step="storm", received=len(seen), distinct=len(set(seen)), ordered=ordered)
    await client.disconnect()


asyncio.run(main())
