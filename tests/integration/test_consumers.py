"""Consumers: everything at least once and in order, whatever the back end answers and whoever does the work."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from functools import partial
from typing import Any

import pytest
from pymongo import MongoClient
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tornado.httpclient import AsyncHTTPClient

from server.consumers.channel import Channel
from server.consumers.cursors import Cursors
from server.consumers.events import Wanted
from server.core import config
from server.core.cursors import Position
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.node import Node
from tests.support.commands import called
from tests.support.nodes import another
from tests.support.processes import Mongod
from tests.support.receiver import SECRET, Receiver
from tests.support.waiting import until

ANN = Principal("ann")
KEY = "the operator's own key"
OPS = Principal("ops", server=True, admin=True)


@pytest.fixture
def settings(receiver: Receiver) -> dict[str, object]:
    push = {"url": receiver.url, "secret": SECRET, "retries": {"first": "20ms", "most": "100ms"}}
    return {
        "consumers": {
            "mailer": push | {"channels": ["chat:*"], "batch": 10},
            "replies": push | {"channels": ["$thread:*:talk:*"]},
            "tried": push | {"channels": ["feed:*"], "retries": {"attempts": 3, "first": "10ms", "most": "20ms"}},
        },
        "namespaces.feed": {"publish": "anyone", "subscribe": "anyone"},
        "namespaces.talk": {"publish": "anyone", "subscribe": "anyone", "threads": True},
        "namespaces.old": {"publish": "anyone", "subscribe": "anyone"},
        "auth.api_keys": {
            "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True},
            "shop": {"sha256": hashlib.sha256(b"the shop's key").hexdigest()},
        },
        "mongodb.dedupe_window": 0,
    }


async def publish(node: Node, channel: str, *data: Any) -> None:
    await asyncio.gather(*(node.publisher.publish(ANN, channel, one) for one in data))


async def failing(node: Node, consumer: str) -> Any:
    """What operators see of it, once it is written that something fails."""
    row = await node.consumer_operators.one(OPS, consumer)
    return row if row["failures"] else None


async def history_of(node: Node, principal: Principal, channel: str) -> list[Any]:
    page = await node.history.page(principal, channel, after="0", before=None, limit=500)
    return list(page["messages"])


@pytest.mark.gen_test
async def test_batches_in_order(node: Node, receiver: Receiver) -> None:
    """Each message once, in order per channel, at most `batch` in a request, as history has them."""
    await publish(node, "chat:a", *range(25))
    await publish(node, "chat:b", "b")
    await receiver.until_taken("chat:a", 25)
    await receiver.until_taken("chat:b", 1)
    assert receiver.data("chat:a") == list(range(25))
    assert max(len(request["messages"]) for request in receiver.requests) <= 10
    history = await history_of(node, ANN, "chat:b")
    first = next(request for request in receiver.requests if request["channel"] == "chat:b")
    assert first["consumer"] == "mailer"
    assert first["messages"][0]["cursor"] == history[0].cursor
    assert not receiver.faults
    assert not receiver.duplicates.total()


@pytest.mark.gen_test
async def test_signed_as_the_specification_says(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """Another's library verifies the requests, each try with the same id; and finds out what was altered."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    await node.close()
    answers = iter((500, 204))
    receiver.rule = lambda request: next(answers)
    one = config.Consumer(
        url=receiver.url, secret=secret, channels=["chat:*"], retries=config.Retries(first=config.Seconds(0.02))
    )
    async with another(node, mongod, consumers={"signed": one}) as second:
        await publish(second, "chat:a", 1)
        await receiver.until_taken("chat:a", 1)
    first, again = receiver.headers
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        assert Webhook(secret).verify(body, headers)["messages"][0]["data"] == 1
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body + b" ", headers)
    ids = {name: {headers[name] for headers in (first, again)} for name in ("Webhook-Id", "Webhook-Signature")}
    assert len(ids["Webhook-Id"]) == 1


@pytest.mark.gen_test
async def test_what_fails_is_tried_again(node: Node, receiver: Receiver) -> None:
    """The same batch with the same id until it is taken; another channel does not wait for it."""
    refused = 3

    def rule(request: dict[str, Any]) -> int:
        nonlocal refused
        if request["channel"] != "chat:a" or not refused:
            return 204
        refused -= 1
        return 500

    receiver.rule = rule
    await publish(node, "chat:a", 1, 2)
    await publish(node, "chat:b", 1)
    await receiver.until_taken("chat:a", 2)
    await receiver.until_taken("chat:b", 1)
    tries = [body for body in receiver.bodies if b'"chat:a"' in body]
    assert len(tries) >= 4
    assert tries[0] == tries[1] == tries[2]
    assert not receiver.faults


@pytest.mark.gen_test
async def test_the_dead(node: Node, receiver: Receiver) -> None:
    """What has failed so often as `retries` says is in the dead-letter channel with its error, and the rest goes on."""
    receiver.rule = lambda request: 500 if request["messages"][0]["data"] == "poison" else 204
    await publish(node, "feed:a", "poison")
    dead = None

    async def buried() -> Any:
        nonlocal dead
        dead = await history_of(node, OPS, "dead:tried")
        return dead

    await until(buried)
    assert dead is not None
    (letter,) = dead
    assert letter.data["error"] == "answered 500"
    assert letter.data["attempts"] == 3
    assert letter.data["channel"] == "feed:a"
    assert letter.data["messages"][0]["data"] == "poison"
    await publish(node, "feed:a", "well")
    await until(lambda: receiver.data("feed:a") == ["well"])


@pytest.mark.gen_test
async def test_the_dead_may_die_again_of_something_else(
    base_url: str, http_server: object, node: Node, receiver: Receiver
) -> None:
    """After a reset, with another answer of the back end: it is there once, and the rest goes on."""
    status = 500
    receiver.rule = lambda request: status if request["messages"][0]["data"] == "poison" else 204
    await publish(node, "feed:a", "poison")

    async def letters() -> Any:
        return await history_of(node, OPS, "dead:tried")

    await until(letters)
    status = 503
    before = len(receiver.bodies)
    reset = {"channel": "feed:a", "to": "beginning"}
    assert (await rest(base_url, "POST", "/v1/consumers/tried/reset", reset))[0] == 200
    await until(lambda: len(receiver.bodies) >= before + 3)
    await publish(node, "feed:a", "well")
    await until(lambda: receiver.data("feed:a") == ["well"])
    assert [one.data["error"] for one in await letters()] == ["answered 500"]


@pytest.mark.gen_test
async def test_it_goes_on_where_it_was(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """After a restart nothing is missing and nothing comes twice; what was published meanwhile comes as well."""
    await publish(node, "chat:a", 1, 2)
    await receiver.until_taken("chat:a", 2)
    await node.close()
    await asyncio.to_thread(_insert_offline, mongod.uri, node)
    async with another(node, mongod):
        await receiver.until_taken("chat:a", 3)
    assert receiver.data("chat:a") == [1, 2, 3]
    assert not receiver.faults
    assert not receiver.duplicates.total()


def _insert_offline(uri: str, node: Node) -> None:
    """A message that nobody was told of."""
    with MongoClient[Any](uri) as client:
        messages = client[node.config.mongodb.database]["waterspout.messages"]
        last = messages.find_one({"_id.c": "chat:a"}, sort=[("_id", -1)])
        assert last is not None
        messages.insert_one(last | {"_id": {"c": "chat:a", "o": 3}, "k": "offline", "d": 3})


@pytest.mark.gen_test
async def test_gone_for_good(node: Node, receiver: Receiver) -> None:
    """410 stops the consumer, and that it stays until somebody lets it run again; nothing is lost by it."""
    receiver.rule = lambda request: 410
    await publish(node, "chat:a", 1)
    await until(lambda: not node.consumers.states.runs("mailer"))
    assert node.consumers.states["mailer"].state == "stopped"
    assert node.consumers.states["mailer"].why == "answered 410"
    await publish(node, "chat:a", 2)
    asked = len(receiver.requests)
    receiver.rule = lambda request: 204
    await publish(node, "feed:a", "another consumer")
    await receiver.until_taken("feed:a", 1)
    assert len(receiver.requests) == asked + 1
    await node.consumers.change(["mailer"], "running")
    await receiver.until_taken("chat:a", 2)
    assert receiver.data("chat:a") == [1, 2]


@pytest.mark.gen_test
async def test_retry_after(node: Node, receiver: Receiver) -> None:
    """The back end says when it wants to be asked again, and is not asked before that about any channel."""
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    def rule(request: dict[str, Any]) -> Any:
        asked.append(loop.time())
        return (503, {"Retry-After": "1"}) if len(asked) == 1 else 204

    receiver.rule = rule
    options = node.consumers.options["mailer"].retries
    options.most = config.Seconds(5)
    await publish(node, "chat:a", 1)
    await until(lambda: asked)
    await publish(node, "chat:b", 1)
    await receiver.until_taken("chat:a", 1)
    await receiver.until_taken("chat:b", 1)
    assert asked[1] - asked[0] >= 1


@pytest.mark.gen_test
async def test_a_try_before_its_time_is_no_attempt(node: Node, receiver: Receiver) -> None:
    """What is tried because the back end seems to be well again does not die of that, and its turn stays when it
    was."""
    receiver.rule = lambda request: 500
    consumer = node.consumers.deliveries["tried"]
    consumer.options.retries.first = consumer.options.retries.most = config.Seconds(60)
    await publish(node, "feed:a", 1)
    await until(lambda: consumer.figures().attempts == 1)
    for tries in range(2, 6):
        consumer.schedule.retry()
        await until(lambda: consumer.requests["failed"] == tries)  # noqa: B023
    assert consumer.figures().attempts == 1
    assert consumer.requests["dead"] == 0
    failures = (await until(partial(failing, node, "tried")))["failures"]
    assert [20 < one["next"] / 1000 - node.clock.time() < 60 for one in failures] == [True]


@pytest.mark.gen_test
async def test_a_slow_channel_holds_up_no_other(node: Node, receiver: Receiver) -> None:
    """While one channel's request hangs, others are delivered, and never two of one channel at a time."""
    hangs = asyncio.Event()

    async def rule(request: dict[str, Any]) -> int:
        if request["channel"] == "chat:slow":
            await hangs.wait()
        return 204

    receiver.rule = rule
    await publish(node, "chat:slow", 1, 2)
    for number in range(5):
        await publish(node, "chat:quick", number)
    await receiver.until_taken("chat:quick", 5)
    assert receiver.taken["chat:slow"] == []
    await publish(node, "chat:slow", 3)
    hangs.set()
    await receiver.until_taken("chat:slow", 3)
    assert receiver.overlaps == 0
    assert receiver.faults == []


@pytest.mark.gen_test
async def test_where_a_new_consumer_begins(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """`now`: with what is published after it was seen first, in channels that exist as in new ones; `beginning`: with
    all that is retained."""
    await publish(node, "old:a", 1, 2)
    late = {
        name: config.Consumer(url=receiver.url, secret=SECRET, channels=["old:*"], start=start)
        for name, start in (("now", "now"), ("all", "beginning"))
    }
    await node.close()
    async with another(node, mongod, consumers=late) as second:
        await publish(second, "old:a", 3)
        await publish(second, "old:b", "new")

        def had(name: str) -> list[Any]:
            of_one = [request for request in receiver.requests if request["consumer"] == name]
            return [message["data"] for request in of_one for message in request["messages"]]

        await until(lambda: len(had("all")) == 4 and len(had("now")) == 2)
        assert sorted(had("all"), key=str) == [1, 2, 3, "new"]
        assert sorted(had("now"), key=str) == [3, "new"]


@pytest.mark.gen_test
async def test_another_history(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """When the database was dropped the consumer is told that the channel has another history, and gets that one."""
    await publish(node, "chat:a", 1, 2)
    await receiver.until_taken("chat:a", 2)
    await until(lambda: node.consumers.cursors.idle)
    epoch = node.log.epoch
    await asyncio.to_thread(_drop_messages, mongod.uri, node)
    await until(lambda: node.log.epoch != epoch)
    await publish(node, "chat:a", "new")
    await until(lambda: receiver.gaps["chat:a"])
    assert receiver.gaps["chat:a"] == [{"from": None, "to": None, "reason": "epoch"}]
    assert [message["data"] for message in receiver.requests[-1]["messages"]] == ["new"]


def _drop_messages(uri: str, node: Node) -> None:
    with MongoClient[Any](uri) as client:
        client[node.config.mongodb.database]["waterspout.messages"].drop()


@pytest.mark.gen_test
async def test_what_is_gone(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """What retention has taken is a gap in front of what comes next."""
    receiver.rule = lambda request: 500
    await publish(node, "chat:a", *range(8))
    await until(lambda: receiver.requests)
    await node.log.trimmer.trim("chat:a", config.Retention(size=3))
    await node.close()
    receiver.rule = lambda request: 204
    async with another(node, mongod):
        await until(lambda: receiver.gaps["chat:a"])
        await receiver.until_taken("chat:a", 3)
    assert receiver.gaps["chat:a"] == [{"from": 1, "to": 5}]
    assert receiver.data("chat:a") == [5, 6, 7]


@pytest.mark.gen_test
async def test_threads(node: Node, receiver: Receiver) -> None:
    """A pattern follows those that there are and those that come, each in its order, and nothing of their parents; what
    becomes of the replies is told like anything else."""
    await publish(node, "talk:a", "root", "another")
    for number in range(3):  # each in its turn: the order of replies that are under way together is anybody's
        await publish(node, "$thread:2:talk:a", number)
    await publish(node, "$thread:1:talk:a", "reply")
    original = await node.log.amendments.original("$thread:2:talk:a", 3)
    assert original is not None
    await node.log.amendments.append(original, "delete", None, user="ann", key="d", size=0)
    await receiver.until_taken("$thread:2:talk:a", 4)
    await receiver.until_taken("$thread:1:talk:a", 1)
    assert receiver.data("$thread:1:talk:a") == ["reply"]
    assert [message["data"] for message in receiver.taken["$thread:2:talk:a"][:2]] == [0, 1]
    assert {request["channel"] for request in receiver.requests} == {"$thread:1:talk:a", "$thread:2:talk:a"}
    assert receiver.taken["$thread:2:talk:a"][-1]["op"] == "delete"


@pytest.mark.gen_test
async def test_a_thread_that_has_ended(node: Node, receiver: Receiver) -> None:
    """What goes with the message that it is about, before it is delivered, is a gap, though nothing of it is left."""
    thread = "$thread:1:talk:a"
    receiver.rule = lambda request: 500
    await publish(node, "talk:a", "root")
    await publish(node, thread, 1)
    await until(lambda: receiver.requests)
    await publish(node, thread, 2, 3)
    await node.log.clear("talk:a")

    async def ended() -> bool:
        return await node.log.trimmer.end(thread)

    await until(ended)
    receiver.rule = lambda request: 204
    await until(lambda: receiver.gaps[thread])
    assert receiver.data(thread) == [1]
    assert receiver.gaps[thread] == [{"from": 2, "to": 3}]


@pytest.mark.gen_test
async def test_a_cursor_that_is_dropped_before_it_is_written(
    node: Node, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else has it by then: nothing is written, and nothing has failed."""
    cursors = Cursors(node.database, Keeper(), lambda _: None)
    position = Position("e", 1)
    channel = Channel("mailer", "chat:a", position, position, 1, Wanted(node.config.consumers["mailer"]))
    cursors.note(channel)
    await asyncio.sleep(0)
    cursors.drop(channel)
    await cursors.flush(5)
    assert not [record for record in caplog.records if "cursors" in record.getMessage()]


async def rest(base_url: str, method: str, path: str, body: Any = None, key: str = KEY) -> tuple[int, Any]:
    answer = await AsyncHTTPClient().fetch(
        base_url + path,
        method=method,
        body=None if method == "GET" else json.dumps(body or {}),
        headers={"Authorization": f"Bearer {key}"},
        raise_error=False,
    )
    return answer.code, json.loads(answer.body)


@pytest.mark.gen_test
async def test_what_operators_see(base_url: str, http_server: object, node: Node, receiver: Receiver) -> None:
    """How far it is behind, why, and where; and after it is well again, nothing of it."""
    receiver.rule = lambda request: 500 if request["channel"] == "chat:a" else 204
    await publish(node, "chat:a", 1, 2, 3)
    await publish(node, "chat:b", 1)

    async def row() -> Any:
        status, found = await rest(base_url, "GET", "/v1/consumers")
        assert status == 200
        return next(one for one in found["consumers"] if one["name"] == "mailer")

    async def failing() -> Any:
        return (await row())["attempts"] >= 2

    await until(failing)
    one = await row()
    assert (one["state"], one["error"], one["failing"]) == ("running", "answered 500", 1)
    assert (one["lag"]["messages"], one["lag"]["channels"]) == (3, 1)
    assert one["lag"]["seconds"] > 0
    await until(lambda: node.consumers.cursors.idle)
    status, details = await rest(base_url, "GET", "/v1/consumers/mailer")
    (failure,) = details["failures"]
    assert (status, failure["channel"], failure["error"]) == (200, "chat:a", "answered 500")
    receiver.rule = lambda request: 204
    await receiver.until_taken("chat:a", 3)

    async def well() -> bool:
        one = await row()
        return (one["lag"]["messages"], one["failing"], one["error"]) == (0, 0, None)

    await until(well)
    assert (await rest(base_url, "GET", "/v1/consumers/nobody"))[0] == 404
    assert (await rest(base_url, "GET", "/v1/consumers", key="the shop's key"))[0] == 403


@pytest.mark.gen_test
async def test_pause_and_resume(
    base_url: str, http_server: object, node: Node, receiver: Receiver, mongod: Mongod
) -> None:
    """Paused, nothing is delivered, not by a node that starts later either; resumed, everything is."""
    status, one = await rest(base_url, "POST", "/v1/consumers/mailer/pause")
    assert (status, one["state"]) == (200, "paused")
    await publish(node, "chat:a", 1)
    async with another(node, mongod) as second:
        await publish(second, "chat:a", 2)
        await publish(second, "feed:a", "another consumer")
        await node.close()
        await receiver.until_taken("feed:a", 1)
        assert {request["consumer"] for request in receiver.requests} == {"tried"}
        await second.consumers.change(["mailer"], "running")
        await receiver.until_taken("chat:a", 2)


@pytest.mark.gen_test(timeout=60)
async def test_the_command_line(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """Beside the server, which acts on it."""
    push = {"url": receiver.url, "secret": SECRET}
    consumers = {"mailer": push | {"channels": ["chat:*"]}, "tried": push | {"channels": ["feed:*"]}}
    namespace = {"publish": "anyone", "subscribe": "anyone"}
    values = {
        "mongodb.database": node.config.mongodb.database, "consumers": consumers, "namespaces.feed": namespace,
    }  # fmt: skip
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={json.dumps(value)}")]

    async def command(*words: str) -> str:
        code, said = await called("consumers", *words, "--mongodb-uri", mongod.uri, *sets)
        assert code == 0, said
        return said

    await publish(node, "chat:a", 1, 2)
    await receiver.until_taken("chat:a", 2)
    assert "mailer: paused" in await command("pause", "mailer")
    await until(lambda: not node.consumers.states.runs("mailer"))
    assert "from beginning in all channels" in await command("reset", "mailer", "--to", "beginning")
    listed = await command("list")
    assert re.search(r"^mailer +paused +url ", listed, re.MULTILINE), listed
    assert re.search(r"^tried +running +url +0 +0 +0 +0$", listed, re.MULTILINE), listed
    await node.consumers.change(["mailer"], "running")
    await until(lambda: receiver.duplicates["chat:a"] == 2)


@pytest.mark.gen_test
async def test_reset(base_url: str, http_server: object, node: Node, receiver: Receiver) -> None:
    """It goes on from a cursor, from the beginning or from now, in one channel or in all."""
    receipts = await asyncio.gather(*(node.publisher.publish(ANN, "chat:a", n) for n in range(4)))
    await publish(node, "chat:b", "b")
    await receiver.until_taken("chat:a", 4)
    await receiver.until_taken("chat:b", 1)

    def again(channel: str) -> int:
        return receiver.duplicates[channel]

    path = "/v1/consumers/mailer/reset"
    assert (await rest(base_url, "POST", path, {"channel": "chat:a", "to": str(receipts[1].position)}))[0] == 200
    await until(lambda: again("chat:a") == 2)
    assert (await rest(base_url, "POST", path, {"channel": "chat:a", "to": "beginning"}))[0] == 200
    await until(lambda: again("chat:a") == 6)
    assert (await rest(base_url, "POST", path, {"to": "beginning"}))[0] == 200
    await until(lambda: again("chat:a") == 10 and again("chat:b") == 1)
    for body, status in (
        ({"channel": "chat:a", "to": "abc:2"}, 400),
        ({"channel": "chat:a", "to": f"{node.log.epoch}:5"}, 400),
        ({"channel": "feed:a", "to": "now"}, 404),
        ({"to": "0"}, 400),
        ({}, 400),
    ):
        assert (await rest(base_url, "POST", path, body))[0] == status, body
    await node.consumers.change(["mailer"], "paused")
    await publish(node, "chat:a", "never")
    assert (await rest(base_url, "POST", path, {"to": "now"}))[0] == 200
    await node.consumers.change(["mailer"], "running")
    await publish(node, "chat:a", "next")
    await until(lambda: receiver.requests[-1]["messages"][-1]["data"] == "next")
    assert receiver.requests[-1]["messages"][0]["data"] == "next"
