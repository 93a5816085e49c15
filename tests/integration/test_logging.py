"""What is in the log of a server: who connects and is refused, with ids; never what is secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.websocket import websocket_connect

from server.node import Node
from tests.support.client import Client, Refused
from tests.support.processes import LOOPBACK, Mongod, Server
from tests.support.waiting import until

SECRETS = ("hunter2", "the-payload", "a-query-secret")


def records(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage().startswith(message)]


def assert_no_secrets(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.gen_test
async def test_a_session_from_start_to_end(
    base_url: str, http_server: object, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pymongo").setLevel(logging.INFO)  # as `logs.configure` does
    async with Client([base_url.replace("http", "ws") + "/v1/ws"]) as client:
        await client.publish("chat:a", "the-payload")
        for _ in range(3):
            with pytest.raises(Refused):
                await client.publish("feed:a", "the-payload")
        (session,) = node.admission.clients
    (connected,) = records(caplog, "connected")
    (refused,) = records(caplog, "refused: ")  # one of three
    assert connected.session == refused.session == session.id  # type: ignore[attr-defined]
    assert (connected.ip, connected.user) == (LOOPBACK, None)  # type: ignore[attr-defined]
    assert refused.code == "permission_denied"  # type: ignore[attr-defined]
    assert_no_secrets(caplog.text)


@pytest.mark.gen_test
async def test_a_bad_token_is_refused_and_not_shown(
    base_url: str, http_server: object, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    socket = await websocket_connect(base_url.replace("http", "ws") + "/v1/ws")
    await socket.write_message(json.dumps({"type": "connect", "id": 1, "token": "ey.hunter2.hunter2"}))
    await until(lambda: not node.admission.clients, 5, "end of the session")
    socket.close()
    (refused,) = records(caplog, "refused: ")
    (disconnected,) = records(caplog, "disconnected: ")
    assert refused.code == "unauthenticated"  # type: ignore[attr-defined]
    assert disconnected.code == 4500  # type: ignore[attr-defined]
    assert records(caplog, "connected") == []
    assert_no_secrets(caplog.text)


@pytest.mark.gen_test
async def test_a_request_has_an_id(
    base_url: str, http_client: AsyncHTTPClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    node: Node,
) -> None:  # fmt: skip
    """The answer's X-Request-Id is the log's; the query and the body are not in it, not even of a failure."""
    caplog.set_level(logging.INFO)
    headers = {"Authorization": "Bearer hunter2", "Origin": base_url}
    url = f"{base_url}/v1/channels/chat:a/messages?after=a-query-secret"
    response: HTTPResponse = await http_client.fetch(url, headers=headers, raise_error=False)
    assert response.code == 401
    (record,) = records(caplog, "401 GET /v1/channels/chat:a/messages ")
    assert record.request == response.headers["X-Request-Id"]  # type: ignore[attr-defined]
    assert (record.ip, record.origin) == (LOOPBACK, base_url)  # type: ignore[attr-defined]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(node.publisher, "publish", broken)
    body = json.dumps({"data": "the-payload"})
    response = await http_client.fetch(url, method="POST", body=body, raise_error=False)
    assert response.code == 500
    (failed,) = records(caplog, "POST /v1/channels/chat:a/messages failed")
    assert failed.exc_info is not None
    assert failed.request == response.headers["X-Request-Id"]  # type: ignore[attr-defined]
    assert_no_secrets(caplog.text)


@pytest.mark.gen_test(timeout=60)
async def test_every_line_of_a_server_is_json(mongod: Mongod, tmp_path: Path) -> None:
    """Without a terminal, at the level of the configuration; at debug the drivers are not asked for everything."""
    async with Server(
        tmp_path, mongodb_uri=mongod.uri, settings={"log.level": "debug", "mongodb.database": "logging"}
    ) as server:
        path = "/v1/channels/chat:a/messages"
        assert (await server.request("POST", f"{path}?token=a-query-secret", b'{"data":"the-payload"}')).status == 201
        assert (await server.request("GET", "/nothing")).status == 404
    text = server.log.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    (post,) = (entry for entry in entries if entry["message"].startswith(f"201 POST {path} "))
    assert (post["level"], post["ip"]) == ("debug", LOOPBACK)
    assert any(entry["message"].startswith("Waterspout ") for entry in entries)
    assert_no_secrets(text)
