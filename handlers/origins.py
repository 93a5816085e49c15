"""Which names the server answers to, and whose pages may ask: `Host` against DNS rebinding, `Origin` after RFC 6454."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from handlers.request import Request
from server.core.addresses import origin_parts
from server.core.config import Config, is_loopback

PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin | None:
    """Of `https://rt.example.com`, as RFC 6454 compares it: lower case, with the port that its scheme stands for. None
    for `null`, for a scheme that no server has, and for what is more than an origin."""
    parts = origin_parts(text)
    if parts is None or parts[0] not in PORTS:
        return None
    scheme, host, port = parts
    return Origin(scheme, host, PORTS[scheme] if port is None else port)


class Hosts:
    """The names in `Host` that are answered.

    A page of evil.example can have its own name point to this machine (DNS rebinding): for the browser the server is
    then a part of that site, whose scripts may read all that a guest may. The name gives it away. An address never
    does harm: a page that was loaded from it came from this server.
    """

    def __init__(self, listening: str, names: Iterable[str], *, lets_in: bool) -> None:
        """`lets_in`: somebody who proves nothing gets something here. On loopback being there was the proof, so names
        are checked; where the address is public, it is for everybody anyway, and only `server.hosts` makes a limit."""
        listed = {name.lower().rstrip(".") for name in names}
        self._names = listed | {listening.lower()}
        self._checked = bool(listed) or (lets_in and is_loopback(listening))

    def knows(self, name: str) -> bool:
        """`name`: of the Host header, in lower case, without the port."""
        if not self._checked:
            return True
        name = name.rstrip(".")
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class Origins:
    """Whose pages may use a visitor's browser: our own, and those under `origins`."""

    def __init__(self, config: Config) -> None:
        self._written = frozenset(config.origins)
        self._parsed = frozenset(filter(None, map(parse_origin, config.origins)))
        self._proxies = frozenset(config.server.trusted_proxies)

    def listed(self, origin: str) -> bool:
        return origin in self._written or parse_origin(origin) in self._parsed

    def allow(self, request: Request) -> bool:
        """No Origin (not a browser), our own, or a listed one."""
        text = request.headers.get("Origin")
        if text is None or self.listed(text):
            return True
        origin = parse_origin(text)
        if origin is None:
            return False
        own = parse_origin(f"{origin.scheme}://{request.headers.get('Host', '')}")
        return own == origin and self._scheme(request, own) in (None, origin.scheme)

    def _scheme(self, request: Request, own: Origin) -> str | None:
        """How the client reached us, as far as that is known: a trusted proxy says so, and without one we speak plain
        HTTP. None: there may be a proxy with TLS that nobody has told us of."""
        forwarded = request.headers.get("X-Forwarded-Proto")
        if request.remote_ip in self._proxies:
            return forwarded and forwarded.rpartition(",")[2].strip().lower()
        socket = request.connection.stream.socket
        return "http" if socket is not None and socket.getsockname()[1] == own.port else None
