"""REST for back ends with an `admin` API key: end a user's sessions, subscriptions and rights, on all nodes."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import DisconnectRequest, RevokeRequest, UnsubscribeRequest, UserNamed, UserUnsubscribed


class DisconnectUser(BaseHandler):
    @operation("Close a user's connections", {200: UserNamed})
    async def post(self, user: str, body: DisconnectRequest) -> None:
        """On every node within a second. For API keys that are `admin`."""
        await self.node.moderation.disconnect(self.principal, user, body.reason, body.reconnect)
        self.answer({"user": user})


class RevokeUser(BaseHandler):
    @operation("Revoke a user's tokens", {200: UserNamed})
    async def post(self, user: str, body: RevokeRequest) -> None:
        """All that were issued until now, or one of them, or their rights in some channels. For API keys that are
        `admin`."""
        await self.node.moderation.revoke(self.principal, user, body.token, body.channels)
        self.answer({"user": user})


class UnsubscribeUser(BaseHandler):
    @operation("End a user's subscription", {200: UserUnsubscribed})
    async def post(self, channel: str, body: UnsubscribeRequest) -> None:
        """The user may subscribe again. For API keys that are `admin`."""
        await self.node.moderation.unsubscribe(self.principal, channel, body.user, body.reason)
        self.answer({"channel": channel, "user": body.user})
