"""Consumers without a back end: workers fetch messages, and say what became of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import aclosing
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

import waterspout_client
from server.core import config
from server.core.errors import Error
from server.core.principals import Principal
from server.node import Node
from tests.integration.test_consumers import ANN, OPS, history_of, publish
from tests.support.client import Client
from tests.support.nodes import another
from tests.support.processes import Mongod
from tests.support.waiting import until

KEY = "the worker's own key"
WORKER = Principal("worker", server=True, consumers=frozenset(("jobs", "heap", "short", "talk")))


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "consumers": {
            "jobs": {"channels": ["chat:*"]},
            "heap": {"channels": ["chat:*"], "ordered": False},
            "talk": {"channels": ["talk:*", "$thread:*:talk:*"]},
            "short": {"channels": ["chat:*"], "lease": "200ms", "max_deliveries": 2},
        },
        "auth.api_keys.worker": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "consumers": ["jobs", "talk"]},
        "namespaces.talk": {
            "publish": "anyone", "subscribe": "anyone", "amend": "own", "reactions": True, "threads": True,
        },
        "mongodb.dedupe_window": 0,
    }  # fmt: skip


async def fetch(node: Node, name: str, limit: int = 10, wait: float = 5.0) -> list[Any]:
    answer = await node.workers.fetch(WORKER, name, limit, wait)
    return list(answer["messages"])


async def ack(node: Node, name: str, *jobs: Any) -> None:
    await node.workers.ack(WORKER, name, [job["id"] for job in jobs])


def data(jobs: list[Any]) -> list[Any]:
    return [job["data"] for job in jobs]


@pytest.mark.gen_test
async def test_a_worker_gets_what_is_published(base_url: str, http_server: object, node: Node) -> None:
    """Over REST: it waits, gets messages in order with ids, and what it has acknowledged does not come again."""

    async def rest(path: str, **body: Any) -> tuple[int, Any]:
        answer = await AsyncHTTPClient().fetch(
            f"{base_url}/v1/consumers/jobs/{path}", method="POST", body=json.dumps(body),
            headers={"Authorization": f"Bearer {KEY}"}, raise_error=False,
        )  # fmt: skip
        return answer.code, json.loads(answer.body)

    waiting = asyncio.ensure_future(rest("fetch", limit=10, wait=10))
    await publish(node, "chat:a", 1, 2)
    status, answer = await waiting
    assert status == 200
    first = answer["messages"]
    if len(first) < 2:
        await rest("ack", ids=[first[0]["id"]])
        first += (await rest("fetch", limit=10, wait=10))[1]["messages"]
    assert [(job["channel"], job["offset"], job["data"], job["delivery"]) for job in first] == [
        ("chat:a", 1, 1, 1), ("chat:a", 2, 2, 1),
    ]  # fmt: skip
    assert {"id", "key", "user", "time"} < first[0].keys()
    assert await rest("ack", ids=[job["id"] for job in first]) == (200, {})
    assert await rest("fetch") == (200, {"messages": []})
    await publish(node, "chat:a", 3)
    assert data((await rest("fetch", wait=5))[1]["messages"]) == [3]


@pytest.mark.gen_test
async def test_in_order(node: Node) -> None:
    """A channel is one worker's at a time, whatever others ask for; another channel is free."""
    await publish(node, "chat:a", 1, 2, 3)
    await publish(node, "chat:b", "b")
    one = await fetch(node, "jobs", limit=1)
    two = await fetch(node, "jobs", limit=10)
    assert {job["channel"] for job in one} != {job["channel"] for job in two}
    assert await fetch(node, "jobs", wait=0) == []
    got = {"chat:a": [], "chat:b": []}  # type: ignore[var-annotated]
    jobs = one + two
    while jobs:
        for job in jobs:
            got[job["channel"]].append(job["data"])
        await ack(node, "jobs", *jobs)
        jobs = await fetch(node, "jobs", wait=0)
    assert got == {"chat:a": [1, 2, 3], "chat:b": ["b"]}


@pytest.mark.gen_test
async def test_in_parallel(node: Node) -> None:
    """Without order, several workers have messages of one channel, none of them twice."""
    await publish(node, "chat:a", *range(20))
    shares = await asyncio.gather(*(fetch(node, "heap", limit=5) for _ in range(4)))
    while sum(map(len, shares)) < 20:
        shares.append(await fetch(node, "heap", limit=5))
    assert sorted(one for share in shares for one in data(share)) == list(range(20))
    for share in reversed(shares):
        await ack(node, "heap", *share)
    assert await fetch(node, "heap", wait=0) == []


@pytest.mark.gen_test
async def test_a_lease_that_runs_out(node: Node) -> None:
    """The message is handed out again, and the first worker's word about it does not count any more; after
    `max_deliveries` it is in the dead-letter channel, and what is behind it comes."""
    await publish(node, "chat:a", "lost", "next")
    (first,) = await fetch(node, "short", limit=1)
    (second,) = await fetch(node, "short", limit=1)
    assert (first["data"], first["delivery"], second["data"], second["delivery"]) == ("lost", 1, "lost", 2)
    await ack(node, "short", first)
    (third,) = await fetch(node, "short", limit=1)
    assert (third["data"], third["delivery"]) == ("next", 1)
    await ack(node, "short", third)
    (dead,) = await history_of(node, OPS, "dead:short")
    assert dead.data["messages"][0]["data"] == "lost"
    assert dead.data["attempts"] == 2


@pytest.mark.gen_test
async def test_given_back(node: Node) -> None:
    """What a worker cannot do comes again at once, or after a delay; in order, all behind it waits."""
    await publish(node, "chat:a", 1, 2)
    one = await fetch(node, "jobs", limit=1)
    await node.workers.nack(WORKER, "jobs", [one[0]["id"]], 0)
    again = await fetch(node, "jobs")
    assert [(job["data"], job["delivery"]) for job in again] == [(1, 2), (2, 1)]
    await ack(node, "jobs", again[1])
    await node.workers.nack(WORKER, "jobs", [again[0]["id"]], 0.3)
    assert await fetch(node, "jobs", wait=0) == []
    last = await fetch(node, "jobs")
    assert [(job["data"], job["delivery"]) for job in last] == [(1, 3)]
    await ack(node, "jobs", *last)
    assert await fetch(node, "jobs", wait=0) == []


@pytest.mark.gen_test
async def test_several_nodes(node: Node, mongod: Mongod) -> None:
    """Leases hold on all of them, ids are good at all, and outlive the node that gave them."""
    await publish(node, "chat:a", 1, 2)
    async with another(node, mongod) as second:
        jobs = await fetch(node, "jobs")
        assert data(jobs) == [1, 2]
        assert await fetch(second, "jobs", wait=0) == []
        await node.close()
        await ack(second, "jobs", *jobs)
        assert await fetch(second, "jobs", wait=0) == []
        await publish(second, "chat:a", 3)
        assert data(await fetch(second, "jobs")) == [3]


@pytest.mark.gen_test
async def test_what_retention_takes(node: Node) -> None:
    """It is told as a gap, and what is retained comes."""
    await publish(node, "chat:a", *range(8))
    await until(lambda: node.consumers.pulling["jobs"].beginnings.idle)
    await node.log.trimmer.trim("chat:a", config.Retention(size=3))
    answer = await node.workers.fetch(WORKER, "jobs", 10, 5)
    assert answer["gaps"] == [{"channel": "chat:a", "from": 1, "to": 5}]
    jobs = list(answer["messages"]) or await fetch(node, "jobs")
    assert data(jobs) == [5, 6, 7]


@pytest.mark.gen_test
async def test_who_may(node: Node) -> None:
    """Keys that name the consumer, and admins; an id of another consumer changes nothing."""
    await publish(node, "chat:a", 1)
    for principal in (ANN, Principal("shop", server=True), Principal("x", server=True, consumers=frozenset(("heap",)))):
        with pytest.raises(Error, match="permission_denied"):
            await node.workers.fetch(principal, "jobs", 1, 0)
    (job,) = (await node.workers.fetch(OPS, "jobs", 1, 5))["messages"]
    await ack(node, "heap", job)
    assert data(await fetch(node, "heap")) == [1]
    for bad in ("", "%%%", "e30", job["id"][:-3] + "zzz"):
        with pytest.raises(Error, match="bad_request") as refused:
            await node.workers.ack(OPS, "jobs", [bad])
        assert refused.value.code == "bad_request", bad


@pytest.mark.gen_test
async def test_over_a_websocket(base_url: str, http_server: object, node: Node) -> None:
    """The same commands; a fetch that waits holds up nothing else of the connection."""
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=KEY) as client:
        waiting = asyncio.ensure_future(client.request("fetch", consumer="jobs", limit=5, wait=10))
        await client.ping()
        await publish(node, "chat:a", 1)
        (job,) = (await waiting)["messages"]
        assert job["data"] == 1
        await client.request("nack", consumer="jobs", ids=[job["id"]])
        (job,) = (await client.request("fetch", consumer="jobs", wait=5))["messages"]
        assert job["delivery"] == 2
        await client.request("ack", consumer="jobs", ids=[job["id"]])
        assert (await client.request("fetch", consumer="jobs"))["messages"] == []


@pytest.mark.gen_test
async def test_the_python_client(base_url: str, http_server: object, node: Node) -> None:
    """A job is done when the loop asks for the next one; one that was given back comes again, and so does, at once,
    what a loop had when it was left."""
    await publish(node, "chat:a", *range(6))
    got: list[tuple[Any, int]] = []
    async with waterspout_client.Client(base_url, token=KEY) as client:
        async with aclosing(client.consume("jobs")) as jobs:
            async for job in jobs:
                got.append((job.data, job.delivery))
                if job.delivery == 1 and job.data == 2:
                    await job.nack()
                if job.delivery == 2:
                    break
        assert got == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (2, 2)]
        async with aclosing(client.consume("jobs")) as jobs:
            job = await anext(jobs)
            assert (job.data, job.delivery) == (2, 3)
            await job.ack()
    assert await fetch(node, "jobs", wait=0) == []


@pytest.mark.gen_test
async def test_the_python_client_is_told_of_gaps(base_url: str, http_server: object, node: Node) -> None:
    """Of what retention took before anybody got it, before the jobs behind it."""
    await publish(node, "chat:a", *range(3))
    await until(lambda: node.consumers.pulling["jobs"].beginnings.idle)
    await node.log.clear("chat:a")
    await publish(node, "chat:a", "new")
    told: list[Any] = []
    client = waterspout_client.Client(base_url, token=KEY)
    async with client, aclosing(client.consume("jobs", on_gap=told.append)) as jobs:
        job = await anext(jobs)
        told.append(job.data)
        await job.ack()
    assert told == [{"channel": "chat:a", "from": 1, "to": 3}, "new"]


@pytest.mark.gen_test
async def test_a_worker_that_goes(base_url: str, http_server: object, node: Node) -> None:
    """Nothing is handed out to a connection that is gone."""
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=KEY) as client:
        waiting = asyncio.ensure_future(client.request("fetch", consumer="jobs", wait=10))
        await until(lambda: node.consumers.pulling["jobs"].waiting)
    waiting.cancel()
    await until(lambda: not node.consumers.pulling["jobs"].waiting)
    await publish(node, "chat:a", 1)
    (job,) = await fetch(node, "jobs")
    assert job["delivery"] == 1


@pytest.mark.gen_test
async def test_amendments_are_no_messages(base_url: str, http_server: object, node: Node) -> None:
    """What becomes of messages comes with a type of its own, by both doors and in the client; messages have what there
    is to know of them."""
    await node.publisher.publish(ANN, "talk:tea", "one")
    await node.reactions.react(ANN, "talk:tea", 1, "x", True)
    await node.publisher.publish(ANN, "$thread:1:talk:tea", "reply", broadcast=True)

    async def counted() -> bool:
        message = await node.amender.get(ANN, "talk:tea", 1)
        return "replies" in repr(message) and "count" in repr(message)

    await until(counted, 5, "the count of replies")
    url = base_url.replace("http", "ws") + "/v1/ws"
    seen: dict[str, Any] = {}
    async with waterspout_client.Client(url, token=KEY) as client, aclosing(client.consume("talk")) as jobs:
        while not {"reactions", "replies", "reply", "in the thread"} <= seen.keys():
            job = await anext(jobs)
            name = job.op or ("in the thread" if job.channel.startswith("$") else job.data)
            seen[name] = job
    assert (seen["one"].type, seen["one"].op) == ("message", None)
    assert seen["reply"].fields["thread"] == "$thread:1:talk:tea"
    assert "thread" not in seen["in the thread"].fields
    for op in ("reactions", "replies"):
        assert (seen[op].type, seen[op].of, seen[op].data) == ("amend", 1, None)
        assert seen[op].fields[op]
