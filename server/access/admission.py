"""How many may come in, and how much each may ask for: connections, requests, messages, reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from server.access.permissions import revocable
from server.access.revocations import Revocation
from server.brokers.base import Directive
from server.core.addresses import address_key
from server.core.config import Limits, Namespace, UserRate
from server.core.errors import Disconnect, Error
from server.core.names import namespace_of
from server.core.principals import GUEST, Principal
from server.core.rates import Buckets
from server.core.seats import Seats

logger = logging.getLogger(__name__)

BESIDE: Final = 16
"""So many connections of plain HTTP are let in beside those that have taken all seats."""


class Client(Protocol):
    """A connected client, as far as the server's other parts have to know it."""

    transport: str
    id: str

    @property
    def queued(self) -> int: ...

    @property
    def principal(self) -> Principal | None: ...

    def principal_in(self, channel: str) -> Principal:
        """Who this is there, once it is known: a right may be of one channel only."""

    def tick(self, now: float) -> None: ...

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None: ...

    def obey(self, directive: Directive) -> None:
        """Do what a back end wants done with it, as far as that has a meaning for this client."""

    def lose(self, revocation: Revocation) -> None:
        """It takes none of what the principal may do, but perhaps a right of one channel, that has a token of its own:
        then the subscription ends."""

    def end(self, concerned: Callable[[str], bool], code: str, reason: str) -> None:
        """End the subscriptions to these channels; what waits of them is not sent."""

    def listens(self, channel: str) -> bool:
        """Whether it is subscribed to it, or to a thread of it."""

    def check_subscriptions(self) -> None:
        """End the subscriptions that the principal has no right to any more."""

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        """Deliver nothing of these channels until `unsuspend`."""

    def unsuspend(self) -> None: ...


class ConnectionSeats:
    """One connection's seats: among all, among those of its address and among those of its user. They are taken before
    anything is awaited, and given back when the connection is gone or has not come about (`leave`)."""

    __slots__ = ("address", "connected", "_admission", "_user", "_left")

    def __init__(self, admission: Admission, address: str) -> None:
        self.address = address
        """Of the client, as it is shown."""
        self.connected = False
        """The socket holds the seats now, and gives them back when it is closed. Until then whoever has taken them
        does, if no connection comes about."""
        self._admission = admission
        self._user: str | None = None
        self._left = False

    def sit_as(self, principal: Principal | None) -> None:
        """Take a user's seat; the one of an earlier user is given back. `limit_exceeded`: the user has too many."""
        user = principal.user if principal is not None and revocable(principal) else None
        if user == self._user:
            return
        self.stand_up()
        if user is not None:
            self._admission.per_user.reserve(user)
            self._user = user

    def stand_up(self) -> None:
        """Give back the user's seat only: the session is over, or becomes another user's. The other two are held until
        the socket is closed (`leave`)."""
        if self._user is not None:
            self._admission.per_user.free(self._user)
            self._user = None

    def leave(self) -> None:
        """Give all of them back. Twice is fine."""
        if not self._left:
            self._left = True
            self.stand_up()
            self._admission.addresses.free(address_key(self.address))
            self._admission.connections.free()


class Visit:
    """The seats of a connection of plain HTTP, which may be closed after each request. Held until `leave`."""

    __slots__ = ("key", "_admission", "_left")

    def __init__(self, admission: Admission, key: str | None) -> None:
        self.key = key
        """Whose connections it is one of; None: a proxy's, which brings many clients."""
        self._admission = admission
        self._left = False

    def leave(self) -> None:
        """Give them back. Twice is fine."""
        if not self._left:
            self._left = True
            self._admission.visits.free()
            if self.key is not None:
                self._admission.visits_by_address.free(self.key)


class Admission:
    """Of one node: the seats of its connections, the rates of its users, and who is connected."""

    def __init__(self, limits: Limits, namespaces: Mapping[str, Namespace]) -> None:
        self._limits = limits
        self._per_user = Buckets(limits.user_messages_per_second, limits.user_burst)
        self._requests = Buckets(limits.rate_of_requests(), limits.saved_requests())
        self._per_namespace = {
            name: _buckets(namespace.rate) for name, namespace in namespaces.items() if namespace.rate
        }
        self._messages_limited = bool(limits.user_messages_per_second or self._per_namespace)
        self.connections = Seats("connections", limits.connections)
        """Those that stay: WebSockets, event streams, long polls; each until its socket is closed."""
        self.addresses = Seats("connections_per_ip", limits.connections_per_ip)
        """Those of each address, or network of them, by its key (`address_key`)."""
        self.visits, self.visits_by_address = Seats("connections", 0), Seats("connections_per_ip", 0)
        """Connections of plain HTTP. They share the limits of those that stay, see `visit`."""
        self.per_user = Seats("connections_per_user", limits.connections_per_user)
        """Those of each user, by name. API keys are not counted."""
        self.channel_seats = Seats("channels_per_connection", limits.channels_per_connection, retry_after=None)
        """The subscriptions of each connection, by its session's id."""
        self.clients: set[Client] = set()
        """All sessions on this node: those of WebSockets, event streams and long polls."""
        self.users: dict[str, set[Client]] = {}
        """The sessions of each user; those of API keys are not among them."""
        self.bearers: set[Client] = set()
        """Sessions with rights by a token that names no user."""
        self.bytes_in = 0
        """Received from WebSocket clients."""

    def enter(self, principal: Principal | None, address: str) -> ConnectionSeats:
        """Let one more connection in, or `limit_exceeded`: in all, of this address, or of this user."""
        self.connections.reserve()
        try:
            self.addresses.reserve(address_key(address))
        except Error:
            self.connections.free()
            raise
        seats = ConnectionSeats(self, address)
        try:
            seats.sit_as(principal)
        except Error:
            seats.leave()
            raise
        return seats

    def listens(self, user: str, channel: str) -> bool:
        """Whether a session of the user here is subscribed to the channel, or to a thread of it."""
        return any(client.listens(channel) for client in self.users.get(user, ()))

    def visit(self, address: str, *, proxied: bool = False) -> Visit:
        """Let a connection of plain HTTP in, or `limit_exceeded`. It counts together with those that stay, but BESIDE
        more of them may come: whoever has a WebSocket on each seat can still make a request. `proxied`: the address is
        that of a proxy, whose clients are known with their requests only."""
        key = None if proxied else address_key(address)
        self.connections.check(None, self.visits.total - BESIDE)
        if key is not None:
            self.addresses.check(key, self.visits_by_address.count(key) - BESIDE)
            self.visits_by_address.reserve(key)
        self.visits.reserve()
        return Visit(self, key)

    def check_served(self, channels: Collection[str]) -> None:
        """`limit_exceeded` if the server is to subscribe a connection to more of them than one may have."""
        seats = self.channel_seats
        if seats.limit and len(channels) > seats.limit:
            reason = f"subscribe: {len(channels)} channels; {seats.name} is {seats.limit}"
            raise Error("limit_exceeded", reason, limit=seats.name)

    def spend(self, principal: Principal, address: str, channel: str | None = None) -> None:
        """Count one publish into `channel`, or one read (None): `rate_limited` if it is one too many for the user (a
        guest: for the address). Back ends are not counted."""
        if principal.server or not self._messages_limited:
            return
        who = counted(principal, address)
        now = asyncio.get_running_loop().time()
        rates = self._per_namespace.get(namespace_of(channel)) if channel is not None else None
        wait = rates.take(who, now) if rates is not None else 0.0
        if wait:
            raise _too_fast("namespaces.*.rate", f"rate of the namespace: too many messages in {channel}", wait)
        wait = self._per_user.take(who, now)
        if wait:
            name, limit = "user_messages_per_second", self._limits.user_messages_per_second
            raise _too_fast(name, f"{name} is {limit:g}", wait)

    def count_request(self, principal: Principal, address: str, session: str | None = None) -> None:
        """Count one request: `rate_limited` if it is one too many for the user (a guest: for the address, or for the
        `session` that it certainly belongs to)."""
        who = counted(principal, address) if session is None else (None, session)
        wait = 0.0 if principal.server else self._requests.take(who, asyncio.get_running_loop().time())
        if wait:
            raise self._too_many_requests(wait)

    def check_unproven(self, address: str) -> None:
        """`rate_limited` if a guest of this address could make no request now. Nothing is counted: whoever proves to be
        a user does not pay for their neighbours, and whoever does not is counted as a guest afterwards."""
        wait = self._requests.wait(counted(GUEST, address), asyncio.get_running_loop().time())
        if wait:
            raise self._too_many_requests(wait)

    def _too_many_requests(self, wait: float) -> Error:
        name, limit = "requests_per_second", self._limits.rate_of_requests()
        return _too_fast(name, f"{name} is {limit:g}", wait)

    def tick(self) -> None:
        """Once a second: each client's own clock."""
        now = asyncio.get_running_loop().time()
        for client in tuple(self.clients):
            try:
                client.tick(now)
            except Exception:  # a bug, but this one's alone
                logger.exception("%r: its clock failed", client)


def counted(principal: Principal, address: str) -> tuple[str | None, str]:
    """Whose rates these are: the user's, or those of a guest's address or network."""
    return principal.user, "" if principal.user is not None else address_key(address)


def _too_fast(limit: str, reason: str, wait: float) -> Error:
    return Error("rate_limited", reason, limit=limit, retry_after=wait)


def _buckets(rate: float | UserRate) -> Buckets:
    return Buckets(rate.per_user, rate.burst) if isinstance(rate, UserRate) else Buckets(rate)
