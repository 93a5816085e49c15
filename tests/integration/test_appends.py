"""Appending to messages: what is merged, what a retry does, what is refused, and what readers see meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import Error
from server.node import Node
from tests.support.client import Client, Push, Refused, Subscription, make_token
from tests.support.nodes import instances
from tests.support.plain_http import plain
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
ROOM = "room:tea"
ANN, BOB = make_token(SECRET, "ann"), make_token(SECRET, "bob")


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "limits.message_bytes": 1000,
        "auth.api_keys.ops": {"sha256": hashlib.sha256(b"the key").hexdigest()},
        "namespaces.room": {"publish": "anyone", "subscribe": "anyone", "amend": "own|claim:moderator"},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def append(client: Client, of: int, text: str, **fields: Any) -> Push:
    return await client.request("amend", channel=ROOM, of=of, op="append", data=text, **fields)


async def rows_of(node: Node, of: int) -> list[dict[str, Any]]:
    return [row async for row in node.database.own("messages").find({"z": of, "op": "append"}).sort("_id", 1)]


async def data_of(client: Client, of: int) -> Any:
    return next(one["data"] for one in (await client.history(ROOM))["messages"] if one["offset"] == of)


class Seen:
    """What a client makes of the pushes alone."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.messages: dict[int, Push] = {}
        self.amends: list[Push] = []

    async def follow(self) -> None:
        while True:
            push = await self._subscription.next(60)
            if push["type"] == "message":
                self.messages[push["offset"]] = push
            elif push["type"] == "amend":
                self.amends.append(push)
                message = self.messages.get(push["of"])
                if message is None or push["version"] <= message.get("version", 0):
                    continue
                data = push["data"]
                if push["op"] == "append":
                    old = message["data"]
                    data = old + data if isinstance(old, str) else old | {"text": old["text"] + data}
                self.messages[push["of"]] = message | {"data": data, "version": push["version"]}

    def data(self, offset: int) -> Any:
        return self.messages[offset]["data"] if offset in self.messages else None


@asynccontextmanager
async def seen(client: Client, **options: Any) -> AsyncIterator[Seen]:
    one = Seen(await client.subscribe(ROOM, **options))
    following = asyncio.create_task(one.follow())
    try:
        yield one
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


@pytest.mark.gen_test(timeout=30)
async def test_what_waits_is_one_entry(node: Node, url: str) -> None:
    """Many parts at once, in any order: each is answered, few entries are stored, and whoever reads has it all."""
    async with Client(url, token=ANN) as ann, Client(url) as guest, seen(guest) as live:
        cursor = (await ann.publish(ROOM, {"role": "assistant", "text": ""}))["cursor"]
        words = [f"word {number} " for number in range(60)]
        order = [*range(1, 60, 2), *range(0, 60, 2)]
        replies = await asyncio.gather(*(append(ann, 1, words[place], part=place + 1) for place in order))
        expected = {"role": "assistant", "text": "".join(words)}
        entries = await rows_of(node, 1)
        assert len(entries) <= 6
        assert {reply["offset"] for reply in replies} == {row["_id"]["o"] for row in entries}
        assert not any(reply["duplicate"] for reply in replies)
        assert await data_of(guest, 1) == expected
        await until(lambda: live.data(1) == expected, 10, "the whole answer, live")
        assert live.amends[-1]["part"] == 60
        assert {push["user"] for push in live.amends} == {"ann"}
        # Not folded yet, and for who resumes: one edit, which is none of anybody's.
        assert all("p" in row for row in entries)
        async with Client(url) as other, seen(other, after=cursor) as late:
            await until(lambda: bool(late.amends), 10, "what was missed")
            (push,) = late.amends
            assert (push["op"], push["data"], push["edited"], push["version"]) == (
                "edit",
                expected,
                False,
                entries[-1]["_id"]["o"],
            )
        async with Client(url) as other, seen(other, last=1) as late:
            await until(lambda: late.data(1) == expected, 10, "the message as it is")
            assert "edited" not in late.messages[1]
        last = await append(ann, 1, "end", part=61, done=True)
        await until(lambda: live.amends[-1].get("done") is True, 10, "that it is done")

        async def folded() -> bool:
            return not any("p" in row or "d" in row for row in await rows_of(node, 1))

        await until(folded, 10, "the entries folded")
        message = (await guest.history(ROOM))["messages"][0]
        assert message["data"]["text"] == expected["text"] + "end"
        assert (message["version"], "edited" in message) == (last["offset"], False)
        await ann.request("amend", channel=ROOM, of=1, op="edit", data="mine")
        await append(ann, 1, "!")
        message = (await guest.history(ROOM))["messages"][0]
        assert (message["data"], message["edited"]) == ("mine!", True)


@pytest.mark.gen_test(timeout=30)
async def test_a_part_is_appended_once(url: str) -> None:
    """Whichever way it comes again; and what has no number, once for each key."""
    async with (
        Client(url, token=ANN) as ann,
        Client(url, token=BOB) as bob,
        Client(url, token=make_token(SECRET, "mod", moderator=True)) as mod,
    ):
        await ann.publish(ROOM, "")
        first = await append(ann, 1, "a", part=1)
        again, second, twice = await asyncio.gather(
            append(ann, 1, "a", part=1), append(ann, 1, "b", part=2), append(ann, 1, "b", part=2)
        )
        assert (again["offset"], again["cursor"], again["duplicate"]) == (first["offset"], first["cursor"], True)
        assert sorted((second["duplicate"], twice["duplicate"])) == [False, True]
        assert second["offset"] == twice["offset"]
        keyed = await asyncio.gather(*(append(ann, 1, "c", key="k1") for _ in range(2)))
        keyed += [await append(ann, 1, "c", key="k1")]
        assert [one["duplicate"] for one in keyed] == [False, True, True]
        assert (keyed[0]["offset"], keyed[0]["key"]) == (keyed[1]["offset"], "k1")
        await append(ann, 1, "d")
        assert await data_of(bob, 1) == "abcd"
        with pytest.raises(Refused, match="conflict: part: 7 came, but 3 is the next one"):
            await append(ann, 1, "g", part=7)
        with pytest.raises(Refused, match="conflict: part: 2 is somebody else's"):
            await append(mod, 1, "x", part=2)
        with pytest.raises(Refused, match="permission_denied"):
            await append(bob, 1, "x", part=3)
        await append(mod, 1, "e", part=3)
        assert await data_of(bob, 1) == "abcde"


@pytest.mark.gen_test(timeout=30)
async def test_the_whole_message_has_a_limit(url: str) -> None:
    """What would make it larger is refused, with the limit; behind it nothing that is numbered is appended."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, "x" * 900)
        outcomes = await asyncio.gather(
            *(append(ann, 1, "y" * 40, part=part) for part in range(1, 6)), return_exceptions=True
        )
        assert [isinstance(one, Refused) for one in outcomes] == [False, False, True, True, True]
        assert str(outcomes[2]).startswith("too_large: append: 1022 bytes with it; message_bytes is 1000")
        assert len(await data_of(ann, 1)) == 980
        await append(ann, 1, "z" * 18, part=3)
        with pytest.raises(Refused, match="too_large"):
            await append(ann, 1, "z")
        assert len(await data_of(ann, 1)) == 998
        with pytest.raises(Refused, match="too_large"):
            await append(ann, 1, "z" * 1001)


@pytest.mark.gen_test(timeout=30)
async def test_what_cannot_be_appended_to(url: str) -> None:
    """Numbers, objects without a text, what is erased, and what never was."""
    async with Client(url, token=ANN) as ann:
        for data in (1, None, ["a"], {"a": 1}, {"text": 1}):
            offset = (await ann.publish(ROOM, data))["offset"]
            with pytest.raises(Refused, match="bad_request: of: message"):
                await append(ann, offset, "a")
        of = (await ann.publish(ROOM, "secret"))["offset"]
        await append(ann, of, " more")
        await ann.request("amend", channel=ROOM, of=of, op="delete")
        for _ in range(2):
            with pytest.raises(Refused, match="not_found"):
                await append(ann, of, "again")
        with pytest.raises(Refused, match="not_found"):
            await append(ann, 99, "a")


@pytest.mark.gen_test(timeout=30)
async def test_over_rest(node: Node, base_url: str, http_server: object) -> None:
    """PATCH with a text and its number; what is erased meanwhile leaves nothing in the database."""
    path = f"{base_url}/v1/channels/{ROOM}/messages"
    async with plain(headers={"Authorization": "Bearer the key"}) as http:
        await http.post(path, json={"data": {"text": "secret"}})
        first = await http.patch(f"{path}/1", json={"append": " secret", "part": 1})
        assert first.status_code == 200, first.text
        assert (await http.patch(f"{path}/1", json={"append": " secret", "part": 1})).json() == first.json() | {
            "duplicate": True
        }
        assert (await http.patch(f"{path}/1", json={"append": "x", "part": 9})).status_code == 409
        one = (await http.get(f"{path}/1")).json()
        assert one["data"] == {"text": "secret secret"}
        page = (await http.get(path, params={"after": "0"})).json()
        assert [(amend["op"], amend["data"]) for amend in page["amends"]] == [("edit", one["data"])]
        assert (await http.delete(f"{path}/1")).status_code == 200
        assert (await http.patch(f"{path}/1", json={"append": "x", "part": 2})).status_code == 404
    async for row in node.database.own("messages").find():
        assert "secret" not in repr(row)


@pytest.mark.gen_test(timeout=40)
async def test_two_nodes_and_every_other_part(mongod: Mongod, tmp_path: Path) -> None:
    """None is lost or refused, however they come; on the node that has only heard of it `last` counts messages; and
    when one of them has cleared the channel, nothing is appended through the other any more."""
    options = {"auth.secret": SECRET, "namespaces.room": {"publish": "user", "subscribe": "anyone", "amend": "own"}}
    async with (
        AsyncExitStack() as stack,
        Redis(tmp_path) as redis,
        instances(2, mongod.uri, options, redis=redis.url) as (one, two),
    ):
        await until(lambda: all(a.node.directory.knows(b.node.id) for a, b in ((one, two), (two, one))), 5, "a beat")
        ann, again = await one.user(stack, ANN), await two.user(stack, ANN)
        await ann.publish(ROOM, "first")
        await ann.publish(ROOM, "")
        heard = await (await two.user(stack, None)).subscribe(ROOM)
        for part in range(1, 4):
            await append(ann, 2, f"{part} ", part=part)
        for _ in range(3):
            await heard.next()
        late = await (await two.user(stack, None)).subscribe(ROOM, last=2)
        assert [(await late.next())["offset"], (await late.next())["data"]] == [1, "1 2 3 "]

        async def send(part: int) -> None:
            await asyncio.sleep(part * 0.04)  # as they are made
            await append((ann, again)[part % 2], 2, f"{part} ", part=part)

        await asyncio.gather(*(send(part) for part in range(4, 24)))
        assert await data_of(ann, 2) == "".join(f"{part} " for part in range(1, 24))
        await one.node.log.clear(ROOM)

        async def refused() -> bool:
            with contextlib.suppress(Refused):
                await append(again, 2, "late", key="late")
                return False
            return True

        await until(refused, 1, "news of the clearing, on the node that has written last")


@pytest.mark.gen_test
async def test_two_nodes_that_write_the_same_entry_in_the_same_moment(
    node: Node, url: str, mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not know whether it has stored it does not take the other one's for its own: both are appended."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, "")
        await append(ann, 1, "one ", key="a")
        now = node.clock.now_ms()
        monkeypatch.setattr(node.clock, "now_ms", lambda: now)
        rows = node.database.own("messages")
        lost = {"failCommands": ["insert"], "closeConnection": True, "namespace": f"{node.database.name}.{rows.name}"}
        before = await mongod.fail_command(lost)
        try:
            appending = asyncio.ensure_future(append(ann, 1, "two ", key="b"))

            async def failed() -> bool:
                return await mongod.fail_command(lost) > before

            await until(failed, 5, "an insert that fails")
            (last,) = await rows_of(node, 1)
            theirs = last | {"_id": {"c": ROOM, "o": 3}, "k": "1+2", "t": now, "d": "other ", "ks": ["c"], "by": "bob"}
            await rows.update_one({"_id": theirs["_id"]}, {"$set": theirs | {"nonce": "theirs", "m": 2}}, upsert=True)
        finally:
            await mongod.disarm()
        assert (await appending)["offset"] == 4
        assert await data_of(ann, 1) == "one other two "


@pytest.mark.gen_test(timeout=30)
async def test_what_comes_early_is_refused_while_others_write_on(url: str) -> None:
    """It does not wait for ever because something without a number is always under way."""
    async with Client(url, token=ANN) as ann, Client(url, token=ANN) as other:
        await ann.publish(ROOM, "")
        early = asyncio.create_task(append(other, 1, "z", part=9))
        written = 0
        while not early.done() and written < 40:
            await append(ann, 1, "y")
            written += 1
        with pytest.raises(Refused, match="conflict: part: 9 came, but 1 is the next one"):
            await early


@pytest.mark.gen_test(timeout=30)
async def test_a_retry_of_what_was_stored_before_the_erasing(url: str) -> None:
    """Is a duplicate, by its key as by its number; what is new is not found."""
    async with Client(url, token=ANN) as ann, Client(url, token=make_token(SECRET, "mod", moderator=True)) as mod:
        await ann.publish(ROOM, "")
        first = await append(ann, 1, "a", key="k")
        second = await append(ann, 1, "b", part=1)
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        for reply, fields in ((first, {"key": "k"}), (second, {"part": 1})):
            again = await append(ann, 1, "a", **fields)
            assert again | {"id": 0} == reply | {"id": 0, "duplicate": True}
            with pytest.raises(Refused, match="not_found"):
                await append(mod, 1, "a", **fields)
        for fields in ({"key": "other"}, {"part": 2}, {}):
            with pytest.raises(Refused, match="not_found"):
                await append(ann, 1, "a", **fields)


@pytest.mark.gen_test(timeout=30)
async def test_what_is_pending_and_known_of_a_message_has_an_end(node: Node, url: str) -> None:
    """Much text is folded without a pause; of what is quiet nothing is remembered; and who has lost the right while a
    piece waited appends nothing."""
    async with Client(url, token=ANN) as ann:
        node_appends = node.log.appends
        await ann.publish(ROOM, "")
        original = await node.log.amendments.original(ROOM, 1)
        assert original is not None
        for _ in range(5):
            await node_appends.append(
                original, "x" * 30_000, user="ann", part=None, key=None, done=False, limit=1_000_000
            )
        waiting = [row for row in await rows_of(node, 1) if "p" in row]
        assert len(waiting) <= 2

        def gone() -> None:
            raise Error("permission_denied", "no longer")

        with pytest.raises(Error, match="no longer"):
            await node_appends.append(
                original, "y", user="ann", part=None, key=None, done=False, limit=1_000_000, again=gone
            )
        assert "y" not in await data_of(ann, 1)
        assert node_appends.original(ROOM, 1) is not None
        await until(lambda: _forgotten(node), 5, "forgotten")


async def _forgotten(node: Node) -> bool:
    await node.log.appends.refold(0.0)
    return node.log.appends.original(ROOM, 1) is None
