"""Case 17: sockets that say nothing, half a header, or half a body."""

from __future__ import annotations

import asyncio
import resource
import time

import pytest

from tests.chaos.world import LONG, RATE, World
from tests.support.ledger import MIB

IDLE = 10_000
GREETINGS = (
    b"",
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /v1/channels/chat:x/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
)


@pytest.mark.skipif(not LONG, reason="make chaos: it waits for the real timeouts of 20 s")
@pytest.mark.gen_test(timeout=300)
async def test_17_ten_thousand_idle_sockets(world: World) -> None:
    """All are closed by the server's own timeouts, and the bystanders do not notice them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    async with world:
        redis = await world.redis()
        (server,) = await world.start_servers([redis.url])
        await world.watch(20, server)
        publisher = await world.publisher(server, rate=RATE)
        bystanders = await world.bystanders(server)
        async with bystanders, publisher:
            await publisher.until_acknowledged(RATE)
            world.remember_memory()

            async def idle(number: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(GREETINGS[number % len(GREETINGS)])
                try:
                    await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()

            began = time.monotonic()
            sockets = []
            for number in range(IDLE):
                sockets.append(asyncio.ensure_future(idle(number)))
                if number % 100 == 99:
                    await asyncio.sleep(0.02)
            await asyncio.gather(*sockets)
            took = time.monotonic() - began
            await publisher.until_acknowledged(2 * RATE)
        verdict = await world.verdict(
            f"17 {IDLE} idle sockets", f"all closed {took:.0f} s after the first", growth_limit=256 * MIB
        )
    assert verdict.ok, str(verdict)
    assert took < 120
