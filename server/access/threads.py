"""Threads, as far as rights need them: one is answered in while the message that it is about is there.

Rights are decided without waiting, and messages are in MongoDB. So whoever waits for the right to publish in a thread
has its message looked for before (`Unloaded`), and for a moment that is remembered: until something becomes of any
message of the parent, and no longer than KEPT, since other nodes may trim it without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final

from server.core.errors import Error, bad_request
from server.core.names import parent_of, root_of
from server.log.log import Log
from server.wire.amendments import AmendedMessage

KEPT: Final = 1.0
"""Seconds."""
REMEMBERED: Final = 10_000


class Threads:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._seen: OrderedDict[str, float] = OrderedDict()
        """Thread → when its message was there, by the monotonic clock."""
        self._seen_for_now = ""
        """Seen for who goes on with it, in this turn of the loop, and for nobody else."""

    def open(self, thread: str) -> bool:
        """Whether it is known that there is a message for it. `look` is awaited and this asked in one go."""
        if self._seen_for_now == thread:
            return True
        at = self._seen.get(thread, 0.0)
        return at > time.monotonic() - KEPT and at > self._log.changed(parent_of(thread))

    async def look(self, thread: str) -> None:
        """Return if there is a message for it, which is not erased; else `not_found`, or `unavailable`."""
        began = time.monotonic()
        try:
            await root_message(self._log, thread)
        except Error:
            self._seen.pop(thread, None)
            raise
        self._seen[thread] = began
        self._seen.move_to_end(thread)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self._seen_for_now = thread
        asyncio.get_running_loop().call_soon(self._end_now)

    def _end_now(self) -> None:
        self._seen_for_now = ""


async def root_message(log: Log, thread: str) -> AmendedMessage:
    """The message that a thread is about; `not_found` if it is erased, or not there, `unavailable` if nobody knows."""
    channel, offset = parent_of(thread), root_of(thread)
    message = await log.amendments.original(channel, offset)
    if message is None or message.deleted is not None:
        raise Error("not_found", f"channel: there is no message {offset} in {channel} (any more) to be answered")
    if message.tag is not None:
        raise bad_request(f"channel: the message {offset} of {channel} belongs to {message.tag}, answer it there")
    return message
