"""Where the server listens, and where it tells how it is: `server`, `metrics`, `log`."""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import field

from server.core.config.values import Port, Seconds, Section, is_url
from server.core.errors import StartError

_HOST: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


class Server(Section):
    host: str = "127.0.0.1"
    """loopback until you say otherwise. A public address with guests needs `auth.public_guests`"""
    port: Port = 8888
    """0: any that is free; the log says which"""
    url: str | None = None
    """what users call the server: `https://rt.example.com`. Links that are mailed begin with it. Null: `http://`, the
    host and the port that it listens on"""
    data_dir: str = "data"
    """where the embedded MongoDB keeps its data"""
    reuse_port: bool = False
    """several instances on one port of one machine share its connections"""
    shutdown_timeout: Seconds = Seconds(30)
    """how long accepted work and clients may take after SIGTERM"""
    hosts: list[str] = field(default_factory=list)
    """names that the server answers to in `Host`, without a port: `[rt.example.com]`. Addresses and `localhost` are
    always answered. Without a list, other names are refused where `server.host` is loopback and guests or accounts are
    on, since any page could have its own name point there (DNS rebinding)"""
    trusted_proxies: list[str] = field(default_factory=list)
    """addresses whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, to the letter (no ranges). Without it
    everybody behind a proxy shares one `connections_per_ip`"""
    pages: str | None = None
    """a folder of pages of your own: `index.html` in it is `/`, `hello/index.html` is `/hello/`, other files are where
    they lie. In a configuration file, relative to the file; else to where the server is started. See below"""
    pages_policy: str | None = None
    """the `Content-Security-Policy` of these pages; null: only what lies in the folder, and nothing inline"""
    uvloop: bool = True
    """the faster event loop, where it is installed"""

    @property
    def public_url(self) -> str:
        """Without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"http://{host}:{self.port}"

    def check(self, path: str) -> None:
        if self.url is not None and not (is_url(self.url) and re.fullmatch(r"https?://[^/?#]+", self.url)):
            raise StartError(
                f"{path}.url: expected https:// and a name, without a path, such as https://rt.example.com"
            )
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                raise StartError(f"{path}.hosts: {host!r}: expected a name alone, such as rt.example.com")
        if self.pages_policy is not None and not re.fullmatch(r"[ -~]+", self.pages_policy):
            raise StartError(f"{path}.pages_policy: expected one line of ASCII")


class Metrics(Section):
    host: str = "127.0.0.1"
    """where `metrics.port` listens; whoever reaches it may read"""
    port: Port | None = None
    """a port of its own for `/metrics`, `/healthz` and `/readyz`, without a key. Null: only on `server.port`, with an
    API key that is `admin`"""


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning` or `error`"""
    format: Literal["text", "json"] | None = None
    """`text` or `json`, also `--log-format`; null: text on a terminal, JSON otherwise"""
