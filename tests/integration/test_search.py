"""Searching messages: what is found, in what order, by whom, and what edits and erasing do to it."""

from __future__ import annotations

import hashlib
import sys
import types
from contextlib import AsyncExitStack
from typing import Any

import pytest

import waterspout_client
from server.node import Node
from server.search.indexing import begin, progress
from tests.support.client import Client, Push, Refused, make_token
from tests.support.commands import called
from tests.support.plain_http import plain
from tests.support.processes import Mongod
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    async def rule(question: dict[str, Any]) -> Any:
        return {"allow": question["channel"] != "asked:shut"}

    module = types.ModuleType("rules_of_searching")
    module.rule = rule  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rules_of_searching", module)
    return {
        "hooks": {"doorman": {"function": "rules_of_searching:rule", "actions": ["subscribe"]}},
        "namespaces.asked": {
            "publish": "user", "subscribe": "member", "members": True, "join": "anyone", "search": True,
            "hook": "doorman",
        },
        "auth.api_keys.ops": {"sha256": hashlib.sha256(b"the key").hexdigest(), "channels": {"*": ["subscribe"]}},
        "namespaces.room": {
            "publish": "user", "subscribe": "member", "members": True, "join": "anyone", "amend": "own", "search": True,
            "threads": True,
        },
        "namespaces.hall": {"publish": "anyone", "subscribe": "anyone", "threads": True, "search": True},
        "namespaces.plain": {"publish": "anyone", "subscribe": "anyone"},
    }  # fmt: skip


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def user(stack: AsyncExitStack, url: str, name: str) -> Any:
    return stack.enter_async_context(Client(url, token=make_token(SECRET, name)))


async def search(client: Client, q: str, *channels: str, **fields: Any) -> Push:
    return await client.request("search", q=q, **({"channels": list(channels)} if channels else {}), **fields)


async def found(client: Client, q: str, *channels: str, **fields: Any) -> list[Any]:
    return [one["data"] for one in (await search(client, q, *channels, **fields))["messages"]]


async def test_words_beginnings_and_pages(url: str) -> None:
    """All words have to be there, the last may be a beginning; newest first, page by page, each message once."""
    async with AsyncExitStack() as stack:
        ann = await user(stack, url, "ann")
        for number in range(25):
            await ann.publish("hall:a", {"text": f"Green tea {number}", "by": "the pot"})
            await ann.publish("hall:a", f"black coffee{number % 5}")
        assert await found(ann, "GR\u00c9EN te", "hall:a", limit=2) == [
            {"text": "Green tea 24", "by": "the pot"}, {"text": "Green tea 23", "by": "the pot"}
        ]  # fmt: skip
        assert len(await found(ann, "pot green 7 ", "hall:a")) == 1
        assert await found(ann, "coff", "hall:a", limit=1) == ["black coffee4"]
        assert await found(ann, "coff ", "hall:a") == []
        assert await found(ann, "text", "hall:a") == []
        await ann.publish("$thread:1:hall:a", "tea in a thread")
        assert await found(ann, "tea", "$thread:1:hall:a") == ["tea in a thread"]
        for q in ("tea green", "coffee"):
            offsets: list[int] = []
            page = await search(ann, q, "hall:a", limit=7)
            while True:
                offsets += [one["offset"] for one in page["messages"]]
                if not page["more"]:
                    break
                page = await search(ann, q, "hall:a", limit=7, after=page["cursor"])
            assert offsets == sorted(offsets, reverse=True)
            assert len(set(offsets)) == len(offsets) == 25


async def test_within_what_one_may_read(url: str, base_url: str) -> None:
    """Named channels for who may read them; else one's own rooms, as long as they are that."""
    async with AsyncExitStack() as stack:
        ann, bob = await user(stack, url, "ann"), await user(stack, url, "bob")
        guest = await stack.enter_async_context(Client(url))
        for number in range(3):
            await ann.request("join", channel=f"room:{number}")
            await ann.publish(f"room:{number}", f"tea in {number}")
        await ann.publish("hall:a", "tea for all")
        await bob.request("join", channel="room:1")
        assert await found(ann, "tea") == ["tea in 2", "tea in 1", "tea in 0"]
        assert await found(bob, "tea") == ["tea in 1"]
        for number in (0, 1):
            await ann.publish(f"$thread:1:room:{number}", f"tea in a thread in {number}", mentions=["bob"])
        assert await found(bob, "tea") == ["tea in a thread in 1", "tea in 1"]
        for number in (0, 1):  # whose threads nobody follows from then on
            await ann.request("leave", channel=f"$thread:1:room:{number}")
        first = await search(ann, "tea", limit=2)
        assert (len(first["messages"]), first["more"]) == (2, True)
        assert await found(ann, "tea", limit=2, after=first["cursor"]) == ["tea in 0"]
        assert await found(ann, "tea", "room:0", "hall:a") == ["tea for all", "tea in 0"]
        assert await found(guest, "tea", "hall:a") == ["tea for all"]
        for channels in (("room:0",), ("room:1", "room:0")):
            with pytest.raises(Refused, match="permission_denied"):
                await search(bob, "tea", *channels)
        await bob.request("leave", channel="room:1")
        assert await found(bob, "tea") == []
        for q, channels in (
            ("tea", ("plain:a",)),
            ("tea", ("none:a",)),
            ("!", ("hall:a",)),
            ("", ("hall:a",)),
            ("x" * 257, ("hall:a",)),
        ):
            with pytest.raises(Refused, match="bad_request"):
                await search(ann, q, *channels)
        with pytest.raises(Refused, match="bad_request: channel"):
            await search(guest, "tea")
        with pytest.raises(Refused, match="bad_request: after"):
            await search(ann, "tea", after="!!")
        async with plain(base_url=base_url, headers={"Authorization": "Bearer the key"}) as http:
            answer = await http.get("/v1/search", params={"q": "tea", "channel": ["room:0", "room:1"], "limit": 1})
            assert answer.status_code == 200, answer.text
            assert [one["data"] for one in answer.json()["messages"]] == ["tea in 1"]
            assert (await http.get("/v1/search", params={"channel": "room:0"})).status_code == 400


async def test_what_a_hook_does_not_let_one_read_is_not_found(url: str) -> None:
    """Not among one's own rooms either; the other rooms are searched all the same."""
    async with AsyncExitStack() as stack:
        ann = await user(stack, url, "ann")
        for channel in ("asked:open", "asked:shut"):
            await ann.request("join", channel=channel)
            await ann.publish(channel, f"tea in {channel}")
        with pytest.raises(Refused, match="permission_denied"):
            await search(ann, "tea", "asked:shut")
        assert await found(ann, "tea") == ["tea in asked:open"]


async def test_edits_and_erasing(node: Node, url: str) -> None:
    """A message is found by what it says now, also while that is not folded; what is erased has no words any more."""
    async with AsyncExitStack() as stack:
        ann = await user(stack, url, "ann")
        await ann.request("join", channel="room:a")
        await ann.publish("room:a", "green tea")
        await ann.request("amend", channel="room:a", of=1, op="edit", data="black coffee")
        assert await found(ann, "tea", "room:a") == []
        assert await found(ann, "coffee", "room:a") == ["black coffee"]
        await ann.request("amend", channel="room:a", of=1, op="append", data=" with milk")
        assert await found(ann, "coffee", "room:a") == ["black coffee with milk"]
        await ann.request("amend", channel="room:a", of=1, op="append", data=".", done=True)

        async def folded() -> bool:
            return await found(ann, "milk", "room:a") == ["black coffee with milk."]

        await until(folded, 10, "the words of what was appended")
        await ann.request("amend", channel="room:a", of=1, op="delete")
        assert await found(ann, "coffee", "room:a") == []
        await ann.publish("plain:a", "green tea")
    rows = [row async for row in node.database.own("messages").find()]
    assert not [row for row in rows if "ws" in row], "what is erased, and where nothing is searched"


async def test_messages_from_before_they_were_searched(node: Node, url: str, mongod: Mongod) -> None:
    """They get their words, those in threads too, and what has become of them meanwhile stands; once more if that is
    asked for. Nothing is written where nothing is searched, or is erased."""
    messages = node.database.own("messages")
    async with AsyncExitStack() as stack:
        ann = await user(stack, url, "ann")
        for channel in ("hall:a", "hall:b", "plain:a", "$thread:1:hall:a"):
            await ann.publish(channel, f"tea in {channel}")
        await ann.publish("hall:a", {"$text": "more tea"})
        await node.log.amendments.erase_in_place("hall:b", [1])
        await messages.update_many({}, {"$unset": {"ws": 1}})
        assert await found(ann, "tea", "hall:a", "$thread:1:hall:a") == []

        async def gone_through() -> bool:
            await node.indexing.step()
            return all(job.done for job in await progress(node.database))

        await begin(node.database, "hall")
        await until(gone_through, 10, "the end")
        assert await found(ann, "tea", "hall:a") == [{"$text": "more tea"}, "tea in hall:a"]
        assert await found(ann, "tea", "$thread:1:hall:a") == ["tea in $thread:1:hall:a"]
        assert [row["_id"]["c"] async for row in messages.find({"z": None, "ws": None})] == ["hall:b", "plain:a"]
        (hall,) = [job for job in await progress(node.database) if job.namespace == "hall"]
        assert (hall.indexed, hall.done) == (3, True)
        await messages.update_many({}, {"$unset": {"ws": 1}})
        flags = ["--set", f"mongodb.database={node.config.mongodb.database}", "--set", "namespaces.hall={search: true}"]
        code, said = await called("search", "index", "--mongodb-uri", mongod.uri, *flags)
        assert code == 0, said
        assert said.splitlines()[-1].startswith("hall: done: 3 of "), said
        assert len(await found(ann, "tea", "hall:a")) == 2


async def test_with_the_python_client(base_url: str, http_server: object) -> None:
    """Page after page, and only in the channels that are named, or in one's own."""
    async with waterspout_client.Client(base_url, token=make_token(SECRET, "ann")) as ann:
        await ann.room("room:p").join()
        for number in range(3):
            await ann.publish("hall:p", f"green tea {number}")
        await ann.publish("room:p", {"text": "Green teapot"})
        page = await ann.search("green te", channels=["hall:p"], limit=2)
        assert ([message.data for message in page.messages], page.more) == (["green tea 2", "green tea 1"], True)
        page = await ann.search("green te", channels=["hall:p"], after=page.cursor)
        assert ([message.data for message in page.messages], page.more) == (["green tea 0"], False)
        (message,) = (await ann.search("green te")).messages
        assert (message.channel, message.data) == ("room:p", {"text": "Green teapot"})
        with pytest.raises(waterspout_client.WaterspoutError, match="plain:p is not searched"):
            await ann.search("tea", channels=["plain:p"])
