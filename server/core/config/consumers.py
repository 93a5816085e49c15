"""Who is told what happens, at least once and in order: `consumers`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from server.core.config.targets import Target
from server.core.config.values import Count, Seconds, Section
from server.core.errors import StartError
from server.core.names import DEAD, is_pattern

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")


OPPOSITES: Final = (
    *(("join", "leave"), ("occupied", "vacated"), ("connected", "disconnected"), ("subscribed", "unsubscribed")),
)
"""The events that there are."""


class Retries(Section):
    attempts: Count = 0
    """how often a batch is tried before it goes into the dead-letter channel; 0: for ever"""
    first: Seconds = Seconds(1)
    """the pause behind the first failure, doubled with every further one, with jitter"""
    most: Seconds = Seconds(3600)
    """the longest pause; `Retry-After` is obeyed up to it as well"""


class Consumer(Target):
    channels: list[str] = field(default_factory=list)
    """names and patterns: `["orders:*", "docs:orders"]`"""
    events: list[
        Literal["join", "leave", "occupied", "vacated", "connected", "disconnected", "subscribed", "unsubscribed"]
    ] = field(default_factory=list)
    """what happens to users and channels, [as well or instead](consumers.md#events); of `channels`, if there are any"""
    start: Literal["now", "beginning"] = field(default="now", name="from")
    """where it starts when it is new: at what is published from then on, or at all that is retained"""
    batch: Annotated[int, Meta(ge=1, le=500)] = 100
    """messages of one channel in a request, at most; about 1 MiB of them"""
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 8
    """channels that are delivered at a time, over all instances together, but one on each in any case"""
    timeout: Seconds = Seconds(10)
    """for the whole answer"""
    retries: Retries = field(default_factory=Retries)
    dead_letter: str | None = None
    """the channel for what could not be delivered; null: `dead:` and the consumer's name"""
    lease: Seconds = Seconds(30)
    """without `url` and `function`, where workers fetch: how long a message is one worker's, before another one gets
    it"""
    ordered: bool = True
    """likewise: a channel is one worker's at a time. False: its messages are handed out in parallel"""
    max_deliveries: Count = 0
    """likewise: how often a message is handed out before it goes into the dead-letter channel; 0: for ever"""

    @property
    def pulled(self) -> bool:
        """Whether its workers fetch what there is, instead of it being pushed to them."""
        return self.url is None and self.function is None

    def check(self, path: str) -> None:
        name = path.partition(".")[2]
        if not _NAME.fullmatch(name):
            raise StartError(f"{path}: a name is [a-z][a-z0-9_-]*, 64 characters at most")
        self.check_target(path, needed=False)
        if not self.channels and not self.events:
            raise StartError(f"{path}.channels: at least one, or one of events")
        for pattern in self.channels:
            if not is_pattern(pattern):
                raise StartError(f"{path}.channels: {pattern!r} has no namespace: chat:*")
        for option in ("timeout", "lease"):
            if not getattr(self, option):
                raise StartError(f"{path}.{option}: must be more than 0")
        if not self.retries.first or self.retries.most < self.retries.first:
            raise StartError(f"{path}.retries: first must be more than 0, and most no less than it")
        if self.dead_letter is not None and not self.dead_letter.startswith(f"{DEAD}:"):
            raise StartError(f"{path}.dead_letter: a channel of the namespace {DEAD}: {DEAD}:{name}")
