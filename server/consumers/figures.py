"""How far consumers are behind, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from server.consumers.channel import Channel
from server.core.config import Retention


class Figures(NamedTuple):
    """Of one consumer on one node."""

    channels: int
    """With something that is not delivered."""
    messages: int
    oldest: int
    """The time of the oldest of them; 0: there is none, or it is not known."""
    failing: int
    """Channels whose last attempt has failed."""
    attempts: int
    """The most that one of them has had."""
    error: str | None
    """Of the latest failure, and its time. Times are in milliseconds since 1970, UTC."""
    failed: int
    retention: float
    """The share of what may be retained of a channel that waits there: from 1 on something is lost."""


def figures(behind: Iterable[Channel], retention: Callable[[str], Retention | None], now: int) -> Figures:
    channels = messages = oldest = failing = attempts = failed = 0
    error: str | None = None
    share = 0.0
    for one in behind:
        channels += 1
        of_one = one.head.offset - (one.position.offset if one.position.epoch == one.head.epoch else 0)
        messages += of_one
        if one.oldest:
            oldest = min(oldest or one.oldest, one.oldest)
        if (kept := retention(one.channel)) is not None:
            if kept.size:
                share = max(share, of_one / kept.size)
            if kept.ttl and one.oldest:
                share = max(share, (now - one.oldest) / 1000 / kept.ttl)
        if one.failure is not None:
            failing += 1
            attempts = max(attempts, one.failure.attempts)
            if one.failure.time > failed:
                error, failed = one.failure.error, one.failure.time
    return Figures(channels, messages, oldest, failing, attempts, error, failed, share)
