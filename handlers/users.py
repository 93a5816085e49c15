"""REST for back ends with an `admin` API key: end a user's sessions, subscriptions and rights, on all nodes."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseHandler
from server.errors import bad_request
from server.protocol import DisconnectRequest, RevokeRequest, UnsubscribeRequest, convert


class _Admin(BaseHandler):
    def request_as(self, kind: Any) -> Any:
        """The body as `kind`; none is an empty one."""
        value = self.body() if self.request.body else {}
        if not isinstance(value, dict):
            raise bad_request("the body is an object")
        return convert(value, kind)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise bad_request(f"{name or 'path'}: not UTF-8") from None


class DisconnectUser(_Admin):
    """/v1/users/{user}/disconnect"""

    async def post(self, user: str) -> None:
        request: DisconnectRequest = self.request_as(DisconnectRequest)
        await self.node.disconnect_user(self.principal, user, request.reason, request.reconnect)
        self.answer({"user": user})


class RevokeUser(_Admin):
    """/v1/users/{user}/revoke"""

    async def post(self, user: str) -> None:
        request: RevokeRequest = self.request_as(RevokeRequest)
        await self.node.revoke(self.principal, user, request.token, request.channels)
        self.answer({"user": user})


class UnsubscribeUser(_Admin):
    """/v1/channels/{channel}/unsubscribe"""

    async def post(self, channel: str) -> None:
        request: UnsubscribeRequest = self.request_as(UnsubscribeRequest)
        await self.node.unsubscribe_user(self.principal, channel, request.user, request.reason)
        self.answer({"channel": channel, "user": request.user})
