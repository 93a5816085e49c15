"""Commands that are a question and its answer, sent again where that does no harm."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Callable, Collection
from typing import Any

from waterspout_client.codec import to_json
from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Page, Presence, Published, Push, Reacted, Results
from waterspout_client.link import Link
from waterspout_client.outbox import jitter
from waterspout_client.reacting import Reacting

NOT_DONE = ("unavailable", "rate_limited")
UNKNOWN = ("disconnected", "outcome_unknown")
CALLED_AGAIN = ("disconnected", "unavailable")
"""After these a call with a key is made again: it has not been asked, or its answer is kept."""


class Commands:
    """The part of a client that sends them."""

    def __init__(self) -> None:
        self._reacting = Reacting(self._react)

    async def _link(self) -> Link:
        """What to send something on, as soon as there is one."""
        raise NotImplementedError

    async def request(self, kind: str, /, *, again: bool = True, **fields: Any) -> Push:
        """Send one command and return its reply; fields that are None are left out. It is sent again when the server
        asks for that. After a loss, or `outcome_unknown`, it is sent `again`, or WaterspoutError says so: it is unknown
        then whether the command was carried out."""
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._answer(kind, given, (*NOT_DONE, *UNKNOWN) if again else NOT_DONE)

    async def call(self, method: str, data: Any = None, *, key: str | None = None, timeout: float | None = None) -> Any:
        """What the product's own back end answers. WaterspoutError `refused`, with `reason` and `details`, if it says
        no; `outcome_unknown` after `timeout` seconds. With a `key` a retry gets the same answer: it is sent again by
        itself after a loss, and where the server could not ask. Without one it is sent once; a loss: `disconnected`."""
        fields = {"method": method, "data": data, **({} if key is None else {"key": key})}
        try:
            async with asyncio.timeout(timeout):
                return (await self._answer("call", fields, CALLED_AGAIN if key is not None else ()))["data"]
        except TimeoutError:
            raise WaterspoutError("outcome_unknown", f"{method}: no answer within {timeout} s", retry=True) from None

    async def history(
        self, channel: str, *, after: str | None = None, before: str | None = None, limit: int | None = None
    ) -> Page:
        """A page of the past, oldest first, bounds exclusive; with neither bound the newest. It may be shorter than
        `limit` (100; 1,000 at most): go on while `more`."""
        return Page.of(await self.request("history", channel=channel, after=after, before=before, limit=limit))

    async def presence(self, channel: str) -> Presence:
        """Who is here now."""
        return Presence.of(await self.request("presence", channel=channel))

    async def edit(self, channel: str, of: int, data: Any, *, key: str | None = None) -> Published:
        """Change what the message at the offset `of` says, where the namespace lets you. Through losses it is sent
        again with the same key, so it is done once."""
        return await self._amend(channel, of, "edit", key, data=data)

    async def append(
        self, channel: str, of: int, text: str, *, part: int | None = None, done: bool = False, key: str | None = None
    ) -> Published:
        """Append a text to a message that is a string, or an object with a `text`; as `edit`. Who numbers the parts,
        from 1 on, may send them again from anywhere: each is appended once, and in order. `done`: it is the last."""
        return await self._amend(channel, of, "append", key, data=text, done=done, part=part)

    async def remove(self, channel: str, of: int, *, key: str | None = None) -> Published:
        """Erase the message for everybody, for good; as `edit`."""
        return await self._amend(channel, of, "delete", key)

    async def pin(self, channel: str, of: int, pinned: bool = True, *, key: str | None = None) -> Published:
        """Pin the message, or no longer; as `edit`."""
        return await self._amend(channel, of, "pin", key, data=pinned)

    async def block(self, user: str, on: bool = True) -> None:
        """Take no messages of the user in direct channels, or take them again."""
        await self.request("block", user=user, on=on)

    async def blocked(self) -> list[str]:
        """Whom this user takes no messages of."""
        return list((await self.request("blocks"))["blocked"])

    async def react(self, channel: str, of: int, kind: str) -> Reacted:
        """React to the message at the offset `of`, with an emoji or any word, where the namespace has reactions. The
        same again changes nothing. What is lost is sent again, unless it was taken back meanwhile."""
        return await self._reacting.set(channel, of, kind, True)

    async def unreact(self, channel: str, of: int, kind: str) -> Reacted:
        """Take a reaction back; as `react`."""
        return await self._reacting.set(channel, of, kind, False)

    async def search(
        self, q: str, *, channels: Collection[str] = (), after: str | None = None, limit: int | None = None
    ) -> Results:
        """Messages that have all these words, newest first; the last may be the beginning of one. In the `channels`, or
        in all that this user is a member of. The next page: `after` the `cursor` of this one, while there is `more`."""
        where = list(channels) or None
        return Results.of(await self.request("search", q=q, channels=where, after=after, limit=limit))

    async def cancel(self, scheduled: str) -> None:
        """Have what `publish` has answered so not be published; WaterspoutError `not_found` if it is already."""
        await self.request("cancel", again=False, scheduled=scheduled)

    async def _amend(self, channel: str, of: int, op: str, key: str | None, **more: Any) -> Published:
        fields = {"channel": channel, "of": of, "op": op, "key": key or secrets.token_hex(16)}
        return Published.of(await self._answer("amend", fields | json.loads(to_json(more)), (*NOT_DONE, *UNKNOWN)))

    async def _react(self, fields: Push, wanted: Callable[[], bool]) -> Push:
        return await self._answer("react", fields, (*NOT_DONE, *UNKNOWN), wanted)

    async def _answer(
        self, kind: str, fields: Push, again: Collection[str], wanted: Callable[[], bool] = lambda: True
    ) -> Push:
        """The reply; the command is sent once more after the errors in `again`, as long as it is `wanted`: then
        WaterspoutError `disconnected`."""
        for attempt in itertools.count():
            try:
                link = await self._link()
                if not wanted():
                    break
                return await link.ask(kind, **fields)
            except WaterspoutError as error:
                if error.code not in again:
                    raise
                if wanted():
                    await asyncio.sleep(error.retry_after or jitter(attempt, 0.1, 5))
        raise WaterspoutError("disconnected", f"{kind}: not wanted any more", retry=True)
