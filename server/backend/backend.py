"""One back end of the user's own, and how it is asked: see `BackEnd.ask`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from server.backend.answers import Busy, Failed, Reply, why
from server.backend.functions import Function
from server.backend.signing import Signer
from server.backend.urls import URL
from server.core.clock import Clock
from server.core.config.targets import Target
from server.wire.codec import JSON

ANSWER_BYTES: Final = 1 << 20
LATE: Final = 0.25
"""Seconds by which a time-out may come too late before it is the event loop that has been slow, not the back end."""


class BackEnd:
    """`target` names a URL or a function, which is asked `concurrency` questions at a time at most: whoever asks sees
    to it (`Turns`). StartError if the function cannot be imported."""

    def __init__(self, path: str, target: Target, *, concurrency: int, clock: Clock) -> None:
        """`path`: where it stands in the configuration."""
        self._url: URL | None = None
        if target.function is not None:
            self._function = Function(path, target.function, concurrency)
        else:
            assert target.url is not None
            self._signer = Signer(target.secret or "", clock)
            self._url = URL(target.url, clock)

    async def ask(
        self, question: Any, *, timeout: float, message_id: str | None = None, most: int | None = ANSWER_BYTES
    ) -> Reply:
        """The reply, whatever its status. A function gets the question itself, so it has to be its own; a URL gets it
        as JSON, or as it is if it is `bytes`.

        `timeout`: seconds for the whole answer. `message_id`: a `webhook-id`, the same one if it is asked once more.
        `most`: bytes of an answer; None: it is not wanted, and comes without a body.

        `Failed` if there is no whole answer in time; `Busy` if this process was too slow to know. Cancelled, it lets go
        of the back end; a function in a thread goes on to its end all the same."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout) as deadline:
                if self._url is None:
                    return await self._function.ask(question)
                body = question if isinstance(question, bytes) else JSON.encode(question)
                return await self._url.post(body, self._signer.headers(body, message_id), most)
        except TimeoutError as error:
            until = deadline.when()
            if until is not None and loop.time() > until + LATE:
                raise Busy("this server was too busy to hear its answer") from None
            raise Failed(why(error)) from None

    async def close(self) -> None:
        await (self._function if self._url is None else self._url).close()
