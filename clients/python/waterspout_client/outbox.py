"""What is to be published in one channel: in order, through losses and refusals that ask to try again, each message
with one key for all its attempts."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Published, Push
from waterspout_client.link import Link


def jitter(attempt: int, least: float, most: float) -> float:
    """Full jitter: random below a doubling bound, so that a herd comes apart. In seconds."""
    return random.uniform(0, min(most, least * 2 ** min(attempt, 16)))


@dataclass(eq=False, slots=True)
class Entry:
    fields: Push
    receipt: asyncio.Future[Published]
    sent: bool = False
    """Under way on the present link."""
    attempt: int = 0


class Outbox:
    def __init__(self, window: int, max_queue: int) -> None:
        self._window = window
        self._max_queue = max_queue
        self._entries: deque[Entry] = deque()  # those under way are in front
        self._link: Link | None = None
        self._held: asyncio.TimerHandle | None = None

    def put(self, fields: Push) -> asyncio.Future[Published]:
        receipt: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        if len(self._entries) >= self._max_queue:
            receipt.set_exception(WaterspoutError("limit_exceeded", f"{self._max_queue} publishes wait already"))
        else:
            self._entries.append(Entry(fields, receipt))
            self._flush()
        return receipt

    def opened(self, link: Link) -> None:
        self._link = link
        self._release()

    def lost(self) -> None:
        self._link = None
        for entry in self._entries:
            entry.sent = False

    def closed(self, error: WaterspoutError) -> None:
        """What is under way has an unknown outcome; what has not been sent is not stored."""
        if self._held is not None:
            self._held.cancel()
        while self._entries:
            self._refuse(self._entries[0], error)

    def _flush(self) -> None:
        if self._link is None or self._held is not None:
            return
        room = self._window - sum(entry.sent for entry in self._entries)
        for entry in list(self._entries):
            if entry.sent:
                continue
            if entry.receipt.done():  # cancelled before it was sent
                self._entries.remove(entry)
                continue
            if room <= 0 or self._held is not None:
                break
            room -= 1
            entry.sent = True
            self._send(self._link, entry)

    def _send(self, link: Link, entry: Entry) -> None:
        def done(error: WaterspoutError | None, reply: Push) -> None:
            if error is None:
                self._entries.remove(entry)
                if not entry.receipt.done():
                    entry.receipt.set_result(Published.of(reply))
            elif error.code == "disconnected":
                return  # sent again with the next link
            elif error.retry and error.code != "internal":
                # Everything behind waits as well, so that the order holds.
                entry.sent = False
                entry.attempt += 1
                self._hold(error.retry_after or jitter(entry.attempt, 0.1, 5))
            else:
                self._refuse(entry, error)
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
        self._flush()

    def _refuse(self, entry: Entry, error: WaterspoutError) -> None:
        self._entries.remove(entry)
        if not entry.receipt.done():
            entry.receipt.set_exception(error)
