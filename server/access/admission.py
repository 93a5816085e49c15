"""How many may come in, and how much each may ask for: connections, requests, messages, reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from server.access.permissions import revocable
from server.core.config import Limits, Namespace, UserRate
from server.core.errors import Disconnect, Error
from server.core.principals import Principal
from server.core.rates import Buckets
from server.core.seats import Seats

logger = logging.getLogger(__name__)


class Client(Protocol):
    """A connected client, as far as the server's other parts have to know it."""

    transport: str

    @property
    def queued(self) -> int: ...

    @property
    def principal(self) -> Principal | None: ...

    def tick(self, now: float) -> None: ...

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None: ...

    def end(self, concerned: Callable[[str], bool], code: str, reason: str) -> None:
        """End the subscriptions to these channels; what waits of them is not sent."""

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        """Deliver nothing of these channels until `unsuspend`."""

    def unsuspend(self) -> None: ...


class Admission:
    def __init__(self, limits: Limits, namespaces: Mapping[str, Namespace]) -> None:
        self._limits = limits
        self._per_user = Buckets(limits.user_messages_per_second, limits.user_burst)
        self._requests = Buckets(limits.requests_per_second, limits.requests_burst)
        self._per_namespace = {
            name: _buckets(namespace.rate) for name, namespace in namespaces.items() if namespace.rate
        }
        self.channels = Seats("channels_per_connection", limits.channels_per_connection, retry_after=None)
        """Of each connection, by its id."""
        self.clients: set[Client] = set()
        self.users: dict[str, set[Client]] = {}
        """The sessions of each user; those of API keys are not among them."""
        self.addresses: dict[str, int] = {}
        """Connections per client address."""
        self.bytes_in = 0
        """Received from WebSocket clients."""

    def admit(self, principal: Principal | None, address: str) -> None:
        """`limit_exceeded` if one more connection would be too many: in all, of this address, or of this user."""
        limits = self._limits
        if limits.connections and len(self.clients) >= limits.connections:
            raise _too_many("connections", limits.connections)
        if limits.connections_per_ip and self.addresses.get(address, 0) >= limits.connections_per_ip:
            raise _too_many("connections_per_ip", limits.connections_per_ip)
        if principal is not None:
            self.admit_user(principal)

    def admit_user(self, principal: Principal) -> None:
        limit = self._limits.connections_per_user
        if limit and revocable(principal) and len(self.users.get(principal.user or "", ())) >= limit:
            raise _too_many("connections_per_user", limit)

    def spend(self, principal: Principal, address: str, channel: str | None = None) -> None:
        """`rate_limited` if the user (a guest: the address) publishes, into `channel`, or reads too much. Back ends are
        not counted."""
        if principal.server:
            return
        who = _counted(principal, address)
        now = asyncio.get_running_loop().time()
        rates = self._per_namespace.get(channel.partition(":")[0]) if channel is not None else None
        wait = rates.take(who, now) if rates is not None else 0.0
        if wait:
            raise Error("rate_limited", f"rate of the namespace: too many messages in {channel}", retry_after=wait)
        wait = self._per_user.take(who, now)
        if wait:
            limit = self._limits.user_messages_per_second
            raise Error("rate_limited", f"user_messages_per_second is {limit:g}", retry_after=wait)

    def count_request(self, principal: Principal, address: str) -> None:
        """`rate_limited` if the user (a guest: the address) makes too many requests."""
        who = _counted(principal, address)
        wait = 0.0 if principal.server else self._requests.take(who, asyncio.get_running_loop().time())
        if wait:
            limit = self._limits.requests_per_second
            raise Error("rate_limited", f"requests_per_second is {limit:g}", retry_after=wait)

    def tick(self) -> None:
        """Once a second: each client's own clock."""
        now = asyncio.get_running_loop().time()
        for client in tuple(self.clients):
            try:
                client.tick(now)
            except Exception:  # a bug, but this one's alone
                logger.exception("%r: its clock failed", client)


def _counted(principal: Principal, address: str) -> tuple[str | None, str]:
    """Whose rates these are: the user's, or a guest's address's."""
    return principal.user, "" if principal.user is not None else address


def _too_many(limit: str, value: int) -> Error:
    return Error("limit_exceeded", f"{limit} is {value}", retry_after=5.0)


def _buckets(rate: float | UserRate) -> Buckets:
    return Buckets(rate.per_user, rate.burst) if isinstance(rate, UserRate) else Buckets(rate)
