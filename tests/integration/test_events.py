"""Events for consumers: who comes and goes, told once by whichever node decides it, and delivered like messages."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import server.presence.attendance
from server.core import config
from server.core.errors import StartError
from server.core.principals import Principal
from server.node import Node
from server.presence.decisions import RACE, Decision, Decisions
from tests.support.client import Client, Refused, make_token
from tests.support.processes import Mongod, Redis
from tests.support.receiver import SECRET, Receiver
from tests.support.waiting import until

OPERATOR = Principal("ops", server=True, admin=True)


@pytest.fixture
def settings(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(server.presence.attendance, "GRACE", 0.1)
    push = {"url": receiver.url, "secret": SECRET, "retries": {"first": "20ms", "most": "100ms"}}
    return {
        "consumers": {
            "rooms": push | {"events": ["join", "leave", "occupied", "vacated"]},
            "people": push | {"events": ["connected", "disconnected"]},
            "some": push | {"channels": ["room:a*"], "events": ["subscribed", "unsubscribed"]},
            "fetched": {"channels": ["room:f*"], "events": ["join", "leave"]},
        },
        "namespaces.room": {"presence": True, "publish": "user", "subscribe": "anyone"},
        "namespaces.other": {"publish": "anyone", "subscribe": "anyone"},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def told(receiver: Receiver, consumer: str) -> list[tuple[Any, ...]]:
    """(type, channel or user, user) of what was pushed, in its order."""
    return [
        (event["type"], event.get("channel"), event.get("user"))
        for request in receiver.requests
        if request["consumer"] == consumer
        for event in request.get("events", ())
    ]


async def until_told(receiver: Receiver, consumer: str, *events: tuple[Any, ...]) -> None:
    await until(lambda: sorted(told(receiver, consumer), key=str) == sorted(events, key=str), 20, f"{events}")


@pytest.mark.gen_test(timeout=60)
async def test_who_comes_and_goes(url: str, node: Node, receiver: Receiver) -> None:
    """One event a change, whatever the number of sessions, in order; a consumer has those that it asks for, of the
    channels that it names."""
    secret = str(node.config.auth.secret)
    async with Client(url, token=make_token(secret, "ann", info={"name": "Ann"})) as ann:
        await ann.subscribe("room:a")
        async with Client(url, token=make_token(secret, "ann")) as again, Client(url) as guest:
            await again.subscribe("room:a")
            await guest.subscribe("room:a")
            await guest.subscribe("room:b")
            await guest.subscribe("other:a")
            await until_told(receiver, "people", ("connected", None, "ann"))
        await until(lambda: ("vacated", "room:b", None) in told(receiver, "rooms"), 20, "the end of room:b")
        assert ("vacated", "room:a", None) not in told(receiver, "rooms")
    a = [
        ("join", "room:a", "ann"),
        ("occupied", "room:a", None),
        ("leave", "room:a", "ann"),
        ("vacated", "room:a", None),
    ]
    b = [("occupied", "room:b", None), ("vacated", "room:b", None)]
    await until_told(receiver, "rooms", *a, *b)
    assert [one for one in told(receiver, "rooms") if one[1] == "room:a"] == a
    await until_told(receiver, "people", ("connected", None, "ann"), ("disconnected", None, "ann"))
    kinds = [("subscribed", "room:a", "ann")] * 2 + [("subscribed", "room:a", None)]
    await until_told(receiver, "some", *kinds, *(("unsubscribed", *rest) for _, *rest in kinds))
    joined = next(event for request in receiver.requests for event in request["events"] if event["type"] == "join")
    assert joined.pop("time") > 1_600_000_000_000
    assert joined == {"type": "join", "channel": "room:a", "user": "ann", "info": {"name": "Ann"}}
    subscribed = next(request for request in receiver.requests if request["consumer"] == "some")
    assert subscribed.keys() == {"consumer", "events"}
    assert subscribed["events"][0]["session"] == ann.session["session"]


@pytest.mark.gen_test
async def test_workers_fetch_events(url: str, node: Node) -> None:
    """Among the messages of their channels: those that their consumer asks for, in order, until they are
    acknowledged; the others are done with."""
    secret = str(node.config.auth.secret)
    for room in ("room:f", "room:g"):
        async with Client(url, token=make_token(secret, "ann")) as ann:
            await ann.subscribe(room)
            await ann.publish(room, "hello")
    got: list[Any] = []
    while len(got) < 3:
        jobs = (await node.workers.fetch(OPERATOR, "fetched", 10, 10.0))["messages"]
        assert jobs, got
        await node.workers.ack(OPERATOR, "fetched", [job["id"] for job in jobs])
        got += jobs
    assert [job["data"] for job in got if job["channel"] == "room:f"] == ["hello"]
    events = [job["data"] for job in got if job["channel"] != "room:f"]
    assert [(event["type"], event["channel"], event["user"]) for event in events] == [
        ("join", "room:f", "ann"), ("leave", "room:f", "ann"),
    ]  # fmt: skip
    assert (await node.workers.fetch(OPERATOR, "fetched", 10, 0.3))["messages"] == []


@pytest.mark.gen_test
async def test_what_does_not_arrive_comes_again(url: str, node: Node, receiver: Receiver) -> None:
    """As of messages: the same batch until it is taken."""
    refused = 2

    def rule(request: dict[str, Any]) -> int:
        nonlocal refused
        if request["consumer"] != "rooms" or not refused:
            return 204
        refused -= 1
        return 500

    receiver.rule = rule
    async with Client(url) as guest:
        await guest.subscribe("room:c")
        await until(lambda: len(told(receiver, "rooms")) == 3, what="three attempts")
    batches = [request["events"] for request in receiver.requests if request["consumer"] == "rooms"][:3]
    assert batches[0] == batches[1] == batches[2]


@pytest.mark.gen_test
async def test_nobody_can_read_them(url: str, receiver: Receiver) -> None:
    """The channels that they are kept in are the server's own."""
    async with Client(url) as guest:
        await guest.subscribe("room:a")
        for channel in (*(f"$sys:presence:{part}" for part in range(8)), "$sys:online"):
            with pytest.raises(Refused, match="unknown_channel"):
                await guest.subscribe(channel)
            with pytest.raises(Refused, match="unknown_channel"):
                await guest.history(channel)


@pytest.mark.gen_test
async def test_without_such_a_consumer_nothing_is_counted(mongod: Mongod, node: Node) -> None:
    """Nothing is written, and nobody who is connected has a row."""
    plain = structs.replace(node.config, consumers={}, mongodb=structs.replace(node.config.mongodb, database="plain"))
    other = Node(plain, mongod.uri)
    assert other.presence.online("ann", "s1") is None
    await other.start()
    await other.close()


@pytest.mark.gen_test(timeout=60)
async def test_two_nodes_tell_of_it_once(
    mongod: Mongod, settings: dict[str, object], receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who is on both, leaves both at once, and is on one that dies."""
    monkeypatch.setattr(server.presence.attendance, "LEASE", 2)
    async with Redis(tmp_path) as redis:
        database = f"test_{uuid.uuid4().hex[:12]}"
        common = {"mongodb.database": database, "redis.url": redis.url, "limits.messages_per_second": 0}
        options = config.load(None, {}, (common | settings).items())
        first, second = nodes = [Node(options, mongod.uri) for _ in range(2)]
        try:
            for node in nodes:
                await node.start()
            await until(lambda: all(len(node.directory.nodes(OPERATOR)["nodes"]) == 2 for node in nodes), 20, "peers")
            leaving = [node.attendance.enter("room:a", "ann", None, "s") for node in nodes]
            await until(lambda: len(first.attendance.show("room:a")["users"]) == 1, what="the user")
            await until(lambda: all(node.attendance.show("room:a")["users"][0]["sessions"] == 2 for node in nodes), 5)
            for leave in leaving:
                leave(True)
            second.attendance.enter("room:b", "bob", None, "s")
            await until(lambda: len(first.attendance.show("room:b")["users"]) == 1, what="the other user")
            await second.keeper.close()  # it is silent from now on
            await until(lambda: ("vacated", "room:b", None) in told(receiver, "rooms"), 20, "the end of a dead node's")
            a, b = ("room:a", "ann"), ("room:b", "bob")
            await until(lambda: ("leave", *a) in told(receiver, "rooms"), 20, "the end")
        finally:
            for node in nodes:
                await node.close()
    found = Counter(told(receiver, "rooms"))
    assert found["leave", *a] == found["vacated", "room:a", None] == 1
    assert found["join", *b] == found["leave", *b] == found["vacated", "room:b", None] == 1
    assert found["join", *a] in (1, 2)  # both may have had the first


# --- who decides ------------------------------------------------------------------------------------------------------


class Deciders:
    """Two nodes that hear of each other's changes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: dict[str, list[Decision]] = {"a": [], "b": []}
        self.nodes = {name: Decisions(name, self.told[name].append, lambda: self.now) for name in "ab"}

    def change(self, by: str, change: int, *at: str, died: int | None = None) -> None:
        """A row of `by` has come or gone, as the nodes `at` see it, one after the other."""
        for name in at:
            self.nodes[name].changed("room:a", "ann", change, None, by=by, died=died)

    def kinds(self) -> list[str]:
        return [one.kind for told in self.told.values() for one in told if one.user]


def test_the_node_of_the_change_decides() -> None:
    """First in and last out, over both nodes; the other one only listens."""
    nodes = Deciders()
    nodes.change("a", 1, "a", "b")
    nodes.change("b", 1, "b", "a")
    nodes.change("a", -1, "a", "b")
    assert nodes.kinds() == ["join"]
    nodes.now += RACE
    nodes.change("b", -1, "b", "a")
    assert [one.kind for one in nodes.told["b"]] == ["leave", "vacated"]
    assert [one.kind for one in nodes.told["a"] if not one.unsure] == ["join", "occupied"]


def test_both_lose_the_last_at_the_same_moment() -> None:
    """Each sees the other's go last: one of them looks whether the other has told of it."""
    nodes = Deciders()
    nodes.change("a", 1, "a", "b")
    nodes.change("b", 1, "b", "a")
    nodes.change("a", -1, "a")
    nodes.change("b", -1, "b")
    nodes.change("b", -1, "a")
    nodes.change("a", -1, "b")
    assert nodes.kinds() == ["join", "leave"]
    assert [one.unsure for one in nodes.told["a"]] == [False, False, True, True]


def test_what_a_dead_node_had_is_decided_by_all_with_one_key() -> None:
    """So the log has it once."""
    nodes = Deciders()
    nodes.change("c", 1, "a", "b")
    nodes.change("c", -1, "a", "b", died=7)
    assert nodes.told["a"] == nodes.told["b"]
    assert [one.kind for one in nodes.told["a"]] == ["leave", "vacated"]
    assert len({one.key for one in nodes.told["a"]}) == 2


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"function": "a:b"}, "consumers.x.channels: at least one, or one of events"),
        ({"function": "a:b", "events": ["come"]}, "consumers.x.events"),
    ],
)
def test_bad_events_are_refused_by_name(options: dict[str, Any], key: str) -> None:
    """The option is named."""
    with pytest.raises(StartError) as refused:
        config.load(None, {}, [("consumers.x", options)])
    assert key in str(refused.value)
