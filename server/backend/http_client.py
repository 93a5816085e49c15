"""HTTP to others: the user's back ends, and who publishes keys and signs people in."""

from __future__ import annotations

import errno
import io
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

KEEP_ALIVE: Final = 2.0
"""Seconds an unused connection is kept: less than the 5 s after which many servers close theirs, since a question that
is sent into a closing connection looks like a failure of the back end."""
UNWANTED: Final = 1 << 14
"""Bytes of an answer that nobody wants which are read all the same, so that the connection can be used again."""
AT_ONCE: Final = 1 << 20
"""Bytes of a body that are written at once; more of them in pieces, between which others have their turn."""


class NoAnswer(Exception):
    """None that is whole and HTTP, or nobody could be reached. Its text says which, without a word of theirs."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    """As it was sent: it is asked not to be compressed, for what is unpacked may be a thousand times as large."""


class HTTPClient:
    """Whom to ask is the configuration's to say: no redirect is followed, and nothing is remembered but connections.
    How many are asked at a time, and how long that may take, is said by who asks.

    (aiohttp is imported by who asks anybody: it would be a tenth of everybody's start.)"""

    def __init__(self, *, proxies: bool = False) -> None:
        """`proxies`: those of the environment are used."""
        import aiohttp

        self._aiohttp = aiohttp
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, *, most: int | None
    ) -> Answer:
        """The whole answer, else `NoAnswer`. `most`: the bytes it may have; None: nobody wants them."""
        try:
            return await self._ask(method, url, headers, body, most)
        except (self._aiohttp.ClientError, OSError, ValueError) as error:
            # Not their own words: they quote addresses, and callers may be anybody.
            name = type(error).__name__
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):  # whose numbers are its own
                name = errno.errorcode.get(error.errno or 0, name)
            raise NoAnswer(f"failed: {name}") from None

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, most: int | None
    ) -> Answer:
        session = self._session or self._open()
        data = body if body is None or len(body) <= AT_ONCE else io.BytesIO(body)
        sent = {"Accept-Encoding": "identity", "User-Agent": "waterspout", **headers}
        proxy = proxy_of(url) if self._proxies else None
        async with session.request(method, url, data=data, headers=sent, allow_redirects=False, proxy=proxy) as answer:
            found = bytearray()
            async for chunk in answer.content.iter_any():
                found += chunk
                if most is None and len(found) > UNWANTED:
                    break
                if most is not None and len(found) > most:
                    raise NoAnswer(f"answered more than {most} bytes")
            return Answer(answer.status, answer.headers, b"" if most is None else bytes(found))

    def _open(self) -> aiohttp.ClientSession:
        aiohttp = self._aiohttp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
        )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def proxy_of(url: str) -> str | None:
    """The environment's, as `HTTPS_PROXY` and `NO_PROXY` say. (aiohttp's own look at it would also send the passwords
    of `~/.netrc`.)"""
    from urllib.request import getproxies, proxy_bypass  # here, as most have no use for it

    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
