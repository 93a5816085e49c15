"""What back ends want done with the sessions of a user: subscribe them, say how long they may stay.

A directive goes to all nodes as an announcement, and each carries it out for the sessions that it has. It is
remembered for a moment, so that a session that connects in just that moment, wherever, gets what it was meant to have.
Like all that goes through the broker it may be lost on its way to another node; whoever issues one is told if this
node knows that it does not get through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec import structs

from server.access.admission import Admission
from server.access.permissions import Permissions
from server.access.revocations import ONCE_KEPT, Revocations
from server.access.rights import must_be_admin
from server.access.seals import Seals
from server.brokers.base import Directive
from server.cluster.announcer import Announcer
from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import without_label
from server.core.principals import Principal

logger = logging.getLogger(__name__)

REMEMBERED: Final = 10.0
"""Seconds for which a subscription is also given to the sessions of the user that connect."""
GRANT_TTL: Final = ONCE_KEPT
"""Seconds for which a client may come back to what it was subscribed to by a directive: as long as every node knows
what was taken back meanwhile."""


class Directives:
    """`unheard()`: why other nodes do not hear this one, or None."""

    def __init__(
        self,
        *,
        admission: Admission,
        permissions: Permissions,
        revocations: Revocations,
        announcer: Announcer,
        lifecycle: Lifecycle,
        seals: Seals,
        clock: Clock,
        unheard: Callable[[], str | None],
    ) -> None:
        self._admission = admission
        self._permissions = permissions
        self._revocations = revocations
        self._announcer = announcer
        self._lifecycle = lifecycle
        self._seals = seals
        self._clock = clock
        self._unheard = unheard
        self._recent: dict[str, dict[str, Directive]] = {}
        """User → channel → the newest that subscribes it there."""

    # --- what a back end asks for -------------------------------------------------------------------------------------

    def subscribe(self, principal: Principal, user: str, channel: str, last: int | None = None) -> None:
        """Subscribe all sessions of the user, on every node: those that are open, and those that connect within
        REMEMBERED seconds. Who is subscribed already stays as it is. `unavailable`: sessions on other nodes may not
        have heard of it; it does no harm to say it again."""
        must_be_admin(principal)
        known = Principal(user=user, channels={without_label(channel): ["subscribe"]}, token="", issued=float("inf"))
        namespace = self._permissions.check_subscription(known, channel)
        if last is not None and (not namespace.durable or "*" in channel):
            raise bad_request(f"last: {channel} is ephemeral, it has no history")
        self.issue(principal, Directive("subscribe", user, channel=channel, last=last))
        unheard = self._unheard()
        if unheard is not None:
            raise Error("unavailable", f"sessions of other nodes may not have heard of it: {unheard}", retry_after=1.0)

    def issue(self, principal: Principal, directive: Directive) -> None:
        """Carry it out here, and have the other nodes do it. For API keys that are `admin`."""
        must_be_admin(principal)
        self._lifecycle.check_leaving()
        ended = self._revocations.ended(directive.user, directive.channel)
        # Later than what it comes after, however exactly this node knows MongoDB's time.
        directive = structs.replace(directive, issued=max(self._clock.time(), ended + 0.001))
        self._announcer.announce(directive=directive)
        self.carry_out(directive)

    def carry_out(self, directive: Directive) -> None:
        """Whichever node it comes from."""
        if directive.action == "subscribe":
            if self.is_over(directive.user, directive.channel, directive.issued):
                return  # what came later was faster
            if directive.session is None:
                self._remember(directive)
        for client in tuple(self._admission.users.get(directive.user, ())):
            if directive.session not in (None, client.id):
                continue
            try:
                client.obey(directive)
            except Exception:  # a bug, but this one's alone
                logger.exception("%r: what a back end wants of it failed", client)

    def is_over(self, user: str, channel: str, issued: float) -> bool:
        """Whether the user's subscriptions to the channel were ended after a directive that was issued then."""
        return self._revocations.ended(user, channel) >= issued

    # --- who connects in that moment ----------------------------------------------------------------------------------

    @property
    def any(self) -> bool:
        """Whether there are any for who connects now."""
        return bool(self._recent)

    def recent(self, principal: Principal) -> list[Directive]:
        """What the user has been subscribed to within REMEMBERED seconds, and is still meant to have."""
        user = principal.user
        if user is None or principal.server:
            return []
        return [
            directive
            for directive in self._recent.get(user, {}).values()
            if not self.is_over(user, directive.channel, directive.issued)
        ]

    def _remember(self, directive: Directive) -> None:
        self._recent.setdefault(directive.user, {})[directive.channel] = directive
        asyncio.get_running_loop().call_later(REMEMBERED, self._forget, directive)

    def _forget(self, directive: Directive) -> None:
        channels = self._recent.get(directive.user, {})
        if channels.get(directive.channel) is directive:
            del channels[directive.channel]
            if not channels:
                del self._recent[directive.user]

    # --- who comes back -----------------------------------------------------------------------------------------------

    def grant(self, user: str, channel: str, issued: float) -> str:
        """For the user's client, with which it may subscribe again on another connection."""
        at = f"{int(issued * 1000):x}"
        return f"{at}.{self._seals.seal(at, user, channel)}"

    def redeem(self, grant: str, user: str, channel: str) -> float | None:
        """When it was issued, in seconds since 1970; None if it is not good (any more) for this user and channel."""
        at, _, seal = grant.partition(".")
        if len(grant) > 64 or not self._seals.holds(seal, at, user, channel):
            return None
        issued = int(at, 16) / 1000
        if self._clock.time() - issued > GRANT_TTL or self.is_over(user, channel, issued):
            return None
        return issued
