"""What is to be published in one channel: in order, through losses and refusals that ask to try again, each message
with one key for all its attempts."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Published, Push
from waterspout_client.link import Link


def jitter(attempt: int, least: float, most: float) -> float:
    """Full jitter: random below a doubling bound, so that a herd comes apart. In seconds."""
    return random.uniform(0, min(most, least * 2 ** min(attempt, 16)))


@dataclass(eq=False, slots=True)
class Entry:
    number: int
    fields: Push
    receipt: asyncio.Future[Published]
    attempt: int = 0


class Outbox:
    """`idle` is called whenever there is nothing left to do: what comes next may as well come into a new one."""

    def __init__(self, window: int, max_queue: int, idle: Callable[[], object]) -> None:
        self._window = window
        self._max_queue = max_queue
        self._idle = idle
        self._next_number = 0
        self._waiting: deque[Entry] = deque()
        self._under_way: dict[int, Entry] = {}
        self._refused: dict[int, Entry] = {}
        """Or lost: to be sent again when `_held` is over, or with the next link."""
        self._link: Link | None = None
        self._held: asyncio.TimerHandle | None = None

    def put(self, fields: Push) -> asyncio.Future[Published]:
        receipt: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        if self._full():  # and even without those that nobody waits for any more
            self._waiting = deque(entry for entry in self._waiting if not entry.receipt.done())
        if self._full():
            receipt.set_exception(WaterspoutError("limit_exceeded", f"{self._max_queue} publishes wait already"))
        else:
            self._waiting.append(Entry(self._next_number, fields, receipt))
            self._next_number += 1
            self._flush()
        return receipt

    def _full(self) -> bool:
        return len(self._waiting) + len(self._under_way) + len(self._refused) >= self._max_queue

    def opened(self, link: Link) -> None:
        self._link = link
        self._release()

    def lost(self) -> None:
        self._link = None
        self._refused |= self._under_way
        self._under_way.clear()

    def closed(self, error: WaterspoutError) -> None:
        """What is under way has an unknown outcome; what has not been sent is not stored."""
        if self._held is not None:
            self._held.cancel()
        for entry in (*self._under_way.values(), *self._refused.values(), *self._waiting):
            if not entry.receipt.done():
                entry.receipt.set_exception(error)
        self._under_way.clear()
        self._refused.clear()
        self._waiting.clear()

    def _flush(self) -> None:
        while self._link is not None and self._held is None and self._waiting and len(self._under_way) < self._window:
            entry = self._waiting.popleft()
            if not entry.receipt.done():  # cancelled before it was sent
                self._under_way[entry.number] = entry
                self._send(self._link, entry)
        if not (self._waiting or self._under_way or self._refused):
            self._idle()

    def _send(self, link: Link, entry: Entry) -> None:
        def done(error: WaterspoutError | None, reply: Push) -> None:
            if error is not None and error.code == "disconnected":
                return  # `lost` sees to it
            if self._under_way.pop(entry.number, None) is None:
                return  # `lost` was faster
            if error is not None and error.retry and error.code != "internal":
                # Everything behind waits as well, so that the order holds.
                self._refused[entry.number] = entry
                entry.attempt += 1
                self._hold(error.retry_after or jitter(entry.attempt, 0.1, 5))
            elif entry.receipt.done():
                pass  # nobody waits any more
            elif error is not None:
                entry.receipt.set_exception(error)
            else:
                entry.receipt.set_result(Published.of(reply))
            self._flush()

        link.send("publish", entry.fields, done)

    def _hold(self, pause: float) -> None:
        if self._held is not None:
            self._held.cancel()
        self._held = asyncio.get_running_loop().call_later(pause, self._release)

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()
        self._held = None
        # In front, in their old order (refusals may overtake each other): what waits is younger.
        self._waiting.extendleft(self._refused[number] for number in sorted(self._refused, reverse=True))
        self._refused.clear()
        self._flush()
