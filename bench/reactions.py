"""Reactions: a page of 100 messages with 10,000 of them beside one without any, and how many a second a message takes.

python -m bench.reactions [users]
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.core.principals import Principal
from server.node import Node
from tests.support.client import make_token
from tests.support.nodes import Instance, instances
from tests.support.processes import UNLIMITED, Mongod
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
KINDS = "👍❤🎉👀😂"
AT_ONCE = 500
MESSAGES = 100


async def react(node: Node, channel: str, wanted: Iterable[tuple[str, int, str]]) -> float:
    """(user, offset, kind): so many are asked for at a time. Seconds until the last reply."""
    left = iter(wanted)
    began = time.monotonic()

    async def worker() -> None:
        for user, offset, kind in left:
            await node.reactions.react(Principal(user), channel, offset, kind, True)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return time.monotonic() - began


async def counted(one: Instance, channel: str, offset: int, number: int) -> None:
    """Wait until so many are told."""
    token = make_token(SECRET, "ann")

    async def all_of_them() -> bool:
        _, message = await one.call("GET", f"/v1/channels/{channel}/messages/{offset}", token=token)
        return sum(each["n"] for each in message.get("reactions", [])) == number

    await until(all_of_them, 30, "the count")


async def page(one: Instance, channel: str) -> tuple[float, int]:
    """Milliseconds, the median of 100, and bytes of all the names in it."""
    token, times = make_token(SECRET, "user1"), []
    body: Any = None
    for _ in range(100):
        began = time.monotonic()
        _, body = await one.call("GET", f"/v1/channels/{channel}/messages?limit={MESSAGES}", token=token)
        times.append(1000 * (time.monotonic() - began))
    assert len(body["messages"]) == MESSAGES
    return statistics.median(times), len(body.get("mine", {}))


async def main(users: int) -> None:
    room = {"publish": "user", "subscribe": "user", "reactions": True}
    settings = {**UNLIMITED, "auth.secret": SECRET, "namespaces.room": room}
    with tempfile.TemporaryDirectory() as folder:
        async with Mongod(Path(folder)) as mongod, instances(1, mongod.uri, settings) as (one,):
            log = one.node.log
            for channel in ("room:plain", "room:page", "room:hot"):
                for number in range(MESSAGES):
                    await log.append(channel, "ann", f"{number}", {"text": "a message " * 5}, 60)
            plain, _ = await page(one, "room:plain")
            every = [(f"user{user}", offset, KINDS[user % 5]) for user in range(100) for offset in range(1, 101)]
            seconds = await react(one.node, "room:page", every)
            await counted(one, "room:page", MESSAGES, 100)
            reacted, mine = await page(one, "room:page")
            print(f"{len(every)} reactions to {MESSAGES} messages: {len(every) / seconds:,.0f}/s")
            print(f"page of {MESSAGES} messages: {plain:.1f} ms plain, {reacted:.1f} ms with those, {mine} one's own")
            before = (await log.head("room:hot")).position.offset
            hot = ((f"user{user}", 1, KINDS[user % 5]) for user in range(users))
            seconds = await react(one.node, "room:hot", hot)
            await counted(one, "room:hot", 1, users)
            amendments = (await log.head("room:hot")).position.offset - before
            print(f"one message: {users / seconds:,.0f}/s for {seconds:.1f} s, {amendments} amendments, all counted")


if __name__ == "__main__":
    asyncio.run(main(next(map(int, itertools.islice(sys.argv, 1, 2)), 20_000)))
