"""Centrifugo's server API, for back ends: `POST /api/METHOD` with the method's parameters, `POST /api` with both.

Whoever has an API key is answered 200, with a result or an error in Centrifugo's words.
"""

from __future__ import annotations

from typing import Any, Final

from handlers.base import BaseHandler
from server.centrifugo.api import Caller
from server.centrifugo.api_requests import Call
from server.centrifugo.codes import error_fields
from server.core.errors import Error
from server.core.principals import Principal
from server.wire.codec import JSON
from server.wire.commands import convert


class _Api(BaseHandler):
    async def authenticate(self) -> Principal:
        key = self.request.headers.get("X-API-Key") or self._authorization()
        principal = self.node.identities.authenticate(key, self.client_address())
        if not principal.server:
            raise Error("unauthenticated", "an API key is needed here, in X-API-Key or as Authorization: apikey KEY")
        return principal

    def _authorization(self) -> str:
        scheme, _, key = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "apikey" or not key.strip():
            raise Error("unauthenticated", "X-API-Key, or Authorization: apikey KEY, is needed here")
        return key.strip()

    async def carry_out(self, method: str, params: Any) -> None:
        assert self.site.centrifugo is not None
        caller = Caller(self.site.centrifugo, self.node, self.principal, self.client_address(), self.request_id)
        if method == "batch":
            replies = await caller.batch(params)
            # Its clients read the replies beside the place where those of all other methods have their result.
            self.answer({"replies": replies, "result": {"replies": replies}})
        else:
            self.answer({"result": await caller.call(method, params)})

    def _refuse(self, error: Error) -> None:
        super()._refuse(error)
        if self.principal.server:
            self.status = 200
            self.set_header("Content-Type", JSON.media_type)
            self.finish(JSON.encode({"error": error_fields(error)}))


class ApiMethod(_Api):
    async def post(self, method: str) -> None:
        await self.carry_out(method, self.body())


class Api(_Api):
    async def post(self) -> None:
        call: Call = convert(self.body(), Call)
        await self.carry_out(call.method, {} if call.params is None else call.params)


ROUTES: Final[dict[str, type[BaseHandler]]] = {"/api": Api, "/api/{method}": ApiMethod}
