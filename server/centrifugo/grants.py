"""What tokens and back ends allow one client in one channel each, beyond what it may do anyhow."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from server.access.revocations import Revocation
from server.centrifugo.tokens import Grant
from server.core.principals import Principal


class Grants:
    __slots__ = ("of_connection", "_held")

    def __init__(self) -> None:
        self.of_connection: Mapping[str, Grant] = {}
        """By channel: of the connection's token, and as long as that is its token."""
        self._held: dict[str, Grant] = {}
        """By channel: each of a subscription that is there or being made, and gone with it. So there are never more of
        them than subscriptions."""

    def hold(self, channel: str, grant: Grant) -> None:
        self._held[channel] = grant

    def held(self, channel: str) -> Grant | None:
        return self._held.get(channel)

    def drop(self, channel: str) -> None:
        """There is no subscription. Twice is fine."""
        self._held.pop(channel, None)

    def of(self, principal: Principal, channel: str) -> Principal:
        """Who the principal is in the channel. A right is as old as the older of the tokens that it takes, so that no
        other login brings back what was revoked."""
        grant = self._held.get(channel) or self.of_connection.get(channel)
        if grant is None:
            return principal
        return structs.replace(
            principal,
            channels={**principal.channels, channel: [*principal.channels.get(channel, ()), "subscribe"]},
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
