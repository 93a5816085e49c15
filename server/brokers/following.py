"""A second link to Redis, on which all that is published in a namespace is heard, as long as somebody wants that.

It is apart from the one of the channels, so that a Redis that allows no patterns (an ACL) does those no harm. What is
published while it is away is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from server.brokers import links
from server.brokers.links import LINK_ERRORS, TIMEOUT, NoLink, brief
from server.brokers.topology import Endpoint
from server.core.errors import Error
from server.core.tasks import Keeper

logger = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between attempts to make the link anew."""


class Following:
    """`take(topic, payload)` is called with what was published."""

    def __init__(self, endpoint: Endpoint, keeper: Keeper, take: Callable[[str, Any], None]) -> None:
        self._endpoint = endpoint
        self._keeper = keeper
        self._take = take
        self._wanted: set[str] = set()
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: Any = None
        self._running: asyncio.Task[None] | None = None
        self._problem = "there is no link"

    async def follow(self, pattern: str) -> None:
        """Return once it arrives; `unavailable` if it does not."""
        new = pattern not in self._wanted
        self._wanted.add(pattern)
        confirmed = self._confirmed.setdefault(pattern, asyncio.Event())
        try:
            async with asyncio.timeout(TIMEOUT):
                if self._running is None or self._running.done():
                    self._running = self._keeper.spawn("redis patterns", self._stay())
                elif new and self._pubsub is not None:
                    await self._pubsub.psubscribe(pattern)
                await confirmed.wait()
        except LINK_ERRORS:
            reason = f"patterns: Redis does not bring them at the moment: {self._problem}"
            raise Error("unavailable", reason, retry_after=PAUSE) from None

    async def unfollow(self, pattern: str) -> None:
        self._wanted.discard(pattern)
        self._confirmed.pop(pattern, None)
        if self._pubsub is not None:
            with contextlib.suppress(*LINK_ERRORS):
                async with asyncio.timeout(TIMEOUT):
                    await self._pubsub.punsubscribe(pattern)

    async def _stay(self) -> None:
        while self._wanted:
            try:
                await self._link()
            except LINK_ERRORS as error:
                self._problem = brief(error)
                logger.warning("redis: patterns: %s", self._problem)
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                await asyncio.sleep(PAUSE)

    async def _link(self) -> None:
        """Until nobody wants anything, or it breaks."""
        topology = await self._endpoint.resolve()
        try:
            pubsub: Any = topology.all[0].pubsub()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await pubsub.connect()
                    await pubsub.psubscribe(*self._wanted)
                self._pubsub = pubsub
                await self._read(pubsub)
            finally:
                self._pubsub = None
                with contextlib.suppress(*LINK_ERRORS):
                    async with asyncio.timeout(TIMEOUT):
                        await pubsub.aclose()
        finally:
            await topology.close()

    async def _read(self, pubsub: Any) -> None:
        silent = False
        while self._wanted:
            message = await pubsub.get_message(timeout=TIMEOUT)
            if message is None:
                if silent:
                    raise NoLink("Redis does not answer")
                silent = True
                links.check(pubsub)
                await pubsub.ping()
                continue
            silent = False
            if message["type"] == "pmessage":
                self._take(message["channel"].decode(), message["data"])
            elif message["type"] == "psubscribe":
                confirmed = self._confirmed.get(message["channel"].decode())
                if confirmed is not None:
                    confirmed.set()
