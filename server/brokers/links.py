"""Connections to Redis: made so that every exchange ends, and redis-py's exceptions put into words, once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT: Final = 2.0
"""Seconds any exchange with Redis may take."""

LINK_ERRORS: Final = (exceptions.RedisError, OSError, TimeoutError, RuntimeError, AttributeError, TypeError)
"""What redis-py and, of a transport that is closed already, asyncio raise (TypeError: 3.12 and 3.13)."""

_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.NoPermissionError, "NOPERM: the user may not do this (docs/operations.md names the rights)"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "WRONGPASS: it takes a password only with a user, or none"),
    (exceptions.AuthenticationError, "WRONGPASS: invalid username-password pair, or none where one is needed"),
    (exceptions.OutOfMemoryError, "OOM: maxmemory is reached"),
    (exceptions.ReadOnlyError, "READONLY: it is a replica"),
    (exceptions.BusyLoadingError, "LOADING: it is starting"),
    (exceptions.MovedError, "MOVED: a slot has moved to another master"),
    (exceptions.AskError, "ASK: a slot is moving to another master"),
    (exceptions.TryAgainError, "TRYAGAIN: a slot is moving to another master"),
    (exceptions.MasterDownError, "MASTERDOWN: the master is not reached"),
    (exceptions.ClusterDownError, "CLUSTERDOWN: a slot has no master"),
    (exceptions.MaxConnectionsError, "too many connections"),
    (exceptions.ResponseError, "it refused a command"),
)
"""The first that fits."""


class NoLink(exceptions.ConnectionError):
    """Ours: the words are."""


def brief(error: BaseException) -> str:
    """One line without any payload: what Redis answers may quote the command with all its arguments, so its own words
    are never passed on, nor are those that redis-py puts around them."""
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    if type(error) is exceptions.ConnectionError or isinstance(error, NoLink | OSError):
        # Of the network: an address and the system's words.
        return " ".join(str(error).split())[:200] or type(error).__name__
    return type(error).__name__


def client(url: str) -> Any:
    """A client that answers or fails within TIMEOUT, without retries of its own: ours know what to make up for."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0, ()),  # of no error: else it would still connect again before it gives up
    )


def check(pubsub: Any) -> None:
    """redis-py would connect again behind our back, and nobody would know what was missed."""
    if not pubsub.connection.is_connected:
        raise NoLink("the link is broken")


async def close(one: Redis) -> None:
    with contextlib.suppress(*LINK_ERRORS):
        async with asyncio.timeout(TIMEOUT):
            await one.aclose()
