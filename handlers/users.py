"""REST for back ends with an `admin` API key: end a user's sessions, subscriptions and rights, on all nodes."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import (
    DisconnectRequest,
    ErasedUser,
    RevokeRequest,
    SubscribeRequest,
    UnsubscribeFrom,
    UnsubscribeRequest,
    UserInChannel,
    UserNamed,
)


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


class UserData(BaseHandler):
    @operation("Erase a user", {200: ErasedUser, 202: ErasedUser})
    async def delete(self, user: str) -> None:
        """What the user has written in all channels, the account and its sessions, memberships and markers, presence,
        kept answers, messages for later. 202: it is not done yet, and goes on by itself; ask again. For API keys that
        are `admin`."""
        erased = await self.node.erasure.erase(self.principal, user)
        self.answer(erased, 200 if erased["done"] else 202)


class SubscribeUser(BaseHandler):
    @operation("Subscribe a user's connections", {200: UserInChannel})
    async def post(self, user: str, body: SubscribeRequest) -> None:
        """All WebSockets that the user has open, on every node, and those that are opened within 10 seconds. No further
        right is needed for it. For API keys that are `admin`. 503: other nodes may not have heard of it; say it
        again."""
        self.node.directives.subscribe(self.principal, user, body.channel, body.last)
        self.answer({"user": user, "channel": body.channel})


class UnsubscribeUserFrom(BaseHandler):
    @operation("End a user's subscription to a channel", {200: UserInChannel})
    async def post(self, user: str, body: UnsubscribeFrom) -> None:
        """As `/v1/channels/{channel}/unsubscribe`. For API keys that are `admin`."""
        await self.node.moderation.unsubscribe(self.principal, body.channel, user, body.reason)
        self.answer({"user": user, "channel": body.channel})


class UnsubscribeUser(BaseHandler):
    @operation("End a user's subscription", {200: UserInChannel})
    async def post(self, channel: str, body: UnsubscribeRequest) -> None:
        """The user may subscribe again. For API keys that are `admin`."""
        await self.node.moderation.unsubscribe(self.principal, channel, body.user, body.reason)
        self.answer({"channel": channel, "user": body.user})
