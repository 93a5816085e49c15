"""Clients that have gone leave nothing behind that only the garbage collector would find."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.node import Node
from tests.support.client import Client, Refused
from tests.support.events import EventSource
from tests.support.waiting import until


def found() -> Counter[str]:
    """Of the server's own classes, what is in circles that nobody holds any more."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = (type(one) for one in gc.garbage)
    own = Counter(kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] in ("server", "handlers"))
    gc.garbage.clear()
    return own


async def websocket(url: str) -> None:
    client = Client(url.replace("http", "ws") + "/v1/ws")
    await client.connect()
    await client.publish("chat:a", 1)
    await client.subscribe("chat:a", last=1)
    await client.history("chat:a")
    with pytest.raises(Refused):
        await client.publish("feed:a", 1)
    await client.close()


async def aborted_websocket(url: str) -> None:
    client = Client(url.replace("http", "ws") + "/v1/ws")
    await client.connect()
    await client.subscribe("chat:a")
    client.abort()


async def event_stream(url: str) -> None:
    async with EventSource(url + "/v1/events?channel=chat:a&channel=chat:b"):
        pass


async def long_poll(url: str) -> None:
    http = AsyncHTTPClient(force_instance=True)
    first = http.fetch(url + "/v1/channels/chat:waited/messages?wait=5&after=0")
    await http.fetch(url + "/v1/channels/chat:waited/messages", method="POST", body='{"data": 1}')
    await first
    http.close()


async def refused(url: str) -> None:
    http = AsyncHTTPClient(force_instance=True)
    for path in ("/v1/channels/feed:a/messages", "/v1/nothing", "/v1/channels/feed:a/events"):
        await http.fetch(url + path, raise_error=False)
    http.close()


@pytest.mark.parametrize("visit", [websocket, aborted_websocket, event_stream, long_poll, refused])
@pytest.mark.gen_test
async def test_who_has_gone_leaves_no_circle(
    visit: Callable[[str], Awaitable[None]], base_url: str, http_server: object, node: Node
) -> None:
    """Connections come and go by the million, and when the collector looks at all that lives everybody waits."""
    await visit(base_url)
    await until(lambda: not node.admission.clients)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await visit(base_url)
        await until(lambda: not node.admission.clients)
        await asyncio.sleep(0)
        assert found() == Counter()
    finally:
        gc.enable()
