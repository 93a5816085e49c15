"""The proxy really does to a connection what the chaos tests say it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.processes import LOOPBACK
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=20)

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def echoing() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that says everything back."""
    server = await asyncio.start_server(_echo, LOOPBACK, 0)
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def connect(proxy: Proxy) -> Stream:
    return await asyncio.open_connection(LOOPBACK, proxy.port)


async def ask(stream: Stream, text: bytes, within: float = 2.0) -> bytes:
    stream[1].write(text)
    return await asyncio.wait_for(stream[0].readexactly(len(text)), within)


async def test_it_forwards_both_ways_and_passes_a_fin_on() -> None:
    async with echoing() as proxy:
        stream = await connect(proxy)
        assert await ask(stream, b"x" * 1_000_000) == b"x" * 1_000_000
        stream[1].write_eof()
        assert await stream[0].read() == b""
        stream[1].close()
        await until(lambda: proxy.links == 0, 2, "end of the link")


async def test_a_delay_makes_every_chunk_late_but_keeps_order() -> None:
    async with echoing() as proxy:
        stream = await connect(proxy)
        proxy.delay(0.1)
        began = time.monotonic()
        for number in range(10):
            stream[1].write(b"%d" % number)
        assert await asyncio.wait_for(stream[0].readexactly(10), 2) == b"0123456789"
        assert time.monotonic() - began >= 0.2
        stream[1].close()


async def test_drop_resets_the_links_there_are_and_serves_new_ones() -> None:
    async with echoing() as proxy:
        stream = await connect(proxy)
        await ask(stream, b"hello")
        assert await proxy.drop() == 1
        with pytest.raises(ConnectionResetError):
            await stream[0].readexactly(1)
        stream[1].close()
        again = await connect(proxy)
        assert await ask(again, b"hello") == b"hello"
        again[1].close()


async def test_cut_refuses_new_links_until_healed() -> None:
    async with echoing() as proxy:
        stream = await connect(proxy)
        await ask(stream, b"hello")
        await proxy.cut()
        with pytest.raises(ConnectionResetError):
            await stream[0].readexactly(1)
        stream[1].close()
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        await proxy.heal()
        again = await connect(proxy)
        assert await ask(again, b"hello") == b"hello"
        again[1].close()


async def test_a_black_hole_swallows_without_a_fin_and_what_was_in_it_stays_dead() -> None:
    async with echoing() as proxy:
        old = await connect(proxy)
        await ask(old, b"hello")
        proxy.black_hole()
        new = await connect(proxy)
        for stream in (old, new):
            with pytest.raises(TimeoutError):
                await ask(stream, b"anybody?", within=0.2)
        assert proxy.swallowed == 16
        await proxy.heal()
        for stream in (old, new):
            with pytest.raises(ConnectionResetError):
                await stream[0].readexactly(1)
            stream[1].close()
        again = await connect(proxy)
        assert await ask(again, b"hello") == b"hello"
        again[1].close()


async def test_a_black_hole_can_have_one_direction() -> None:
    async with echoing() as proxy:
        stream = await connect(proxy)
        await ask(stream, b"hello")
        proxy.black_hole("down")
        with pytest.raises(TimeoutError):
            await ask(stream, b"lost answer", within=0.2)
        assert proxy.swallowed == len(b"lost answer")
        stream[1].close()
