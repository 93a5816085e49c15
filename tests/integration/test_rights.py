"""The table: every principal × action × channel × transport, each cell asserted, and the same answer at every door.

A transport is a function in DOORS; the table is `EXPECTED`. Cases 15 and 16 of the fault list are rows of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

import server.access.permissions
from server.node import Node
from tests.support.client import Client, Refused, make_token

SECRET = "a secret of at least thirty-two bytes"
OK, DENIED, UNKNOWN, BAD, NOBODY = "ok", "permission_denied", "unknown_channel", "bad_request", "unauthenticated"
THREADED = ("users:x", "inbox:ann", "shut:a1", "vip:x")
NAMESPACES: dict[str, dict[str, Any]] = {
    "open": {"publish": "anyone", "subscribe": "anyone"},
    "users": {"publish": "user", "subscribe": "user"},
    "feed": {"publish": "server", "subscribe": "anyone"},
    "inbox": {"publish": ["server", "user"], "subscribe": "owner|server"},
    "vip": {"publish": "claim:role=editor", "subscribe": "claim:vip"},
    "shut": {"publish": "nobody", "subscribe": "nobody"},
    "flash": {"publish": "user", "subscribe": "user", "durable": False},
}
for _channel in THREADED:
    NAMESPACES[_channel.partition(":")[0]]["threads"] = True


def _key(name: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(name.encode()).hexdigest()}


# Whom we know, by what they show; None: nothing.
PRINCIPALS: dict[str, str | None] = {
    "guest": None,
    "ann": make_token(SECRET, "ann"),
    "bob": make_token(SECRET, "bob", vip=True, role="editor"),
    "granted": make_token(SECRET, "gil", channels={"shut:a*": ["subscribe"], "shut:b": ["publish"], "*:x": []}),
    "broad": make_token(SECRET, "bea", channels={"*": ["subscribe", "publish"]}),
    "sly": make_token(SECRET, "sly", channels={"shu*": ["subscribe"], "*hut:a": ["subscribe"], "": ["subscribe"]}),
    "server": "the plain key",
    "keyed": "the key with rights",
    "admin": "the key of the operator",
    "forger": make_token("another secret of thirty-two bytes", "ann"),
    "late": make_token(SECRET, "ann", lifetime=-3600),
    "none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.",
}
CHANNELS = (
    "open:x", "users:x", "feed:x", "inbox:ann", "inbox:a:bob", "vip:x", "shut:a1", "shut:b", "flash:x", "attic:x",
    "shut", "docs:orders", "$sys:nodes", "$user:ann", "dead:x", *(f"$thread:1:{channel}" for channel in THREADED),
    "$thread:1:open:x", "$thread:1:docs:orders", "$thread:1:$thread:1:users:x",
)  # fmt: skip

USERS = {"ann", "bob", "granted", "broad", "sly"}
SERVERS = {"server", "keyed", "admin"}
KNOWN = USERS | SERVERS
EVERYBODY = KNOWN | {"guest"}

# (who may subscribe, who may publish); whoever is not named is denied.
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "open:x": (EVERYBODY, EVERYBODY),
    "users:x": (KNOWN, KNOWN),
    "feed:x": (EVERYBODY, SERVERS | {"broad"}),
    "inbox:ann": (SERVERS | {"ann", "broad"}, KNOWN),
    "inbox:a:bob": (SERVERS | {"bob", "broad"}, KNOWN),
    "vip:x": ({"bob", "broad"}, {"bob", "broad"}),
    "shut:a1": ({"granted", "broad"}, {"broad", "keyed"}),
    "shut:b": ({"broad"}, {"granted", "broad", "keyed"}),
    "flash:x": (KNOWN, KNOWN),
    "$user:ann": ({"ann"}, SERVERS),
    "dead:x": ({"admin"}, set()),
}
EXPECTED |= {f"$thread:1:{channel}": EXPECTED[channel] for channel in THREADED}


def expected(who: str, right: str, channel: str) -> str:
    if who in ("forger", "none"):
        return NOBODY
    if who == "late":
        return "token_expired"
    if channel == "shut" or (channel.startswith("$thread:") and channel not in EXPECTED):
        return BAD
    if channel == "$sys:nodes":
        return OK if who == "admin" and right == "subscribe" else DENIED
    if channel not in EXPECTED:
        return UNKNOWN
    return OK if who in EXPECTED[channel][right == "publish"] else DENIED


@pytest.fixture
def settings() -> dict[str, object]:
    keys: dict[str, Any] = {
        "server": _key("the plain key"),
        "keyed": _key("the key with rights") | {"channels": {"shut:*": ["publish"]}},
        "admin": _key("the key of the operator") | {"admin": True},
    }
    return {
        "auth.api_keys": keys,
        "origins": ["https://app.example.com"],
        "limits.connections_per_user": 0,
        **{f"namespaces.{name}": options | {"presence": True} for name, options in NAMESPACES.items()},
    }


# --- doors: (address, what is shown, action, channel) → "ok" or the error's code --------------------------------------

# What needs which right; and what is a bad request once the right is there.
ACTIONS = {
    "subscribe": "subscribe", "resume": "subscribe", "last": "subscribe", "history": "subscribe",
    "presence": "subscribe", "publish": "publish",
}  # fmt: skip


IMPOSSIBLE = {(channel, action) for channel in ("flash:x", "$sys:nodes") for action in ("resume", "last", "history")}
IMPOSSIBLE |= {(channel, "presence") for channel in ("$sys:nodes", "$user:ann", "dead:x")}


async def websocket(base: str, bearer: str | None, action: str, channel: str, *, header: bool = False) -> str:
    client = Client(base.replace("http", "ws") + "/v1/ws", token=bearer, bearer=header)
    try:
        await client.connect()
        if action == "publish":
            await client.publish(channel, {"by": "the table"})
        elif action in ("history", "presence"):
            await client.request(action, channel=channel)
        else:
            options = {"subscribe": {}, "resume": {"after": "0"}, "last": {"last": 5}}[action]
            await client.subscribe(channel, **options)
    except Refused as refused:
        return refused.code
    except HTTPClientError as answered:
        return str(json.loads(answered.response.body if answered.response else b"{}")["code"])
    finally:
        await client.close()
    return OK


async def websocket_header(base: str, bearer: str | None, action: str, channel: str) -> str:
    return await websocket(base, bearer, action, channel, header=True)


async def rest(base: str, bearer: str | None, action: str, channel: str) -> str | None:
    door = f"{base}/v1/channels/{quote(channel, safe='')}"
    ways = {"history": "/messages", "resume": "/messages?after=0", "presence": "/presence"}
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    if action == "publish":
        request = AsyncHTTPClient().fetch(
            f"{door}/messages", method="POST", body='{"data": 1}', headers=headers, raise_error=False
        )
    elif action in ways:
        request = AsyncHTTPClient().fetch(door + ways[action], headers=headers, raise_error=False)
    else:
        return None  # there is no such thing at this door
    response = await request
    return OK if response.code < 300 else str(json.loads(response.body)["code"])


Door = Callable[[str, str | None, str, str], Awaitable[str | None]]
DOORS: dict[str, Door] = {"websocket": websocket, "websocket header": websocket_header, "rest": rest}


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("who", PRINCIPALS)
async def test_the_table(base_url: str, http_server: object, node: Node, who: str) -> None:
    for channel in THREADED:
        await node.log.append(channel, None, "root", "what is answered", 18)
    wrong: list[str] = []
    cells = 0
    for door, call in DOORS.items():
        for action, right in ACTIONS.items():
            for channel in CHANNELS:
                wanted = expected(who, right, channel)
                if wanted == OK and (channel, action) in IMPOSSIBLE:
                    wanted = BAD
                got = await call(base_url, PRINCIPALS[who], action, channel)
                cells += got is not None
                if got not in (wanted, None):
                    wrong.append(f"{who}: {action} {channel} by {door}: {got}, not {wanted}")
    assert not wrong, "\n".join(wrong)
    assert cells == len(CHANNELS) * (6 + 6 + 4)


@pytest.mark.gen_test
async def test_the_table_can_fail(
    base_url: str, http_server: object, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a broken rule the cells are wrong at every door: it is that rule that they ask."""
    monkeypatch.setattr(server.access.permissions, "satisfies", lambda *_: True)
    for call in DOORS.values():
        assert await call(base_url, PRINCIPALS["guest"], "publish", "shut:a1") == OK


class TestWithoutGuests:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.guests": False, "namespaces.open": NAMESPACES["open"] | {"presence": True}}

    @pytest.mark.gen_test
    @pytest.mark.parametrize("action", ACTIONS)
    async def test_a_token_is_needed_everywhere(self, base_url: str, http_server: object, action: str) -> None:
        for call in DOORS.values():
            assert await call(base_url, None, action, "open:x") in (NOBODY, None)
            assert await call(base_url, PRINCIPALS["ann"], action, "open:x") in (OK, None)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True), ("http://{host}", True), ("https://app.example.com", True),
        ("https://app.example.com.evil.com", False), ("https://evil.com", False), ("http://app.example.com", False),
        ("https://app.example.com:444", False), ("null", False), ("", False), ("http://{host}.evil.com", False),
    ],
)  # fmt: skip
async def test_origins(base_url: str, http_server: object, origin: str | None, allowed: bool) -> None:
    """Case 16: no page of elsewhere opens a socket or publishes with what the browser knows."""
    host = base_url.partition("//")[2]
    headers = {} if origin is None else {"Origin": origin.format(host=host)}
    client = Client(base_url.replace("http", "ws") + "/v1/ws", headers=headers)
    try:
        await client.connect()
        opened = True
    except HTTPClientError as answered:
        opened = answered.code != 403
    finally:
        await client.close()
    response = await AsyncHTTPClient().fetch(
        f"{base_url}/v1/channels/open:x/messages", method="POST", body='{"data": 1}', headers=headers, raise_error=False
    )
    assert opened is allowed
    assert (response.code == 201) is allowed
