"""Publishers and subscribers that keep the ledgers while they work."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import uuid
from types import TracebackType
from typing import Any, Self

import waterspout_client
from tests.support.client import Client, ConnectionLost, Refused
from tests.support.ledger import PublisherLedger, SubscriberLedger, offset_of
from tests.support.waiting import until


class Publisher:
    """Publishes `rate` messages a second (0: as fast as answers allow) with at most `window` unanswered ones, each of
    them again and again with its key until the outcome is known, or only once if not `again`: then a refusal stays one,
    and what was refused must not be found in the log. `async with` starts it; leaving waits for answers."""

    def __init__(
        self, client: Client, channel: str, *, rate: float = 0.0, window: int = 64, size: int = 64, name: str = "",
        again: bool = True,
    ) -> None:  # fmt: skip
        self.client = client
        self.channel = channel
        self.rate = rate
        self.padding = "x" * size
        self.again = again
        self.ledger = PublisherLedger(name or client.name or "publisher")
        self.acknowledged = 0
        self._window = asyncio.Semaphore(window)
        self._attempts: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name=f"{self.ledger.name} publishing")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(30 if error is None else 0)

    async def stop(self, within: float = 30.0) -> None:
        """Send nothing new, and wait for the answers. What has none after `within` s stays unanswered in the ledger."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled() and (error := self._running.exception()):
                raise error
        if self._attempts and within:
            await asyncio.wait(self._attempts, timeout=within)
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def until_acknowledged(self, count: int, within: float = 60.0) -> None:
        """Wait until `count` more messages are acknowledged than are now."""
        target = self.acknowledged + count
        await until(lambda: self.acknowledged >= target, within, f"{count} acknowledgements of {self.ledger.name}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in itertools.count():
            if self.rate:
                early = began + number / self.rate - loop.time()
                if early > 0:
                    await asyncio.sleep(early)
                elif early < -1:
                    began -= early  # after a stall go on at the rate, without making up for it in a burst
            await self._window.acquire()
            # In order: a task starts its first step, which writes to the socket, in the order of creation.
            task = asyncio.create_task(self._publish(uuid.uuid4().hex, {"n": number, "text": self.padding}))
            self._attempts.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._window.release()

    async def _publish(self, key: str, data: Any) -> None:
        for attempt in itertools.count():
            pause = random.uniform(0, min(1.0, 0.05 * 2**attempt))
            if not self.client.connected.is_set():
                await self.client.connected.wait()
            self.ledger.sent(key, self.channel, data, self.client.link)
            try:
                reply = await self.client.publish(self.channel, data, key)
            except (ConnectionLost, TimeoutError):
                self.ledger.unknown(key)
            except Refused as refusal:
                if refusal.code == "outcome_unknown":
                    self.ledger.unknown(key)
                else:
                    self.ledger.refused(key, refusal.code)
                    if not refusal.retry:
                        return
                pause = refusal.retry_after or pause
            else:
                self.ledger.acknowledged(key, reply["offset"])
                self.acknowledged += 1
                return
            if not self.again:
                return
            await asyncio.sleep(pause)


class Watcher:
    """A subscriber with its ledger: `await Watcher(client, channel).begin()`."""

    def __init__(self, client: Client, channel: str, *, control: bool = False, punctual: bool = True) -> None:
        self.client = client
        self.ledger = SubscriberLedger(client.name or "watcher", channel, control=control, punctual=punctual)

    async def begin(self, **options: Any) -> Self:
        """Subscribe; it is owed everything behind the cursor the server names."""
        subscription = await self.client.subscribe(self.ledger.channel, on_push=self.ledger.take, **options)
        self.ledger.start = offset_of(subscription.replies[0]["cursor"])
        return self

    def close_ledger(self) -> None:
        """Enter the losses of connection, which a user would have noticed."""
        self.ledger.disturbances += [f"lost its connection: {loss.code} {loss.reason}" for loss in self.client.losses]
        self.ledger.disturbances += [f"was sent {stray}" for stray in self.client.strays]


class Resident:
    """The Python client of clients/python, as its users have it: nobody helps it to come back, to resume or to try
    again. `await Resident(url, channel).begin()` reads; `async with` publishes as well, and leaving waits for
    answers. Its messages have to be stored in order: where they may be refused for a while, that takes a `window` of
    1. At most BACKLOG of them wait in its queue: more than can be stored would only pile up."""

    BACKLOG = 20

    def __init__(self, url: str, channel: str, *, rate: float, window: int, name: str = "resident") -> None:
        self.client = waterspout_client.Client(url, min_delay=0.1, max_delay=1.0, window=window)
        self.ledger = SubscriberLedger(name, channel)
        self.publishes = PublisherLedger(name)
        self.rate = rate
        self._receipts: list[asyncio.Future[waterspout_client.Published]] = []
        self._publishing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> Self:
        await self.client.__aenter__()
        events = await self.client.subscribe(self.ledger.channel).__aenter__()
        assert events.cursor is not None
        self.ledger.start = offset_of(events.cursor)
        self._reading = asyncio.create_task(self._read(events))
        return self

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self.client.close()

    async def __aenter__(self) -> Self:
        self._publishing = asyncio.create_task(self._publish())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._publishing is not None
        self._publishing.cancel()
        await asyncio.wait([self._publishing])
        if error is None:
            async with asyncio.timeout(30):
                await asyncio.gather(*self._receipts)

    def close_ledger(self) -> None:
        """It has nothing to add: what its connection suffers its user does not notice."""

    async def _read(self, events: waterspout_client.Subscription) -> None:
        async for event in events:
            if isinstance(event, waterspout_client.Message | waterspout_client.Gap):
                self.ledger.take({"type": type(event).__name__.lower(), **dataclasses.asdict(event)})

    async def _publish(self) -> None:
        for number in itertools.count():
            key, data = uuid.uuid4().hex, {"n": number}
            self.publishes.sent(key, self.ledger.channel, data)
            receipt = self.client.publish(self.ledger.channel, data, key=key)
            receipt.add_done_callback(self._stored)
            self._receipts.append(receipt)
            await asyncio.sleep(1 / self.rate)
            if len(self._receipts) > self.BACKLOG:
                await asyncio.wait([self._receipts[-self.BACKLOG]])

    def _stored(self, receipt: asyncio.Future[waterspout_client.Published]) -> None:
        if not receipt.cancelled() and receipt.exception() is None:
            stored = receipt.result()
            assert stored.key is not None
            assert stored.offset is not None
            self.publishes.acknowledged(stored.key, stored.offset)
