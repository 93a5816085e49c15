"""REST: call a method of the user's own back end."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.core.errors import bad_request
from server.wire.commands import MAX_KEY
from server.wire.rest import CallAnswer, CallRequest, IdempotencyHeader


class Call(BaseHandler):
    @operation("Call the back end", {200: CallAnswer})
    async def post(self, method: str, body: CallRequest, headers: IdempotencyHeader) -> None:
        """Answered with what the back end answers, or with `refused`, and its own status of 4xx, if it says no. With a
        key it is asked once, and a retry gets the same answer. Closing the connection cancels the call."""
        if len(method) > MAX_KEY:
            raise bad_request(f"method: {MAX_KEY} characters at most")
        calling = self.node.calls.call(
            self.principal, method, body.data, body.key or headers.key, address=self.client_address()
        )
        self.answer(CallAnswer(data=await self.while_connected(calling)))
