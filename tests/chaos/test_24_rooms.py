"""24. Rooms: people publish, edit, append, erase and react while nodes are killed, Redis is away and MongoDB's primary
steps down. What was answered stands, and once; everybody sees the same; what was erased is nowhere any more."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from tests.chaos.world import World, span
from tests.support.client import make_token
from tests.support.processes import ReplicaSet, Server
from tests.support.waiting import until
from waterspout_client import Client, Message, Timeline, WaterspoutError

pytestmark = pytest.mark.gen_test(timeout=span(150, 1200))

DEN = "den:a"
SECRET = "a secret of at least thirty-two bytes"
ROUNDS = span(1, 6)
AUTHORS = span(3, 8)
MESSAGES = span(8, 20)
"""Of each author; from then on there is only something made of them."""
BETWEEN = span(8, 60)
"""What each author has had answered between two faults."""
SETTINGS = {
    "auth.secret": SECRET,
    "namespaces.den": {
        "publish": "user", "subscribe": "anyone", "amend": "own", "reactions": True, "history": {"size": 0, "ttl": 0},
    },
    "mongodb.publish_timeout": "5s",
}  # fmt: skip

State = dict[int, tuple[str | None, dict[str, list[str]]]]
"""By offset what a message says (None: it is erased), and who has reacted to it how."""


class Author:
    """Does one thing after the other, each until it is answered, and knows what its messages are to be after that."""

    def __init__(self, server: Server, number: int, all_of: list[Author]) -> None:
        self.user = f"author-{number}"
        self.client = Client(server.base, token=make_token(SECRET, self.user), min_delay=0.1, max_delay=1.0)
        self.words: dict[int, list[str] | None] = {}
        """What each of its messages says: words, of which the first was published or edited, and the others appended;
        None: it is erased."""
        self.reactions: dict[int, set[str]] = defaultdict(set)
        self.erased: list[str] = []
        """What nobody is to find any more."""
        self.answered = 0
        self.leaving = False
        self._chance = random.Random(number)
        self._all = all_of

    async def run(self) -> None:
        while not self.leaving:
            await self._one()
            self.answered += 1

    async def _one(self) -> None:
        there = [offset for offset, words in self.words.items() if words]
        word = uuid.uuid4().hex
        if len(self.words) < MESSAGES or not there:
            receipt = await self.client.publish(DEN, word)
            assert receipt.offset is not None
            self.words[receipt.offset] = [word]
            return
        offset, deed = self._chance.choice(there), self._chance.random()
        words = self.words[offset] or []
        if deed < 0.3:
            await self.client.edit(DEN, offset, word)
            self.erased += words
            self.words[offset] = [word]
        elif deed < 0.6:
            await self.client.append(DEN, offset, word)
            words.append(word)
        elif deed < 0.65:
            await self.client.remove(DEN, offset)
            self.erased += words
            self.words[offset] = None
        else:
            await self._react()

    async def _react(self) -> None:
        offset = self._chance.choice([offset for author in self._all for offset in author.words])
        kind = self._chance.choice("abc")
        try:
            if kind in self.reactions[offset]:
                self.reactions[offset].discard(kind)
                await self.client.unreact(DEN, offset, kind)
            else:
                await self.client.react(DEN, offset, kind)
                self.reactions[offset].add(kind)
        except WaterspoutError as error:
            if error.code != "not_found":  # somebody has just erased it
                raise


def expected(authors: list[Author]) -> State:
    state: State = {}
    for author in authors:
        for offset, words in author.words.items():
            kinds: dict[str, list[str]] = {}
            for other in authors if words else ():
                for kind in other.reactions[offset]:
                    kinds.setdefault(kind, []).append(other.user)
            state[offset] = "".join(words) if words else None, {kind: sorted(users) for kind, users in kinds.items()}
    return state


def shown(timeline: Timeline) -> State:
    return {message.offset: _state(message) for message in (one.message for one in timeline.messages) if message.offset}


def _state(message: Message) -> tuple[str | None, dict[str, list[str]]]:
    text = None if message.deleted is not None else message.data
    return text, {one.kind: sorted(one.users) for one in message.reactions}


async def stored(server: Server) -> State:
    """As the server's history says it."""
    state: State = {}
    before = None
    async with Client(server.base) as client:
        while messages := (await client.history(DEN, before=before, limit=500)).messages:
            state |= {message.offset: _state(message) for message in messages if message.offset is not None}
            before = messages[0].cursor
    return state


async def followed(timeline: Timeline) -> None:
    async for _ in timeline:
        pass


async def found(world: World, texts: list[str]) -> list[str]:
    """Which of these are anywhere in the database."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(world.mongodb_uri)
    async with client:
        database = client[world.name]
        said = [
            str(row)
            for name in await database.list_collection_names()
            async for row in database[name].find({}, batch_size=500)
        ]
    everything = "\n".join(said)
    return [text for text in texts if text in everything]


async def test_24_what_was_answered_stands_and_everybody_sees_it(
    replicated_world: World, replica_set: ReplicaSet
) -> None:
    """Of each message and each reaction what its author was last told; the same for who has followed all the time, for
    who asks one node or the other; and nothing of what was erased is in the database."""
    async with replicated_world as world, AsyncExitStack() as stack:
        world.settings |= SETTINGS
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 2)
        authors: list[Author] = []
        authors += [Author(servers[number % 2], number, authors) for number in range(AUTHORS)]
        timelines: list[Timeline] = []
        for server in servers:
            reader = await stack.enter_async_context(Client(server.base, min_delay=0.1, max_delay=1.0))
            timelines.append(await stack.enter_async_context(reader.timeline(DEN, last=500)))
        for author in authors:
            await stack.enter_async_context(author.client)
        tasks = [asyncio.create_task(followed(timeline)) for timeline in timelines]
        working = [asyncio.create_task(author.run()) for author in authors]

        async def more(some: list[Author], count: int = BETWEEN) -> None:
            targets = [author.answered + count for author in some]

            def reached() -> bool:
                for task in working:
                    if task.done():
                        task.result()
                return all(author.answered >= target for author, target in zip(some, targets, strict=True))

            await until(reached, 60, f"{count} answers of each")

        try:
            await more(authors)
            for number in range(ROUNDS):
                struck = number % 2
                await servers[struck].kill()
                await more(authors[1 - struck :: 2], 5)
                servers[struck].launch()
                await servers[struck].wait_ready()
                await replica_set.step_down()
                await replica_set.primary()
                await more(authors)
                await redis.stop()
                await more(authors, 5)
                await redis.start()
                await more(authors)
        finally:
            for author in authors:
                author.leaving = True
            _, unanswered = await asyncio.wait(working, timeout=30)
            for task in unanswered:
                task.cancel()
        assert not unanswered
        wanted = expected(authors)
        await until(
            lambda: all(shown(timeline) == wanted for timeline in timelines), 30, "all is shown to who followed"
        )
        for server in servers:
            assert await stored(server) == wanted
        erased = [text for author in authors for text in author.erased]

        async def nowhere() -> bool:
            return not await found(world, erased)

        await until(nowhere, 30, "what was erased is nowhere", every=1.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    answers = sum(author.answered for author in authors)
    print(f"\n24 rooms: {answers} answers, {len(wanted)} messages, {len(erased)} words erased")
