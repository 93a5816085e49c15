"""A back end that is a URL."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from server.backend.answers import Failed, Reply, seconds_until, why
from server.backend.http_client import HTTPClient, NoAnswer
from server.core.clock import Clock


async def reach(url: str) -> None:
    """Connect to where the URL leads, with TLS where that is wanted, and ask nothing. OSError if nobody is there, its
    subclass ssl.SSLError if it is not to be trusted, ValueError if it is no URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    trusted = ssl.create_default_context() if secure else None
    _, writer = await asyncio.open_connection(parts.hostname, port, ssl=trusted)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class URL:
    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._http = HTTPClient()

    async def post(self, body: bytes, headers: Mapping[str, str], most: int | None) -> Reply:
        """`most`: the bytes an answer may have; None: nobody wants them. `Failed` if there is no whole answer."""
        sent = {"Content-Type": "application/json", **headers}
        try:
            answer = await self._http.ask("POST", self._url, sent, body, most=most)
        except NoAnswer as error:
            raise Failed(str(error)) from None
        except Exception as error:  # what goes wrong in the client itself
            raise Failed(why(error)) from None
        return Reply(
            answer.status,
            answer.body,
            answer.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            seconds_until(answer.headers.get("Retry-After"), self._clock.time()),
        )

    async def close(self) -> None:
        await self._http.close()
