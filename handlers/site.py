"""What all the doors of one port have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from tornado.httputil import HTTPHeaders, format_timestamp

from handlers.headers import Headers
from handlers.origins import Hosts, Origins
from server.core.errors import NOTABLE
from server.core.random_keys import RandomKeys
from server.core.tasks import Keeper
from server.node import Node

if TYPE_CHECKING:
    from handlers.base import BaseHandler
    from server.centrifugo.door import Centrifugo

logger: Final = logging.getLogger("waterspout.access")


class Site:
    def __init__(
        self,
        node: Node,
        hosts: Hosts,
        registry: CollectorRegistry,
        *,
        keyless: bool,
        describe: Callable[[], bytes] = bytes,
    ) -> None:
        """`registry`: the node's metrics; `keyless`: the port is the operator's alone; `describe` makes `openapi`."""
        self.node = node
        self.hosts = hosts
        self.origins = Origins(node.config)
        self.proxies = frozenset(node.config.server.trusted_proxies)
        self.registry = registry
        self.keyless = keyless
        self._describe = describe
        self.centrifugo: Centrifugo | None = None
        """Where clients of Centrifugo's protocol are let in."""
        self.keeper = Keeper()
        """Of the requests that are being answered. They outlive the node's other tasks, and end with their answers."""
        self.held_bytes = 0
        """Of bodies that are being received or worked on."""
        self._dated = (0, "")
        self._keys = RandomKeys()

    @cached_property
    def openapi(self) -> bytes:
        """The document, made when it is first asked for: a start should not wait for it."""
        return self._describe()

    def client_address(self, peer: str, headers: Headers | HTTPHeaders) -> str:
        """Who connects: the peer, or whom a trusted proxy names last in X-Forwarded-For."""
        if peer not in self.proxies:
            return peer
        forwarded = [part.strip() for part in headers.get("X-Forwarded-For", "").split(",")]
        return next((part for part in reversed(forwarded) if part and part not in self.proxies), peer)

    def request_id(self) -> str:
        return "r" + self._keys.next()

    def date(self) -> str:
        """Now, as headers have it."""
        now = int(time.time())
        if self._dated[0] != now:
            self._dated = now, format_timestamp(now)
        return self._dated[1]

    def log(self, handler: BaseHandler) -> None:
        """One line for a request: the path without its query, which may hold secrets."""
        status = handler.status
        quiet = status < 400 or not handler.logged
        level = logging.DEBUG if quiet else logging.ERROR if status == 500 else logging.INFO
        if not logger.isEnabledFor(level):
            return
        refusal, request = handler.refusal, handler.request
        reason = f": {refusal.told}" if refusal is not None and refusal.code in NOTABLE else ""
        took = 1000 * request.seconds()
        logger.log(
            level, "%d %s %s %.1f ms%s", status, request.named_method, request.path, took, reason, extra=handler.about()
        )
