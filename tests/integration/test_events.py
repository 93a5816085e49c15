"""Event streams through a real server: resume, several channels, slow readers, the end."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import handlers.sockets
import server.sessions.client
import server.sessions.event_stream
import server.sessions.outbox
from server.core.cursors import split_cursor
from server.core.errors import REVOKED, Disconnect
from server.core.principals import GUEST, Principal
from server.node import Node
from server.sessions.event_stream import EventStream
from tests.support.client import make_token
from tests.support.events import EventSource
from tests.support.ledger import offset_of
from tests.support.proxy import Proxy
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
BIG = "x" * 8000


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits.queue_bytes": 65536, "origins": ["https://app.example"]}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url + "/v1/channels/chat:a/events"


@pytest.fixture
def joined(base_url: str, http_server: object) -> str:
    return base_url + "/v1/events?channel=chat:b&channel=chat:a"


async def publish(node: Node, channel: str, *data: Any) -> list[str]:
    """Their cursors."""
    futures = [node.publisher.publish(GUEST, channel, datum) for datum in data]
    return [str((await future).position) for future in futures if future is not None]


def streams(node: Node) -> list[EventStream]:
    return [client for client in node.admission.clients if isinstance(client, EventStream)]


@pytest.mark.gen_test
async def test_an_event_is_a_push_with_its_cursor(node: Node, url: str) -> None:
    """event, id and data; the stream opens with a bare id and says when to come back; nothing may be cached."""
    async with EventSource(url) as events:
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-store"
        await events.opened()
        assert events.last_id == f"{node.log.epoch}:0"
        assert events.retry is not None
        assert events.retry >= 1000
        (cursor,) = await publish(node, "chat:a", {"text": "a\n\nb\r\nid: 7", "ü": None})
        event = await events.next()
    assert (event.type, event.id) == ("message", cursor)
    assert event.data["type"] == "message"
    assert event.data["data"] == {"text": "a\n\nb\r\nid: 7", "ü": None}
    assert event.data["cursor"] == cursor


@pytest.mark.parametrize(
    ("query", "last_id", "expected"),
    [("?after={0}", None, [2, 3]), ("?after=0", None, [1, 2, 3]), ("?after=0", 1, [3]), ("?last=2", None, [2, 3]),
     ("?last=2", 2, []), ("?after=", None, []), ("", None, [])],
)  # fmt: skip
@pytest.mark.gen_test
async def test_resume(node: Node, url: str, query: str, last_id: int | None, expected: list[int]) -> None:
    """Last-Event-ID goes before ?after= and ?last=; what was missed comes first, then what is new."""
    cursors = await publish(node, "chat:a", 1, 2, 3)
    headers = {} if last_id is None else {"Last-Event-ID": cursors[last_id]}
    async with EventSource(url + query.format(*cursors), headers) as events:
        await events.opened()
        (cursor,) = await publish(node, "chat:a", "new")
        missed = await events.events(len(expected))
        assert [event.data["data"] for event in missed] == expected
        event = await events.next()
        assert (event.data["data"], event.id) == ("new", cursor)


@pytest.mark.gen_test
async def test_another_epoch_is_a_gap_event(url: str, node: Node) -> None:
    """A cursor of another history gets a gap, with the cursor behind it, and then everything."""
    await publish(node, "chat:a", 1)
    async with EventSource(url, {"Last-Event-ID": "zzzz:7"}) as events:
        gap, message = await events.events(2)
    assert (gap.type, gap.data["reason"], gap.id) == ("gap", "epoch", f"{node.log.epoch}:0")
    assert message.data["data"] == 1


@pytest.mark.gen_test
async def test_several_channels_have_one_cursor(node: Node, joined: str) -> None:
    """Each id is good for all channels, in whatever order they are asked for again; nothing is missed or doubled."""
    async with EventSource(joined) as events:
        await events.opened()
        assert events.last_id is not None
        seen = []
        for n in range(4):
            await publish(node, f"chat:{'ab'[n % 2]}", n)
            seen.append(await events.next())
    assert [event.data["data"] for event in seen] == [0, 1, 2, 3]
    await publish(node, "chat:a", 4)
    await publish(node, "chat:b", 5)
    for index, event in enumerate(seen):
        for query in ("channel=chat:a&channel=chat:b", "channel=chat:b&channel=chat:a"):
            address = joined.partition("?")[0] + "?" + query
            async with EventSource(address, {"Last-Event-ID": str(event.id)}) as again:
                left = await again.events(5 - index)
                assert sorted(one.data["data"] for one in left) == list(range(index + 1, 6))
            async with EventSource(f"{address}&after={left[-1].id}") as nothing:
                await nothing.opened()
                assert nothing.last_id == left[-1].id


@pytest.mark.gen_test
async def test_each_channel_may_have_its_own_cursor(node: Node, joined: str) -> None:
    """`after` in the order of the channels; an empty one is from now on."""
    cursors = await publish(node, "chat:b", 1, 2)
    await publish(node, "chat:a", 10, 11)
    async with EventSource(f"{joined}&after={cursors[0]}") as events:
        assert (await events.next()).data["data"] == 2
    async with EventSource(f"{joined}&after=&after=0") as events:
        assert [event.data["data"] for event in await events.events(2)] == [10, 11]


@pytest.mark.gen_test
async def test_an_ephemeral_channel_has_no_ids(node: Node, base_url: str, http_server: object) -> None:
    """Its events come as they are; among others they leave the joined cursor alone."""
    async with EventSource(base_url + "/v1/channels/live:a/events") as events:
        await events.opened()
        await until(lambda: node.hub.count("live:a"), 5, "stream")
        node.publisher.publish(GUEST, "live:a", 1)
        event = await events.next()
        assert (event.type, event.id, event.data["data"]) == ("message", None, 1)
        assert events.last_id is None
    async with EventSource(base_url + "/v1/events?channel=live:a&channel=chat:a") as events:
        await events.opened()
        await publish(node, "chat:a", 1)
        place = (await events.next()).id
        node.publisher.publish(GUEST, "live:a", 2)
        assert (await events.next()).id is None
    async with EventSource(base_url + f"/v1/events?channel=live:a&channel=chat:a&after={place}") as events:
        await events.opened()
        assert events.last_id == place


# --- a list in a body -------------------------------------------------------------------------------------------------

LONG = [f"chat:{'я' * 110}-{number:02}" for number in range(64)]
"""As a query they are 45 KB, and a request's head has 16 KiB at most."""


def places(*channels: str, after: str | None = None) -> dict[str, Any]:
    return {"channels": [{"channel": channel, "after": after} for channel in channels]}


@pytest.mark.gen_test
async def test_a_list_that_fits_no_url(node: Node, base_url: str, http_server: object) -> None:
    """POST opens the stream of as many channels as GET, whatever their names; its cursors are good for both."""
    address = base_url + "/v1/events"
    for channel in LONG[:2]:
        await publish(node, channel, "before")
    wanted = {
        "channels": [
            *places(LONG[0])["channels"],
            *places(LONG[1], after="0")["channels"],
            *places(*LONG[2:])["channels"],
        ]
    }
    async with EventSource(address, body=wanted) as events:
        assert [(event.data["channel"], event.data["data"]) for event in await events.events(1)] == [
            (LONG[1], "before")
        ]
        await publish(node, LONG[0], "live")
        event = await events.next()
        assert (event.data["channel"], event.data["data"]) == (LONG[0], "live")
    await publish(node, LONG[63], "meanwhile")
    for again in (
        EventSource(address, body={**places(*reversed(LONG)), "after": event.id}),
        EventSource(address, {"Last-Event-ID": str(event.id)}, body=places(*LONG)),
    ):
        async with again as events:
            assert (await events.next()).data["data"] == "meanwhile"
    async with EventSource(address, body=places("chat:a", "chat:b")) as events:
        await events.opened()
        place = events.last_id
    await publish(node, "chat:b", "either way")
    async with EventSource(f"{address}?channel=chat:a&channel=chat:b&after={place}") as events:
        assert (await events.next()).data["data"] == "either way"
    async with EventSource(address, body={**places("chat:b"), "last": 1}) as events:
        assert (await events.next()).data["data"] == "either way"


REFUSED_LISTS = [
    ({}, {}, 400, "bad_request"),
    ({"channels": []}, {}, 400, "bad_request"),
    (places("chat:a", "chat:a"), {}, 400, "bad_request"),
    (places("chat:a", after="x"), {}, 400, "bad_request"),
    ({**places("chat:a", "chat:b"), "after": "~00.1"}, {}, 400, "bad_request"),
    (places("chat:a", "feed:b"), {}, 403, "permission_denied"),
    (places("chat:a", "nowhere:b"), {}, 404, "unknown_channel"),
    (places(*(f"chat:{number}" for number in range(129))), {}, 400, "bad_request"),
    (places("chat:a"), {"Authorization": "Bearer x"}, 401, "unauthenticated"),
    (places("chat:a"), {"Origin": "https://evil.example"}, 403, "permission_denied"),
    (places("chat:a"), {"Accept": "text/html"}, 406, "bad_request"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), REFUSED_LISTS)
@pytest.mark.gen_test
async def test_a_list_that_may_not_be_is_a_problem(
    node: Node, base_url: str, http_server: object, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    """Rights and limits are those of GET, and nothing is left behind."""
    async with EventSource(base_url + "/v1/events", headers, body=body) as events:
        assert (events.status, (await events.problem())["code"]) == (status, code)
    assert not node.admission.clients
    assert not node.admission.addresses.total


@pytest.mark.gen_test
async def test_a_ticket_opens_no_list(node: Node, base_url: str, http_server: object) -> None:
    """A ticket is good for the channels it names, so it does not stand for a token where a body names others."""
    token = make_token(SECRET, "ann")
    _, ticket = await post(base_url, "/v1/tickets", {"channels": ["chat:a"]}, token)
    address = base_url + f"/v1/events?channel=chat:a&ticket={ticket['ticket']}"
    async with EventSource(address, body=places("feed:b")) as events:
        assert (events.status, (await events.problem())["code"]) == (403, "permission_denied")


REFUSED = [
    ("/v1/channels/nowhere:a/events", {}, 404, "unknown_channel"),
    ("/v1/channels/feed:a/events", {}, 403, "permission_denied"),
    ("/v1/channels/chat:a/events?after=x", {}, 400, "bad_request"),
    ("/v1/channels/chat:a/events?last=-1", {}, 400, "bad_request"),
    ("/v1/channels/live:a/events?after=0", {}, 400, "bad_request"),
    ("/v1/channels/chat:a/events", {"Accept": "text/html"}, 406, "bad_request"),
    ("/v1/channels/chat:a/events", {"Authorization": "Bearer x"}, 401, "unauthenticated"),
    ("/v1/events", {}, 400, "bad_request"),
    ("/v1/events?channel=chat:a&channel=chat:a", {}, 400, "bad_request"),
    ("/v1/events?channel=chat:a&after=0&after=0", {}, 400, "bad_request"),
    ("/v1/events?channel=chat:a&channel=chat:b", {"Last-Event-ID": "~00.1"}, 400, "bad_request"),
    ("/v1/events?channel=chat:a&channel=feed:b", {}, 403, "permission_denied"),
]


@pytest.mark.parametrize(("path", "headers", "status", "code"), REFUSED)
@pytest.mark.gen_test
async def test_a_stream_that_may_not_be_is_a_problem(
    node: Node, base_url: str, http_server: object, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    """It is refused as any other request, and leaves nothing behind."""
    async with EventSource(base_url + path, headers) as events:
        assert events.headers["content-type"] == "application/problem+json"
        assert (events.status, (await events.problem())["code"]) == (status, code)
    assert not node.admission.clients
    assert not node.admission.connections.total
    assert not node.streams.counts()[1]


@pytest.mark.gen_test
async def test_cross_origin(node: Node, url: str) -> None:
    """A listed origin's script may read the stream, and no other's."""
    async with EventSource(url, {"Origin": "https://app.example"}) as events:
        assert events.headers["access-control-allow-origin"] == "https://app.example"
        assert "Origin" in events.headers["vary"]
    async with EventSource(url, {"Origin": "https://evil.example"}) as events:
        assert "access-control-allow-origin" not in events.headers


@pytest.mark.gen_test
async def test_who_leaves_is_forgotten(node: Node, url: str) -> None:
    async with EventSource(url) as events:
        await events.opened()
        assert len(node.admission.clients) == 1
        assert node.admission.connections.total == 1
    await until(lambda: not node.admission.clients and not node.admission.connections.total, 5, "end of the stream")
    assert node.hub.count("chat:a") == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux")
@pytest.mark.gen_test(timeout=30)
async def test_who_vanishes_without_a_word_is_noticed(
    node: Node, url: str, http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener whose machine acknowledges nothing any more is gone after a heartbeat and a while; so is a poll."""
    monkeypatch.setattr(server.sessions.event_stream, "HEARTBEAT_EVERY", 0.2)
    monkeypatch.setattr(handlers.sockets, "UNACKNOWLEDGED", 0.5)
    monkeypatch.setattr(handlers.sockets, "PROBE_AFTER", 1)
    monkeypatch.setattr(handlers.sockets, "PROBE_EVERY", 1)
    async with Proxy(http_port) as proxy:
        behind = url.replace(f":{http_port}/", f":{proxy.port}/")
        poll = behind.replace("events", "messages") + "?after=0&wait=60"
        waiting = EventSource(poll, {"Accept": "application/json"}, read=False)
        async with EventSource(behind) as events, EventSource(url) as other, waiting:
            await events.opened()
            await other.opened()
            await until(lambda: len(node.admission.clients) == 3, 5, "the poll")
            proxy.vanish()
            await until(lambda: len(node.admission.clients) == 1, 10, "end of who vanished")
            await publish(node, "chat:a", 1)
            assert (await other.next()).data["data"] == 1


@pytest.mark.gen_test
async def test_a_silent_stream_shows_a_sign_of_life(node: Node, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.sessions.event_stream, "HEARTBEAT_EVERY", 0.1)
    async with EventSource(url) as events:
        await events.opened()
        reading = asyncio.ensure_future(events.next(30))
        await until(lambda: events.comments >= 1, 10, "comment")
        await publish(node, "chat:a", 1)
        assert (await reading).data["data"] == 1


@pytest.mark.gen_test
async def test_the_end_is_told(node: Node, url: str) -> None:
    """A disconnect is an event, with when to come back; then the stream ends."""
    async with EventSource(url) as events:
        await events.opened()
        await until(lambda: node.hub.count("chat:a"), 5, "stream")
        (stream,) = streams(node)
        stream.disconnect(Disconnect(REVOKED, "for the test"), 4.0)
        event = await events.next()
        assert (event.type, event.data["code"], event.data["reconnect"]) == ("disconnect", REVOKED, False)
        assert events.retry == 4000
        with pytest.raises(EOFError):
            await events.next()


@pytest.mark.gen_test
async def test_the_token_of_a_stream_expires(
    base_url: str, http_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed as a WebSocket is, and may come back with another one."""
    monkeypatch.setattr(server.sessions.client, "EXPIRY_GRACE", 0.0)
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'ann', 2.0)}"}
    async with EventSource(base_url + "/v1/channels/feed:a/events", headers) as events:
        await events.opened()
        assert (await events.next()).data["code"] == 4002


# --- backpressure -----------------------------------------------------------------------------------------------------


async def publish_until(node: Node, channels: list[str], condition: Callable[[], bool]) -> int:
    sent = 0
    while not condition():
        assert sent < 20_000, "the client never became slow"
        for channel in channels:
            await publish(node, channel, *((sent + n, BIG) for n in range(20)))
        sent += 20
    return sent


@pytest.mark.gen_test(timeout=60)
async def test_a_slow_reader_is_served_from_the_log(node: Node, url: str) -> None:
    """It costs no more than the queue, goes behind, and gets everything once and in order when it reads."""
    async with EventSource(url, buffer=4096) as events:
        await until(lambda: node.hub.count("chat:a"), 5, "stream")
        (stream,) = streams(node)
        subscription = stream.subscriptions["chat:a"]
        sent = await publish_until(node, ["chat:a"], lambda: not subscription.live)
        assert stream.queued <= 65536
        for n in range(sent):
            event = await events.next()
            assert (event.type, event.data["offset"]) == ("message", n + 1)
        await until(lambda: subscription.live, 5, "live stream")


@pytest.mark.gen_test(timeout=60)
async def test_a_slow_reader_of_several_channels(node: Node, joined: str) -> None:
    """The cursor of each event stands for exactly what has come up to it, in every channel, whatever was dropped from
    the queue in between: cut off anywhere, it brings the rest."""
    wanted = ["chat:a", "chat:b"]
    seen = dict.fromkeys(wanted, 0)
    async with EventSource(joined, buffer=4096) as events:
        await until(lambda: all(map(node.hub.count, wanted)), 5, "stream")
        (stream,) = streams(node)
        subscriptions = stream.subscriptions
        sent = await publish_until(
            node, wanted, lambda: any(not subscription.live for subscription in subscriptions.values())
        )
        for _ in range(2 * sent):
            event = await events.next()
            seen[event.data["channel"]] += 1
            assert event.data["offset"] == seen[event.data["channel"]]
            places = split_cursor(str(event.id), wanted)
            assert {channel: offset_of(str(place)) for channel, place in places.items()} == seen
    assert seen == dict.fromkeys(wanted, sent)


@pytest.mark.gen_test(timeout=60)
async def test_who_reads_nothing_is_closed(node: Node, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.sessions.outbox, "STALLED_AFTER", 0.5)
    monkeypatch.setattr(handlers.sockets, "CLOSE_WITHIN", 0.2)
    async with EventSource(url, buffer=4096):
        await until(lambda: node.hub.count("chat:a"), 5, "stream")
        (stream,) = streams(node)
        await publish_until(node, ["chat:a"], lambda: stream.ended or not stream.outbox.writable)
        await until(lambda: not node.admission.connections.total, 10, "end of the connection")
    assert not node.admission.clients
    assert node.hub.count("chat:a") == 0


# --- tickets ----------------------------------------------------------------------------------------------------------


async def post(base_url: str, path: str, body: Any, token: str) -> tuple[int, Any]:
    from tornado.httpclient import AsyncHTTPClient

    response = await AsyncHTTPClient().fetch(
        base_url + path, method="POST", body=json.dumps(body), headers={"Authorization": f"Bearer {token}"},
        raise_error=False,
    )  # fmt: skip
    return response.code, json.loads(response.body)


@pytest.mark.gen_test
async def test_a_ticket_stands_for_the_token(node: Node, base_url: str, http_server: object) -> None:
    """It opens its channels again and again until it expires, and nothing else; the stream has the token's end."""
    token = make_token(SECRET, "ann")
    status, ticket = await post(base_url, "/v1/tickets", {"channels": ["feed:a", "chat:a"]}, token)
    assert (status, ticket["channels"], ticket["expires_in"]) == (201, ["feed:a", "chat:a"], 60)
    for _ in range(2):
        async with EventSource(base_url + f"/v1/events?channel=feed:a&ticket={ticket['ticket']}") as events:
            assert events.status == 200
            (stream,) = streams(node)
            assert stream.principal is not None
            assert (stream.principal.user, stream.principal.server) == ("ann", False)
            assert stream.principal.expires is not None
            assert stream.principal.expires > time.time() + 3000
        await until(lambda: not node.admission.clients, 5, "end of the stream")
    for path, expected in (
        (f"/v1/channels/feed:b/events?ticket={ticket['ticket']}", (403, "permission_denied")),
        (f"/v1/channels/feed:a/events?ticket={ticket['ticket']}x", (401, "unauthenticated")),
        (f"/v1/channels/feed:a/events?ticket={token}", (401, "unauthenticated")),
        (f"/v1/channels/feed:a/messages?ticket={ticket['ticket']}", (403, "permission_denied")),
    ):
        async with EventSource(base_url + path, {"Accept": "*/*"}) as events:
            assert (events.status, (await events.problem())["code"]) == expected
    refused = await post(base_url, "/v1/channels/chat:a/messages", {"data": 1}, ticket["ticket"])
    assert (refused[0], refused[1]["code"]) == (401, "unauthenticated")
    assert (await post(base_url, "/v1/tickets", {"channels": ["feed:*"]}, token))[0] == 400
    assert (await post(base_url, "/v1/tickets", {"channels": []}, token))[0] == 400
    assert (await post(base_url, "/v1/tickets", {"channels": ["nobody:a"]}, token))[0] == 404


# --- rights that end --------------------------------------------------------------------------------------------------

OPERATOR = Principal("operator", server=True, admin=True)


@pytest.mark.gen_test
async def test_a_revoked_token_ends_the_stream(node: Node, base_url: str, http_server: object) -> None:
    """One that was opened with a ticket too; and the ticket opens none any more."""
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'ann')}"}
    ticket, _ = await node.subscriptions.ticket(node.identities.authenticate(headers["Authorization"][7:]), ["feed:a"])
    url = base_url + "/v1/channels/feed:a/events"
    async with EventSource(url, headers) as one, EventSource(f"{url}?ticket={ticket}") as two:
        await one.opened()
        await two.opened()
        await node.moderation.revoke(OPERATOR, "ann")
        for events in (one, two):
            event = await events.next()
            assert (event.type, event.data["code"], event.data["reconnect"]) == ("disconnect", REVOKED, False)
    async with EventSource(f"{url}?ticket={ticket}") as events:
        assert (events.status, (await events.problem())["code"]) == (401, "unauthenticated")


@pytest.mark.gen_test
async def test_a_subscription_that_is_ended(node: Node, base_url: str, http_server: object) -> None:
    """The stream goes on with the other channels, and ends with the last one."""
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'ann')}"}
    async with EventSource(base_url + "/v1/events?channel=feed:a&channel=feed:b", headers) as events:
        await events.opened()
        await until(lambda: node.hub.count("feed:b"), 5, "stream")
        await node.moderation.unsubscribe(OPERATOR, "feed:a", "ann", "enough")
        event = await events.next()
        assert (event.type, event.data["channel"]) == ("unsubscribed", "feed:a")
        await asyncio.gather(*filter(None, [node.publisher.publish(OPERATOR, "feed:b", 1)]))
        assert (await events.next()).data["data"] == 1
        await node.moderation.revoke(OPERATOR, "ann", channels=["feed:*"])
        assert [event.type for event in await events.events(2)] == ["unsubscribed", "disconnect"]
        with pytest.raises(EOFError):
            await events.next()


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/v1/events", "/v1/poll"])
@pytest.mark.parametrize(
    ("channels", "expected"),
    [(["feed:a"], (403, "permission_denied")), ([], (401, "unauthenticated"))],
    ids=["a channel", "the token"],
)
async def test_what_ends_before_it_has_begun_is_the_answer(
    node: Node, base_url: str, http_server: object, monkeypatch: pytest.MonkeyPatch, path: str, channels: list[str],
    expected: tuple[int, str],
) -> None:  # fmt: skip
    """A right or a token that is revoked while another channel is being opened is the reason of the refusal."""
    acquire, go_on = node.streams.acquire, asyncio.Event()

    async def slow(channel: str, *args: Any, **options: Any) -> Any:
        if channel == "feed:slow":
            await go_on.wait()
        return await acquire(channel, *args, **options)

    monkeypatch.setattr(node.streams, "acquire", slow)
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'ann')}", "Accept": "*/*"}
    url = f"{base_url}{path}?channel=feed:a&channel=feed:slow"
    async with EventSource(url, headers, read=False) as events:
        await until(lambda: any("feed:a" in client.subscriptions for client in node.admission.clients), 5, "feed:a")
        await node.moderation.revoke(OPERATOR, "ann", channels=channels)
        go_on.set()
        await events.answered()
        assert (events.status, (await events.problem())["code"]) == expected
