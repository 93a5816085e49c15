"""Counts of what is unread, of mentions, of reactions and of replies, against a plain count: any order of joining,
leaving, publishing, mentioning, erasing, changing, reacting, answering, following threads and reading."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.names import parent_of
from tests.integration.test_rooms import OPTIONS, Rooms, offset_of, rooms_of, token
from tests.support.client import Client, Refused
from tests.support.nodes import Instance, instances
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until

USERS = ("ann", "bob", "cid")
CHANNELS = ("a", "b")
WHO = st.sampled_from(USERS), st.sampled_from(CHANNELS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), *WHO, st.integers(1, 4)),
        st.tuples(st.just("mention"), *WHO, st.integers(0, 2 ** (len(USERS) + 1) - 1)),
        st.tuples(st.sampled_from(["join", "leave"]), *WHO, st.just(0)),
        st.tuples(st.sampled_from(["delete", "edit", "append"]), *WHO, st.integers(0, 9)),
        st.tuples(st.sampled_from(["read", "set"]), *WHO, st.integers(0, 9)),
        st.tuples(st.sampled_from(["react", "unreact"]), *WHO, st.integers(0, 9)),
        st.tuples(st.sampled_from(["reply", "reply", "unreply"]), *WHO, st.integers(0, 99)),
        st.tuples(st.sampled_from(["follow", "unfollow", "read reply", "set reply"]), *WHO, st.integers(0, 99)),
    ),
    min_size=20,
    max_size=40,
)


class Thread:
    """Of a message: the replies, and how far who follows has read. `replies`: offset → whether it is erased."""

    def __init__(self) -> None:
        self.replies: dict[int, bool] = {}
        self.mentions: dict[int, set[str]] = {}
        self.writers: dict[int, str] = {}
        self.head = 0
        self.markers: dict[str, int] = {}

    def counts(self, user: str) -> tuple[int, int]:
        unread = [offset for offset, erased in self.replies.items() if offset > self.markers[user] and not erased]
        return len(unread), sum(1 for offset in unread if user in self.mentions[offset])


class Model:
    """Of the rooms: who has read what. `messages`: offset → whether it is erased."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[int, bool]] = {channel: {} for channel in CHANNELS}
        self.reactions: dict[str, set[tuple[int, str]]] = {channel: set() for channel in CHANNELS}
        """By channel: who has reacted to which message."""
        self.authors: dict[tuple[str, int], str] = {}
        self.threads: dict[tuple[str, int], Thread] = defaultdict(Thread)
        """By channel and message."""
        self.mentions: dict[tuple[str, int], set[str]] = {}
        """Of others than who has written it."""
        self.heads = dict.fromkeys(CHANNELS, 0)
        self.markers: dict[tuple[str, str], int] = {(user, channel): 0 for user in USERS for channel in CHANNELS}

    def counts(self, user: str) -> dict[str, tuple[int, int]]:
        """What is unread, and what of that mentions the user."""
        counts = {}
        for (member, channel), marker in self.markers.items():
            if member == user:
                unread = [offset for offset, erased in self.messages[channel].items() if offset > marker and not erased]
                mentions = [offset for offset in unread if user in self.mentions.get((channel, offset), ())]
                counts[channel] = len(unread), len(mentions)
        return counts

    def leave(self, user: str, channel: str) -> None:
        self.markers.pop((user, channel), None)
        for (room, _), thread in self.threads.items():
            if room == channel:
                thread.markers.pop(user, None)

    def reply(self, room: str, root: int, offset: int, writer: str, names: list[str]) -> None:
        thread = self.threads[room, root]
        thread.replies[offset] = False
        thread.writers[offset] = writer
        thread.mentions[offset] = {*(USERS if "*" in names else names)} - {writer}
        thread.head = thread.markers[writer] = offset
        for user in {*names, *([self.authors[room, root]] if offset == 1 else [])} - {"*", writer}:
            if (user, room) in self.markers:
                thread.markers.setdefault(user, offset - 1)


class Stage:
    """Two nodes, and each user's client on both of them."""

    def __init__(self, nodes: list[Instance], clients: dict[str, list[Client]]) -> None:
        self.nodes = nodes
        self.clients = clients
        self.number = 0

    async def play(self, steps: list[tuple[str, str, str, int]]) -> None:
        self.number += 1
        for client in (client for clients in self.clients.values() for client in clients):
            if "$rooms" in client.subscriptions:
                await client.unsubscribe("$rooms")
        model = Model()
        name = {channel: f"room:{channel}{self.number}" for channel in CHANNELS}
        for user in USERS:
            for channel in CHANNELS:
                await self.clients[user][0].request("join", channel=name[channel])
        live = []
        for user in USERS:
            for number, client in enumerate(self.clients[user]):
                threads = (user, number) != ("ann", 0)  # as an older client
                live.append((user, threads, await Rooms().follow(client, **({"threads": True} if threads else {}))))
        for index, (what, user, channel, number) in enumerate(steps):
            await self._step(model, name[channel], what, user, channel, number, index)
        for channel in CHANNELS:
            await self._compare_reactions(model, channel, name[channel])
            await self._compare_replies(model, channel, name[channel])
        for user in USERS:
            expected = {name[channel]: count for channel, count in model.counts(user).items()}
            followed = expected | {
                f"$thread:{of}:{name[channel]}": thread.counts(user)
                for (channel, of), thread in model.threads.items()
                if user in thread.markers
            }

            def ours(counts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
                return {one: count for one, count in counts.items() if parent_of(one) in name.values()}

            for node in self.nodes:
                assert ours(await counts_of(node, user)) == expected
                assert ours(await counts_of(node, user, threads="true")) == followed
            for wanted, rooms in (
                (followed if threads else expected, rooms) for one, threads, rooms in live if one == user
            ):

                def ends(rooms: Rooms = rooms, expected: dict[str, tuple[int, int]] = wanted) -> bool:
                    return ours(rooms.counts()) == expected

                try:
                    await until(ends, 5, "the state")
                except TimeoutError:
                    pytest.fail(f"{user}: {wanted} and not {rooms.rows}, of {rooms.pushes}")

    async def _compare_reactions(self, model: Model, room: str, channel: str) -> None:
        """What there was of erased messages is gone."""
        there = [offset for offset, erased in model.messages[room].items() if not erased]
        expected = {offset: {user for of, user in model.reactions[room] if of == offset} for offset in there}
        for user in (one for one in USERS if (one, room) in model.markers):

            async def is_counted(user: str = user) -> bool:
                page = await self.clients[user][0].request("history", channel=channel, limit=1000)
                assert page["mine"].keys() == {str(offset) for offset in there if user in expected[offset]}
                shown = {one["offset"]: one.get("reactions", []) for one in page["messages"] if "deleted" not in one}
                return {
                    offset: {name for one in every for name in one["u"]} for offset, every in shown.items()
                } == expected

            await until(is_counted, 5, "the reactions")

    async def _compare_replies(self, model: Model, room: str, channel: str) -> None:
        there = [offset for offset, erased in model.messages[room].items() if not erased]
        expected = {}
        for offset in there:
            thread = model.threads.get((room, offset), Thread())
            if left := [thread.writers[of] for of, erased in thread.replies.items() if not erased]:
                expected[offset] = len(left), set(left)
        for user in (one for one in USERS if (one, room) in model.markers):

            async def is_counted(user: str = user) -> bool:
                page = await self.clients[user][0].request("history", channel=channel, limit=1000)
                shown = {one["offset"]: one["replies"] for one in page["messages"] if "replies" in one}
                return {offset: (one["count"], set(one["users"])) for offset, one in shown.items()} == expected

            await until(is_counted, 5, "the replies")

    async def _step(self, model: Model, channel: str, what: str, user: str, room: str, number: int, index: int) -> None:
        client = self.clients[user][index % 2]
        member = (user, room) in model.markers
        messages = model.messages[room]
        chosen = sorted(messages)[number % len(messages)] if messages else None
        refusal: str | None = None
        try:
            if what == "join":
                await client.request("join", channel=channel)
                model.markers.setdefault((user, room), model.heads[room])
                return
            if what == "leave":
                await client.request("leave", channel=channel)
                model.leave(user, room)
                return
            if chosen is not None and what in ("follow", "unfollow", "read reply", "set reply"):
                await self._follow(model, client, f"$thread:{chosen}:{channel}", what, user, room, chosen, number)
                return
            if what == "publish":
                receipts = await asyncio.gather(
                    *(self.clients[user][n % 2].publish(channel, f"{n}") for n in range(number))
                )
                for receipt in receipts:
                    messages[receipt["offset"]] = False
                    model.authors[room, receipt["offset"]] = user
                    model.heads[room] = max(model.heads[room], receipt["offset"])
                    model.markers[user, room] = max(model.markers.get((user, room), 0), receipt["offset"])
            elif what == "mention":
                names = [one for bit, one in enumerate((*USERS, "*")) if number >> bit & 1]
                receipt = await client.publish(channel, f"{index}", mentions=names)
                messages[receipt["offset"]] = False
                model.authors[room, receipt["offset"]] = user
                model.heads[room] = model.markers[user, room] = receipt["offset"]
                model.mentions[room, receipt["offset"]] = {*(USERS if "*" in names else names)} - {user}
            elif chosen is not None and what in ("delete", "edit", "append"):
                data = {} if what == "delete" else {"data": f"edit {index}"}
                receipt = await client.request("amend", channel=channel, of=chosen, op=what, **data)
                model.heads[room] = receipt["offset"]
                if what == "delete":
                    messages[chosen] = True
                    model.threads[room, chosen].markers.clear()
            elif chosen is not None and what == "reply":
                names = [one for bit, one in enumerate((*USERS, "*")) if number % 16 >> bit & 1]
                receipt = await client.publish(f"$thread:{chosen}:{channel}", f"{index}", mentions=names)
                model.reply(room, chosen, receipt["offset"], user, names)
            elif chosen is not None and what == "unreply":
                thread = model.threads[room, chosen]
                left = [offset for offset, erased in thread.replies.items() if not erased]
                if not left or messages[chosen]:
                    return
                of = left[number % len(left)]
                receipt = await client.request("amend", channel=f"$thread:{chosen}:{channel}", of=of, op="delete")
                thread.replies[of], thread.head = True, receipt["offset"]
            elif chosen is not None and what in ("react", "unreact"):
                on = what == "react"
                await client.request("react", channel=channel, of=chosen, kind="👍", on=on)
                (model.reactions[room].add if on else model.reactions[room].discard)((chosen, user))
            elif chosen is not None:
                epoch = (await client.request("history", channel=channel, limit=1))["head"].partition(":")[0]
                back = what == "set"
                answer = await client.request("read", channel=channel, cursor=f"{epoch}:{chosen}", set=back)
                marker = chosen if back else max(chosen, model.markers.get((user, room), 0))
                model.markers[user, room] = marker
                assert offset_of(answer["cursor"]) == marker
        except Refused as refused:
            refusal = refused.code
        if refusal is None:
            assert member or chosen is None
        elif refusal == "permission_denied":
            assert not member
        else:
            assert refusal == "not_found"
            assert chosen is not None
            assert messages[chosen], "not erased"

    async def _follow(
        self, model: Model, client: Client, name: str, what: str, user: str, room: str, root: int, number: int
    ) -> None:
        """Who is no member, or does not follow, is refused."""
        thread, member = model.threads[room, root], (user, room) in model.markers
        follows, erased = user in thread.markers, model.messages[room][root]
        try:
            if what == "unfollow":
                await client.request("leave", channel=name)
                thread.markers.pop(user, None)
            elif what == "follow":
                await client.request("join", channel=name)
                assert member
                assert not erased
                thread.markers.setdefault(user, thread.head)
            else:
                offset, back = number % (thread.head + 1), what == "set reply"
                epoch = self.nodes[0].node.log.epoch
                answer = await client.request("read", channel=name, cursor=f"{epoch}:{offset}", set=back)
                thread.markers[user] = offset if back else max(offset, thread.markers[user])
                assert offset_of(answer["cursor"]) == thread.markers[user]
            return
        except Refused as refused:
            refusal = refused.code
        if what == "follow":
            assert refusal == ("not_found" if member else "permission_denied")
            assert erased or not member
        else:
            assert refusal == "permission_denied"
            assert not follows


async def counts_of(node: Instance, user: str, **query: Any) -> dict[str, tuple[int, int]]:
    rows = page = await rooms_of(node, user, **query)
    while len(page) == 100:
        page = await rooms_of(node, user, **query, after=page[-1]["channel"])
        rows = rows + page
    return {row["channel"]: (row["unread"], row["mentions"]) for row in rows}


@pytest.fixture(scope="module")
def stage(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Stage]]:
    stack = AsyncExitStack()

    async def begin() -> Stage:
        redis = await stack.enter_async_context(Redis(tmp_path_factory.mktemp("rooms")))
        options: dict[str, Any] = OPTIONS | {
            "namespaces.room": OPTIONS["namespaces.room"] | {"amend": "member", "reactions": True, "threads": True}
        }
        nodes = await stack.enter_async_context(instances(2, mongod.uri, options, redis=redis.url))
        await until(lambda: all(one.node.directory.knows(other.node.id) for one, other in (nodes, nodes[::-1])), 5)
        clients = {user: [await node.user(stack, token(user)) for node in nodes] for user in USERS}
        return Stage(nodes, clients)

    with asyncio.Runner() as runner:
        made = runner.run(begin())
        yield runner, made
        runner.run(stack.aclose())


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_unread_is_a_plain_count(stage: tuple[asyncio.Runner, Stage], steps: list[tuple[str, str, str, int]]) -> None:
    """On both nodes, over REST and in what clients have counted themselves from what they were told."""
    runner, made = stage
    runner.run(made.play(steps))


def test_receipts_reach_the_other_node(stage: tuple[asyncio.Runner, Stage]) -> None:
    """Of who reads at one node, who is subscribed at the other one is told."""
    runner, made = stage

    async def read() -> None:
        (ann, _), (_, bob) = made.clients["ann"], made.clients["bob"]
        receipt = await bob.publish("dm:ann,bob", 1)
        await ann.request("read", channel="dm:ann,bob", cursor=receipt["cursor"])
        subscription = await bob.subscribe("dm:ann,bob")
        await ann.request("read", channel="dm:ann,bob", cursor="0", set=True)
        while (await subscription.next()).get("offset") != 0:
            pass
        await bob.unsubscribe("dm:ann,bob")

    runner.run(read())
