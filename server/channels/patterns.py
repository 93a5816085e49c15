"""Subscribing to whatever is published in the channels that match a pattern: from now on, and no more than that."""

from __future__ import annotations

from collections.abc import Callable

from server.access.rights import Rights
from server.core.cursors import BEGINNING
from server.core.errors import bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.delivery.patterns import Patterns, releasing
from server.delivery.subscription import Subscriber, Subscription
from server.log.log import Log
from server.wire.commands import Subscribe
from server.wire.pushes import Fields, GapPush


class PatternSubscriptions:
    def __init__(self, rights: Rights, patterns: Patterns, log: Log, lifecycle: Lifecycle) -> None:
        self._rights = rights
        self._patterns = patterns
        self._log = log
        self._lifecycle = lifecycle

    async def subscribe(
        self, who: Callable[[], Principal], subscriber: Subscriber, request: Subscribe
    ) -> tuple[Subscription, Fields, GapPush | None]:
        """As `Subscriptions.subscribe`. `who`: the subscriber's principal, at any time."""
        pattern = request.channel
        check_again = self._rights.to_follow(who, pattern)
        for name in ("after", "last", "where", "snapshot", "conflate"):
            if getattr(request, name):
                raise bad_request(f"{name}: {pattern} is a pattern, what matches it is delivered from now on")
        self._lifecycle.check_leaving()
        stream = await self._patterns.acquire(pattern, subscriber, who)
        try:
            check_again()
        except BaseException:
            self._patterns.release(subscriber, stream)
            raise
        release = releasing(self._patterns, subscriber)
        subscription = Subscription(stream, self._patterns, self._log.read, subscriber, BEGINNING, release=release)
        return subscription, {"channel": pattern}, None
