"""HTTP itself: methods, negotiation, sizes, caching, compression, other origins; and batches."""

from __future__ import annotations

import asyncio
import gc
import gzip
import hashlib
import json
from typing import Any

import httpx
import msgpack
import pytest

from handlers.headers import Headers
from server.node import Node
from tests.integration.test_polls import client
from tests.support.waiting import until

MESSAGES = "/v1/channels/chat:a/messages"
ORIGIN = "https://app.example"


@pytest.fixture
def settings() -> dict[str, object]:
    keys = {"shop": {"sha256": hashlib.sha256(b"the-key-of-the-shop").hexdigest()}}
    return {"origins": [ORIGIN], "auth.api_keys": keys}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


async def raw(url: str, request: bytes, *more: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to bytes as they are; what comes behind it, if the server closes, is in the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(request)
    for chunk in more:
        writer.write(chunk)
        await writer.drain()
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    writer.close()
    await writer.wait_closed()
    return int(head[0].split()[1]), headers, body


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, body["code"]


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_pages(url: str) -> None:
    """A folder of static/ is a page: with a strict policy, and with scripts that other origins may import."""
    async with client(url) as http:
        for path in (
            "/",
            "/chat/",
            "/console/",
            "/dashboard/",
            "/feed/",
            "/docs",
            "/chat/chat.js",
            "/static/waterspout.js",
        ):
            page = await http.get(path)
            assert page.status_code == 200, path
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy, path
            assert "unsafe" not in policy, path
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["access-control-allow-origin"] == "*"
        moved = await http.get("/chat")
        assert (moved.status_code, moved.headers["location"]) == (301, "/chat/")
        license = await http.get("/LICENSE")
        assert license.headers["content-type"].startswith("text/plain")
        for path in (
            "/nothing",
            "/nothing/",
            "/" + "a" * 300,
            "/waterspout/",
            "/common.css",
            "/%2e%2e/run.py",
            "/chat%00/",
        ):
            assert problem(await http.get(path)) == (404, "not_found"), path
        for path in ("/chat/../../run.py", "/chat/%2e%2e/%2e%2e/run.py", "/static/..%2frun.py", "/chat/nothing.js"):
            assert (await raw(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))[0] in (403, 404), path


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (MESSAGES, {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/v1/publish", {"POST", "OPTIONS"}),
        ("/v1/events", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/v1/ws", {"GET", "HEAD", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
@pytest.mark.gen_test
async def test_methods(node: Node, url: str, path: str, allowed: set[str]) -> None:
    """What is not allowed is 405 with what is; OPTIONS says the same, whoever asks."""
    async with client(url) as http:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"} - allowed:
            response = await http.request(method, path)
            assert problem(response) == (405, "bad_request")
            assert set(response.headers["allow"].split(", ")) == allowed
        response = await http.options(path, headers={"Authorization": "Bearer nonsense"})
        assert (response.status_code, response.content) == (204, b"")
        assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.gen_test
async def test_head(node: Node, url: str) -> None:
    """The headers of GET, without its body; a long poll does not wait, an event stream does not begin."""
    async with client(url) as http:
        await http.post(MESSAGES, json={"data": 1})
        full, head = await http.get(MESSAGES), await http.head(MESSAGES)
        for name in ("content-type", "content-length", "etag", "vary"):
            assert head.headers[name] == full.headers[name]
        assert head.content == b""
        assert (await http.head("/v1/channels/chat:none/messages?wait=60")).status_code == 200
        response = await http.head("/v1/channels/chat:a/events")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert (await http.head("/v1/channels/nowhere:a/events")).status_code == 404
    assert not node.admission.clients


@pytest.mark.gen_test
async def test_a_refusal_keeps_the_connection(node: Node, url: str) -> None:
    """A client that reuses it must not find it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    for head, status in (
        (f"GET {MESSAGES} HTTP/1.1\r\nAuthorization: Bearer x\r\n", 401),
        (f"PUT {MESSAGES} HTTP/1.1\r\nContent-Length: 3\r\n", 405),
        (f"POST {MESSAGES} HTTP/1.1\r\nContent-Length: 3\r\nOrigin: https://evil.example\r\n", 403),
        ("GET /nowhere HTTP/1.1\r\n", 404),
        (f"GET {MESSAGES} HTTP/1.1\r\nAccept: text/html\r\n", 406),
        ("GET /v1/channels/%ff/messages HTTP/1.1\r\n", 400),
        ("GET /v1/ws HTTP/1.1\r\n", 426),
        (f"POST {MESSAGES} HTTP/1.1\r\nContent-Length: {2 << 20}\r\n", 413),
        (f"PROPFIND {MESSAGES} HTTP/1.1\r\n", 405),
        (f"GET {MESSAGES} HTTP/1.1\r\nConnection: close\r\n", 200),
    ):
        length = int(head.partition("Content-Length: ")[2].partition("\r")[0] or 0)
        writer.write(f"{head}Host: localhost\r\n\r\n".encode() + b"x" * length)
        async with asyncio.timeout(10):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(answer.partition("Content-Length: ")[2].partition("\r")[0]))
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert "Connection: close" in answer
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


# --- negotiation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html, application/*;q=0.2", "application/json"),
        ("application/msgpack", "application/msgpack"),
        ("application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("application/msgpack;q=0.5, application/json;q=0.9", "application/json"),
        ("application/json;q=0, */*", "application/msgpack"),
        ("text/html", None),
        ("application/json;q=0", None),
        ("nonsense", None),
    ],
)
@pytest.mark.gen_test
async def test_accept(node: Node, url: str, accept: str | None, answered: str | None) -> None:
    """What is wanted most; what cannot be answered is 406, and nothing has been done."""
    async with client(url) as http:
        http.headers.pop("accept")
        headers = {} if accept is None else {"Accept": accept}
        response = await http.post(MESSAGES, json={"data": 1}, headers=headers)
        if answered is None:
            assert problem(response) == (406, "bad_request")
            assert (await http.get(MESSAGES)).json()["messages"] == []
        else:
            assert (response.status_code, response.headers["content-type"]) == (201, answered)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-8"}, 201),
        ({"Content-Type": "text/plain"}, 201),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 201),
        ({"Content-Type": "application/xml"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
    ],
)
@pytest.mark.gen_test
async def test_content_type(node: Node, url: str, headers: dict[str, str], status: int) -> None:
    async with client(url) as http:
        response = await http.post(MESSAGES, content=b'{"data":1}', headers=headers)
        assert response.status_code == status
        if status == 415:
            assert problem(response) == (415, "bad_request")


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=30)
async def test_a_body_that_is_too_large_gets_an_answer(node: Node, url: str) -> None:
    """Whether its length is known beforehand or not, and while it is still being sent; the connection stays good."""
    big = b'{"data":"' + b"x" * (2 << 20) + b'"}'

    async def chunks() -> Any:
        for index in range(0, len(big), 100_000):
            yield big[index : index + 100_000]

    async with client(url) as http:
        assert problem(await http.post(MESSAGES, content=big)) == (413, "too_large")
        assert problem(await http.post(MESSAGES, content=chunks())) == (413, "too_large")
        assert problem(await http.post("/v1/publish", content=big)) == (413, "too_large")
        assert (await http.get(MESSAGES)).json()["messages"] == []
        response = await http.post(MESSAGES, content=big[:60_000] + b'"}')
        assert response.status_code == 201
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\nExpect: 100-continue\r\n\r\n"
    status, _, body = await raw(url, head.encode())
    assert (status, json.loads(body)["code"]) == (413, "too_large")


@pytest.mark.gen_test
async def test_headers_that_are_too_large_get_an_answer(node: Node, url: str) -> None:
    async with client(url) as http:
        assert problem(await http.get(MESSAGES, headers={"X-Padding": "x" * 20_000})) == (431, "too_large")
        assert problem(await http.get(MESSAGES + "?after=" + "x" * 20_000)) == (431, "too_large")
        assert (await http.get(MESSAGES, headers={"X-Padding": "x" * 8_000})).status_code == 200


# --- less data --------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_what_is_known_is_not_sent_again(node: Node, url: str) -> None:
    """History has an ETag: 304 without a body while nothing has come, whatever the encoding."""
    async with client(url) as http:
        await http.post(MESSAGES, json={"data": "x" * 5000})
        for accept in ("application/json", "application/msgpack"):
            first = await http.get(MESSAGES, headers={"Accept": accept})
            known = {"If-None-Match": first.headers["etag"], "Accept": accept}
            assert first.headers["cache-control"] == "private, no-cache"
            again = await http.get(MESSAGES, headers=known)
            assert (again.status_code, again.content) == (304, b"")
            assert (await http.get(MESSAGES + "?wait=30", headers=known)).status_code == 304
        await http.post(MESSAGES, json={"data": 2})
        assert (await http.get(MESSAGES, headers=known)).status_code == 200


@pytest.mark.gen_test
async def test_long_answers_are_compressed(node: Node, url: str) -> None:
    """Those over 1 KiB, in both encodings, for who can take it."""
    async with client(url) as http:
        await http.post(MESSAGES, json={"data": "small"})
        small = await http.get(MESSAGES)
        assert "content-encoding" not in small.headers
        await http.post(MESSAGES, json={"data": "x" * 5000})
        for accept in ("application/json", "application/msgpack"):
            async with http.stream("GET", MESSAGES, headers={"Accept": accept, "Accept-Encoding": "gzip"}) as long:
                body = b"".join([chunk async for chunk in long.aiter_raw()])
            assert long.headers["content-encoding"] == "gzip"
            assert "Accept-Encoding" in long.headers["vary"]
            assert len(body) < 1000
            page = (json.loads if accept.endswith("json") else msgpack.unpackb)(gzip.decompress(body))
            assert page["messages"][1]["data"] == "x" * 5000
        plain = await http.get(MESSAGES, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers


@pytest.mark.parametrize(
    ("wanted", "coding"),
    [
        (None, None), ("", None), ("gzip", "gzip"), ("x-gzip", "gzip"), ("GZip", "gzip"), ("*", "gzip"),
        ("br, gzip", "gzip"),
        ("gzip;q=0", None), ("gzip; q=0.0", None), ("gzip ; q = 0", None), ("identity, gzip;q=0", None), ("br", None),
        ("identity;q=1, *;q=0", None), ("*;q=0, gzip", "gzip"), ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0.5, identity", None), ("gzip, identity;q=0.5", "gzip"), ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip;q=nonsense", None), ("gzip;q=0.001", "gzip"), ("deflate, *;q=0.1", "gzip"), ("gzip;x=1;q=0", None),
        ("*;q=0", 406), ("identity;q=0", 406), ("identity;q=0, br", 406), ("gzip;q=0, identity;q=0", 406),
    ],
)  # fmt: skip
@pytest.mark.gen_test
async def test_accept_encoding(node: Node, url: str, wanted: str | None, coding: str | int | None) -> None:
    """RFC 9110, section 12.5.3: weights, `*`, and what is wanted not at all; nothing that is left is 406."""
    async with client(url) as http:
        await http.post(MESSAGES, json={"data": "x" * 5000})
    line = "" if wanted is None else f"Accept-Encoding: {wanted}\r\n"
    status, headers, body = await raw(url, f"GET {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n{line}\r\n".encode())
    if coding == 406:
        assert (status, json.loads(body)["code"]) == (406, "bad_request")
    else:
        assert (status, headers.get("content-encoding")) == (200, coding)
        text = gzip.decompress(body) if coding else body
        assert json.loads(text)["messages"][0]["data"] == "x" * 5000


# --- other origins ----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_preflight(node: Node, url: str) -> None:
    """A listed origin learns what it may send; any other learns nothing."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with client(url) as http:
        response = await http.options(MESSAGES, headers={"Origin": ORIGIN, **asked})
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in response.headers["access-control-allow-methods"]
        for header in ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "If-None-Match"):
            assert header in response.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in response.headers
        response = await http.options(MESSAGES, headers={"Origin": "https://evil.example", **asked})
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.gen_test
async def test_another_origin(node: Node, url: str) -> None:
    """A listed one may read answers, errors too, and publish; any other may neither read nor publish."""
    async with client(url) as http:
        for path in (MESSAGES, "/v1/channels/nowhere:a/messages", "/nowhere"):
            response = await http.get(path, headers={"Origin": ORIGIN})
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "Origin" in response.headers["vary"]
            response = await http.get(path, headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in response.headers
        assert (await http.post(MESSAGES, json={"data": 1}, headers={"Origin": ORIGIN})).status_code == 201
        for origin in ("https://evil.example", "null", "https://[", ORIGIN + ".evil.example"):
            response = await http.post(MESSAGES, json={"data": 1}, headers={"Origin": origin})
            assert problem(response) == (403, "permission_denied")


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_batch_is_answered_one_by_one(node: Node, url: str) -> None:
    """Each message is stored or refused by itself, in the order of the request."""
    batch = [
        {"channel": "chat:a", "data": 1, "key": "k"},
        {"channel": "chat:b", "data": 2},
        {"channel": "chat:a", "data": 3},
        {"channel": "live:a", "data": 4},
        {"channel": "feed:a", "data": 5},
        {"channel": "nowhere:a", "data": 6},
        {"channel": "no colon", "data": 7},
        {"channel": "chat:a"},
        "no object",
        {"channel": "chat:a", "data": "x" * 70_000},
        {"channel": "chat:a", "data": 8, "key": 9},
    ]
    async with client(url) as http:
        response = await http.post("/v1/publish", json={"messages": batch})
        assert response.status_code == 200
        results = response.json()["results"]
        assert [result.get("offset") for result in results[:4]] == [1, 1, 2, None]
        assert results[0] == {
            "channel": "chat:a", "offset": 1, "cursor": f"{node.log.epoch}:1", "key": "k", "duplicate": False,
        }  # fmt: skip
        assert results[3] == {"channel": "live:a"}
        assert [result["error"]["code"] for result in results[4:]] == [
            "permission_denied", "unknown_channel", "bad_request", "bad_request", "bad_request", "too_large",
            "bad_request",
        ]  # fmt: skip
        assert all(result["error"]["reason"] for result in results[4:])
        again = await http.post("/v1/publish", json={"messages": [batch[0], {**batch[0], "data": "other"}]})
        first, second = again.json()["results"]
        assert (first["offset"], first["duplicate"]) == (1, True)
        assert second["error"]["code"] == "conflict"


@pytest.mark.gen_test
async def test_a_broadcast(node: Node, url: str) -> None:
    """One datum into many channels, with the same key in each; a retry stores nothing."""
    channels = [f"chat:{n}" for n in range(20)]
    body = {"channels": [*channels, "feed:a"], "data": {"text": "to all"}}
    async with client(url) as http:
        for duplicate in (False, True):
            response = await http.post("/v1/publish", json=body, headers={"Idempotency-Key": "notice-1"})
            *results, refused = response.json()["results"]
            assert [result["channel"] for result in results] == channels
            assert {(result["offset"], result["key"], result["duplicate"]) for result in results} == {
                (1, "notice-1", duplicate)
            }
            assert refused["error"]["code"] == "permission_denied"
        headers = {"Authorization": "Bearer the-key-of-the-shop", "Content-Type": "application/msgpack"}
        response = await http.post("/v1/publish", content=msgpack.packb(body), headers=headers)
        assert response.json()["results"][-1]["offset"] == 1


BAD_BATCHES = [
    {}, {"messages": []}, {"messages": 1}, {"channels": ["chat:a"]}, {"channels": [1], "data": 1}, [],
    {"messages": [{"channel": "chat:a", "data": 1}], "channels": ["chat:b"], "data": 1},
    {"messages": [{"channel": "chat:a", "data": 1}] * 501},
    {"channels": ["chat:a"] * 501, "data": 1},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BATCHES, ids=lambda body: str(body)[:30])
@pytest.mark.gen_test
async def test_a_bad_batch_is_refused_as_a_whole(node: Node, url: str, body: Any) -> None:
    async with client(url) as http:
        assert problem(await http.post("/v1/publish", json=body)) == (400, "bad_request")
        assert (await http.get(MESSAGES)).json()["messages"] == []


@pytest.mark.gen_test
async def test_of_many_headers_nothing_is_kept(url: str) -> None:
    """What was made of a request's headers is kept for the next request only where they are few: of many short ones it
    takes so much more than their bytes that anybody could fill the memory with them."""
    lines = "".join(f"x{number}:\r\n" for number in range(200))
    for number in range(10):
        request = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Number: {number}\r\n{lines}\r\n"
        assert (await raw(url, request.encode()))[0] == 200

    def kept() -> int:
        gc.collect()
        return sum(type(one) is Headers and one.size > len(lines) for one in gc.get_objects())

    await until(lambda: not kept())
