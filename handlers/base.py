"""What every door shares: who is asking, decoding and encoding bodies, errors as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tornado.web import HTTPError, RequestHandler

from server.codec import JSON, MSGPACK, Codec
from server.errors import Error, bad_request
from server.node import Node
from server.principals import GUEST, Principal
from server.protocol import problem

logger = logging.getLogger(__name__)

_CODES = {401: "unauthenticated", 403: "permission_denied", 404: "not_found", 413: "too_large"}


class BaseHandler(RequestHandler):
    node: Node

    def initialize(self, node: Node) -> None:
        self.node = node
        self.principal = GUEST
        self.refusal: Error | None = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.request_id: str = getattr(self, "request_id", None) or "r" + secrets.token_hex(6)
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:
        if self.request.method not in ("GET", "HEAD", "OPTIONS") and not self.origin_allowed():
            # A page of anywhere can send a form; only ours may make the browser's user publish.
            raise Error("permission_denied", "Origin: not allowed; list it under origins")
        self.principal = await self.authenticate()

    async def authenticate(self) -> Principal:
        """The principal of the Authorization header; a guest without one, where guests are allowed."""
        token = self.bearer_token()
        fetching = self.node.authenticator.fetching(token)
        if fetching is not None:
            await fetching
        principal = self.node.authenticate(token)
        self.node.count_request(principal, self.client_address())
        return principal

    def client_address(self) -> str:
        """Who connects: the peer, or whom a trusted proxy names last in X-Forwarded-For."""
        address: str = self.request.remote_ip or ""
        trusted = self.node.config.server.trusted_proxies
        if address in trusted:
            forwarded = [part.strip() for part in self.request.headers.get("X-Forwarded-For", "").split(",")]
            return next((part for part in reversed(forwarded) if part and part not in trusted), address)
        return address

    def bearer_token(self) -> str | None:
        header = self.request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Error("unauthenticated", "Authorization: expected Bearer and a token")
        return token.strip()

    def body(self) -> Any:
        """The request's body, decoded by its Content-Type (JSON without one)."""
        kind = self.request.headers.get("Content-Type", JSON.media_type).partition(";")[0].strip().lower()
        codec = {MSGPACK.media_type: MSGPACK}.get(kind, JSON)
        if codec is JSON and kind not in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
            raise Error("bad_request", f"Content-Type: {kind} is neither JSON nor MessagePack", status=415)
        return codec.decode(self.request.body)

    def answer(self, value: Any, status: int = 200) -> None:
        codec = self._accepted()
        self.set_status(status)
        self.set_header("Content-Type", codec.media_type)
        self.finish(codec.encode(value))

    def _accepted(self) -> Codec:
        return MSGPACK if MSGPACK.media_type in self.request.headers.get("Accept", "") else JSON

    def number(self, name: str, default: int, least: int, most: int) -> int:
        text = self.get_query_argument(name, None)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or not least <= int(text[:10]) <= most:
            raise bad_request(f"{name}: a whole number from {least} to {most}")
        return int(text)

    def origin_allowed(self) -> bool:
        """No Origin (not a browser), our own, or one that the configuration lists, to the letter."""
        origin = self.request.headers.get("Origin")
        if origin is None or origin in self.node.config.origins:
            return True
        return urlsplit(origin).netloc.lower() == self.request.headers.get("Host", "").lower()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        if not isinstance(error, Error):
            reason = HTTPStatus(status_code).phrase if status_code in HTTPStatus._value2member_map_ else "error"
            if isinstance(error, HTTPError) and error.log_message and status_code < 500:
                reason = error.log_message % error.args if error.args else error.log_message
            code = _CODES.get(status_code, "internal" if status_code >= 500 else "bad_request")
            error = Error(code, reason, status=status_code)
        self.node.refused(error, getattr(self, "principal", None), self.client_address())
        self.refusal = error
        self.set_status(error.status)
        self.set_header("Content-Type", "application/problem+json")
        if error.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if error.retry_after is not None:
            self.set_header("Retry-After", str(max(1, round(error.retry_after + 0.5))))
        title = HTTPStatus(error.status).phrase
        self.finish(JSON.encode({"type": "about:blank", "title": title, "status": error.status, **problem(error)}))

    def _handle_request_exception(self, e: BaseException) -> None:
        # Errors of our own catalogue are answers, not failures: no traceback in the log.
        if isinstance(e, Error) and not self._finished:
            self.set_status(e.status)
            self.write_error(e.status, exc_info=(type(e), e, e.__traceback__))
            return
        super()._handle_request_exception(e)

    def about(self) -> dict[str, Any]:
        """For the log."""
        return {
            "request": self.request_id,
            "user": self.principal.user,
            "ip": self.client_address(),
            "origin": self.request.headers.get("Origin"),
            "code": self.refusal.code if self.refusal else None,
        }

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Tornado's own would log the query, which may hold secrets."""
        if not isinstance(error, HTTPError):
            failed = f"{self.request.method} {self.request.path}"
            logger.error("%s failed", failed, exc_info=(kind, error, trace), extra=self.about())


class NotFound(BaseHandler):
    async def prepare(self) -> None:
        raise Error("not_found", "there is nothing at this path")
