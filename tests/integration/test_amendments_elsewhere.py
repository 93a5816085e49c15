"""Amendments beyond the native doors: hooks, clients of Centrifugo's protocol, back ends that consume, other nodes."""

from __future__ import annotations

import asyncio
import sys
import types
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pymongo import MongoClient

from server.brokers.base import Announcement, Broker
from server.cluster.announcer import Announcer
from server.core.errors import Error
from server.core.principals import Principal
from server.node import Node
from server.wire.commands import Amending
from tests.support.centrifugo import Wire, one_server, token
from tests.support.client import Client, Refused, make_token
from tests.support.logs import fresh, opened
from tests.support.plain_http import plain
from tests.support.processes import Mongod, Server

SECRET = "a secret of at least thirty-two bytes"
ANN = Principal(user="ann")
ROOM = "room:a"


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    async def rule(question: dict[str, Any]) -> Any:
        asked.append(question)
        if question.get("data") == "rude":
            return {"allow": False, "reason": "mind your words"}
        if question.get("op") == "delete":
            return {"allow": question["of"] != 1, "reason": "the first one stays"}
        data = question.get("data")
        return {"data": data.upper()} if isinstance(data, str) else None

    module = types.ModuleType("rules_of_amendments")
    module.rule = rule  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rules_of_amendments", module)
    return asked


@pytest.fixture
def settings(questions: object) -> dict[str, object]:
    room = {"publish": "anyone", "subscribe": "anyone", "amend": "own"}
    return {
        "hooks": {"filter": {"function": "rules_of_amendments:rule"}},
        "namespaces.room": room,
        "namespaces.nice": room | {"hook": "filter"},
        "collections.notes": {"read": "owner", "write": "owner", "owner": "by"},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.mark.gen_test
async def test_the_hook_is_asked_about_what_an_edit_says(url: str, questions: list[dict[str, Any]]) -> None:
    """As about a publish, so that an edit is no way past it; about erasing by a name of its own."""
    async with Client(url, token=make_token(SECRET, "ann")) as ann:
        for _ in range(2):
            await ann.publish("nice:a", "hello")
        with pytest.raises(Refused, match="mind your words"):
            await ann.request("amend", channel="nice:a", of=1, op="edit", data="rude")
        await ann.request("amend", channel="nice:a", of=1, op="edit", data="bye", key="e")
        with pytest.raises(Refused, match="the first one stays"):
            await ann.request("amend", channel="nice:a", of=1, op="delete")
        await ann.request("amend", channel="nice:a", of=2, op="delete")
        page = await ann.history("nice:a")
        assert [one["data"] for one in page["messages"]] == ["BYE", None]
    edit = next(one for one in questions if one.get("data") == "bye")
    assert {name: edit[name] for name in ("action", "op", "of", "key")} == {
        "action": "publish", "op": "edit", "of": 1, "key": "e"
    }  # fmt: skip
    erasing = [one for one in questions if one.get("op") == "delete"]
    assert [(one["action"], one["of"], "data" in one) for one in erasing] == [("amend", 1, False), ("amend", 2, False)]


@pytest.mark.gen_test
async def test_single_messages_are_no_way_to_the_documents_of_others(url: str, base_url: str) -> None:
    """Changes of documents are shown to their owners, which is for the history to see to."""
    async with Client(url, token=make_token(SECRET, "ann")) as ann, plain() as http:
        seen = await ann.subscribe("docs:notes")
        await ann.request("put", collection="notes", document_id="a", document={"text": "a secret"})
        offset = (await seen.message())["offset"]
        for user in ("ann", "bob"):
            answer = await http.get(
                f"{base_url}/v1/channels/docs:notes/messages/{offset}",
                headers={"Authorization": f"Bearer {make_token(SECRET, user)}"},
            )
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
            assert "secret" not in answer.text


@pytest.mark.gen_test
async def test_what_cannot_be_folded_keeps_nothing_else_waiting(node: Node) -> None:
    """Whatever is wrong with it, and however often it is tried."""
    for key in ("a", "b", "c", "d"):
        await node.log.append(ROOM, None, key, "old", 5)
    rows = node.database.own("messages")
    left = {"e": "x", "u": None, "t": 1, "p": 1}
    await rows.insert_many(
        [
            {"_id": {"c": ROOM, "o": 5}, "k": "5", "z": 1, "op": "reactions", "d": 7, **left},
            {"_id": {"c": ROOM, "o": 6}, "k": "6", "z": 2, "op": "edit", "d": "new", **left},
            {"_id": {"c": ROOM, "o": 7}, "k": "7", "z": 3, "op": "append", "by": None, "d": 7, **left},
            {"_id": {"c": ROOM, "o": 8}, "k": "8", "z": 4, "op": "append", "by": None, "d": "er", **left},
        ]
    )
    await node.log.amendments.refold()
    await node.log.appends.refold()
    assert [row["d"] async for row in rows.find({"z": None}).sort("_id", 1)] == ["old", "new", "old", "older"]
    assert await rows.count_documents({"p": 1}) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("amends", [True, False])
async def test_what_is_pending_is_found_without_a_look_at_all_else(mongod: Mongod, amends: bool) -> None:
    """Once a second in all channels, and for whoever asks for one message."""
    options = fresh()
    with MongoClient[Any](mongod.uri) as client:
        async with opened(mongod.uri, options, amends=amends) as log:
            await asyncio.gather(*(log.append(ROOM, None, str(number), number, 1) for number in range(50)))
            database = client[options.database]
            database.command("profile", 2)
            assert await log.amendments.original(ROOM, 1)
            if amends:
                await log.amendments.refold(0)
            database.command("profile", 0)
            messages = f"{options.database}.{options.prefix}messages"
            looked = list(database["system.profile"].find({"ns": messages, "op": "query"}))
            assert looked
            assert all(one["docsExamined"] <= 1 for one in looked), [one["planSummary"] for one in looked]
        client.drop_database(options.database)


@pytest.mark.gen_test
async def test_a_node_that_does_not_count_stops_amending(node: Node) -> None:
    """Until it is gone: what it writes would make the numbers wrong."""
    await node.log.append(ROOM, "ann", "k", 1, 1)
    node.peers.hear(Announcement("old", beat=True))
    with pytest.raises(Error, match="older version"):
        await node.amender.amend(ANN, ROOM, 1, Amending(data=2))
    node.peers.hear(Announcement("old", beat=True, amends=True))
    assert (await node.amender.amend(ANN, ROOM, 1, Amending(data=2))).position.offset == 2


@pytest.mark.gen_test
async def test_a_node_that_starts_stops_nobody_from_amending(node: Node) -> None:
    """Whatever it announces first, before it says that it is alive."""
    await node.log.append(ROOM, "ann", "k", 1, 1)
    young = Announcer("young", cast(Broker, SimpleNamespace(announce=node.peers.hear)))
    young.announce(want=ROOM)
    assert (await node.amender.amend(ANN, ROOM, 1, Amending(data=2))).position.offset == 2


@pytest.fixture(scope="module")
def centrifugo(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod) -> Iterator[Server]:
    room = {"publish": "anyone", "subscribe": "anyone", "amend": "own", "reactions": True}
    yield from one_server(tmp_path_factory.mktemp("centrifugo_amend"), mongod, **{"namespaces.room": room})


@pytest.mark.gen_test
async def test_clients_of_centrifugos_protocol_get_publications(centrifugo: Server) -> None:
    """With the new data and tags that say what it is; live, recovered and in the history."""
    channel = f"room:{uuid.uuid4().hex[:8]}"
    async with Wire(centrifugo) as wire:
        await wire.connect()
        began = await wire.subscribe(channel)
        async with Client(centrifugo.ws, token=token(sub="ann", exp=600)) as ann:
            await ann.publish(channel, {"text": "a"})
            await ann.publish(channel, {"text": "b"})
            await ann.request("amend", channel=channel, of=1, op="edit", data={"text": "A"})
            await ann.request("amend", channel=channel, of=2, op="delete")
        live = await wire.pubs(4)
        assert [(pub["offset"], pub["data"], pub.get("tags")) for pub in live] == [
            (1, {"text": "a"}, None),
            (2, {"text": "b"}, None),
            (3, {"text": "A"}, {"amend": "edit", "of": "1"}),
            (4, None, {"amend": "delete", "of": "2"}),
        ]
        page = await wire.ask(history={"channel": channel, "limit": 10})
        assert [(pub["data"], pub["tags"]) for pub in page["history"]["publications"]] == [
            ({"text": "A"}, {"edited": "true"}),
            (None, {"deleted": "true"}),
        ]
    async with Wire(centrifugo) as again:
        await again.connect()
        await again.subscribe(channel, recover=True, epoch=began["epoch"], offset=1)
        recovered = await again.pubs(3)
        assert [(pub["offset"], pub["data"]) for pub in recovered] == [(2, None), (3, {"text": "A"}), (4, None)]


@pytest.mark.gen_test
async def test_clients_of_centrifugos_protocol_get_what_is_appended(centrifugo: Server) -> None:
    """Live what is new, with tags that say where it goes; recovered and in the history the whole text."""
    channel = f"room:{uuid.uuid4().hex[:8]}"
    async with Wire(centrifugo) as wire:
        await wire.connect()
        began = await wire.subscribe(channel)
        async with Client(centrifugo.ws, token=token(sub="ann", exp=600)) as ann:
            await ann.publish(channel, "a")
            await ann.request("amend", channel=channel, of=1, op="append", data="b", part=1)
        live = await wire.pubs(2)
        assert (live[1]["data"], live[1]["tags"]) == ("b", {"amend": "append", "of": "1", "part": "1"})
        page = await wire.ask(history={"channel": channel, "limit": 10})
        assert [(pub["data"], pub.get("tags")) for pub in page["history"]["publications"]] == [("ab", None)]
    async with Wire(centrifugo) as again:
        await again.connect()
        await again.subscribe(channel, recover=True, epoch=began["epoch"], offset=1)
        (recovered,) = await again.pubs(1)
        assert (recovered["data"], recovered["tags"]) == ("ab", {"amend": "edit", "of": "1"})


@pytest.mark.gen_test
async def test_clients_of_centrifugos_protocol_get_reactions(centrifugo: Server) -> None:
    """What was counted, as the data of a publication with tags; the messages themselves are as they were."""
    channel = f"room:{uuid.uuid4().hex[:8]}"
    async with Wire(centrifugo) as wire, Client(centrifugo.ws, token=token(sub="ann", exp=600)) as ann:
        await wire.connect()
        await wire.subscribe(channel)
        await ann.publish(channel, {"text": "a"})
        await ann.request("react", channel=channel, of=1, kind="👍", on=True)
        message, counted = await wire.pubs(2)
        assert (counted["offset"], counted["tags"]) == (2, {"amend": "reactions", "of": "1"})
        assert counted["data"]["reactions"] == [{"k": "👍", "n": 1, "u": ["ann"]}]
        page = await wire.ask(history={"channel": channel, "limit": 10})
        assert [pub["data"] for pub in page["history"]["publications"]] == [message["data"]]
