"""Case 13: whatever bytes a client sends, each is answered as the protocol says, in bounded time and memory.

The inputs follow from a seed, which a failure names: `WATERSPOUT_SEED=… WATERSPOUT_INPUT=n` tries that one again. With
WATERSPOUT_CHAOS=long there are ten minutes of them, or WATERSPOUT_SECONDS.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import random
import resource
import time
from contextlib import suppress
from typing import Any

import msgpack
import pytest

from server.core.errors import ERRORS
from server.node import Node
from tests.support.garbage import Garbage
from tests.support.processes import LOOPBACK
from tests.support.sockets import abort
from tests.support.waiting import until

SEED = os.environ.get("WATERSPOUT_SEED") or f"{random.getrandbits(48):x}"
ONLY = os.environ.get("WATERSPOUT_INPUT")
LONG = os.environ.get("WATERSPOUT_CHAOS") == "long"
SECONDS = float(os.environ.get("WATERSPOUT_SECONDS") or 600) if LONG else 4
AT_LEAST = 50
WITHIN = 20
"""Seconds that one input may take, on a machine that has other things to do."""
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
PUSHES = {
    *("reply", "error", "message", "gap", "unsubscribed", "snapshot", "progress", "dropped", "join", "leave"),
    *("occupancy", "disconnect"),
}


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "namespaces.chat": {"publish": "anyone", "subscribe": "anyone", "presence": True, "ephemeral": True},
        "collections.notes": {"read": "anyone", "write": "anyone"},
        "limits.cost_burst": 2000,
        "limits.message_bytes": 4096,
    }


def peak() -> int:
    """The most memory that this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def answered(port: int, subprotocol: str, chunks: list[bytes]) -> bytes:
    """All that comes back to these bytes, until the server has closed the connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /v1/ws HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    answer = bytearray()

    async def read() -> bool:
        try:
            while data := await reader.read(65536):
                answer.extend(data)
        except ConnectionError:
            return False
        return True

    reading = asyncio.ensure_future(read())
    try:
        with suppress(OSError):  # closed under us, as may be: nobody reads on for ever
            for chunk in chunks:
                if writer.is_closing():  # asyncio would say so in the log, chunk by chunk
                    break
                writer.write(chunk)
                await asyncio.sleep(0)
            writer.write_eof()
        return bytes(answer) if await reading else b""
    finally:
        reading.cancel()
        await abort(writer)


def judge(subprotocol: str, answer: bytes) -> None:
    """What a server may say: whole unmasked frames; pushes that are known, with errors of the catalogue; at most one
    close frame, at the end."""
    decode: Any = json.loads if subprotocol.endswith("json") else msgpack.unpackb
    position = 0
    while position < len(answer):
        first, size = answer[position], answer[position + 1]
        position += 2
        assert size < 128, "a masked frame"
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(answer[position : position + width], "big")
            position += width
        payload = answer[position : position + size]
        assert len(payload) == size, "half a frame"
        position += size
        if first == 0x88:
            code = int.from_bytes(payload[:2], "big")
            assert code in CODES, code
            payload[2:].decode()
            assert position == len(answer), "something behind the close frame"
        elif first in (0x89, 0x8A):
            assert size <= 125
        else:
            assert first == (0x81 if subprotocol.endswith("json") else 0x82)
            push = decode(payload)
            assert push["type"] in PUSHES, push
            if push["type"] == "error":
                assert push["code"] in ERRORS, push
                assert push["code"] != "internal", push
                assert isinstance(push["reason"], str), push


@pytest.mark.gen_test(timeout=SECONDS * 2 + 120)
async def test_any_bytes_are_answered_as_the_protocol_says(
    http_server: object, http_port: int, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """A typed error or a close code, in bounded time and memory, no exception in the log, and nothing left behind."""
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context)))
    end, number, grown = time.monotonic() + SECONDS, 0, 0
    print(f"seed {SEED}")
    while (time.monotonic() < end or number < AT_LEAST) if ONLY is None else number == 0:
        name = f"{SEED}/{ONLY or number}"
        subprotocol, chunks = Garbage(name).input()
        try:
            async with asyncio.timeout(WITHIN):
                judge(subprotocol, await answered(http_port, subprotocol, chunks))
            wrong = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] + failures
            assert not wrong, wrong
        except BaseException as error:
            again = f"WATERSPOUT_SEED={SEED} WATERSPOUT_INPUT={ONLY or number}"
            pytest.fail(f"{again}: {error!r}, of {subprotocol} {chunks!r:.2000}")
        caplog.clear()
        number += 1
        if number == 300:
            grown = peak()
    print(f"{number} inputs")
    admission = node.admission
    await until(lambda: not admission.clients and not admission.connections.total, 20, "the end of all clients")
    # What was under way finds that nobody is there any more.
    await until(
        lambda: not node.hub.subscriptions() and not admission.channel_seats.total, 20, "the end of subscriptions"
    )
    if grown:  # what a loop of its own garbage costs, and not what each input leaves
        assert peak() - grown < 200 << 20
