"""/metrics: who may read it, and that what happened is what it says."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from server.metrics import registry
from server.node import Node
from tests.integration.test_backpressure import Raw
from tests.support.client import Client, Refused
from tests.support.processes import UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until

ADMIN, OTHER = "the key of the operator", "the key of a shop"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def settings() -> dict[str, object]:
    keys = {
        "operator": {"sha256": hashlib.sha256(ADMIN.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(OTHER.encode()).hexdigest()},
    }
    return {"auth.api_keys": keys, "limits.queue_bytes": 65536, "limits.messages_per_second": 0}


def sample(metrics: CollectorRegistry, name: str, **labels: str) -> float:
    value = metrics.get_sample_value(f"waterspout_{name}", labels)
    assert value is not None, f"{name} {labels}"
    return value


@pytest.mark.gen_test
async def test_only_an_admin_may_read(http_client: AsyncHTTPClient, base_url: str) -> None:
    async def status(token: str | None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        response: HTTPResponse = await http_client.fetch(f"{base_url}/metrics", headers=headers, raise_error=False)
        if response.code != 200:
            assert "waterspout_" not in response.body.decode()
            assert "code" in json.loads(response.body)
        return response.code

    assert await status(None) == 401
    assert await status("not a key") == 401
    assert await status(OTHER) == 403
    assert await status(ADMIN) == 200


@pytest.mark.gen_test
async def test_text_or_openmetrics(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Both formats are well-formed, as Prometheus's own parsers see them, and say the same families."""
    names = []
    for accept, parse in (
        ("text/plain", parse_text),
        ("application/openmetrics-text; version=1.0.0", parse_openmetrics),
    ):
        response: HTTPResponse = await http_client.fetch(f"{base_url}/metrics", headers={**AS_ADMIN, "Accept": accept})
        assert response.headers["Content-Type"].startswith(accept.partition(";")[0])
        families = list(parse(response.body.decode()))  # type: ignore[operator]
        ours = [family.name for family in families if family.name.startswith("waterspout")]
        names.append({name.removesuffix("_info") for name in ours})
        assert all(family.documentation for family in families)
    assert names[0] == names[1]
    assert len(names[0]) > 20
    response = await http_client.fetch(
        f"{base_url}/metrics", headers={**AS_ADMIN, "Accept": "application/openmetrics-text; version=x"}
    )
    assert response.code == 200


@pytest.mark.gen_test
async def test_it_counts_what_happens(base_url: str, http_server: object, node: Node) -> None:
    other = Node(node.config, "mongodb://127.0.0.1:1/")
    metrics, nobody = registry(node), registry(other)
    async with Client([base_url.replace("http", "ws") + "/v1/ws"]) as client:
        for channel in ("chat:a", "chat:b"):
            subscription = await client.subscribe(channel)
        for n in range(5):
            await client.publish("chat:b", {"n": n})
        await subscription.messages(5)
        with pytest.raises(Refused):
            await client.publish("feed:a", 1)
        assert sample(metrics, "connections", transport="websocket") == 1
        assert sample(metrics, "subscriptions", state="live") == 2
        assert sample(metrics, "subscriptions", state="replaying") == 0
        assert sample(metrics, "channels") == 2
        assert sample(metrics, "messages_in_total") == sample(metrics, "messages_out_total") == 5
        assert sample(metrics, "publish_seconds_count") == 5
        assert sample(metrics, "batch_messages_sum") == 5
        assert sample(metrics, "log_inserts_total") == sample(metrics, "batch_messages_count") == 5
        assert sample(metrics, "bytes_in_total") > 5 * 50
        assert sample(metrics, "bytes_out_total") > 5 * 100
        assert sample(metrics, "refusals_total", code="permission_denied") == 1
        assert sample(metrics, "refusals_total", code="internal") == 0
        assert sample(metrics, "broker_up") == sample(metrics, "mongodb_up") == 1
    await until(lambda: not node.admission.clients, 5, "the client has left")
    assert sample(metrics, "connections", transport="websocket") == 0
    assert sample(metrics, "disconnects_total", code="client") == 1
    # A node of its own has numbers of its own.
    assert sample(nobody, "messages_in_total") == sample(nobody, "publish_seconds_count") == 0
    assert sample(nobody, "mongodb_up") == 0
    await other.log.close()


@pytest.mark.gen_test(timeout=20)
async def test_repairs_have_a_cause(
    base_url: str, http_server: object, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Client([base_url.replace("http", "ws") + "/v1/ws"]) as client:
        subscription = await client.subscribe("chat:a")
        with monkeypatch.context() as patch:
            patch.setattr(node.broker, "publish", lambda messages: None)
            await client.publish("chat:a", 1)
        assert [message["data"] for message in await subscription.messages(1)] == [1]
    assert sample(registry(node), "repairs_total", cause="announced") == 1


@pytest.mark.gen_test(timeout=30)
async def test_slow_clients_show(http_port: int, http_server: object, node: Node) -> None:
    """What waits for a client that does not read, that it fell behind, and what ephemeral messages it lost."""
    metrics = registry(node)
    async with Raw(node, http_port) as slow:
        await slow.subscribe("chat:a")
        await slow.subscribe("live:a")
        async with asyncio.timeout(20):
            while not (node.hub.fallen_behind and node.hub.dropped):
                node.publisher.publish(slow.session.principal, "live:a", "x" * 20_000)  # type: ignore[arg-type]
                await node.publisher.publish(slow.session.principal, "chat:a", "x" * 20_000)  # type: ignore[arg-type,misc]
        assert 0 < sample(metrics, "queue_bytes") <= 65536
        assert sample(metrics, "fallen_behind_total") == 1
        assert sample(metrics, "subscriptions", state="replaying") == 1
        assert sample(metrics, "messages_dropped_total") > 0


@pytest.mark.gen_test(timeout=60)
async def test_a_port_of_its_own_needs_no_key(mongod: Mongod, tmp_path: Path, http_client: AsyncHTTPClient) -> None:
    port = free_port()
    async with Server(tmp_path, mongodb_uri=mongod.uri, settings=UNLIMITED | {"metrics.port": port}) as server:
        response: HTTPResponse = await http_client.fetch(f"http://127.0.0.1:{port}/metrics")
        assert b"waterspout_connections" in response.body
        response = await http_client.fetch(f"http://127.0.0.1:{port}/readyz")
        assert json.loads(response.body) == {"status": "ready"}
        for path in ("/v1/channels/chat:a/messages", "/v1/ws", "/"):
            assert (await http_client.fetch(f"http://127.0.0.1:{port}{path}", raise_error=False)).code == 404
        assert (await server.request("GET", "/metrics")).status == 401
