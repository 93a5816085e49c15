"""Case 18: whatever a client says in HTTP, it is answered with less than 500 or closed, in bounded time and memory.

The inputs follow from a seed, which a failure names: `WATERSPOUT_SEED=… WATERSPOUT_INPUT=n` tries that one again. With
WATERSPOUT_CHAOS=long there are ten minutes of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
import traceback

import pytest

from handlers.routing import Doors
from server.node import Node
from tests.integration.test_garbage import peak
from tests.support.http_garbage import HTTPGarbage, Sent
from tests.support.processes import LOOPBACK
from tests.support.sockets import abort
from tests.support.waiting import until

SEED = os.environ.get("WATERSPOUT_SEED") or f"{random.getrandbits(48):x}"
ONLY = os.environ.get("WATERSPOUT_INPUT")
LONG = os.environ.get("WATERSPOUT_CHAOS") == "long"
SECONDS = float(os.environ.get("WATERSPOUT_SECONDS") or 600) if LONG else 4
AT_LEAST = 100
WITHIN = 20
"""Seconds that one input may take, on a machine that has other things to do."""
STATUS = re.compile(rb"(?:^|\r\n|[}\]])HTTP/1\.1 (\d{3}) ")
ENDLESS = re.compile(rb"HTTP/1\.1 101 |text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering")


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "namespaces.chat": {"publish": "anyone", "subscribe": "anyone", "presence": True, "ephemeral": True},
        "collections.notes": {"read": "anyone", "write": "anyone"},
        "auth.accounts": True,
        "server.trusted_proxies": [LOOPBACK],
        "limits.requests_per_second": 0,
        "limits.message_bytes": 4096,
    }


async def answers(port: int, sent: Sent) -> list[int]:
    """The statuses of the answers, read until the server closes, or begins what has no end."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    answer = bytearray()

    async def write() -> None:
        for chunk in sent.chunks:
            writer.write(chunk)
            await writer.drain()
        if not sent.whole:
            writer.write_eof()

    writing = asyncio.ensure_future(write())
    try:
        while not ENDLESS.search(answer) and (data := await reader.read(65536)):
            answer += data
    except ConnectionError:  # closed under us, with more to read than it wanted
        pass
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await abort(writer)
    return [int(status) for status in STATUS.findall(answer)]


def wrong(records: list[logging.LogRecord]) -> list[str]:
    """Failures in the log, with the last line of where they happened."""
    return [
        f"{record.getMessage()} {traceback.format_exception(record.exc_info[1])[-3:] if record.exc_info else ''}"
        for record in records
        if record.levelno >= logging.ERROR
    ]


@pytest.mark.gen_test(timeout=SECONDS * 2 + 120)
async def test_whatever_is_said_in_http_is_answered(
    http_server: object, http_port: int, node: Node, app: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer of 500 or more, no exception in the log, no connection that waits for ever, and nothing left behind."""
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context)))
    caplog.set_level(logging.WARNING)
    end, number, grown, said = time.monotonic() + SECONDS, 0, 0, 0
    print(f"seed {SEED}")
    while (time.monotonic() < end or number < AT_LEAST) if ONLY is None else number == 0:
        sent = HTTPGarbage(f"{SEED}/{ONLY or number}").request()
        try:
            async with asyncio.timeout(WITHIN):
                statuses = await answers(http_port, sent)
            assert all(100 <= status < 500 for status in statuses), statuses
            assert statuses or not sent.whole, "no answer"
            found = [*failures, *wrong(caplog.records)]
            assert not found, found
        except BaseException as error:
            again = f"WATERSPOUT_SEED={SEED} WATERSPOUT_INPUT={ONLY or number}"
            pytest.fail(f"{again}: {error!r}, of {b''.join(sent.chunks)!r:.3000}")
        caplog.clear()
        number += 1
        said += len(statuses)
        if number == 300:
            grown = peak()
    print(f"{number} inputs, {said} answers")
    admission = node.admission
    await until(
        lambda: not admission.visits.total and not admission.connections.total, 20, "the end of all connections"
    )
    await until(lambda: not app.site.held_bytes and not node.hub.subscriptions(), 20, "nothing that is left behind")
    if grown:
        assert peak() - grown < 200 << 20
