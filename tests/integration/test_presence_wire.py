"""Presence, ephemeral messages and the server calls, through a real server on one node."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

import server.presence.attendance
from server.node import Node
from tests.integration.test_backpressure import BIG, Raw
from tests.support.client import Client, Refused, make_token
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
OPERATOR, SHOP = "the key of the operator", "the key of a shop"
OPEN = {"publish": "anyone", "subscribe": "anyone"}


@pytest.fixture
def settings() -> dict[str, object]:
    keys = {
        "operator": {"sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(SHOP.encode()).hexdigest(), "channels": {"*": ["subscribe", "publish"]}},
    }
    return {
        "auth.api_keys": keys,
        "limits.queue_bytes": 65536,
        "namespaces.room": {"presence": True, "ephemeral": True, **OPEN},
        "namespaces.club": {"presence": True, "join_leave": False, "publish": "user", "subscribe": "user"},
        "namespaces.mixed": {"ephemeral": True, "conflate": "50ms", **OPEN},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def person(url: str, name: str | None, **claims: Any) -> Client:
    return Client([url], name=name or "a guest", token=make_token(SECRET, name, **claims) if name else None)


async def call(base_url: str, path: str, token: str | None = None, body: Any = None) -> tuple[int, Any]:
    """(status, body) of a GET, or of a POST if there is a body to send."""
    request = HTTPRequest(
        base_url + path,
        "GET" if body is None else "POST",
        {"Authorization": f"Bearer {token}"} if token else {},
        body=None if body is None else json.dumps(body),
    )
    answer = await AsyncHTTPClient().fetch(request, raise_error=False)
    return answer.code, json.loads(answer.body)


# --- presence ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_who_is_there(url: str, base_url: str) -> None:
    """Users once with their sessions and info, guests as a number, servers not at all; REST says the same."""
    async with (
        person(url, "ann", info={"name": "Ann"}) as ann,
        person(url, "ann", info={"name": "Ann"}) as tab,
        person(url, "bob") as bob,
        person(url, None) as guest,
        Client([url], token=SHOP) as shop,
    ):
        for client in (ann, tab, bob, guest, shop):
            await client.subscribe("room:a")
        reply = await ann.presence("room:a")
        reply.pop("id")
        assert reply == {
            "type": "reply",
            "channel": "room:a",
            "users": [{"user": "ann", "sessions": 2, "info": {"name": "Ann"}}, {"user": "bob", "sessions": 1}],
            "count": 2,
            "guests": 1,
        }
        del reply["type"], reply["channel"]
        assert await call(base_url, "/v1/channels/room:a/presence") == (200, reply)
        assert (await guest.presence("room:elsewhere"))["count"] == 0


@pytest.mark.gen_test
async def test_joins_and_leaves(url: str) -> None:
    """Once per user, not per tab; not for the one who comes; at once for who unsubscribes."""
    async with person(url, "ann", info=1) as ann, person(url, "ann") as tab, person(url, "bob") as bob:
        at_anns = await ann.subscribe("room:a")
        await tab.subscribe("room:a")
        at_bobs = await bob.subscribe("room:a")
        assert await at_anns.next() == {"type": "join", "channel": "room:a", "user": "bob"}
        await bob.unsubscribe("room:a")
        assert await at_anns.next() == {"type": "leave", "channel": "room:a", "user": "bob"}
        at_bobs = await bob.subscribe("room:a")
        assert (await at_anns.next())["type"] == "join"
        await ann.unsubscribe("room:a")
        await tab.unsubscribe("room:a")
        assert await at_bobs.next() == {"type": "leave", "channel": "room:a", "user": "ann"}
        await ann.subscribe("room:a")
        assert await at_bobs.next() == {"type": "join", "channel": "room:a", "user": "ann", "info": 1}


@pytest.mark.gen_test
async def test_a_lost_connection_is_no_leave_at_once(url: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload shows nothing to the others. Who stays away leaves after the grace, and when is kept."""
    async with person(url, "ann") as ann, person(url, "bob") as bob:
        at_anns = await ann.subscribe("room:a")
        await bob.subscribe("room:a")
        assert (await at_anns.next())["type"] == "join"
        bob.abort()
        users = await until(lambda: _without_sessions(node), what="a user in his grace")
        assert users == ["bob"]
        await bob.reconnect()
        assert (await ann.presence("room:a"))["users"][1] == {"user": "bob", "sessions": 1}
        assert at_anns.waiting() == []
        monkeypatch.setattr(server.presence.attendance, "GRACE", 0.0)
        bob.abort()
        assert await at_anns.next() == {"type": "leave", "channel": "room:a", "user": "bob"}

        async def last_seen() -> Any:
            return (await ann.request("presence", channel="room:a", left=10))["left"]

        (row,) = await until(last_seen, what="last_seen")
        assert row["user"] == "bob"
        assert row["last_seen"] > 1_764_000_000_000


def _without_sessions(node: Node) -> list[str]:
    return [row["user"] for row in node.attendance.show("room:a")["users"] if not row["sessions"]]


@pytest.mark.gen_test
async def test_who_may_ask(url: str, base_url: str) -> None:
    """It needs the right to subscribe, and a namespace with presence; both doors say the same."""
    async with person(url, None) as guest, person(url, "ann") as ann:
        for channel, code, status in (
            ("club:a", "permission_denied", 403),
            ("chat:a", "bad_request", 400),
            ("nowhere:a", "unknown_channel", 404),
            ("a", "bad_request", 400),
        ):
            with pytest.raises(Refused) as refused:
                await guest.presence(channel)
            assert refused.value.code == code
            answer = await call(base_url, f"/v1/channels/{channel}/presence")
            assert (answer[0], answer[1]["code"]) == (status, code)
        assert (await ann.presence("club:a"))["count"] == 0
        with pytest.raises(Refused, match="left"):
            await ann.request("presence", channel="club:a", left=-1)


@pytest.mark.gen_test
async def test_no_joins_where_nobody_wants_them(url: str) -> None:
    """`join_leave: false`: presence is there for the asking, nothing is pushed."""
    async with person(url, "ann") as ann, person(url, "bob") as bob:
        subscription = await ann.subscribe("club:a")
        await bob.subscribe("club:a")
        assert (await ann.presence("club:a"))["count"] == 2
        await bob.unsubscribe("club:a")
        await bob.publish("club:a", "the end")
        assert (await subscription.message())["data"] == "the end"


# --- ephemeral messages -----------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_ephemeral_in_a_durable_channel(url: str, base_url: str) -> None:
    """It has no offset, cursor or key, is not in the history, and does not disturb the order of what is stored."""
    async with person(url, None) as one, person(url, None) as other:
        subscription = await other.subscribe("room:a")
        own = await one.subscribe("room:a")
        for n in range(20):
            await one.publish("room:a", n)
            reply = await one.publish("room:a", "types", ephemeral=True, tag="t", echo=False)
            assert set(reply) == {"type", "id", "channel"}
        pushes = [await subscription.next() for _ in range(40)]
        stored = [push for push in pushes if "offset" in push]
        assert [push["offset"] for push in stored] == list(range(1, 21))
        passing = [push for push in pushes if "offset" not in push]
        assert len(passing) == 20
        assert set(passing[0]) == {"type", "channel", "user", "time", "data", "tag"}
        assert [push["data"] for push in await own.messages(20)] == list(range(20))
        answer = await call(base_url, "/v1/channels/room:a/messages", body={"data": "by REST", "ephemeral": True})
        assert answer == (202, {"channel": "room:a"})
        assert (await subscription.message())["data"] == "by REST"
        assert [push["data"] for push in (await one.history("room:a"))["messages"]] == list(range(20))


@pytest.mark.gen_test
async def test_ephemeral_only_where_it_is_allowed(url: str, base_url: str) -> None:
    """A durable channel whose namespace does not say so refuses; an ephemeral one takes it as it is."""
    async with person(url, None) as client:
        with pytest.raises(Refused, match="ephemeral: chat:a stores every message"):
            await client.publish("chat:a", 1, ephemeral=True)
        answer = await call(base_url, "/v1/channels/chat:a/messages", body={"data": 1, "ephemeral": True})
        assert (answer[0], answer[1]["code"]) == (400, "bad_request")
        assert (await client.history("chat:a"))["messages"] == []
        subscription = await client.subscribe("live:a")
        await client.publish("live:a", 2, ephemeral=True)
        assert (await subscription.message())["data"] == 2


@pytest.mark.gen_test
async def test_conflated_beside_stored(url: str) -> None:
    """Where a durable namespace conflates, ephemeral messages are: the newest per tag. Stored ones are all there."""
    async with person(url, None) as client:
        subscription = await client.subscribe("mixed:a")
        for n in range(50):
            await client.send({"type": "publish", "channel": "mixed:a", "data": n, "ephemeral": True, "tag": "t"})
            await client.send({"type": "publish", "channel": "mixed:a", "data": n})
        pushes: list[Any] = []
        while [push["data"] for push in pushes if "offset" in push][-1:] != [49] or pushes[-1].get("data") != 49:
            pushes.append(await subscription.next())
        assert [push["data"] for push in pushes if "offset" in push] == list(range(50))
        while not [push for push in pushes if "offset" not in push and push["data"] == 49]:
            pushes.append(await subscription.next())
        assert len([push for push in pushes if "offset" not in push]) < 25


@pytest.mark.gen_test(timeout=60)
async def test_behind_they_are_dropped_and_counted(node: Node, http_port: int, url: str) -> None:
    """Who cannot keep up gets every stored message and is told how many of the others were not for him."""
    async with Raw(node, http_port) as slow, person(url, None) as publisher:
        await slow.subscribe("room:a")
        stored = passed = 0
        while not node.hub.fallen_behind:
            await publisher.publish("room:a", [stored, BIG])
            await publisher.publish("room:a", "types", ephemeral=True)
            stored, passed = stored + 1, passed + 1
        for _ in range(50):
            await publisher.publish("room:a", "types", ephemeral=True)
            passed += 1
        offsets, taken, dropped = [], 0, 0
        while len(offsets) < stored or taken + dropped < passed:
            push = await slow.next()
            if push["type"] == "dropped":
                dropped += push["count"]
            elif "offset" in push:
                offsets.append(push["offset"])
            else:
                taken += 1
        assert offsets == list(range(1, stored + 1))
        assert taken + dropped == passed
        assert dropped >= 50


# --- for operators ----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/v1/nodes", "/v1/channels", "/v1/nodes/recent"])
async def test_only_admins_see_the_server(base_url: str, http_server: object, path: str) -> None:
    """An API key with `admin`; any other, a user and a guest are refused."""
    for token in (None, SHOP, make_token(SECRET, "ann")):
        status, problem = await call(base_url, path, token)
        assert (status, problem["code"]) == (403, "permission_denied")
    assert (await call(base_url, path, OPERATOR))[0] == 200


@pytest.mark.gen_test
async def test_system_channels_are_for_admins(url: str) -> None:
    """Nobody else subscribes to them, nobody publishes there, they have no history, and there are no others."""
    async with Client([url], token=OPERATOR) as operator, Client([url], token=SHOP) as shop:
        for channel in ("$sys:nodes", "$sys:events"):
            with pytest.raises(Refused, match="permission_denied: shop may not subscribe"):
                await shop.subscribe(channel)
            for client in (shop, operator):
                with pytest.raises(Refused, match="permission_denied"):
                    await client.publish(channel, 1)
            with pytest.raises(Refused, match="bad_request"):
                await operator.history(channel)
        with pytest.raises(Refused, match="unknown_channel"):
            await operator.subscribe("$sys:other")


@pytest.mark.gen_test
async def test_nodes_and_events(url: str, base_url: str, node: Node) -> None:
    """Every second a row of each node; and what was refused, why, to whom, and how often."""
    async with Client([url], token=OPERATOR) as operator, Client([url], token=SHOP) as shop:
        nodes, events = await operator.subscribe("$sys:nodes"), await operator.subscribe("$sys:events")
        for _ in range(3):
            with pytest.raises(Refused):
                await shop.subscribe("nowhere:a")
        row = (await nodes.message())["data"]
        assert (row["node"], row["status"], row["reasons"]) == (node.id, "ready", [])
        assert row["connections"] == 2
        event, count = (await events.message())["data"], 0
        while (count := count + event.pop("count")) < 3:  # they may fall into two seconds
            event = (await events.message())["data"]
        assert event == {
            "event": "refusal",
            "code": "unknown_channel",
            "reason": "channel: no namespace is declared for nowhere:a",
            "user": "shop",
            "address": "127.0.0.1",
            "node": node.id,
        }
        await shop.publish("chat:a", 1)

        async def counted() -> bool:
            row = (await nodes.message())["data"]
            return bool(row["in"] and row["publish_p50"] and row["publish_p99"])

        await until(counted, what="a publish in the figures")
        status, answer = await call(base_url, "/v1/nodes", OPERATOR)
        assert (status, [one["node"] for one in answer["nodes"]]) == (200, [node.id])
        # And for who comes later: an hour of it.
        _, recent = await call(base_url, "/v1/nodes/recent", OPERATOR)
        assert sum(one["count"] for one in recent["events"] if one["user"] == "shop") == 3
        (row,) = recent["refused"]
        assert row.pop("last") > recent["events"][0]["time"] - 1
        assert row == {"code": "unknown_channel", "limit": None, "user": "shop", "address": "127.0.0.1", "count": 3}
        assert recent["limits"]["connections"] == node.config.limits.connections


@pytest.mark.gen_test
async def test_channels_by_pages(url: str, base_url: str) -> None:
    """By name, with their subscribers; users where there is presence; `next` leads through all of them."""
    async with person(url, "ann") as ann, person(url, None) as guest:
        for n in range(5):
            await ann.subscribe(f"room:{n}")
        await guest.subscribe("room:1")
        await guest.subscribe("chat:a")
        status, page = await call(base_url, "/v1/channels?limit=2&prefix=room:", OPERATOR)
        assert (status, page["missing"], page["next"]) == (200, [], "room:1")
        assert page["channels"] == [
            {"channel": "room:0", "subscribers": 1, "rate": 0.0, "users": 1, "guests": 0},
            {"channel": "room:1", "subscribers": 2, "rate": 0.0, "users": 1, "guests": 1},
        ]
        seen = ["room:0", "room:1"]
        while page["next"]:
            _, page = await call(base_url, f"/v1/channels?limit=2&prefix=room:&after={page['next']}", OPERATOR)
            seen += [row["channel"] for row in page["channels"]]
        assert seen == [f"room:{n}" for n in range(5)]
        _, page = await call(base_url, "/v1/channels", OPERATOR)
        assert page["channels"][0] == {"channel": "chat:a", "subscribers": 1, "rate": 0.0}
        assert (await call(base_url, "/v1/channels?limit=0", OPERATOR))[0] == 400


@pytest.mark.gen_test
async def test_a_flood_of_refusals_is_a_few_events(url: str, node: Node) -> None:
    """However many different ones: a bounded number of events a second, the others as a count."""
    async with Client([url], token=OPERATOR) as operator:
        events = await operator.subscribe("$sys:events")
        await asyncio.gather(*(operator.send({"type": "subscribe", "channel": f"nowhere:{n}"}) for n in range(500)))
        told: list[Any] = []
        while sum(event["count"] for event in told) < 500:
            told.append((await events.message())["data"])
        assert len(told) <= 3 * 21
        assert [event for event in told if event["event"] == "others"]
