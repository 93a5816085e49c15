"""Single commands, sent again where that does no harm."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from waterspout_client.codec import to_json
from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Push
from waterspout_client.link import Link
from waterspout_client.outbox import jitter

Links = Callable[[], Awaitable[Link]]
"""Gives the link to send something on, as soon as there is one."""

NOT_DONE = ("unavailable", "rate_limited")
UNKNOWN = ("disconnected", "outcome_unknown")
AGAIN = ("disconnected", "unavailable")
"""After these a call with a key is made again: it has not been asked, or its answer is kept."""


async def ask(link: Links, kind: str, fields: Push, again: bool) -> Push:
    """See `Client.request`."""
    return await _until_done(link, kind, {name: value for name, value in fields.items() if value is not None}, again)


async def amend(link: Links, channel: str, of: int, op: str, key: str | None, **data: Any) -> Push:
    """See `Client.edit`."""
    fields = {"channel": channel, "of": of, "op": op, "key": key or secrets.token_hex(16)}
    return await _until_done(link, "amend", fields | json.loads(to_json(data)), True)


async def _until_done(link: Links, kind: str, fields: Push, again: bool) -> Push:
    for attempt in itertools.count():
        try:
            return await (await link()).ask(kind, **fields)
        except WaterspoutError as error:
            if not (error.code in NOT_DONE or (again and error.code in UNKNOWN)):
                raise
            await asyncio.sleep(error.retry_after or jitter(attempt, 0.1, 5))
    raise AssertionError("unreachable")


async def call(link: Links, method: str, data: Any, key: str | None, timeout: float | None) -> Any:
    """See `Client.call`."""
    fields = {"method": method, "data": data, **({} if key is None else {"key": key})}
    try:
        async with asyncio.timeout(timeout):
            for attempt in itertools.count():
                try:
                    return (await (await link()).ask("call", **fields))["data"]
                except WaterspoutError as error:
                    if error.code not in AGAIN or key is None:
                        raise
                    if error.code == "unavailable":
                        await asyncio.sleep(error.retry_after or jitter(attempt, 0.1, 5))
    except TimeoutError:
        raise WaterspoutError("outcome_unknown", f"{method}: no answer within {timeout} s", retry=True) from None
