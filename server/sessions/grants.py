"""What tokens and back ends allow one client in one channel each, beyond what it may do anyhow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import structs

from server.access.revocations import Revocation
from server.core.names import without_label
from server.core.principals import Principal


class Grant(NamedTuple):
    """The right to subscribe to one channel, of a token or by a back end's word."""

    expires: float | None = None
    """Seconds since 1970, UTC; None: with the connection."""
    info: Any = None
    token: str | None = None
    """Names the token, as `Principal.token`; None: the connection's, or a back end's word."""
    issued: float = math.inf
    """When it was issued, in seconds since 1970: 0 if it does not say; infinite: what the connection's token says."""


class Grants:
    __slots__ = ("of_connection", "served", "_held")

    def __init__(self) -> None:
        self.of_connection: Mapping[str, Grant] = {}
        """By channel: of the connection's token, and as long as that is its token."""
        self.served: set[str] = set()
        """Channels that the client has not subscribed to by itself."""
        self._held: dict[str, Grant] = {}
        """By channel: each of a subscription that is there or being made, and gone with it. So there are never more of
        them than subscriptions."""

    def hold(self, channel: str, grant: Grant) -> None:
        self._held[channel] = grant

    def held(self, channel: str) -> Grant | None:
        return self._held.get(channel)

    def drop(self, channel: str) -> None:
        """There is no subscription. Twice is fine."""
        self.served.discard(channel)
        self._held.pop(channel, None)

    def of(self, principal: Principal, channel: str) -> Principal:
        """Who the principal is in the channel. A right is as old as the older of the tokens that it takes, so that no
        other login brings back what was revoked."""
        grant = self._held.get(channel) or self.of_connection.get(channel)
        if grant is None:
            return principal
        name = without_label(channel)
        return structs.replace(
            principal,
            channels={**principal.channels, name: [*principal.channels.get(name, ()), "subscribe"]},
            channel_info=grant.info,
            token=principal.token or grant.token,
            issued=min(principal.issued or 0.0, grant.issued),
        )

    def drop_revoked(self, revocation: Revocation) -> list[str]:
        """The channels in which that takes something, which is gone now."""
        gone = [
            channel
            for channel, grant in self._held.items()
            if revocation.concerns(grant) and (not revocation.channels or revocation.covers(channel))
        ]
        for channel in gone:
            del self._held[channel]
        return gone

    def drop_expired(self, before: float) -> list[str]:
        """The same, of those that have expired before then."""
        gone = [
            channel for channel, grant in self._held.items() if grant.expires is not None and grant.expires < before
        ]
        for channel in gone:
            del self._held[channel]
        return gone
