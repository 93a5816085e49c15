"""However many come at once: no more are let in than there are seats, by every door, and a seat comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from server.node import Node
from tests.support.client import make_token
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
HERD, SEATS = 30, 4
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
DOORS = {
    "websocket": ("/v1/ws", UPGRADE),
    "events": ("/v1/channels/chat:a/events", ""),
    "joined events": ("/v1/events?channel=chat:a&channel=chat:b", ""),
    "poll": ("/v1/channels/chat:a/messages?after=0&wait=30", ""),
    "joined poll": ("/v1/poll?channel=chat:a&channel=chat:b&wait=30", ""),
}
LIMITS = ("connections", "connections_per_ip", "connections_per_user")


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "server.trusted_proxies": ["127.0.0.1"],
        "limits.connections": 0,
        "limits.connections_per_user": 0,
        "limits.connections_per_ip": SEATS,
    }


@asynccontextmanager
async def herd(base_url: str, requests: list[str]) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections that are made one by one, and requests that come all at once."""
    host, _, port = urlsplit(base_url).netloc.partition(":")
    pairs = [await asyncio.open_connection(host, int(port)) for _ in requests]
    try:
        for (_, writer), request in zip(pairs, requests, strict=True):
            writer.write(request.encode())
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.close()


def request(door: str, headers: str = "") -> str:
    path, own = DOORS[door]
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{own}{headers}\r\n"


async def refused(readers: list[asyncio.StreamReader], limit: str) -> int:
    """How many of them were told that the limit is reached; the others stay."""
    statuses = [asyncio.ensure_future(reader.readline()) for reader in readers]
    await until(lambda: sum(one.done() for one in statuses) >= len(readers) - SEATS, 20, "answers")
    await asyncio.wait(statuses, timeout=0.05)
    turned_away = [
        reader for reader, one in zip(readers, statuses, strict=True) if one.done() and b"429" in one.result()
    ]
    for one in statuses:
        one.cancel()
    for reader in turned_away:
        answer = await reader.readuntil(b"}")
        assert f"{limit} is {SEATS}".encode() in answer
    return len(turned_away)


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("door", DOORS)
async def test_a_herd_gets_as_many_seats_as_there_are(
    node: Node, base_url: str, http_server: object, door: str, limit: str
) -> None:
    """Whoever is one too many is refused by the limit's name; those who leave make room for as many again."""
    admission = node.admission
    for name, seats in zip(LIMITS, (admission.connections, admission.addresses, admission.per_user), strict=True):
        seats.limit = SEATS if name == limit else 0
    token = f"Authorization: Bearer {make_token(SECRET, 'ann')}\r\n" if limit == "connections_per_user" else ""
    for _ in range(2):
        async with herd(base_url, [request(door, token)] * HERD) as readers:
            assert await refused(readers, limit) == HERD - SEATS
            assert admission.connections.total == SEATS
            assert len(admission.clients) == SEATS
        await until(lambda: not admission.connections.total, 10, "empty seats")
    assert not admission.clients
    assert not admission.users
    assert [admission.addresses.total, admission.per_user.total, admission.channel_seats.total] == [0, 0, 0]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("door", ["websocket", "events", "poll"])
async def test_a_network_is_one_address(node: Node, base_url: str, http_server: object, door: str) -> None:
    """Whoever has one IPv6 address has a whole /64 of them."""
    same = [request(door, f"X-Forwarded-For: 2001:db8:1:2::{number:x}\r\n") for number in range(HERD)]
    other = [request(door, f"X-Forwarded-For: 2001:db8:1:{number:x}::1\r\n") for number in range(16, 16 + HERD)]
    async with herd(base_url, same) as readers:
        assert await refused(readers, "connections_per_ip") == HERD - SEATS
        async with herd(base_url, other):
            await until(lambda: node.admission.connections.total == SEATS + HERD, 20, "the others")


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    "headers",
    ["", "Authorization: Bearer nonsense\r\n", "Origin: https://elsewhere.example\r\n"],
    ids=["no channel", "bad token", "foreign origin"],
)
async def test_who_is_refused_keeps_no_seat(node: Node, base_url: str, http_server: object, headers: str) -> None:
    """However the attempt ends."""
    lines = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{own}{headers}\r\n"
        for path, own in ((path.replace("chat:", "nowhere:"), own) for path, own in DOORS.values())
        if headers or not own
    ]
    async with herd(base_url, lines * 5) as readers:
        for reader in readers:
            assert (await reader.readline()).split()[1][:1] in (b"4", b"2", b"1")
    await until(lambda: not node.admission.connections.total, 10, "empty seats")
    assert not node.admission.addresses.total
    assert not node.admission.channel_seats.total
