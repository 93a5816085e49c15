"""Counts of what is unread, of mentions, of reactions and of replies, against a plain count: any order of joining,
leaving, publishing, mentioning, erasing, changing, reacting, answering and reading."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        st.tuples(st.sampled_from(["reply", "reply", "unreply"]), *WHO, st.integers(0, 9)),
    ),
    min_size=20,
    max_size=40,
)


class Model:
    """Of the rooms: who has read what. `messages`: offset → whether it is erased."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[int, bool]] = {channel: {} for channel in CHANNELS}
        self.reactions: dict[str, set[tuple[int, str]]] = {channel: set() for channel in CHANNELS}
        """By channel: who has reacted to which message."""
        self.replies: dict[tuple[str, int], dict[int, str]] = {}
        """By channel and message: those in its thread that are not erased, by offset who has written them."""
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
        live = [(user, await Rooms().follow(client)) for user in USERS for client in self.clients[user]]
        for index, (what, user, channel, number) in enumerate(steps):
            await self._step(model, name[channel], what, user, channel, number, index)
        for channel in CHANNELS:
            await self._compare_reactions(model, channel, name[channel])
            await self._compare_replies(model, channel, name[channel])
        for user in USERS:
            expected = {name[channel]: count for channel, count in model.counts(user).items()}
            for node in self.nodes:
                rows = [row for row in await rooms_of(node, user) if row["channel"] in name.values()]
                assert {row["channel"]: (row["unread"], row["mentions"]) for row in rows} == expected
            for rooms in (rooms for one, rooms in live if one == user):

                def ends(rooms: Rooms = rooms, expected: dict[str, tuple[int, int]] = expected) -> bool:
                    return {one: count for one, count in rooms.counts().items() if one in name.values()} == expected

                try:
                    await until(ends, 5, "the state")
                except TimeoutError:
                    pytest.fail(f"{user}: {expected} and not {rooms.rows}, of {rooms.pushes}")

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
        replies = {offset: model.replies.get((room, offset), {}) for offset in there}
        expected = {offset: (len(some), set(some.values())) for offset, some in replies.items() if some}
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
                model.markers.pop((user, room), None)
                return
            if what == "publish":
                receipts = await asyncio.gather(
                    *(self.clients[user][n % 2].publish(channel, f"{n}") for n in range(number))
                )
                for receipt in receipts:
                    messages[receipt["offset"]] = False
                    model.heads[room] = max(model.heads[room], receipt["offset"])
                    model.markers[user, room] = max(model.markers.get((user, room), 0), receipt["offset"])
            elif what == "mention":
                names = [one for bit, one in enumerate((*USERS, "*")) if number >> bit & 1]
                receipt = await client.publish(channel, f"{index}", mentions=names)
                messages[receipt["offset"]] = False
                model.heads[room] = model.markers[user, room] = receipt["offset"]
                model.mentions[room, receipt["offset"]] = {*(USERS if "*" in names else names)} - {user}
            elif chosen is not None and what in ("delete", "edit", "append"):
                data = {} if what == "delete" else {"data": f"edit {index}"}
                receipt = await client.request("amend", channel=channel, of=chosen, op=what, **data)
                model.heads[room] = receipt["offset"]
                messages[chosen] = messages[chosen] or what == "delete"
            elif chosen is not None and what == "reply":
                receipt = await client.publish(f"$thread:{chosen}:{channel}", f"{index}")
                model.replies.setdefault((room, chosen), {})[receipt["offset"]] = user
            elif chosen is not None and what == "unreply":
                if (replies := model.replies.get((room, chosen))) and not messages[chosen]:
                    of = sorted(replies)[number % len(replies)]
                    await client.request("amend", channel=f"$thread:{chosen}:{channel}", of=of, op="delete")
                    del replies[of]
                else:
                    return
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
