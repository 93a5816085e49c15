"""Workers that fetch a consumer's messages, and their ledger: what they have done, in which order, and what twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tests.support.client import UNREACHABLE, Client, ConnectionLost, Refused
from tests.support.waiting import until

Push = dict[str, Any]


class Ledger:
    """Of one consumer. A message is done when its worker is through with it, whatever becomes of the `ack`."""

    def __init__(self) -> None:
        self.done: dict[str, list[int]] = defaultdict(list)
        """By channel, offsets in the order in which they were done for the first time."""
        self.repeated = 0
        """Messages that were done once more."""
        self.again = 0
        """Messages that were handed out once more."""
        self.fates: Counter[str] = Counter()
        """Of workers: how often they were `killed`, `late`, `unwilling`."""
        self._known: set[tuple[str, int]] = set()

    def take(self, job: Mapping[str, Any]) -> None:
        self.again += job["delivery"] > 1

    def finish(self, job: Mapping[str, Any]) -> None:
        channel, offset = job["channel"], job["offset"]
        if (channel, offset) in self._known:
            self.repeated += 1
            return
        self._known.add((channel, offset))
        self.done[channel].append(offset)

    def missing(self, heads: Mapping[str, int]) -> dict[str, list[int]]:
        """By channel, what was not done of the offsets up to these."""
        missing = {
            channel: [offset for offset in range(1, head + 1) if (channel, offset) not in self._known]
            for channel, head in heads.items()
        }
        return {channel: offsets for channel, offsets in missing.items() if offsets}

    def out_of_order(self) -> dict[str, list[int]]:
        """By channel, what was done, of those in which something was done before a lower offset."""
        lists = self.done.items()
        return {channel: some for channel, some in lists if some != list(range(1, len(some) + 1))}

    async def until_done(self, more: int, within: float = 60.0) -> None:
        """Wait until so many more messages are done."""
        target = len(self._known) + more
        await until(lambda: len(self._known) >= target, within, f"{more} messages done")

    async def until_all_done(self, heads: Mapping[str, int], within: float) -> None:
        """Wait for it, and no longer: what is missing then is named by who asks."""
        with suppress(TimeoutError):
            await until(lambda: not self.missing(heads), within, every=0.3)


class Worker:
    """Fetches at one of `urls`, and at the next when that one is lost, until it is stopped. It may die with what it
    has in hand, be slower than its lease, and give back what it does not want, with all that it has behind that."""

    def __init__(self, urls: Sequence[str], token: str, consumer: str, ledger: Ledger, seed: str, lease: float) -> None:
        self._urls = deque(urls)
        self._token = token
        self._consumer = consumer
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._urls.rotate(self._chance.randrange(len(urls)))
        self._lease = lease
        self._task = asyncio.create_task(self._run(), name=f"worker {seed}")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        while True:
            client = Client(self._urls[0], token=self._token)
            self._urls.rotate(-1)
            try:
                await client.connect()
                while True:
                    await self._work(client)
            except (*UNREACHABLE, ConnectionLost, Refused):
                await asyncio.sleep(0.1)
            finally:
                await client.close()

    async def _work(self, client: Client) -> None:
        ask = partial(client.request, consumer=self._consumer)
        jobs: list[Push] = (await ask("fetch", limit=self._chance.randint(1, 30), wait=1.0))["messages"]
        fate, last = self._chance.random(), self._chance.randrange(len(jobs)) if jobs else 0
        finished: list[str] = []
        for number, job in enumerate(jobs):
            self._ledger.take(job)
            if number == last and fate < 0.04:
                self._ledger.fates["killed"] += 1
                client.abort()
                raise ConnectionLost("killed with jobs in hand")
            if number == last and fate < 0.06:
                self._ledger.fates["late"] += 1
                await asyncio.sleep(self._lease * 1.5)  # others have it meanwhile
            if number == last and 0.06 <= fate < 0.12:
                self._ledger.fates["unwilling"] += 1
                if finished:
                    await ask("ack", ids=finished)
                await ask("nack", ids=[one["id"] for one in jobs[number:]])
                return
            await asyncio.sleep(self._chance.random() * 0.004)
            self._ledger.finish(job)
            finished.append(job["id"])
        if finished:
            await ask("ack", ids=finished)
