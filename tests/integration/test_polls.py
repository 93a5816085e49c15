"""Long polls through a real server: at once, later, empty; several channels; herds; the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgpack
import pytest

from server.core.errors import SHUTDOWN, Disconnect
from server.core.principals import GUEST, Principal
from server.node import Node
from server.sessions.poll import Poll
from tests.support.client import make_token
from tests.support.plain_http import plain
from tests.support.waiting import until

MESSAGES = "/v1/channels/chat:a/messages"


@pytest.fixture
def settings() -> dict[str, object]:
    chat = {"publish": "anyone", "subscribe": "anyone", "ephemeral": True, "presence": True, "join_leave": True}
    return {"origins": ["https://app.example"], "namespaces.chat": chat}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with plain(base_url=url, timeout=30, limits=limits) as one:
        yield one


async def publish(node: Node, channel: str, *data: Any) -> list[str]:
    """Their cursors."""
    futures = [node.publisher.publish(GUEST, channel, datum) for datum in data]
    return [str((await future).position) for future in futures if future is not None]


def waiting(node: Node) -> list[Poll]:
    return [one for one in node.admission.clients if isinstance(one, Poll) and one.waits]


async def polling(node: Node, http: httpx.AsyncClient, path: str, count: int = 1, **options: Any) -> Any:
    """Tasks of so many polls, all of which wait."""
    before = len(waiting(node))
    tasks = [asyncio.ensure_future(http.get(path, **options)) for _ in range(count)]
    await until(lambda: len(waiting(node)) == before + count and node.hub.count("chat:a"), 20, "waiting polls")
    return tasks if count > 1 else tasks[0]


def data(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    return [message["data"] for message in response.json()["messages"]]


@pytest.mark.gen_test
async def test_it_answers_at_once_when_there_is_something(node: Node, url: str) -> None:
    """After the cursor, or the newest without one."""
    first, second, _ = await publish(node, "chat:a", 1, 2, 3)
    async with client(url) as http:
        page = await http.get(MESSAGES, params={"after": first, "wait": 60})
        assert data(page) == [2, 3]
        assert page.json().keys() == {"messages", "cursor", "head", "more", "gap"}
        assert data(await http.get(MESSAGES, params={"wait": 60, "limit": 1})) == [3]
        page = await http.get(MESSAGES, params={"after": 0, "wait": 60, "limit": 2})
        assert (data(page), page.json()["more"], page.json()["cursor"]) == ([1, 2], True, second)


@pytest.mark.gen_test
async def test_it_answers_as_soon_as_there_is_something(node: Node, url: str) -> None:
    """With what the turn has brought, in the form of a page of history; its cursor goes on from there."""
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=30")
        (cursor,) = await publish(node, "chat:a", {"text": "ü"})
        page = (await task).json()
        assert page == (await http.get(MESSAGES)).json()
        assert page["cursor"] == page["head"] == cursor
        task = await polling(node, http, f"{MESSAGES}?wait=30&after={cursor}")
        await publish(node, "chat:a", *range(20))
        page = await task
        got = data(page)
        assert got == list(range(len(got)))
        rest = await http.get(MESSAGES, params={"after": page.json()["cursor"]})
        assert got + data(rest) == list(range(20))


@pytest.mark.gen_test
async def test_messagepack(node: Node, url: str) -> None:
    """An answer is put together from encoded messages; lists of fewer and more than 15 have other headers."""
    cursor = "0"
    async with client(url) as http:
        for count in (1, 15, 16, 40):
            path = f"{MESSAGES}?wait=30&after={cursor}"
            task = await polling(node, http, path, headers={"Accept": "application/msgpack"})
            futures = [node.publisher.publish(GUEST, "chat:a", {"n": n}) for n in range(count)]
            cursor = str((await asyncio.gather(*filter(None, futures)))[-1].position)
            response = await task
            assert response.headers["content-type"] == "application/msgpack"
            page = msgpack.unpackb(response.content)
            got = [message["data"]["n"] for message in page["messages"]]
            assert got == list(range(len(got)))
            assert page["cursor"].endswith(f":{page['messages'][-1]['offset']}")
            assert len(got) == count or got == [0]  # the first may go alone into the log


@pytest.mark.gen_test
async def test_nothing_comes(node: Node, url: str) -> None:
    """An empty page with the same cursor, after about `wait` seconds. Without `wait` it is plain history."""
    (cursor,) = await publish(node, "chat:a", 1)
    loop = asyncio.get_running_loop()
    async with client(url) as http:
        for path, given in ((f"{MESSAGES}?after={cursor}", cursor), ("/v1/channels/chat:none/messages?after=0", "0")):
            began = loop.time()
            page = (await http.get(f"{path}&wait=1")).json()
            assert 0.9 < loop.time() - began < 10
            assert page["messages"] == []
            assert page["cursor"] == given
            assert page["more"] is False
        page = (await http.get(f"{MESSAGES}?after={cursor}&wait=0")).json()
        assert page["messages"] == []
    await until(lambda: not node.admission.clients and not node.admission.connections.total, 5, "end of the polls")


@pytest.mark.gen_test
async def test_more_than_was_asked_for(node: Node, url: str) -> None:
    """Of what comes in one turn only `limit` is answered, and the cursor goes on behind that."""
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=30&limit=2")
        await publish(node, "chat:a", *range(5))
        page = await task
        assert data(page) in ([0], [0, 1])
        rest = await http.get(MESSAGES, params={"after": page.json()["cursor"], "wait": 9})
        assert data(page) + data(rest) == list(range(5))


@pytest.mark.gen_test
async def test_another_epoch_is_a_gap(node: Node, url: str) -> None:
    await publish(node, "chat:a", 1)
    async with client(url) as http:
        page = await http.get(MESSAGES, params={"after": "zzzz:7", "wait": 30})
        assert (data(page), page.json()["gap"]["reason"]) == ([1], "epoch")
        page = await http.get(MESSAGES, params={"after": f"{node.log.epoch}:99", "wait": 30})
        assert (data(page), page.json()["gap"]["reason"]) == ([1], "epoch")


@pytest.mark.gen_test
async def test_a_history_that_is_reset_while_it_waits_is_a_gap(node: Node, url: str) -> None:
    """The hub tells of it, and the answer says it in the words of history."""
    (cursor,) = await publish(node, "chat:a", 1)
    async with client(url) as http:
        task = await polling(node, http, f"{MESSAGES}?after={cursor}&wait=30")
        await node.database.own("channels").update_one({"_id": "chat:a"}, {"$set": {"epoch": "reset"}}, upsert=True)
        await node.peers.compare()
        page = (await task).json()
    assert page["gap"]["reason"] == "epoch"
    assert page["cursor"].startswith("reset:")


@pytest.mark.gen_test
async def test_several_channels(node: Node, url: str) -> None:
    """One cursor for all of them, good in any order; what comes to any of them ends the waiting."""
    await publish(node, "chat:b", 1, 2)
    async with client(url) as http:
        page = await http.get("/v1/poll?channel=chat:a&channel=chat:b&after=&after=0&wait=30")
        assert data(page) == [1, 2]
        assert page.json().keys() == {"messages", "cursor", "more", "gaps"}
        cursor = page.json()["cursor"]
        task = await polling(node, http, f"/v1/poll?channel=chat:b&channel=chat:a&after={cursor}&wait=30")
        await publish(node, "chat:a", 3)
        page = await task
        assert data(page) == [3]
        await publish(node, "chat:b", 4)
        page = await http.get("/v1/poll", params={"channel": ["chat:a", "chat:b"], "after": page.json()["cursor"]})
        assert data(page) == [4]
        cursor = page.json()["cursor"]
        page = await http.get("/v1/poll", params={"channel": ["chat:a", "chat:b"], "after": cursor, "wait": 1})
        assert (data(page), page.json()["cursor"]) == ([], cursor)
        page = await http.get("/v1/poll?channel=chat:a&channel=chat:b&after=zzzz:1&after=0&limit=2")
        assert data(page) == [3, 1]
        assert page.json()["more"] is True
        assert page.json()["gaps"] == [{"channel": "chat:a", "from": None, "to": None, "reason": "epoch"}]


@pytest.mark.gen_test
async def test_a_list_that_fits_no_url(node: Node, url: str) -> None:
    """POST reads and waits as GET does, whatever the names; its cursor is good for both."""
    names = [f"chat:{'я' * 110}-{number:02}" for number in range(63)] + ["chat:a"]
    await publish(node, names[0], 1, 2)
    async with client(url) as http:
        wanted = [{"channel": name, "after": "0" if name == names[0] else None} for name in names]
        page = await http.post("/v1/poll", json={"channels": wanted, "wait": 30, "limit": 1000})
        assert data(page) == [1, 2]
        task = asyncio.ensure_future(
            http.post(
                "/v1/poll",
                json={"channels": [{"channel": name} for name in names], "after": page.json()["cursor"], "wait": 30},
            )
        )
        await until(lambda: waiting(node), 20, "a poll that waits")
        await publish(node, names[5], 3)
        assert data(await task) == [3]
        two = {"channels": [{"channel": "chat:b", "after": "0"}, {"channel": "chat:a", "after": "0"}]}
        page = await http.post("/v1/poll", json=two)
        await publish(node, "chat:b", 4)
        cursor = page.json()["cursor"]
        assert data(await http.get("/v1/poll", params={"channel": ["chat:a", "chat:b"], "after": cursor})) == [4]
        for body in (
            {},
            {"channels": [{"channel": "live:b"}], "wait": 5},
            {**two, "after": "~0.1.1"},
            {**two, "wait": 61},
        ):
            response = await http.post("/v1/poll", json=body)
            assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        denied = await http.post("/v1/poll", json={"channels": [{"channel": "feed:a"}]})
        assert (denied.status_code, denied.json()["code"]) == (403, "permission_denied")
    assert not node.admission.clients


REFUSED = [
    (MESSAGES + "?wait=61", 400, "bad_request"),
    (MESSAGES + "?wait=-1", 400, "bad_request"),
    (MESSAGES + "?wait=x", 400, "bad_request"),
    (MESSAGES + "?wait=5&before=0", 400, "bad_request"),
    ("/v1/channels/live:a/messages?wait=5", 400, "bad_request"),
    ("/v1/channels/feed:a/messages?wait=5", 403, "permission_denied"),
    ("/v1/channels/nowhere:a/messages?wait=5", 404, "unknown_channel"),
    ("/v1/poll", 400, "bad_request"),
    ("/v1/poll?channel=chat:a&channel=chat:b&after=~0.1.1", 400, "bad_request"),
    ("/v1/poll?channel=chat:a&after=x", 400, "bad_request"),
    ("/v1/poll?channel=chat:a&channel=live:b&wait=5", 400, "bad_request"),
]


@pytest.mark.parametrize(("path", "status", "code"), REFUSED)
@pytest.mark.gen_test
async def test_a_bad_poll_is_refused(node: Node, url: str, path: str, status: int, code: str) -> None:
    """At once, and nothing of it stays."""
    async with client(url) as http:
        response = await http.get(path)
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert not node.admission.clients
    assert not node.streams.counts()[1]


@pytest.mark.gen_test
async def test_who_hangs_up_is_forgotten(node: Node, url: str) -> None:
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=60")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not node.admission.clients and not node.admission.connections.total, 5, "end of the poll")
    assert node.hub.count("chat:a") == 0


@pytest.mark.gen_test(timeout=60)
async def test_a_herd_is_answered_without_a_query(node: Node, url: str) -> None:
    """A thousand that wait cost no reads, neither while they wait nor when the message comes: it is encoded once."""
    count = 1000

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(f"GET {MESSAGES}?after=0&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async with client(url) as http:
        last = await polling(node, http, MESSAGES + "?wait=60")  # the channel is known here from now on
        reads, encodes = node.log.reads, node.hub.encodes
        tasks = [asyncio.ensure_future(one()) for _ in range(count)]
        await until(lambda: node.hub.count("chat:a") == count + 1, 30, "waiting polls")
        assert node.log.reads == reads
        await publish(node, "chat:a", "wake up")
        answers = await asyncio.gather(*tasks)
        assert data(await last) == ["wake up"]
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    (body,) = {answer.partition(b"\r\n\r\n")[2] for answer in answers}
    assert json.loads(body)["messages"][0]["data"] == "wake up"
    assert node.log.reads - reads <= 2  # the publish's own look for the head and the epoch
    assert node.hub.encodes - encodes == 1


@pytest.mark.gen_test
async def test_an_idle_poll_again_costs_no_query(node: Node, url: str) -> None:
    """The channel stays known for a moment after an answer: who comes back with its cursor only waits."""
    (cursor,) = await publish(node, "chat:a", 1)
    async with client(url) as http:
        await http.get(f"{MESSAGES}?after={cursor}&wait=1")
        reads = node.log.reads
        await http.get(f"{MESSAGES}?after={cursor}&wait=1")
        assert node.log.reads == reads


@pytest.mark.gen_test
async def test_the_server_leaves(node: Node, url: str) -> None:
    """Whoever waits is told when to come back."""
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=60", headers={"Origin": "https://app.example"})
        for poll in waiting(node):
            poll.disconnect(Disconnect(SHUTDOWN, "the server is leaving"), 2.5)
        response = await task
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "unavailable", "3")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.gen_test
async def test_the_token_expires_while_it_waits(node: Node, url: str) -> None:
    headers = {"Authorization": f"Bearer {make_token('a secret of at least thirty-two bytes', 'ann')}"}
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=60", headers=headers)
        (poll,) = waiting(node)
        node.clock.skew += 3700
        poll.tick(asyncio.get_running_loop().time())
        response = await task
    assert (response.status_code, response.json()["code"]) == (401, "token_expired")


@pytest.mark.gen_test
async def test_it_counts_as_a_connection(node: Node, url: str) -> None:
    """A waiting poll is under the limits of connections; one that need not wait is too, or it would be the way in."""
    node.admission.addresses.limit = 2
    async with client(url) as http:
        tasks = await polling(node, http, MESSAGES + "?wait=60", 2)
        response = await http.get(MESSAGES + "?wait=60")
        assert (response.status_code, response.json()["code"]) == (429, "limit_exceeded")
        assert int(response.headers["retry-after"]) >= 1
        assert json.loads((await http.get(MESSAGES)).text)["messages"] == []
        await publish(node, "chat:a", 1)
        await asyncio.gather(*tasks)


@pytest.mark.gen_test
async def test_what_has_no_cursor_does_not_end_the_waiting(node: Node, url: str) -> None:
    """An ephemeral message of a durable channel is not in the log: a poll would never know whether it had it."""
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=30")
        assert node.publisher.publish(GUEST, "chat:a", "passing", ephemeral=True) is None
        await publish(node, "chat:a", "lasting")
        assert data(await task) == ["lasting"]


@pytest.mark.gen_test
async def test_a_right_that_ends_while_it_waits(node: Node, url: str) -> None:
    """It is refused as the next poll would be; one that was only unsubscribed gets an empty page."""
    operator = Principal("operator", server=True, admin=True)
    headers = {"Authorization": f"Bearer {make_token('a secret of at least thirty-two bytes', 'ann')}"}
    path = "/v1/channels/feed:a/messages?wait=60"
    async with client(url) as http:

        async def waits() -> Any:
            task = asyncio.ensure_future(http.get(path, headers=headers))
            await until(lambda: waiting(node) and node.hub.count("feed:a"), 10, "waiting poll")
            return task

        task = await waits()
        await node.moderation.unsubscribe(operator, "feed:a", "ann", "enough")
        assert data(await task) == []
        task = await waits()
        await node.moderation.revoke(operator, "ann", channels=["feed:*"])
        response = await task
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


@pytest.mark.gen_test
async def test_a_token_that_is_revoked_while_it_waits(node: Node, url: str) -> None:
    headers = {"Authorization": f"Bearer {make_token('a secret of at least thirty-two bytes', 'ann')}"}
    async with client(url) as http:
        task = await polling(node, http, MESSAGES + "?wait=60", headers=headers)
        await node.moderation.revoke(Principal("operator", server=True, admin=True), "ann")
        response = await task
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
