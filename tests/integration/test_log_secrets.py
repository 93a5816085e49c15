"""Tokens, passwords, payloads and queries go through every door, and none of them is in the log afterwards."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from tests.support.client import Client, ConnectionLost, Refused, make_token
from tests.support.processes import free_port

SECRET = "the-secret-of-the-tokens-of-32-bytes"
PAYLOAD = "what-ann-said-to-bob"
PASSWORD = "correct-horse-battery"
QUERY = "secret-of-a-query"
KEY = "key-of-the-operator"
HOOK = "secret-between-server-and-hook-0123"


async def refused(attempt: Any) -> None:
    with pytest.raises((Refused, ConnectionLost, HTTPClientError)):
        await attempt


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.secret": SECRET,
        "auth.accounts": True,
        "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
        "limits.message_bytes": 1000,
        "hooks.web": {"url": f"http://127.0.0.1:{free_port()}/hook?q={QUERY}", "secret": HOOK},
        "namespaces.hooked": {"publish": "anyone", "hook": "web"},
        "namespaces.users": {"publish": "user", "subscribe": "user", "rate": 1},
    }


async def call(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    return await AsyncHTTPClient().fetch(url, method=method, body=body, headers=headers, raise_error=False)


@pytest.mark.gen_test(timeout=30)
async def test_nothing_secret_is_logged(log: io.StringIO, base_url: str, http_server: object) -> None:
    url = base_url.replace("http", "ws") + "/v1/ws"
    token = make_token(SECRET, "ann", jti="jti-of-ann")
    forged = make_token("another-secret-of-thirty-two-bytes", "eve")
    secrets = [SECRET, PAYLOAD, PASSWORD[1:], QUERY, KEY, HOOK, token, forged, "jti-of-ann"]
    secrets += [part for one in (token, forged) for part in one.split(".")[1:]]
    data = {"text": PAYLOAD}
    for bearer in (True, False):
        await refused(Client(url, token=forged, bearer=bearer).connect())
        async with Client(url, token=token, bearer=bearer) as ann:
            await ann.publish("chat:x", data)
            await ann.subscribe("users:x")
            await ann.history("chat:x")
            await refused(ann.publish("chat:x", PAYLOAD * 60))
            await refused(ann.publish("nowhere:x", data))
            await refused(ann.publish("feed:x", data, key=PAYLOAD))
            await refused(ann.publish("hooked:x", data))
            for _ in range(2):
                with suppress(Refused):  # the second one comes too soon
                    await ann.publish("users:x", data)
            await ann.send_raw(json.dumps({"type": "publish", "data": PAYLOAD})[:-1])
            await ann.send_raw(json.dumps({"type": PAYLOAD, "channel": data}))
            await ann.send_raw(PAYLOAD.encode())
            await refused(ann.request("refresh", token=forged))
            await ann.request("refresh", token=token)
    for bearer in (token, forged, KEY, None):
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        for method, path, body in (
            ("GET", f"/v1/channels/users:x/messages?after={QUERY}&token={token}", None),
            ("GET", f"/nowhere?token={QUERY}", None),
            ("GET", f"/v1/ws?token={QUERY}", None),
            ("POST", f"/v1/channels/users:x/messages?token={QUERY}", json.dumps(data | {"data": data}).encode()),
            ("POST", "/v1/channels/hooked:x/messages", json.dumps(data | {"data": data}).encode()),
            ("POST", "/v1/channels/users:x/messages", json.dumps({"data": data})[:-1].encode()),
            ("POST", "/v1/users/ann/revoke", json.dumps({"token": "jti-of-ann", PAYLOAD: 1}).encode()),
            ("POST", "/v1/users/bob/revoke", json.dumps({"token": {PAYLOAD: 1}}).encode()),
            ("POST", "/v1/auth/register", json.dumps({"user": "cid", "password": PASSWORD}).encode()),
            ("POST", "/v1/auth/login", json.dumps({"user": "cid", "password": PASSWORD}).encode()),
            ("POST", "/v1/auth/login", json.dumps({"user": "cid", "password": PASSWORD[1:]}).encode()),
            ("POST", "/v1/auth/login", json.dumps({"user": "cid", "password": [PASSWORD]}).encode()),
        ):
            answer = await call(method, base_url + path, body, headers)
            assert answer.code != 500
            if path.endswith("/login") and answer.code == 200:
                tokens = json.loads(answer.body)
                refresh = tokens["refresh_token"]
                secrets += [tokens["token"], refresh, refresh.partition(".")[2]]
                again = json.dumps({"refresh_token": refresh}).encode()
                for _ in range(2):  # the second one is a thief's
                    await call("POST", base_url + "/v1/auth/refresh", again)
    text = log.getvalue()
    for expected in (
        "connected", "refused", '"user":"ann"', '"ip":"127.0.0.1"', "rate_limited", "/v1/auth/login", "hook web",
        "permission_denied",
    ):  # fmt: skip
        assert expected in text, f"{expected} should be there"
    assert [secret for secret in secrets if secret in text] == []
