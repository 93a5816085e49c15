"""What every door does with what nobody asked for: unknown paths, bodies that are refused, requests that fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers import base
from server.node import Node
from tests.integration.test_http import MESSAGES, problem, raw
from tests.integration.test_polls import client
from tests.support.processes import LOOPBACK, UNLIMITED, Mongod, Server
from tests.support.waiting import until

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_an_unknown_path_is_a_page_for_a_person(url: str) -> None:
    """A browser that follows a link to nowhere gets a page with ways out of it, a program gets a problem."""
    async with client(url) as http:
        for path in ("/nothing", "/chat/nothing.js", "/static/", "/docs/nothing.md", "/v1/nothing", "/static/%00"):
            page = await http.get(path, headers={"Accept": BROWSER})
            assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
            assert "<h1>" in page.text
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert page.headers["cache-control"] == "no-store"
            for accept in ("*/*", "application/json", "application/json, text/html;q=0.5", "text/html;q=0, */*"):
                assert problem(await http.get(path, headers={"Accept": accept})) == (404, "not_found"), path
            assert problem(await http.post(path, headers={"Accept": BROWSER}))[0] in (404, 405), path
        for path in ("/v1/channels/nowhere:a/messages", "/v1/documents/nothing"):
            assert problem(await http.get(path))[0] == 404, path
        assert problem(await http.get("/v1/channels/nowhere:a/messages", headers={"Accept": BROWSER}))[0] == 404


PATHS = (
    "/static/%00", "/static/a%00b.js", "/static/%00/waterspout.js", "/chat/%00", "/docs/security.md%00", "/docs/%00.md",
    "/%00", "/console/%00", "/LICENSE%00", "/static/" + "a" * 5000, "/static/" + "a/" * 2000, "/static/%ff",
    "/chat/%ff", "/static/%e2%80%ae", "/static/\xff", "/static//etc/passwd", "/static/..%2f..%2frun.py",
    "/static/%2e%2e/run.py", "/static/waterspout.js/x", "/static/%0d%0aX:y", "/chat/%2e%2e/%2e%2e/run.py", "//",
    "/docs/../run.py", "/static/%u0000", "/static/%", "/%", "*", "http://localhost/nothing",
    "/v1/channels/chat:%00/messages", "/v1/channels/%ff/messages", "/v1/channels//messages", "/v1/documents/%00/%00",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30].encode("unicode_escape").decode())
@pytest.mark.gen_test
async def test_no_path_is_an_error_of_ours(url: str, path: str) -> None:
    """Names that no file can have, paths that lead out, bytes that are no text: 4xx."""
    for method in ("GET", "HEAD", "POST"):
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        reader, writer = await asyncio.open_connection(LOOPBACK, int(url.rpartition(":")[2]))
        writer.write(request.encode("latin1"))
        answer = await reader.read()
        writer.close()
        assert 400 <= int(answer.split()[1]) < 500, (method, answer[:200])


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_refused_body_is_not_kept(mongod: Mongod, tmp_path: Path) -> None:
    """80 connections send most of a MiB each of what was refused at its headers: the memory of the server does not
    grow with it, and each gets its answer in the end."""
    heads = (
        f"POST {MESSAGES} HTTP/1.1\r\nContent-Length: 1048576\r\n",
        f"POST {MESSAGES} HTTP/1.1\r\nContent-Length: 4194304\r\n",
        "POST /nothing HTTP/1.1\r\nContent-Length: 1048576\r\n",
        "POST /static/waterspout.js HTTP/1.1\r\nContent-Length: 1048576\r\n",
    )

    async def play() -> None:
        settings: dict[str, Any] = {**UNLIMITED, "auth.guests": False, "mongodb.database": "bodies"}
        async with Server(tmp_path, mongodb_uri=mongod.uri, settings=settings) as server:

            async def send(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
                head = heads[number % len(heads)]
                writer.write(f"{head}Host: localhost\r\n\r\n".encode())
                for _ in range(15):
                    writer.write(b"x" * 65536)
                    await writer.drain()
                return reader, writer

            for _, writer in await asyncio.gather(*(send(n) for n in range(8))):  # what the first ones fill stays
                writer.close()
            before = server.rss()
            crowd = await asyncio.gather(*(send(n) for n in range(80)))
            grown = server.rss() - before
            assert grown < 30 << 20, f"{grown >> 20} MiB more"
            for number, (reader, writer) in enumerate(crowd):
                if number % 4 == 0:
                    writer.write(b"x" * (1048576 - 15 * 65536))
                    assert b" 401 " in await reader.readline()
                writer.close()

    asyncio.run(play())


@pytest.mark.gen_test
async def test_bodies_of_all_requests_are_bounded(
    url: str, http_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they take so much memory and no more; who is one too many may come back, and there is room again."""
    monkeypatch.setattr(base, "HELD_BYTES", 100_000)
    body = json.dumps({"data": "x" * 60_000}).encode()
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for last in (False, True):
        slow = await asyncio.open_connection(LOOPBACK, int(url.rpartition(":")[2]))
        slow[1].write(head + body[:-1])

        async def refused() -> bool:
            return (await raw(url, head, body))[0] == 503

        await until(refused, 10, "no room")
        if last:
            slow[1].write(body[-1:])
            assert b" 201 " in await slow[0].readline()
        slow[1].close()

        async def accepted() -> bool:
            return (await raw(url, head, body))[0] == 201

        await until(accepted, 10, "room again")


# --- rates ------------------------------------------------------------------------------------------------------------


class TestRates:
    """`requests_per_second` counts every request, whatever becomes of it."""

    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.requests_per_second": 0.1, "limits.requests_burst": 5, "auth.accounts": True}

    @pytest.mark.parametrize(
        ("method", "path", "headers", "body"),
        [
            ("GET", MESSAGES, {}, None),
            ("GET", MESSAGES, {"Authorization": "Bearer a.b.c"}, None),
            ("GET", MESSAGES, {"Authorization": "nonsense"}, None),
            ("GET", "/v1/channels/chat:a/events?ticket=a.b.c", {}, None),
            ("POST", "/v1/auth/refresh", {}, {"refresh_token": "u.x"}),
            ("POST", "/v1/auth/logout", {}, {"refresh_token": "u.x"}),
            ("GET", "/nothing", {}, None),
            ("GET", "/static/nothing.js", {}, None),
            ("PUT", MESSAGES, {}, None),
            ("POST", MESSAGES, {"Origin": "https://evil.example"}, {"data": 1}),
            ("GET", MESSAGES, {"Accept": "text/html"}, None),
            ("GET", MESSAGES, {"X-Padding": "x" * 20_000}, None),
            ("GET", MESSAGES, {"Host": "evil.example"}, None),
            ("GET", "/v1/channels/%ff/messages", {}, None),
            ("GET", "/metrics", {"Authorization": "Bearer a.b.c"}, None),
            ("GET", "/v1/ws", {"Authorization": "Bearer a.b.c"}, None),
            ("GET", "/v1/ws", {}, None),
            ("POST", MESSAGES, {"Content-Type": "text/xml"}, {"data": 1}),
            ("GET", "/v1/nodes", {}, None),
        ],
    )
    @pytest.mark.gen_test
    async def test_of_an_address(self, url: str, method: str, path: str, headers: dict[str, str], body: object) -> None:
        async with client(url) as http:
            codes = [(await http.request(method, path, headers=headers, json=body)).status_code for _ in range(7)]
            assert 429 not in codes[:5]
            assert codes[5:] == [429, 429]
            limited = await http.request(method, path, headers=headers, json=body)
            assert problem(limited) == (429, "rate_limited")
            assert int(limited.headers["retry-after"]) >= 1
            # Pages and probes are none of it.
            assert [(await http.get(path)).status_code for path in ("/", "/healthz", "/readyz", "/openapi.json")] == [
                200
            ] * 4

    @pytest.mark.gen_test
    async def test_of_a_user(self, url: str, node: Node) -> None:
        """Whose token holds is counted by name: what others do at the same address takes nothing from them. (But who is
        not known yet waits: where guests have no request left, no signature is looked at.)"""
        tokens = {name: node.authenticator.sign(name, 60)[0] for name in ("ann", "bob")}

        async def ask(http: httpx.AsyncClient, token: str) -> int:
            return (await http.get(MESSAGES, headers={"Authorization": f"Bearer {token}"})).status_code

        async with client(url) as http:
            assert [await ask(http, tokens["ann"]), await ask(http, tokens["bob"])] == [200, 200]
            assert [await ask(http, "a.b.c") for _ in range(6)] == [401] * 5 + [429]
            for name in tokens:
                assert [await ask(http, tokens[name]) for _ in range(5)] == [200] * 4 + [429], name
            assert await ask(http, node.authenticator.sign("new", 60)[0]) == 429
