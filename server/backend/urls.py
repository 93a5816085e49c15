"""A back end that is a URL."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from server.backend.answers import Failed, Reply, seconds_until, why
from server.core.clock import Clock

if TYPE_CHECKING:
    import httpx

KEEP_ALIVE: Final = 2.0
"""Seconds an unused connection is kept: less than the 5 s after which many servers close theirs, since a question that
is sent into a closing connection looks like a failure of the back end."""
UNWANTED: Final = 1 << 14
"""Bytes of an answer that nobody wants which are read all the same, so that the connection can be used again."""


def tls() -> ssl.SSLContext:
    """One for all that are asked: it reads all the certificates of the system. (httpx is imported by who asks a URL: it
    would be a tenth of everybody's start.)"""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


async def reach(url: str) -> None:
    """Connect to where the URL leads, with TLS where that is wanted, and ask nothing. OSError if nobody is there, its
    subclass ssl.SSLError if it is not to be trusted, ValueError if it is no URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    _, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls() if secure else None)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class URL:
    """Connections to one URL. Where it leads is the configuration's to say: no redirect is followed, and no proxy of
    the environment is used."""

    def __init__(self, url: str, trusted: ssl.SSLContext, clock: Clock) -> None:
        self._url = url
        self._tls = trusted
        self._clock = clock
        self._connections: list[httpx.AsyncClient] = []
        """Each a client with one connection: httpx's own pool looks through all that it has with every request and
        every answer, which takes ten times as long as the rest where there are 64."""
        self._unused: list[httpx.AsyncClient] = []

    async def post(self, body: bytes, headers: Mapping[str, str], most: int | None) -> Reply:
        """`most`: the bytes an answer may have; None: nobody wants them. `Failed` if there is no whole answer."""
        try:
            return await self._post(body, headers, most)
        except Exception as error:  # what httpx raises, and what goes wrong below it
            raise Failed(why(error)) from None

    async def _post(self, body: bytes, headers: Mapping[str, str], most: int | None) -> Reply:
        # Not compressed: what is unpacked may be a thousand times as large.
        besides = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "waterspout"}
        async with (
            self._connection() as connection,
            connection.stream("POST", self._url, content=body, headers={**besides, **headers}) as response,
        ):
            answer = bytearray()
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > (UNWANTED if most is None else most):
                    if most is None:
                        break
                    raise Failed(f"answered more than {most} bytes")
            return Reply(
                response.status_code,
                b"" if most is None else bytes(answer),
                response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                seconds_until(response.headers.get("Retry-After"), self._clock.time()),
            )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """The one used last; how long it may take is said by who asks."""
        if self._unused:
            connection = self._unused.pop()
        else:
            import httpx

            limits = httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE)
            connection = httpx.AsyncClient(
                follow_redirects=False, trust_env=False, verify=self._tls, timeout=None, limits=limits
            )
            self._connections.append(connection)
        try:
            yield connection
        finally:
            self._unused.append(connection)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.aclose()
