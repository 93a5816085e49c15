"""An abuser stores no more than the quotas allow, by whatever door; a chat does not notice them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.core import config
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.node import Node
from server.wire.commands import Write
from tests.support.client import Client, Refused, make_token
from tests.support.processes import Mongod

SECRET = "a secret of at least thirty-two bytes"
KEY = "the key of the shop"
KIB = "x" * 1024
SHOP = Principal(user="shop", server=True)


@pytest.fixture
def settings() -> dict[str, object]:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return {
        "auth.api_keys": {"shop": {"sha256": digest, "channels": {"chat:*": ["publish"]}}},
        "quotas": {
            "enforced": True,
            "guest": {"new_channels": 5, "messages": 40, "bytes": 65536, "new_documents": 5},
            "user": {"new_channels": 8, "messages": 0, "bytes": 0, "new_documents": 8},
            "namespace": {"new_channels": 1000, "messages": 0, "bytes": 0, "new_documents": 1000},
        },
        "collections.notes": {"read": "anyone", "write": "anyone"},
    }  # fmt: skip


async def rest(base: str, path: str, body: Any, bearer: str | None = None, method: str = "POST") -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
    response = await AsyncHTTPClient().fetch(
        base + path, method=method, body=json.dumps(body), headers=headers, raise_error=False
    )
    return json.loads(response.body)


async def batch(base: str, messages: list[dict[str, Any]], bearer: str | None = None) -> list[str]:
    """The outcome of each: `stored`, or the limit that its refusal names."""
    results = (await rest(base, "/v1/publish", {"messages": messages}, bearer))["results"]
    assert all(one["error"]["code"] == "limit_exceeded" for one in results if "error" in one)
    return [one["error"]["reason"].split()[0] if "error" in one else "stored" for one in results]


@pytest.mark.gen_test
async def test_one_request_with_many_channels(node: Node, base_url: str, http_server: object) -> None:
    """A guest makes a few channels, a user some more, a back end any number; those that exist stay open to all."""
    for name, bearer, allowed in (("guest", None, 5), ("ann", make_token(SECRET, "ann"), 8), ("shop", KEY, 50)):
        outcomes = await batch(base_url, [{"channel": f"chat:{name}{n}", "data": n} for n in range(50)], bearer)
        assert outcomes.count("stored") == allowed
        assert set(outcomes[allowed:]) <= {f"quotas.{'guest' if bearer is None else 'user'}.new_channels"}
        heads = await node.log.heads([f"chat:{name}{n}" for n in range(50)])
        assert sum(head.offset > 0 for head in heads.values()) == allowed
    assert await batch(base_url, [{"channel": f"chat:shop{n}", "data": n} for n in range(20)]) == ["stored"] * 20
    assert node.incidents.limits["quotas.guest.new_channels"] == 45


@pytest.mark.gen_test
async def test_channels_that_exist_stay_open_after_a_failure(node: Node, mongod: Mongod) -> None:
    """Also to who may make no more, while the log has to look again how far they reach."""
    await asyncio.gather(*(node.publisher.publish(GUEST, f"chat:c{n}", n) for n in range(5)))
    await mongod.fail_command({"failCommands": ["insert"], "namespace": f"{node.database.name}.waterspout.messages",
                               "closeConnection": True}, {"times": 1})  # fmt: skip
    failing = node.publisher.publish(GUEST, "chat:c0", "a")
    async with asyncio.timeout(10):
        while node.log.known_head("chat:c0") is not None:
            await asyncio.sleep(0)
    following = node.publisher.publish(GUEST, "chat:c0", "b")
    assert [receipt.position.offset for receipt in await asyncio.gather(failing, following)] == [2, 3]


@pytest.mark.gen_test
async def test_channels_that_exist_cost_nothing(node: Node, mongod: Mongod) -> None:
    """Nor on a node that has not heard of them; and many messages at once in a new one count as one channel."""
    channels = [f"chat:old{n}" for n in range(5)]
    await asyncio.gather(*(node.publisher.publish(GUEST, channel, n) for channel in channels for n in range(4)))
    other = Node(node.config, mongod.uri)
    await other.start()
    try:
        for _ in range(3):
            await asyncio.gather(*(other.publisher.publish(GUEST, channel, 1) for channel in channels))
        await asyncio.gather(*(other.publisher.publish(GUEST, f"chat:new{n}", 1) for n in range(5)))
        with pytest.raises(Error, match=r"quotas\.guest\.new_channels"):
            await other.publisher.publish(GUEST, "chat:another", 1)
        # All are used up, and `other` has never heard of these: they exist nevertheless.
        await asyncio.gather(*(node.publisher.publish(SHOP, f"chat:unheard{n}", 0) for n in range(4)))
        publishing = [
            other.publisher.publish(GUEST, f"chat:unheard{n}", m, session="s1") for n in range(4) for m in range(3)
        ]
        offsets = [receipt.position.offset for receipt in await asyncio.gather(*publishing)]
        assert offsets == [2, 3, 4] * 4
    finally:
        await other.close()


@pytest.mark.gen_test
async def test_messages_and_bytes(node: Node, base_url: str, http_server: object) -> None:
    """Over WebSocket and REST together, by all guests of the address; ephemeral messages are not stored."""
    async with Client(base_url.replace("http", "ws") + "/v1/ws") as one:
        for _ in range(30):
            await one.publish("chat:a", KIB)
        outcomes = await batch(base_url, [{"channel": "chat:a", "data": KIB}] * 50)
        assert outcomes == ["stored"] * 10 + ["quotas.guest.messages"] * 40
        with pytest.raises(Refused, match=r"limit_exceeded: quotas\.guest\.messages is 40 in an hour"):
            await one.publish("chat:a", KIB)
        for _ in range(10):
            await one.publish("live:a", KIB)
    head = (await node.log.heads(["chat:a"]))["chat:a"]
    assert head.offset == 40


@pytest.mark.gen_test
async def test_stored_bytes(node: Node, base_url: str, http_server: object) -> None:
    """Messages and documents alike."""
    assert await batch(base_url, [{"channel": "chat:a", "data": 40 * KIB}] * 2) == ["stored", "quotas.guest.bytes"]
    put = Write(op="put", document_id="x", document={"text": 40 * KIB})
    with pytest.raises(Error, match=r"quotas\.guest\.bytes"):
        await node.documents.write(GUEST, "notes", put, address="127.0.0.1")
    await node.documents.write(GUEST, "notes", put, address="192.0.2.1")


@pytest.mark.gen_test
async def test_what_is_not_stored_costs_nothing(node: Node) -> None:
    """A publish or a write of a document that fails gives back its bytes, its message and its channel; so does one that
    was stored already by an earlier try. What may be stored does not."""
    await node.publisher.publish(GUEST, "chat:a", 20 * KIB, "key")
    for _ in range(3):
        with pytest.raises(Error, match="conflict: key"):
            await node.publisher.publish(GUEST, "chat:a", 20 * KIB + "!", "key")
        assert (await node.publisher.publish(GUEST, "chat:a", 20 * KIB, "key")).duplicate
    stale = Write(op="put", document_id="x", document={"text": 30 * KIB}, if_rev="old")
    for _ in range(3):
        with pytest.raises(Error, match="conflict: if_rev"):
            await node.documents.write(GUEST, "notes", stale)
        (result,) = await node.documents.write_many(GUEST, "notes", [stale])
        assert isinstance(result, Error)
    await node.documents.write(GUEST, "notes", Write(op="put", document_id="x", document={"text": 30 * KIB}))
    with pytest.raises(Error, match=r"quotas\.guest\.bytes"):
        await node.publisher.publish(GUEST, "chat:a", 20 * KIB)
    for n in range(4):
        assert (await node.publisher.publish(GUEST, f"chat:{n}", n)).position.offset == 1
    with pytest.raises(Error, match=r"quotas\.guest\.new_channels"):
        await node.publisher.publish(GUEST, "chat:more", 1)


@pytest.mark.gen_test
async def test_new_documents(node: Node) -> None:
    """One by one and in batches; what exists may be put, patched and deleted without end."""

    def put(identifier: str) -> Write:
        return Write(op="put", document_id=identifier, document={"n": 1})

    for n in range(4):
        await node.documents.write(GUEST, "notes", put(f"d{n}"))
    for _ in range(3):
        results = await node.documents.write_many(GUEST, "notes", [put("d0")])
        assert not isinstance(results[0], Error)
        await node.documents.write(GUEST, "notes", put("d1"))
        await node.documents.write(GUEST, "notes", Write(op="patch", document_id="d2", document={"n": 2}))
    with pytest.raises(Error, match=r"quotas\.guest\.new_documents is 5 in an hour"):
        await node.documents.write_many(GUEST, "notes", [put("e0"), put("e1")])
    await node.documents.write_many(GUEST, "notes", [put("e0")])
    with pytest.raises(Error, match=r"quotas\.guest\.new_documents"):
        await node.documents.write(GUEST, "notes", put("e1"))
    ann = Principal(user="ann")
    await node.documents.write_many(ann, "notes", [put(f"a{n}") for n in range(8)])
    with pytest.raises(Error, match=r"quotas\.user\.new_documents"):
        await node.documents.write(ann, "notes", put("a9"))
    await node.documents.write_many(SHOP, "notes", [put(f"s{n}") for n in range(30)])
    assert await node.database["notes"].count_documents({}) == 5 + 8 + 30


class TestAChat:
    """With the defaults."""

    @pytest.fixture
    def settings(self) -> dict[str, object]:
        defaults = config.Config()
        return {
            "quotas.enforced": True,
            "limits.requests_per_second": defaults.limits.rate_of_requests(),
            "limits.requests_burst": defaults.limits.requests_burst,
        }

    @pytest.mark.gen_test(timeout=60)
    async def test_a_chat_does_not_meet_them(self, node: Node, base_url: str, http_server: object) -> None:
        """Thirty people behind one address, in twenty rooms, who write as fast as they may for a while."""
        url = base_url.replace("http", "ws") + "/v1/ws"
        people = [Client(url) for _ in range(30)]
        for one in people:
            await one.connect()
        for round in range(10):
            await asyncio.gather(*(one.publish(f"chat:{(n + round) % 20}", KIB) for n, one in enumerate(people)))
            requests = (rest(base_url, "/v1/channels/chat:rest/messages", {"data": n}) for n in range(20))
            assert all("offset" in answer for answer in await asyncio.gather(*requests))
        for one in people:
            await one.close()
        assert not node.incidents.limits

    @pytest.mark.gen_test
    async def test_an_abuser_does(self, node: Node, base_url: str, http_server: object) -> None:
        """Hundreds of channels in one request."""
        outcomes = await batch(base_url, [{"channel": f"chat:{n}", "data": 512} for n in range(500)])
        assert outcomes.count("stored") == config.Config().quotas.guest.new_channels
        assert node.config.limits.rate_of_requests()  # so that they are not many either
