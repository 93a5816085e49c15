"""What somebody sends is told to nobody else when it fails: marked input through every failure of hooks, codecs and
tokens, and a look at the log, /readyz, /metrics, `$sys:` and at what other clients get."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack
import pytest
from tornado.websocket import websocket_connect

from tests.integration.test_hooks import SECRET as HOOK_SECRET
from tests.integration.test_hooks import BackEnd
from tests.support.client import Client, Subscription, make_token
from tests.support.processes import UNLIMITED, Mongod, Server

MARK = "the-pin-of-ann"
KEY = "key-of-the-operator"
SECRET = "a secret of at least thirty-two bytes"
FAILURES = ("status", "garbage", "list", "slow", "refuses", "reason", "large", "raises", "odd", "exits")
FUNCTIONS = """
def raises(question):
    raise ValueError(f"cannot take {question}")

def odd(question):
    return {"data": {f"{question}": object()}}

async def exits(question):
    try:
        question["data"]["no such field"]
    except Exception as error:
        raise RuntimeError(f"{question}") from error
"""


class Watched:
    """A server, and all that it tells others than who has sent the mark."""

    def __init__(self, server: Server, heard: list[Subscription], other: Client) -> None:
        self.server = server
        self.other = other
        self.answers: list[int] = []
        self._heard = heard

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        answer = await self.server.request(
            method, path, body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        self.answers.append(answer.status)

    async def frames(self, *frames: str | bytes, first: dict[str, Any] | None = None) -> None:
        """Each over a connection of its own, as the codec that it is of, until it is answered or closed."""
        for frame in frames:
            kind = "waterspout.msgpack" if isinstance(frame, bytes) else "waterspout.json"
            connection = await websocket_connect(self.server.ws, subprotocols=[kind])
            sent = [] if first is None else [json.dumps(first) if isinstance(frame, str) else msgpack.packb(first)]
            for one in (*sent, frame):
                await connection.write_message(one, binary=isinstance(frame, bytes))
                async with asyncio.timeout(10):
                    await connection.read_message()
            connection.close()
            while await connection.read_message() is not None:
                pass

    async def assert_untold(self) -> None:
        """After the next beat, so that all events are out."""
        heard = [push for one in self._heard for push in one.waiting()]
        for _ in range(2):
            heard += [await self._heard[0].next()]
            heard += self._heard[1].waiting()
        bodies = [str((await self.server.get(path, token=KEY)).body) for path in ("/metrics", "/v1/nodes", "/readyz")]
        told = {
            "answers": "\n".join(bodies),
            "log": self.server.log.read_text(),
            "$sys:": "\n".join(map(json.dumps, heard)),
            "others": "\n".join(
                json.dumps(push)
                for push in (*self.other.strays, *(p for s in self.other.subscriptions.values() for p in s.waiting()))
            ),
        }
        encoded = {MARK, base64.b64encode(MARK.encode()).decode(), quote(MARK, safe="")}
        for place, text in told.items():
            found = [line[:700] for line in text.splitlines() if any(one in line for one in encoded)]
            assert not found, f"{place}: {found[:5]}"


def settings(backend: BackEnd | None) -> dict[str, Any]:
    anyone = {"publish": "anyone", "subscribe": "anyone"}
    given: dict[str, Any] = {
        **UNLIMITED,
        "limits.cost_per_second": 0,
        "log.level": "debug",
        "log.format": "json",
        "auth.secret": SECRET,
        "auth.accounts": True,
        "auth.issuer": "the issuer",
        "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
        "namespaces": {"chat": anyone, "live": {**anyone, "durable": False}},
        "collections": {"items": {"read": "anyone", "write": "anyone", "owner": "owner"}},
    }
    if backend is not None:
        url = {"url": f"http://127.0.0.1:{backend.port}/hook", "secret": HOOK_SECRET, "timeout": 0.3}
        given["hooks"] = {
            name: {"function": f"rules_of_the_test:{name}"} if name in ("raises", "odd", "exits") else url
            for name in FAILURES
        }
        given["namespaces"] |= {name: {**anyone, "hook": name} for name in FAILURES}
        given["namespaces"] |= {f"{name}-live": {**anyone, "durable": False, "hook": name} for name in FAILURES}
        given["collections"] |= {name: {"read": "anyone", "write": "anyone", "hook": name} for name in FAILURES}
    return given


@asynccontextmanager
async def watched(
    directory: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch, backend: BackEnd | None = None
) -> AsyncIterator[Watched]:
    (directory / "rules_of_the_test.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    async with Server(directory, mongod.uri, None, settings(backend)) as server:
        token = make_token(SECRET, "bob", iss="the issuer")
        async with Client([server.ws], token=KEY) as operator, Client([server.ws], token=token) as other:
            heard = [await operator.subscribe(f"$sys:{name}") for name in ("nodes", "events")]
            for channel in ("chat:x", "docs:items"):
                await other.subscribe(channel)
            yield Watched(server, heard, other)


def rule(question: dict[str, Any]) -> Any:
    """Each namespace's and collection's own failure; what it answers is full of what it was asked."""

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(1)
        return {}

    name = (question.get("collection") or question["channel"].removeprefix("docs:")).partition(":")[0]
    quoted = json.dumps(question)
    return {
        "status": 500,
        "garbage": b"{" + quoted.encode(),
        "list": [question],
        "slow": slowly() if name.startswith("slow") else None,
        "refuses": {"allow": False, "reason": f"{MARK} is not for others"},
        "reason": {"allow": False, "reason": {MARK: question}},
        "large": {"data": {MARK: MARK * 6000}},
    }[name.removesuffix("-live")]


@pytest.mark.gen_test(timeout=120)
async def test_what_a_hook_refuses_or_fails_on(tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong statuses, garbage, silence, reasons that quote the message, exceptions that do: publishes, batches, lasting
    or not, documents and subscriptions."""
    backend = BackEnd()
    backend.rule = rule
    backend.serve()
    data = {"pin": MARK, MARK: [MARK], "deep": {"er": MARK}}
    try:
        async with watched(tmp_path, mongod, monkeypatch, backend) as one:
            for name in FAILURES:
                for channel in (f"{name}:x", f"{name}-live:x"):
                    await one.ask("POST", f"/v1/channels/{channel}/messages", {"data": data, "key": MARK})
                    await one.ask("GET", f"/v1/channels/{channel}/messages")
                    publish = {"type": "publish", "id": 1, "channel": channel, "data": data}
                    await one.frames(json.dumps(publish), msgpack.packb(publish))
                await one.ask("POST", "/v1/publish", {"messages": [{"channel": f"{name}:x", "data": data}] * 3})
                await one.ask("PUT", f"/v1/documents/{name}/a", data)
                await one.ask("PATCH", f"/v1/documents/{name}/a", data)
                await one.ask("POST", f"/v1/documents/{name}", data)
                await one.ask("GET", f"/v1/documents/{name}?where={quote(json.dumps({'pin': MARK}))}")
            assert sum(status >= 400 for status in one.answers) > 6 * len(FAILURES)
            await one.assert_untold()
    finally:
        backend.stop()


COMMANDS: list[Any] = [
    {"type": MARK, "id": 1},
    {"type": "publish", "id": 1, MARK: 1},
    {"type": "publish", "id": MARK, "channel": "chat:x", "data": 1},
    {"type": "publish", "id": 1, "channel": {MARK: 1}, "data": 1},
    {"type": "publish", "id": 1, "channel": "chat:x", "data": 1, "key": {MARK: [MARK]}},
    {"type": "publish", "id": 1, "channel": "chat:x", "data": MARK * 6000},
    {"type": "publish", "id": 1, "channel": "chat:x", "data": 1, "ephemeral": MARK},
    {"type": "subscribe", "id": 1, "channel": "chat:x", "after": MARK},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {f"${MARK}": 1}},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {f"{MARK}..": 1}},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {MARK: {f"${MARK}": MARK}}},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {MARK: {}}},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {MARK: {"$in": MARK}}},
    {"type": "subscribe", "id": 1, "channel": "docs:items", "where": {MARK: [MARK]}},
    {"type": "history", "id": 1, "channel": "chat:x", "after": MARK},
    {"type": "history", "id": 1, "channel": "chat:x", "limit": MARK},
    {"type": "refresh", "id": 1, "token": MARK},
    {"type": "refresh", "id": 1, "token": {MARK: MARK}},
    [MARK],
    MARK,
]
PUBLISH = '{"type": "publish", "id": 1, "data": '
TEXTS = [
    PUBLISH + f'"{MARK}"',
    PUBLISH + f'"{MARK}", "data": "{MARK}"' + "}",
    PUBLISH + f'"{MARK}", "{MARK}": 1, "{MARK}": 2' + "}",
    PUBLISH + MARK + "}",
    PUBLISH + f'["{MARK}", NaN]' + "}",
    PUBLISH + f'["{MARK}", 1e999]' + "}",
    PUBLISH + f'["{MARK}", 123456789012345678901234567890]' + "}",
    PUBLISH + f'["{MARK}", "\\ud800"]' + "}",
    PUBLISH + "[" * 50 + f'"{MARK}"' + "]" * 50 + "}",
    MARK,
]
BYTES = [
    msgpack.packb({"type": "publish", "id": 1, "data": MARK.encode()}),
    msgpack.packb({"type": "publish", "id": 1, "data": msgpack.ExtType(5, MARK.encode())}),
    msgpack.packb({"type": "publish", "id": 1, "data": {1: MARK}}),
    msgpack.packb({"type": "publish", "id": 1, "data": [MARK, float("nan")]}),
    msgpack.packb({"type": "publish", "id": 1, "data": [MARK, 2**64 - 1]}),
    msgpack.packb({"type": "publish", "id": 1, "data": MARK})[:-3],
    msgpack.packb({"type": "publish", "id": 1, "data": MARK}) + MARK.encode(),
    b"\x82\xa4type\xa7publish\xa4" + MARK[:4].encode() + b"\xd9\x20" + MARK.encode() + b"\xff\xfe",
    b"\x82\xae" + MARK.encode() + b"\x01\xae" + MARK.encode() + b"\x02",
    MARK.encode(),
]


@pytest.mark.gen_test(timeout=120)
async def test_what_cannot_be_read(tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, bodies, queries and headers that break a codec, a type, a limit or a rule of the protocol."""
    async with watched(tmp_path, mongod, monkeypatch) as one:
        for command in COMMANDS:
            await one.frames(json.dumps(command), msgpack.packb(command), first={"type": "connect", "id": 9})
        await one.frames(*TEXTS, *BYTES, first={"type": "connect", "id": 9})
        await one.frames(*(json.dumps(command) for command in COMMANDS), *TEXTS, *BYTES)
        for path in ("/v1/channels/chat:x/messages", "/v1/publish", "/v1/documents/items", "/v1/tickets"):
            for body in (*TEXTS, *BYTES):
                kind = "application/json" if isinstance(body, str) else "application/msgpack"
                raw = body.encode() if isinstance(body, str) else body
                await one.ask("POST", path, raw, Content_Type=kind)
            for body in (
                {MARK: 1},
                [MARK],
                {"messages": [{MARK: MARK}]},
                {"messages": MARK},
                {"channels": [{MARK: 1}]},
            ):
                await one.ask("POST", path, body)
            await one.ask("POST", path, b"{}", Content_Type=MARK)
            await one.ask("POST", path, b"{}", Content_Type=f"{MARK}/{MARK}", Content_Encoding=MARK, Accept=MARK)
        for fields in ({f"${MARK}": 1}, {f"{MARK}.x": 1}, {"a": {f"${MARK}": 1}}, {"_id": [MARK]}, {"_rev": MARK}):
            await one.ask("PUT", "/v1/documents/items/a", fields)
            await one.ask("PATCH", "/v1/documents/items/a", fields)
            await one.ask("POST", "/v1/documents/items", fields)
        await one.ask("PUT", "/v1/documents/items/a", {"x": 1}, If_Match=MARK)
        await one.ask("PUT", "/v1/documents/items/a", {"x": 1}, If_None_Match=MARK)
        await one.ask("POST", "/v1/channels/chat:x/messages", {"data": 1}, Idempotency_Key=MARK * 30)
        for query in (
            *(f"where={quote(json.dumps(one['where']))}" for one in COMMANDS if "where" in one),
            *(f"{name}={MARK}" for name in ("where", "sort", "limit", "page", "count", MARK)),
            f"sort=${MARK}", f"sort={MARK}..",
        ):  # fmt: skip
            await one.ask("GET", f"/v1/documents/items?{query}")
        for query in (f"after={MARK}", f"limit={MARK}", f"{MARK}={MARK}", f"before={MARK}"):
            await one.ask("GET", f"/v1/channels/chat:x/messages?{query}")
        await one.ask("GET", f"/v1/channels/chat:x/events?after={MARK}")
        assert sum(status >= 400 for status in one.answers) > 120
        await one.assert_untold()


@pytest.mark.gen_test(timeout=120)
async def test_what_proves_nothing(tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are broken, false, expired, or say something odd; tickets, refresh tokens and passwords."""

    def raw(header: Any, claims: Any) -> str:
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
        return ".".join([*parts, base64.urlsafe_b64encode(MARK.encode()).rstrip(b"=").decode()])

    tokens = [
        MARK,
        f"{MARK}.{MARK}.{MARK}",
        MARK * 700,
        raw({"alg": MARK}, {"sub": MARK}),
        raw({"alg": "HS256", "typ": MARK, "kid": MARK}, {"sub": MARK}),
        raw({"alg": "HS256", "kid": {MARK: 1}}, {"sub": MARK}),
        raw({"alg": "HS256", "crit": [MARK], MARK: 1}, {"sub": MARK}),
        make_token("another secret of thirty-two bytes", MARK, email=MARK),
        *(
            make_token(SECRET, "ann", **{"iss": "the issuer", "email": MARK, **claims})
            for claims in (
                {"exp": time.time() - 600},
                {"exp": MARK},
                {"nbf": MARK},
                {"nbf": time.time() + 600},
                {"iat": MARK},
                {"iat": time.time() + 600},
                {"iss": MARK},
                {"jti": {MARK: 1}},
                {"channels": MARK},
                {"channels": {MARK: MARK}},
                {"channels": {MARK: [{MARK: 1}]}},
                {"channel": MARK},
            )
        ),
    ]
    async with watched(tmp_path, mongod, monkeypatch) as one:
        for token in tokens:
            await one.ask("GET", "/v1/channels/chat:x/messages", Authorization=f"Bearer {token}")
            await one.ask("POST", "/v1/channels/chat:x/messages", {"data": MARK}, Authorization=f"Bearer {token}")
            await one.ask("GET", f"/v1/channels/chat:x/events?ticket={token[:4000]}")
            await one.ask("GET", f"/v1/channels/chat:x/messages?token={token[:4000]}&access_token={token[:4000]}", {})
            connect = {"type": "connect", "id": 1, "token": token}
            await one.frames(json.dumps(connect), msgpack.packb(connect))
            refresh = {"type": "refresh", "id": 1, "token": token}
            await one.frames(json.dumps(refresh), first={"type": "connect", "id": 9})
        await one.ask("GET", "/v1/channels/chat:x/messages", Authorization=f"Basic {MARK}")
        await one.ask("GET", "/v1/channels/chat:x/messages", Authorization=MARK)
        for path in ("login", "register"):
            for body in (
                {"user": "ann", "password": f"{MARK} wrong"},
                {"user": "ann", "password": {MARK: 1}},
                {"user": "ann", "password": MARK * 100},
                {"user": {MARK: 1}, "password": MARK},
                {"user": "carl", "password": MARK, "info": MARK * 100},
                {"user": "dora", "password": MARK, MARK: 1},
            ):
                await one.ask("POST", f"/v1/auth/{path}", body)
        for path in ("refresh", "logout"):
            for refresh_token in (MARK, f"{MARK}.{MARK}", {MARK: 1}, MARK * 100):
                await one.ask("POST", f"/v1/auth/{path}", {"refresh_token": refresh_token})
        assert sum(status >= 400 for status in one.answers) > 60
        await one.assert_untold()
