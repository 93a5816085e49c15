"""24. Rooms: people publish, edit, append, erase, react, answer in threads and follow them while nodes are killed,
Redis is away and MongoDB's primary steps down. What was answered stands, and once; everybody sees the same, and what is
unread to the message; what was erased is nowhere any more."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from tests.chaos.world import World, span
from tests.support.client import make_token
from tests.support.processes import Redis, ReplicaSet, Server
from tests.support.waiting import until
from waterspout_client import Client, Message, Rooms, Timeline, WaterspoutError

pytestmark = pytest.mark.gen_test(timeout=span(150, 1200))

DEN, CLUB = "den:a", "club:a"
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
    "namespaces.club": {
        "members": True, "join": "anyone", "subscribe": "member", "publish": "member", "amend": "own", "threads": True,
        "history": {"size": 0, "ttl": 0},
    },
    "mongodb.publish_timeout": "5s",
}  # fmt: skip

State = dict[int, tuple[str | None, dict[str, list[str]]]]
"""By offset what a message says (None: it is erased), and who has reacted to it how."""


class Person:
    """Does one thing after the other, each until it is answered."""

    def __init__(self, server: Server, user: str, seed: int) -> None:
        self.user = user
        self.client = Client(server.base, token=make_token(SECRET, user), min_delay=0.1, max_delay=1.0)
        self.answered = 0
        self.leaving = False
        self.chance = random.Random(seed)

    async def run(self) -> None:
        while not self.leaving:
            await self.do()
            self.answered += 1

    async def do(self) -> None:
        """One thing."""
        raise NotImplementedError


class Author(Person):
    """Knows what its messages are to be after what was answered."""

    def __init__(self, server: Server, number: int, all_of: list[Author]) -> None:
        super().__init__(server, f"author-{number}", number)
        self.words: dict[int, list[str] | None] = {}
        """What each of its messages says: words, of which the first was published or edited, and the others appended;
        None: it is erased."""
        self.reactions: dict[int, set[str]] = defaultdict(set)
        self.erased: list[str] = []
        """What nobody is to find any more."""
        self._all = all_of

    async def do(self) -> None:
        there = [offset for offset, words in self.words.items() if words]
        word = uuid.uuid4().hex
        if len(self.words) < MESSAGES or not there:
            receipt = await self.client.publish(DEN, word)
            assert receipt.offset is not None
            self.words[receipt.offset] = [word]
            return
        offset, deed = self.chance.choice(there), self.chance.random()
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
        offset = self.chance.choice([offset for author in self._all for offset in author.words])
        kind = self.chance.choice("abc")
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


async def strike(
    people: Sequence[Person], servers: list[Server], redis: Redis, replica_set: ReplicaSet, between: int, few: int
) -> None:
    """While the people of two nodes work, each of whom is answered `between` times before the next fault: a node is
    killed (the other's people are answered a `few` times meanwhile), the primary steps down, and Redis is away."""
    working = [asyncio.create_task(one.run()) for one in people]

    async def more(some: Sequence[Person], count: int) -> None:
        targets = [one.answered + count for one in some]

        def reached() -> bool:
            for task in working:
                if task.done():
                    task.result()
            return all(one.answered >= target for one, target in zip(some, targets, strict=True))

        await until(reached, 60, f"{count} answers of each")

    try:
        await more(people, between)
        for number in range(ROUNDS):
            struck = number % 2
            await servers[struck].kill()
            await more(people[1 - struck :: 2], few)
            servers[struck].launch()
            await servers[struck].wait_ready()
            await replica_set.step_down()
            await replica_set.primary()
            await more(people, between)
            await redis.stop()
            await more(people, few)
            await redis.start()
            await more(people, between)
    finally:
        for one in people:
            one.leaving = True
        _, unanswered = await asyncio.wait(working, timeout=30)
        for task in unanswered:
            task.cancel()
    assert not unanswered


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


async def followed(some: Timeline | Rooms) -> None:
    async for _ in some:
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


class Follower(Person):
    """Publishes, answers, follows and reads."""

    def __init__(self, server: Server, number: int, all_of: list[Follower]) -> None:
        super().__init__(server, f"follower-{number}", number)
        self.roots: dict[int, bool] = {}
        """Its own messages, and whether they are still there."""
        self.replies: dict[str, list[int]] = defaultdict(list)
        """Its own that are, by thread."""
        self.follows: dict[str, bool] = {}
        """What it has done last: it has answered or said that it follows, or that it does no more."""
        self._all = all_of

    async def do(self) -> None:
        try:
            await self._one()
        except WaterspoutError as error:
            if error.code not in ("not_found", "permission_denied") and not error.retry:
                raise

    async def _one(self) -> None:
        there = [offset for one in self._all for offset, alive in one.roots.items() if alive]
        own = [offset for offset, alive in self.roots.items() if alive]
        deed = self.chance.random()
        if not there or (deed < 0.1 and len(self.roots) < MESSAGES // 2):
            published = await self.client.publish(CLUB, "root")
            assert published.offset is not None
            self.roots[published.offset] = True
            return
        thread = f"$thread:{self.chance.choice(there)}:{CLUB}"
        if deed < 0.55:
            names = [one.user for one in self._all if self.chance.random() < 0.3] + ["*"] * (self.chance.random() < 0.1)
            published = await self.client.publish(thread, "reply", mentions=names)
            assert published.offset is not None
            self.replies[thread].append(published.offset)
            self.follows[thread] = True
        elif deed < 0.65 and self.replies[thread]:
            await self.client.remove(thread, self.replies[thread].pop())
        elif deed < 0.69 and len(own) > 1:
            offset = self.chance.choice(own)
            self.roots[offset] = False  # whatever is answered: it is tried until it is done
            await self.client.remove(CLUB, offset)
        elif deed < 0.75:
            self.follows.pop(thread, None)
            await self.client.room(thread).leave()
            self.follows.setdefault(thread, False)
        elif deed < 0.8:
            await self.client.room(thread).join()
            self.follows[thread] = True
        else:
            page = await self.client.history(thread, limit=self.chance.randint(1, 5))
            if page.messages:
                await self.client.room(thread).mark_read(page.messages[0].cursor or "0", back=deed > 0.95)


def counted(rooms: Rooms) -> dict[str, tuple[str, int, int]]:
    return {room.channel: (room.read, room.unread, room.mentions) for room in rooms.threads()}


def same(some: Rooms, others: Rooms) -> bool:
    return counted(some) == counted(others)


async def unread_of(client: Client, thread: str, read: str, user: str) -> tuple[int, int]:
    """By the messages themselves: what is unread, and what of that mentions the user."""
    after = int(read.rpartition(":")[2])
    messages = (await client.history(thread, limit=1000)).messages
    unread = [one for one in messages if (one.offset or 0) > after and one.deleted is None]
    return len(unread), sum(1 for one in unread if one.user != user and {user, "*"} & {*one.mentions})


async def test_24_what_is_unread_of_threads_is_exact(replicated_world: World, replica_set: ReplicaSet) -> None:
    """Of all threads that somebody follows, at each node and for who has looked on all the time; who has answered, and
    not left it since, follows; and nobody follows what is about an erased message."""
    async with replicated_world as world, AsyncExitStack() as stack:
        world.settings |= SETTINGS
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 2)
        people: list[Follower] = []
        people += [Follower(servers[number % 2], number, people) for number in range(AUTHORS)]
        lists: list[Rooms] = []
        for one in people:
            await stack.enter_async_context(one.client)
            await one.client.room(CLUB).join()
            lists.append(await stack.enter_async_context(one.client.rooms(threads=True)))
        tasks = [asyncio.create_task(followed(rooms)) for rooms in lists]
        await strike(people, servers, redis, replica_set, BETWEEN * 3, 10)
        rows, mentioned = 0, 0
        for one, rooms in zip(people, lists, strict=True):
            messages = (await one.client.history(CLUB, limit=1000)).messages
            alive = {f"$thread:{message.offset}:{CLUB}" for message in messages if message.deleted is None}
            follows = {thread for thread, still in one.follows.items() if still and thread in alive}

            async def shown(
                rooms: Rooms = rooms, alive: set[str] = alive, follows: set[str] = follows, one: Follower = one
            ) -> bool:
                wanted = {
                    room.channel: (room.read, *await unread_of(one.client, room.channel, room.read, one.user))
                    for room in rooms.threads()
                }
                return follows <= wanted.keys() <= alive and counted(rooms) == wanted

            await until(shown, 30, f"all threads of {one.user}", every=0.5)
            for server in servers:
                async with (
                    Client(server.base, token=make_token(SECRET, one.user)) as client,
                    client.rooms(threads=True) as fresh,
                ):
                    while not fresh.ready:
                        await anext(fresh)
                    # Who has looked on all the time may be told only now how far its other session has read.
                    with suppress(TimeoutError):
                        await until(partial(same, fresh, rooms), 30)
                    assert counted(fresh) == counted(rooms), f"the threads of {one.user} are not as they are stored"
            rows += len(rooms.threads())
            mentioned += rooms.thread_mentions
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    print(f"\n24 threads: {sum(one.answered for one in people)} deeds, {rows} rows, {mentioned} mentions unread")


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
        await strike(authors, servers, redis, replica_set, BETWEEN, 5)
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
