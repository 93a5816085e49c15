"""Messages for later: accepted now, published when they are due, and until then to be listed and cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from server.core.cursors import BEGINNING
from server.node import Node
from tests.support.client import Client, Refused, make_token
from tests.support.processes import Mongod
from tests.support.waiting import until
from waterspout_client import Client as PythonClient
from waterspout_client import WaterspoutError

SECRET = "a secret of at least thirty-two bytes"
SHOP, ADMIN = "the-key-of-the-shop", "the-key-of-the-operator"
ANN, BOB = make_token(SECRET, "ann"), make_token(SECRET, "bob")
FAR = time.time() + 86400


@pytest.fixture
def settings() -> dict[str, object]:
    shop = {"sha256": hashlib.sha256(SHOP.encode()).hexdigest(), "channels": {"*": ["publish"]}}
    operator = {"sha256": hashlib.sha256(ADMIN.encode()).hexdigest(), "admin": True}
    return {
        "auth.api_keys": {"shop": shop, "operator": operator},
        "namespaces.chat": {"publish": "user", "subscribe": "anyone", "hook": "rules"},
        "hooks.rules": {"function": "tests.integration.test_scheduled:rules"},
        "quotas.enforced": True,
        "quotas.user": {"messages": 30},
        "limits.scheduled_per_user": 30,
    }


def rules(question: dict[str, Any]) -> dict[str, Any] | None:
    """A hook: who says "bad" is refused, who says "loud" is corrected."""
    if question.get("data") == "loud":
        return {"allow": True, "data": "quiet"}
    return {"allow": question.get("data") != "bad"}


@pytest.fixture
def direct(mongod: Mongod, node: Node) -> Iterator[Any]:
    with MongoClient[Any](mongod.uri) as client:
        yield client[node.config.mongodb.database]


@pytest.fixture
def bearer() -> str:
    return ANN


async def messages(node: Node, channel: str) -> list[Any]:
    return [(one.user, one.data) for one in (await node.log.read(channel, BEGINNING)).messages]


@pytest.mark.gen_test(timeout=30)
async def test_a_message_for_later_is_published_then(ask: Any, node: Node) -> None:
    """As the user's; a moment that is over is now. Nothing of it runs before the first one."""
    assert not node.outbox.on
    due = datetime.now(UTC) + timedelta(seconds=1)
    status, answer = await ask("POST", "/channels/chat:a/messages", {"data": "later", "at": due.isoformat()})
    assert (status, answer.keys()) == (202, {"channel", "id", "at"})
    assert answer["at"] == pytest.approx(due.timestamp(), abs=0.001)
    status, at_once = await ask("POST", "/channels/chat:a/messages", {"data": "now", "at": 1})
    assert (status, at_once["offset"]) == (201, 1)
    await until(lambda: there(node, "chat:a", 2))
    assert await messages(node, "chat:a") == [("ann", "now"), ("ann", "later")]
    (_, later) = (await node.log.read("chat:a", BEGINNING)).messages
    assert 0 <= later.time / 1000 - due.timestamp() < 1


async def there(node: Node, channel: str, count: int) -> bool:
    return len(await messages(node, channel)) == count


@pytest.mark.gen_test(timeout=30)
async def test_it_is_listed_and_cancelled_by_who_has_published_it_and_by_administrators(ask: Any, direct: Any) -> None:
    """Also what the product has written for later; nobody else sees it."""
    ids = {}
    for token, at in ((ANN, FAR + 2), (BOB, FAR + 1), (SHOP, FAR)):
        path = "/channels/chat:a/messages"
        status, answer = await ask("POST", path, {"data": {"$a.b": at}, "at": at, "key": "k"}, token=token)
        assert status == 202, answer
        ids[token] = answer["id"]
    direct.waterspout_outbox.insert_one({"_id": "own", "channel": "chat:b", "data": 1, "at": FAR + 3})
    _, mine = await ask("GET", "/scheduled")
    at = pytest.approx(FAR + 2, abs=0.001)
    expected = {"channel": "chat:a", "data": {"$a.b": FAR + 2}, "key": "k", "user": "ann", "at": at}
    assert mine == {"scheduled": [{"id": ids[ANN], **expected}]}
    _, everything = await ask("GET", "/scheduled", token=ADMIN)
    assert [one["id"] for one in everything["scheduled"]] == [ids[SHOP], ids[BOB], ids[ANN], "own"]
    _, some = await ask("GET", "/scheduled?channel=chat:b&limit=1", token=ADMIN)
    assert [one["id"] for one in some["scheduled"]] == ["own"]
    for token, identifier, status in (
        *((ANN, ids[BOB], 404), (ANN, "nothing", 404), (None, ids[ANN], 403), (ANN, ids[ANN], 204)),
        *((ANN, ids[ANN], 404), (SHOP, ids[SHOP], 204), (ADMIN, ids[BOB], 204), (ADMIN, "own", 204)),
    ):
        assert (await ask("DELETE", f"/scheduled/{identifier}", token=token))[0] == status, (token, identifier)
    assert direct.waterspout_outbox.count_documents({}) == 0


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize(
    ("body", "token", "code"),
    [
        ({"data": 1, "at": FAR}, None, "permission_denied"),
        ({"data": 1, "at": "tomorrow"}, ANN, "bad_request"),
        ({"data": 1, "at": "2030-01-01T00:00:00"}, ANN, "bad_request"),
        ({"data": 1, "at": FAR * 1000}, ANN, "bad_request"),
        ({"data": 1, "at": FAR + 400 * 86400}, ANN, "bad_request"),
        ({"data": 1, "at": True}, ANN, "bad_request"),
        ({"data": "x" * 70_000, "at": FAR}, ANN, "too_large"),
        ({"data": "bad", "at": FAR}, ANN, "permission_denied"),
    ],
)
async def test_what_may_not_be_published_is_not_accepted(
    ask: Any, direct: Any, body: dict[str, Any], token: str | None, code: str
) -> None:
    """With the error that says why, and nothing waits."""
    status, answer = await ask("POST", "/channels/chat:a/messages", body, token=token)
    assert (status >= 400, answer["code"]) == (True, code)
    assert direct.waterspout_outbox.count_documents({}) == 0


@pytest.mark.gen_test(timeout=30)
async def test_a_retry_with_the_same_key_is_one_message(ask: Any, direct: Any) -> None:
    """With other data it is a conflict; the hook's word counts."""
    path, body = "/channels/chat:a/messages", {"data": "loud", "at": FAR, "key": "once"}
    first, again = await ask("POST", path, body), await ask("POST", path, body)
    assert first == again
    assert (await ask("POST", path, body | {"data": "other"}))[1]["code"] == "conflict"
    assert (await ask("POST", path, body | {"at": FAR + 1}))[1]["code"] == "conflict"
    (entry,) = direct.waterspout_outbox.find()
    assert entry["text"] == '"quiet"'


@pytest.mark.gen_test(timeout=30)
async def test_quotas_count_it_when_it_is_accepted(ask: Any) -> None:
    """And a batch has none for later."""
    path = "/channels/chat:a/messages"
    answers = [await ask("POST", path, {"data": number, "at": FAR}) for number in range(32)]
    assert [status for status, _ in answers] == [202] * 30 + [429] * 2
    _, batch = await ask("POST", "/publish", {"messages": [{"channel": "chat:a", "data": 1, "at": FAR}]})
    assert batch["results"][0]["error"]["code"] == "bad_request"


@pytest.mark.gen_test(timeout=30)
async def test_never_too_many_of_one_user_wait(ask: Any, direct: Any) -> None:
    """However many are asked for at the same time; others are not concerned, and what is cancelled makes room."""
    path, body = "/channels/chat:a/messages", {"data": 1, "at": FAR}
    _, first = await ask("POST", path, body)
    (row,) = direct.waterspout_outbox.find()
    direct.waterspout_outbox.insert_many([{**row, "_id": number} for number in range(24)])
    answers = await asyncio.gather(*(ask("POST", path, body) for _ in range(10)))
    refused = [answer for status, answer in answers if status != 202]
    assert len(refused) >= 5
    assert {(one["code"], one["reason"]) for one in refused} == {
        ("limit_exceeded", "at: limits.scheduled_per_user is 30")
    }
    assert direct.waterspout_outbox.count_documents({}) == 25 + 10 - len(refused)
    assert (await ask("POST", path, body, token=BOB))[0] == 202
    assert (await ask("DELETE", f"/scheduled/{first['id']}"))[0] == 204
    assert (await ask("POST", path, body))[0] == 202


@pytest.mark.gen_test(timeout=30)
async def test_what_a_revoked_user_wanted_to_say_later_is_not_said(ask: Any, node: Node, direct: Any) -> None:
    """It is among the dead at once, before it is forgotten that the user was revoked."""
    await ask("POST", "/channels/chat:a/messages", {"data": "ann's", "at": FAR})
    await ask("POST", "/channels/chat:a/messages", {"data": "bob's", "at": FAR}, token=BOB)
    await until(lambda: node.outbox.holds)
    assert (await ask("POST", "/users/ann/revoke", {}, token=ADMIN))[0] < 300
    await until(lambda: direct.waterspout_outbox.count_documents({}) == 1)
    (dead,) = (await node.log.read("dead:outbox", BEGINNING)).messages
    assert (dead.data["code"], dead.data["entry"]["text"]) == ("unauthenticated", '"ann\'s"')


@pytest.mark.gen_test(timeout=30)
async def test_over_a_websocket_and_with_the_python_client(base_url: str, http_server: object, node: Node) -> None:
    """`publish` with `at` answers what `cancel` takes."""
    url = base_url.replace("http", "ws") + "/v1/ws"
    async with Client(url, token=ANN) as client:
        reply = await client.request("publish", channel="chat:a", data=1, at=FAR)
        assert (reply["channel"], reply["at"]) == ("chat:a", pytest.approx(FAR, abs=0.001))
        await client.request("cancel", scheduled=reply["scheduled"])
        with pytest.raises(Refused) as refused:
            await client.request("cancel", scheduled=reply["scheduled"])
        assert refused.value.code == "not_found"
        soon = await client.request("publish", channel="chat:a", data="soon", at=time.time() + 0.5)
        assert "offset" not in soon
        now = await client.request("publish", channel="chat:a", data="now", at=0)
        assert now["offset"] == 1
    async with PythonClient(base_url, token=ANN) as ann:
        later = await ann.publish("chat:a", 2, at=FAR)
        assert (later.offset, later.at) == (None, pytest.approx(FAR, abs=0.001))
        assert later.scheduled is not None
        await ann.cancel(later.scheduled)
        with pytest.raises(WaterspoutError, match="not_found"):
            await ann.cancel(later.scheduled)
    await until(lambda: there(node, "chat:a", 2))
    assert await messages(node, "chat:a") == [("ann", "now"), ("ann", "soon")]
    await asyncio.sleep(0)
