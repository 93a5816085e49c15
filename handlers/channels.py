"""REST: publish to a channel, and read its history."""

from __future__ import annotations

from handlers.base import BaseHandler
from server.errors import bad_request
from server.protocol import DEFAULT_PAGE, MAX_PAGE, PublishRequest, convert


class Messages(BaseHandler):
    """/v1/channels/{channel}/messages"""

    async def post(self, channel: str) -> None:
        value = self.body()
        if not isinstance(value, dict):
            raise bad_request("the body is an object with data")
        request = convert(value, PublishRequest)
        header = self.request.headers.get("Idempotency-Key")
        if header is not None:
            request = convert({"data": None, "key": header} | value, PublishRequest)
        publishing = self.node.publish(
            self.principal,
            channel,
            request.data,
            request.key,
            tag=request.tag,
            ephemeral=request.ephemeral,
            address=self.client_address(),
        )
        receipt = None if publishing is None else await publishing
        if receipt is None:
            self.answer({"channel": channel}, 202)
            return
        position, key, duplicate = receipt
        self.answer(
            {
                "channel": channel,
                "offset": position.offset,
                "cursor": str(position),
                "key": key,
                "duplicate": duplicate,
            },
            200 if duplicate else 201,
        )

    async def get(self, channel: str) -> None:
        if self.get_query_argument("wait", None) is not None:
            raise bad_request("wait: long polls are not available in this version")
        self.answer(
            await self.node.history(
                self.principal,
                channel,
                after=self.get_query_argument("after", None),
                before=self.get_query_argument("before", None),
                limit=self.number("limit", DEFAULT_PAGE, 1, MAX_PAGE),
                address=self.client_address(),
            )
        )

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise bad_request(f"{name or 'channel'}: not UTF-8") from None
