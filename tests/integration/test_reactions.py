"""Reactions at every door: who may, what is told of them and when, and what becomes of them with their message."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from server.core.config import Retention, Seconds
from server.core.errors import Error
from server.core.principals import Principal
from server.log.marks import Marks
from server.node import Node
from server.reactions.rows import Change, Reaction, ReactionRows
from tests.integration.conftest import SETTINGS
from tests.support.client import Client, Push, Refused, Subscription, make_token
from tests.support.nodes import another
from tests.support.plain_http import plain
from tests.support.processes import Mongod
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
ROOM, FREE, OWN = "room:tea", "free:tea", "own:ann"
KEY = "the key"
ANN, BOB = make_token(SECRET, "ann"), make_token(SECRET, "bob")
UP, HEART = "👍", "❤️"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "mongodb.dedupe_window": 0.05,
        "auth.api_keys.ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "channels": {"*": ["subscribe"]}},
        "namespaces.room": {"publish": "anyone", "subscribe": "anyone", "amend": "own", "reactions": True},
        "namespaces.free": {"publish": "anyone", "subscribe": "anyone"},
        "namespaces.own": {"publish": "anyone", "subscribe": "owner", "reactions": True},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def react(client: Client, of: int, kind: str = UP, on: bool = True, channel: str = ROOM) -> Push:
    return await client.request("react", channel=channel, of=of, kind=kind, on=on)


async def told(subscription: Subscription, at: int = 0) -> Push:
    """The first push of reactions that has what was done at that time, and no other push than such."""
    while True:
        push = await subscription.next()
        assert (push["type"], push["op"]) == ("amend", "reactions"), push
        if push["at"] >= at:
            return push


async def reactions(client: Client, of: int = 1) -> Any:
    page = await client.history(ROOM)
    return next(one for one in page["messages"] if one["offset"] == of).get("reactions")


@pytest.mark.gen_test
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_reacting_and_taking_back(url: str, codec: Any) -> None:
    """The reply says what was set; one push says how many there are now; the message shows it, and apart from it what
    one's own are. Both are done once, however often they are asked for."""
    async with Client(url, token=ANN, codec=codec) as ann, Client(url, token=BOB, codec=codec) as bob:
        seen = await bob.subscribe(ROOM)
        message = await ann.publish(ROOM, "tea?")
        await seen.message()
        reply = await react(ann, 1)
        assert reply | {"id": 0} == {
            "type": "reply", "id": 0, "channel": ROOM, "of": 1, "kind": UP, "on": True, "at": reply["at"]
        }  # fmt: skip
        push = await told(seen, reply["at"])
        assert push | {"time": 0, "key": ""} == {
            "type": "amend", "channel": ROOM, "offset": 2, "cursor": message["cursor"].replace(":1", ":2"), "of": 1,
            "op": "reactions", "key": "", "user": None, "time": 0, "version": 2, "at": push["at"],
            "reactions": [{"k": UP, "n": 1, "u": ["ann"]}],
        }  # fmt: skip
        await react(ann, 1)
        await react(bob, 1, HEART, on=False)
        await react(bob, 1)
        push = await told(seen, (await react(bob, 1, HEART))["at"])
        both = [{"k": UP, "n": 2, "u": ["ann", "bob"]}, {"k": HEART, "n": 1, "u": ["bob"]}]
        assert push["reactions"] == both
        page = await ann.history(ROOM)
        assert page["messages"][0]["reactions"] == both
        assert "version" not in page["messages"][0]
        assert page["mine"] == {"1": [UP]}
        assert (await bob.history(ROOM, after="0"))["mine"] == {"1": [UP, HEART]}
        for client, kind in ((ann, UP), (bob, HEART), (bob, UP)):
            reply = await react(client, 1, kind, on=False)
            assert reply["on"] is False
        assert (await told(seen, reply["at"]))["reactions"] == []
        assert await reactions(ann) is None
        assert (await ann.history(ROOM))["mine"] == {}
        await asyncio.sleep(0)
        assert seen.waiting() == []


@pytest.mark.gen_test
async def test_who_may(node: Node, url: str) -> None:
    """Whoever may read and has a name, where there are reactions; an API key's are not those of a user of its name."""
    async with AsyncExitStack() as stack:
        tokens = (ANN, BOB, None, KEY, make_token(SECRET, "ops"))
        ann, bob, guest, ops, named = [
            await stack.enter_async_context(Client(url, token=one)) for one in tokens
        ]  # fmt: skip
        for channel in (ROOM, FREE, OWN):
            await ann.publish(channel, 1)
        for client, channel in ((guest, ROOM), (ann, FREE), (ops, FREE), (bob, OWN)):
            for on in (True, False):
                with pytest.raises(Refused, match="permission_denied"):
                    await react(client, 1, channel=channel, on=on)
        await react(ann, 1, channel=OWN)
        await react(ops, 1)
        await react(named, 1)
        assert (await react(named, 1, on=False))["on"] is False

        async def counted() -> bool:
            return bool(await reactions(ann) == [{"k": UP, "n": 1, "u": ["ops"]}])

        await until(counted, 5, "the key's own reaction")
        assert (await ops.history(ROOM))["mine"] == {"1": [UP]}
        assert (await named.history(ROOM))["mine"] == {}


@pytest.mark.gen_test
async def test_what_is_refused(url: str) -> None:
    """With the field and the limit; nothing is stored."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, 1)
        for kind in ("", " ", "a b", "a\n", "x" * 65, "é" * 33):
            with pytest.raises(Refused, match="bad_request: kind"):
                await react(ann, 1, kind)
        for fields in ({"of": 0}, {"of": "1"}, {"on": 1}, {"kind": 1}):
            with pytest.raises(Refused, match=f"bad_request: {next(iter(fields))}"):
                await ann.request("react", **({"channel": ROOM, "of": 1, "kind": UP} | fields))
        with pytest.raises(Refused, match="bad_request: kind: required"):
            await ann.request("react", channel=ROOM, of=1)
        for of in (2, 2**63 - 1):
            with pytest.raises(Refused, match="not_found"):
                await react(ann, of)
        await react(ann, 1)
        await until(lambda: _head(ann, 2), 5, "the amendment")
        with pytest.raises(Refused, match="not_found"):
            await react(ann, 2)


async def _head(client: Client, offset: int) -> bool:
    return str((await client.history(ROOM))["head"]).endswith(f":{offset}")


@pytest.mark.gen_test
async def test_limits(url: str) -> None:
    """Fifty kinds of a message, twenty of one user; one that is there already is always fine."""
    async with AsyncExitStack() as stack:
        users = [
            await stack.enter_async_context(Client(url, token=make_token(SECRET, f"user{n}"))) for n in range(4)
        ]  # fmt: skip
        await users[0].publish(ROOM, 1)
        for number in range(50):
            await react(users[number // 17], 1, f"kind{number}")
        with pytest.raises(Refused, match="limit_exceeded: kind: a message has 50"):
            await react(users[3], 1, "another")
        for number in range(17, 20):
            await react(users[0], 1, f"kind{number}")
        with pytest.raises(Refused, match="limit_exceeded: kind: a user reacts to a message in 20"):
            await react(users[0], 1, "kind20")
        await react(users[0], 1, "kind19")
        await react(users[1], 1, "kind30", on=False)

        async def room() -> bool:
            try:
                await react(users[3], 1, "another")
            except Refused as refused:
                return refused.code != "limit_exceeded"
            return True

        await until(room, 5, "room for another kind")


@pytest.mark.gen_test
async def test_limits_hold_for_all_nodes_together(node: Node, mongod: Mongod) -> None:
    """However many come at the same moment, through nodes that have not heard of each other's."""
    async with another(node, mongod) as other:
        await node.log.append(ROOM, "ann", "a", 1, 1)
        rows = ReactionRows(node.database, node.clock)
        await rows.write(
            [Change(Reaction(ROOM, 1, f"kind{n}", f"user{n % 3}", False), True) for n in range(45)]
        )  # fmt: skip
        stored = node.database.own("reactions")

        async def reacted(which: Node, user: str, kind: str) -> bool:
            try:
                await which.reactions.react(Principal(user=user), ROOM, 1, kind, True)
            except Error as error:
                if error.code != "limit_exceeded":
                    raise
                return False
            return True

        nodes = (node, other)
        new = await asyncio.gather(*(reacted(which, f"u{n}", f"{which.id}-{n}") for n in range(8) for which in nodes))
        assert len(await stored.distinct("_id.k")) == 45 + sum(new) <= 50
        own = await asyncio.gather(*(reacted(nodes[n % 2], "zoe", f"kind{n}") for n in range(30)))
        assert await stored.count_documents({"_id.u": "zoe"}) == sum(own) <= 20
        assert await reacted(node, "zoe", "kind29") or sum(own) == 20


@pytest.mark.gen_test
async def test_over_rest(base_url: str, http_server: object) -> None:
    """PUT and DELETE of one's own reaction, of any kind that a URL can hold."""
    path = f"{base_url}/v1/channels/{ROOM}/messages"
    async with plain(headers={"Authorization": f"Bearer {ANN}"}) as http:
        await http.post(path, json={"data": "a"})
        for kind in (UP, "a/b", "%"):
            answer = await http.put(f"{path}/1/reactions/{quote(kind, safe='')}")
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body == {"channel": ROOM, "of": 1, "kind": kind, "on": True, "at": body["at"]}

        async def shown() -> bool:
            found = (await http.get(f"{path}/1")).json().get("reactions", [])
            return {one["k"]: one["n"] for one in found} == {UP: 1, "a/b": 1, "%": 1}

        await until(shown, 5, "the reactions")
        assert (await http.get(path)).json()["mine"] == {"1": [UP, "a/b", "%"]}
        assert (await http.delete(f"{path}/1/reactions/%25")).json()["on"] is False
        assert (await http.delete(f"{path}/1/reactions/%25")).status_code == 200
        assert (await http.put(f"{path}/7/reactions/x")).json()["code"] == "not_found"
        assert (await http.put(f"{path}/x/reactions/x")).status_code == 400
    async with plain() as guest:
        assert (await guest.put(f"{path}/1/reactions/x")).status_code == 403
        assert (await guest.get(path)).json()["mine"] == {}


@pytest.mark.gen_test
async def test_streams_polls_and_who_resumes(base_url: str, url: str) -> None:
    """Each gets the amendment; who resumes gets only the last one of a message, with what is counted by now."""
    async with Client(url, token=ANN) as ann, plain(timeout=20) as http:
        cursor = (await ann.publish(ROOM, "a"))["cursor"]
        page = f"{base_url}/v1/channels/{ROOM}"
        poll = asyncio.create_task(http.get(f"{page}/messages", params={"after": cursor, "wait": 10}))
        async with http.stream("GET", f"{page}/events", params={"after": cursor}) as events:
            lines = events.aiter_lines()
            while await anext(lines):
                pass
            await react(ann, 1)
            assert await anext(lines) == "event: amend"
            assert (await anext(lines)).startswith("id: ")
            data = json.loads((await anext(lines)).removeprefix("data: "))
            assert (data["op"], data["reactions"]) == ("reactions", [{"k": UP, "n": 1, "u": ["ann"]}])
        amends = (await poll).json()["amends"]
        assert [(one["op"], one["of"], one["at"]) for one in amends] == [("reactions", 1, data["at"])]
        seen = await ann.subscribe(ROOM)
        for kind in "bcd":
            await told(seen, (await react(ann, 1, kind))["at"])
        async with Client(url, token=BOB) as bob:
            again = await bob.subscribe(ROOM, after=cursor)
            push = await again.next()
            while push["type"] == "progress":
                push = await again.next()
            assert [one["k"] for one in push["reactions"]] == [UP, "b", "c", "d"]
            assert push["offset"] == 5
            whole = await bob.history(ROOM, after="0")
            assert [len(one["reactions"]) for one in whole["messages"] + whole["amends"]] == [4, 4]


@pytest.mark.gen_test
async def test_a_message_that_many_react_to(node: Node, url: str) -> None:
    """All are counted, in few amendments; twenty are named. What was read before is not moved up by it, nor unread."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, 1)
        await ann.publish(ROOM, 2)
        before = await node.log.counts.of(ROOM)
        users = [Principal(f"user{number:03}") for number in range(200)]
        await asyncio.gather(*(node.reactions.react(user, ROOM, 1, UP, True) for user in users))

        async def all_counted() -> bool:
            found = await reactions(ann)
            return bool(found and found[0]["n"] == 200)

        await until(all_counted, 5, "all of them")
        assert len((await reactions(ann))[0]["u"]) == 20
        after = await node.log.counts.of(ROOM)
        assert 1 <= after.amendments <= 4
        assert (after.messages, after.newest, after.time) == (2, 2, before.time)


@pytest.mark.gen_test
async def test_what_is_erased_has_no_reactions(node: Node, url: str) -> None:
    """Neither shown nor stored, not even what is written while it is being erased."""
    async with Client(url, token=ANN) as ann:
        seen = await ann.subscribe(ROOM)
        await ann.publish(ROOM, 1)
        await seen.message()
        await told(seen, (await react(ann, 1))["at"])
        # As a node leaves it that dies before it folds.
        messages = node.database.own("messages")
        value = [[{"k": UP, "n": 1, "u": ["zoe"]}], 1]
        assert (await messages.update_one({"op": "reactions"}, {"$set": {"p": 1, "d": value}})).matched_count
        late = asyncio.gather(
            *(node.reactions.react(Principal(f"user{n}"), ROOM, 1, UP, True) for n in range(20)), return_exceptions=True
        )
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        for outcome in await late:
            assert isinstance(outcome, int) or (isinstance(outcome, Error) and outcome.code == "not_found")
        with pytest.raises(Refused, match="not_found"):
            await react(ann, 1)
        rows = node.database.own("reactions")

        async def none_left() -> bool:
            return not await rows.count_documents({})

        await until(none_left, 5, "no rows")
        page = await ann.history(ROOM, after="0")
        assert "reactions" not in page["messages"][0]
        assert [one["op"] for one in page["amends"]] == ["delete"]
        assert page["mine"] == {}
        assert "zoe" not in repr([row async for row in messages.find()])


@pytest.mark.gen_test
async def test_what_is_trimmed_has_no_reactions(node: Node, url: str) -> None:
    """The rows go with the message; also one that comes too late."""
    async with Client(url, token=ANN) as ann:
        for number in range(3):
            await ann.publish(ROOM, number)
        await react(ann, 1)
        await react(ann, 3)
        await until(lambda: _head(ann, 5), 5, "both amendments")

        async def trimmed() -> bool:
            return await node.log.trimmer.trim(ROOM, Retention(size=1, ttl=Seconds(0))) == 2

        await until(trimmed, 10, "trimmed")
        rows = ReactionRows(node.database, node.clock)
        await rows.write([Change(Reaction(ROOM, 2, UP, "late", False), True)])
        await trimmed()
        assert [row["_id"]["o"] async for row in node.database.own("reactions").find()] == [3]
        with pytest.raises(Refused, match="not_found"):
            await react(ann, 1)


@pytest.mark.gen_test
async def test_another_node_counts_what_was_left(node: Node, mongod: Mongod, url: str) -> None:
    """A node dies when it has marked the message, and has or has not written the reaction; another one tells of it."""
    async with Client(url, token=ANN) as ann, another(node, mongod) as other:
        await ann.publish(ROOM, 1)
        marks, rows = Marks(node.database, node.clock, "reactions"), ReactionRows(node.database, node.clock)
        assert await marks.add(ROOM, 1)
        assert await marks.add(ROOM, 1)
        assert await marks.add(ROOM, 2) is None
        await rows.write([Change(Reaction(ROOM, 1, UP, "bob", False), True)])
        summaries = other.reactions.summaries
        assert summaries is not None
        await summaries.finish(5.0)
        assert summaries.finished == 0
        await summaries.finish(0.0)
        assert await reactions(ann) == [{"k": UP, "n": 1, "u": ["bob"]}]
        assert summaries.finished == 1
        assert await marks.left(0.0) == []
        await summaries.finish(0.0)
        assert summaries.finished == 1
        # Of a message that is erased by then nothing is left.
        await marks.add(ROOM, 1)
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        await rows.write([Change(Reaction(ROOM, 1, UP, "bob", False), True)])
        await summaries.finish(0.0)
        assert await node.database.own("reactions").count_documents({}) == 0
        assert await marks.left(0.0) == []


@pytest.mark.gen_test
async def test_a_late_count_changes_nothing(node: Node, url: str) -> None:
    """Of two the one with the higher `at` is right, whichever comes last; of an erased message none is."""
    async with Client(url, token=ANN) as ann:
        seen = await ann.subscribe(ROOM)
        await ann.publish(ROOM, 1)
        await seen.message()
        at = (await told(seen, (await react(ann, 1))["at"]))["at"]
        original = await node.log.amendments.original(ROOM, 1)
        assert original is not None

        async def count(at: int) -> None:
            value = [{"k": "late", "n": 1, "u": ["x"]}], at
            await node.log.amendments.append(original, "reactions", value, user=None, key=str(at), size=1)

        await count(at - 1)
        assert [one["k"] for one in await reactions(ann)] == [UP]
        page = await ann.history(ROOM, after="0")
        assert [(one["offset"], one["at"], one["reactions"][0]["k"]) for one in page["amends"]] == [(3, at, UP)]
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        await count(at + 1)
        page = await ann.history(ROOM, after="0")
        assert "reactions" not in page["messages"][0]
        assert [one["op"] for one in page["amends"]] == ["delete"]


@pytest.mark.gen_test
async def test_off_costs_nothing(node: Node, url: str) -> None:
    """What nobody has reacted to is stored as it always was."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(FREE, 1)
        await ann.publish(ROOM, 1)
        assert "mine" not in await ann.history(FREE)
    rows = [set(row) async for row in node.database.own("messages").find()]
    assert rows == [{"_id", "e", "u", "k", "t", "d"}] * 2
