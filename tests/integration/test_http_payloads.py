"""What somebody sends is told to nobody else when HTTP itself refuses it: marked bytes through every way in which a
request can be malformed, too large, out of place or too slow (as test_payloads.py does for what is in a request)."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.integration.test_log_secrets import KEY
from tests.integration.test_payloads import MARK
from tests.support.client import Client
from tests.support.processes import LOOPBACK

MESSAGES = "/v1/channels/chat:x/messages"
# All but Host and Origin: which names and sites ask is what an operator wants to read.
HEADERS = (
    *("Authorization", "Accept", "Accept-Encoding", "Content-Type", "Content-Encoding", "Cookie"),
    *(
        "Content-Length",
        "Transfer-Encoding",
        "Expect",
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Key",
        "Range",
        "User-Agent",
    ),
    *("Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "If-Match", "If-None-Match", "If-Modified-Since", "Referer"),
    *("Idempotency-Key", "Last-Event-ID", "X-Forwarded-Proto", "X-Padding", "Access-Control-Request-Method"),
)
PATHS = (
    "/v1/ws",
    MESSAGES,
    "/v1/publish",
    "/v1/documents/items/a",
    "/chat/",
    "/static/waterspout.js",
    "/metrics",
    "/nothing",
)
WORDS = (
    MARK,
    f"{MARK}, {MARK}",
    f'"{MARK}',
    f"{MARK};q={MARK}",
    f"Bearer {MARK}",
    f"Bearer {MARK}.{MARK}.{MARK}",
    f"{MARK}\x80",
)


def requests() -> list[bytes]:
    """Each is closed by the server, or by the end of what was sent."""
    made = [
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{name}: {word}\r\nConnection: close\r\n\r\n"
        for name in HEADERS
        for method, path in zip(("GET", "POST", "GET", "PUT", "GET", "GET", "GET", "DELETE"), PATHS, strict=True)
        for word in (WORDS if path == MESSAGES or name == "Authorization" else WORDS[:1])
    ]
    made += [
        f"{MARK}\r\n\r\n",
        f"GET {MARK}\r\n\r\n",
        f"{MARK} {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET {MESSAGES} {MARK}\r\nHost: localhost\r\n\r\n",
        f"GET {MESSAGES} HTTP/{MARK}\r\nHost: localhost\r\n\r\n",
        f"GET {MESSAGES}?{MARK}={MARK}&after={MARK} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET {MESSAGES}?limit={MARK} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET {MESSAGES}?after={MARK}%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET {MESSAGES}?after={quote(MARK)}\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET /v1/channels/chat:x/events?ticket={MARK} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        f"GET /chat/?{MARK} HTTP/1.1\r\nHost: localhost\r\nRange: bytes={MARK}\r\nConnection: close\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n{MARK}\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n{MARK} : {MARK}\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n : {MARK}\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nX: {MARK}\x00\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\n{MARK}: {MARK}\r\n {MARK}\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nHost: {MARK}\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\n{MARK}: 1\r\n\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n" + f"{MARK}: {MARK * 100}\r\n" * 20 + "\r\n",
        f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n" + f"{MARK}: {MARK * 100}\r\n" * 60 + "\r\n",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}\r\n",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;{MARK}\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{MARK}\r\n0\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{MARK}",
        f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{MARK}",
    ]
    return [request.encode("latin1") for request in made]


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
        "collections.items": {"read": "anyone", "write": "anyone"},
        "limits.requests_per_second": 0,
    }


@pytest.mark.gen_test(timeout=120)
async def test_what_http_refuses(log: io.StringIO, base_url: str, http_server: object, http_port: int) -> None:
    """Request lines, headers, framing, tokens, queries and bodies that are not as they should be: none of it is in the
    log, in metrics, in `/readyz` or in what operators hear."""

    async def send(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, http_port)
        writer.write(request)
        if request.count(b"Connection:") != 1 or b"Connection: close" not in request:
            writer.write_eof()
        try:
            async with asyncio.timeout(30):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async with Client([base_url.replace("http", "ws") + "/v1/ws"], token=KEY) as operator:
        events, nodes = await operator.subscribe("$sys:events"), await operator.subscribe("$sys:nodes")
        answers = [await send(request) for request in requests()]
        assert not [answer for answer in answers if answer.startswith(b"HTTP/1.1 5")]
        assert sum(answer.startswith(b"HTTP/1.1 4") for answer in answers) > 50
        heard = [await nodes.next(), await nodes.next(), *nodes.waiting(), *events.waiting()]
        assert any(push["data"].get("event") == "refusal" for push in heard)
    pages = [
        (await AsyncHTTPClient().fetch(base_url + path, headers={"Authorization": f"Bearer {KEY}"})).body.decode()
        for path in ("/metrics", "/readyz", "/v1/nodes")
    ]
    told = {"log": log.getvalue(), "answers": "\n".join(pages), "$sys:": "\n".join(map(json.dumps, heard))}
    assert told["log"].count("Host: localhost") == 0
    assert told["log"].count('"waterspout.access"') > 50
    for place, text in told.items():
        found = [line[:500] for line in text.splitlines() if MARK in line or quote(MARK) in line]
        assert not found, f"{place}: {found[:5]}"
