"""Subscriptions that the server makes: what the token names, and what a back end wants this user to have."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Push
from waterspout_client.link import Link
from waterspout_client.subscription import Stream, Subscription


class Served:
    """Those of one client, which has them among its `streams`."""

    def __init__(self, streams: dict[str, Stream[Any]], make: Callable[[str], Subscription]) -> None:
        self._streams = streams
        self._make = make
        self._new: deque[Subscription] = deque()
        self._something = asyncio.Event()
        self._closed: WaterspoutError | None = None

    def take(self, push: Push, link: Link) -> None:
        channel = str(push.get("channel"))
        stream = self._streams.get(channel)
        if stream is not None:
            stream.serve(push, link)
            return
        subscription = self._streams[channel] = self._make(channel)
        subscription.serve(push, link)
        self._new.append(subscription)
        self._something.set()

    def places(self) -> dict[str, str] | None:
        """Where the client is in those that the server makes again as it connects."""
        places = {name: stream.place for name, stream in self._streams.items()}
        return {name: place for name, place in places.items() if place is not None} or None

    def close(self, error: WaterspoutError) -> None:
        self._closed = error
        self._something.set()

    async def each(self) -> AsyncIterator[Subscription]:
        while True:
            while self._new:
                subscription = self._new.popleft()
                if subscription.offered:
                    yield subscription
            if self._closed is not None:
                raise self._closed.with_traceback(None)
            self._something.clear()
            await self._something.wait()
