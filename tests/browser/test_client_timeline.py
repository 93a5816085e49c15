"""The JavaScript client's timeline in Node against a real server: what is shown, of what is edited and erased too."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any

import pytest

from tests.browser.conftest import SECRET
from tests.browser.node_client import Client, ClientError, client, scenario
from tests.support.client import make_token
from tests.support.processes import Server
from tests.support.waiting import until

TOKEN = make_token(SECRET, "ann")
SHOWN = dict[str, Any]


def den() -> str:
    return f"den:{secrets.token_hex(4)}"


async def comes(one: Client, channel: str, expected: list[SHOWN]) -> None:
    """Wait for just this to be shown."""
    seen: list[SHOWN] = []

    async def is_shown() -> bool:
        seen[:] = await one.do("shown", name=channel)
        return seen == expected

    try:
        await until(is_shown, 20, "what is shown")
    except TimeoutError:
        raise AssertionError(f"{seen} is shown, not {expected}") from None


async def lived_through(node: list[str], server: Server, **options: Any) -> None:
    channel = den()
    async with client(node, server.ws, token=TOKEN, **options) as ann, client(node, server.ws, **options) as guest:
        for one in (ann, guest):
            await one.do("timeline", name=channel, options={"last": 10})
        for number in range(3):
            await ann.do("inTimeline", name=channel, call="send", args=[number])
        told = await ann.do("inTimeline", name=channel, call="edit", args=[1, "zero"])
        assert (told["offset"], told["duplicate"]) == (4, False)
        await ann.do("inTimeline", name=channel, call="remove", args=[2])
        await ann.do("inTimeline", name=channel, call="pin", args=[3])
        expected: list[SHOWN] = [
            {"offset": 1, "data": "zero", "version": 4, "edited": True},
            {"offset": 2, "data": None, "version": 5, "deleted": True},
            {"offset": 3, "data": 2, "pinned": True},
        ]
        for one in (ann, guest):
            await comes(one, channel, expected)
        async with client(node, server.ws, **options) as late:
            await late.do("timeline", name=channel, options={"last": 2})
            await comes(late, channel, expected[1:])
            assert await late.do("inTimeline", name=channel, call="loadOlder", args=[]) is False
            await comes(late, channel, expected)
            await until(lambda: bool(late.told("live")), 20, "live")
        await streamed(ann, guest, channel)


async def streamed(ann: Client, guest: Client, channel: str) -> None:
    """An answer is written, and shown by both as it comes; by nobody as edited."""
    of = (await ann.do("inTimeline", name=channel, call="send", args=[{"text": ""}]))["offset"]
    await ann.do("write", name=channel, of=of, pieces=["Tea ", "is ", "ready."])
    part = await ann.do("append", name=channel, of=of, text=" Now.", options={"part": 1})
    again = await ann.do("append", name=channel, of=of, text=" Now.", options={"part": 1, "done": True})
    assert (again["offset"], again["duplicate"]) == (part["offset"], True)
    expected = {"offset": of, "data": {"text": "Tea is ready. Now."}, "version": part["offset"]}

    async def is_shown(one: Client) -> bool:
        return (await one.do("shown", name=channel))[-1] == expected

    for one in (ann, guest):
        await until(partial(is_shown, one), 20, "the whole answer")
    await ann.do("append", name=channel, of=of, text="", options={"done": True})

    async def found() -> bool:
        page = await guest.do("search", q="READY te", options={"channels": [channel], "limit": 5})
        return [one["offset"] for one in page["messages"]] == [of] and page["more"] is False

    await until(found, 20, "the answer by its words")


@scenario
async def test_everybody_sees_the_same_over_websocket(node: list[str], server: Server) -> None:
    """Live, for who comes late, and for who scrolls up."""
    await lived_through(node, server)


@scenario
async def test_everybody_sees_the_same_over_an_event_stream(node: list[str], server: Server) -> None:
    """As over WebSocket."""
    await lived_through(node, server, transports=["sse"])


@scenario
async def test_everybody_sees_the_same_over_long_polls(node: list[str], server: Server) -> None:
    """As over WebSocket."""
    await lived_through(node, server, transports=["poll"])


async def reacted(node: list[str], server: Server, **options: Any) -> None:
    channel = den()
    bob_token = make_token(SECRET, "bob")
    async with (
        client(node, server.ws, token=TOKEN, **options) as ann,
        client(node, server.ws, token=bob_token, **options) as bob,
    ):
        for one in (ann, bob):
            await one.do("timeline", name=channel)
        await ann.do("inTimeline", name=channel, call="send", args=["tea?"])
        await comes(bob, channel, [{"offset": 1, "data": "tea?"}])
        reply = await ann.do("inTimeline", name=channel, call="react", args=[1, "👍"])
        assert (reply["of"], reply["kind"], reply["on"]) == (1, "👍", True)
        await comes(bob, channel, [{"offset": 1, "data": "tea?", "reactions": [["👍", 1]]}])
        for kind in ("👍", "🎉", "👎"):
            await bob.do("inTimeline", name=channel, call="react", args=[{"offset": 1}, kind])
        await bob.do("inTimeline", name=channel, call="unreact", args=[1, "👎"])
        counted = {"offset": 1, "data": "tea?", "reactions": [["👍", 2], ["🎉", 1]]}
        await comes(ann, channel, [counted | {"mine": ["👍"]}])
        await comes(bob, channel, [counted | {"mine": ["👍", "🎉"]}])
        async with client(node, server.ws, token=bob_token, **options) as late:
            await late.do("timeline", name=channel)
            await comes(late, channel, [counted | {"mine": ["👍", "🎉"]}])


@scenario
async def test_reactions_over_websocket(node: list[str], server: Server) -> None:
    """Everybody sees how many there are, and each which are one's own."""
    await reacted(node, server)


@scenario
async def test_reactions_over_long_polls(node: list[str], server: Server) -> None:
    """As over WebSocket."""
    await reacted(node, server, transports=["poll"])


@scenario
async def test_a_reaction_is_shown_at_once(node: list[str], server: Server) -> None:
    """And taken back if it is refused. What was lost on the way is not sent again once it was taken back."""
    channel = den()
    async with client(node, server.ws, token=TOKEN) as ann, client(node, server.ws) as guest:
        for one in (ann, guest):
            await one.do("timeline", name=channel)
        await ann.do("inTimeline", name=channel, call="send", args=["tea?"])
        plain = [{"offset": 1, "data": "tea?"}]
        await comes(guest, channel, plain)
        with pytest.raises(ClientError, match="permission_denied"):
            await guest.do("inTimeline", name=channel, call="react", args=[1, "👍"])
        await comes(guest, channel, plain)
        assert guest.told("refused")[0]["offset"] == 1
        shown = [event["messages"] for event in guest.told("shown")]
        assert [plain[0] | {"reactions": [["👍", 1]], "mine": ["👍"]}] in shown
        await server.kill()
        await ann.state("waiting")
        asked = [
            ann.start("inTimeline", name=channel, call=call, args=[1, kind])
            for call, kind in (("react", "👍"), ("unreact", "👍"), ("react", "👍"), ("unreact", "👍"), ("react", "🎉"))
        ]
        await server.start()
        async with asyncio.timeout(30):
            assert [(await one)["on"] for one in asked] == [False] * 4 + [True]
        for one in (ann, guest):
            own = {"mine": ["🎉"]} if one is ann else {}
            await comes(one, channel, [plain[0] | {"reactions": [["🎉", 1]]} | own])


@scenario
async def test_a_message_is_answered_in_a_thread(node: list[str], server: Server) -> None:
    """In a timeline of its own; the message says how often. A reply may be in the parent as well, and leads back."""
    await answered(node, server)


@scenario
async def test_a_message_is_answered_over_http(node: list[str], server: Server) -> None:
    """As over WebSocket."""
    await answered(node, server, transports=["sse"])


async def answered(node: list[str], server: Server, **options: Any) -> None:
    channel = den()
    thread = f"$thread:1:{channel}"
    async with client(node, server.ws, token=TOKEN, **options) as ann:
        await ann.do("timeline", name=channel)
        await ann.do("inTimeline", name=channel, call="send", args=["cake?"])
        await ann.do("threadOf", name=channel, message=1)
        await ann.do("inTimeline", name=thread, call="send", args=["yes"])
        await ann.do("inTimeline", name=thread, call="send", args=["and tea", {"broadcast": True}])
        await comes(ann, thread, [{"offset": 1, "data": "yes"}, {"offset": 2, "data": "and tea"}])

        async def counted() -> bool:
            seen = await ann.do("shown", name=channel)
            return len(seen) == 2 and seen[0].get("replies") == [2, ["ann"]]

        await until(counted, 20, "the replies")
        _, copy = await ann.do("shown", name=channel)
        assert (copy["data"], copy["thread"]) == ("and tea", thread)
        assert await ann.do("threadOf", name=channel, message=copy) == thread
        gone = await ann.do("inTimeline", name=channel, call="remove", args=[1])
        await comes(ann, channel, [{"offset": 1, "data": None, "version": gone["offset"], "deleted": True}, copy])


@scenario
async def test_what_is_refused_is_taken_back(node: list[str], server: Server) -> None:
    """It is shown at once, as pending; and as it was when the server has said no."""
    channel = den()
    async with client(node, server.ws, token=TOKEN) as ann, client(node, server.ws) as guest:
        await guest.do("timeline", name=channel)
        await ann.do("publish", name=channel, data="ann's")
        await comes(guest, channel, [{"offset": 1, "data": "ann's"}])
        with pytest.raises(ClientError, match="permission_denied"):
            await guest.do("inTimeline", name=channel, call="edit", args=[1, "a guest's"])
        await comes(guest, channel, [{"offset": 1, "data": "ann's"}])
        shown = [event["messages"] for event in guest.told("shown")]
        assert [{"offset": 1, "data": "a guest's", "edited": True, "pending": True}] in shown
        assert guest.told("refused")[0]["offset"] == 1
        with pytest.raises(ClientError, match="permission_denied"):
            await guest.do("write", name=channel, of=1, pieces=["a guest's"])


@scenario
async def test_what_happened_while_away_comes_with_the_return(node: list[str], server: Server) -> None:
    """An edit that was asked for before the server died is done once; those of others are there."""
    channel = den()
    async with client(node, server.ws, token=TOKEN) as ann:
        await ann.do("timeline", name=channel)
        await ann.do("inTimeline", name=channel, call="send", args=["a"])
        await ann.do("inTimeline", name=channel, call="send", args=["b"])
        await server.kill()
        await ann.state("waiting")
        edits = [ann.start("inTimeline", name=channel, call="edit", args=[1, f"a{number}"]) for number in range(3)]
        await server.start()
        for edit in edits:
            async with asyncio.timeout(30):
                assert (await edit)["offset"] > 2
        await comes(
            ann, channel, [{"offset": 1, "data": "a2", "version": 5, "edited": True}, {"offset": 2, "data": "b"}]
        )
