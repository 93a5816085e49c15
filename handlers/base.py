"""What every door shares: who is asking and from where, bodies in and out, errors as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import GZipContentEncoding, HTTPError, RequestHandler, stream_request_body

from handlers.operations import declared
from handlers.origins import Origins
from handlers.server import BODY_BYTES
from server.access.admission import Entry
from server.core.errors import Error, bad_request
from server.core.principals import GUEST, Principal
from server.node import Node
from server.wire.codec import JSON, MSGPACK, Codec
from server.wire.rest import problem

logger = logging.getLogger(__name__)

HEADER_BYTES: Final = 16384
DRAINED_BYTES: Final = 16 << 20
"""Of a body over BODY_BYTES so much is read and thrown away: who is still sending does not read an answer."""

_CODES = {401: "unauthenticated", 403: "permission_denied", 404: "not_found", 413: "too_large"}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_JSON_TYPES = ("application/json", "application/merge-patch+json", "application/x-www-form-urlencoded", "text/plain")
_CODECS = {codec.media_type: codec for codec in (JSON, MSGPACK)}
_CORS_REQUEST = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"
_CORS_RESPONSE = "ETag, Retry-After"


class Compressed(GZipContentEncoding):
    """Answers over 1 KiB, for who can take it. The pages are small, and served from caches."""

    def _compressible_type(self, ctype: str) -> bool:
        return ctype in _CODECS


@stream_request_body
class BaseHandler(RequestHandler):
    """The body is taken in piece by piece, so that one that is too large is thrown away and gets an answer. Tornado
    closes the connection under whoever is answered before the body is read, so a refusal waits for it as well."""

    node: Node
    codec: Codec = JSON

    def initialize(self, node: Node) -> None:
        self.node = node
        self.principal = GUEST
        self.refusal: Error | None = None
        self._body = bytearray()
        self._body_size = 0
        self._prepared = False
        self._deferred: Error | None = None
        self._origins: Origins = self.settings["origins"]
        self._set_cors_headers()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.request_id: str = getattr(self, "request_id", None) or "r" + secrets.token_hex(6)
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Vary", "Origin, Accept")

    async def prepare(self) -> None:
        self._check_size()
        try:
            await self.admit(self.request.method or "")
        except Error as error:
            self._deferred = self._deferred or error
        if self._deferred is not None:
            setattr(self, (self.request.method or "").lower(), self._refuse)
        self._prepared = True

    def _refuse(self, *path: str) -> None:
        assert self._deferred is not None
        raise self._deferred

    async def admit(self, method: str) -> None:
        """Whether the request may be looked at: Error if not."""
        if method not in self.methods():
            raise Error("bad_request", f"{method}: not allowed here", status=405)
        if self._header_size() > HEADER_BYTES:
            raise Error("too_large", f"headers: {HEADER_BYTES} bytes at most", status=431)
        if method == "OPTIONS":
            return
        if method not in ("GET", "HEAD"):
            self.check_origin()  # A page of anywhere can send a form; only ours may make the browser's user publish.
        self._negotiate("GET" if method == "HEAD" else method)
        self.principal = await self.authenticate()

    # --- who and from where -------------------------------------------------------------------------------------------

    async def authenticate(self) -> Principal:
        """The principal of the Authorization header; a guest without one, where guests are allowed."""
        token = self.bearer_token()
        fetching = self.node.authenticator.fetching(token)
        if fetching is not None:
            await fetching
        principal = self.node.identities.authenticate(token)
        self.node.admission.count_request(principal, self.client_address())
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

    @contextmanager
    def entering(self, principal: Principal | None) -> Iterator[Entry]:
        """Let in one more connection that stays. Its seats are taken now, and given back if it has not become the
        client's when the block ends."""
        self.node.lifecycle.check_leaving()
        entry = self.node.admission.enter(principal, self.client_address())
        try:
            yield entry
        finally:
            if not entry.connected:
                entry.leave()

    def check_origin(self) -> None:
        if not self._origins.allow(self.request):
            raise Error("permission_denied", "Origin: not allowed; list it under origins")

    def _set_cors_headers(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and self._origins.listed(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", _CORS_RESPONSE)

    def head_of_response(self) -> bytes:
        """The header lines of a response that is written by hand, without those that describe its content."""
        lines = [
            f"{name}: {value}\r\n" for name, value in self._headers.get_all() if name not in ("Content-Type", "Date")
        ]
        return "".join(lines).encode("latin1")

    # --- methods ------------------------------------------------------------------------------------------------------

    @classmethod
    def methods(cls) -> list[str]:
        """What this path answers to. HEAD is GET without its body."""
        own = [name for name in _METHODS if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower())]
        return [*own, *(["HEAD"] if "GET" in own else []), "OPTIONS"]

    async def head(self, *path: str) -> None:
        await cast(Any, self.get(*path))

    def options(self, *path: str) -> None:
        """A browser's preflight gets its answer in headers; everybody else learns what is allowed here."""
        allowed = ", ".join(self.methods())
        self.set_status(204)
        self.set_header("Allow", allowed)
        if "Access-Control-Request-Method" in self.request.headers and self._headers.get("Access-Control-Allow-Origin"):
            self.set_header("Access-Control-Allow-Methods", allowed)
            self.set_header("Access-Control-Allow-Headers", _CORS_REQUEST)
            self.set_header("Access-Control-Max-Age", "600")

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            self._deferred = bad_request(f"{name or 'path'}: not UTF-8")
            return ""

    # --- bodies -------------------------------------------------------------------------------------------------------

    def _header_size(self) -> int:
        sizes = (len(name) + len(value) + 4 for name, value in self.request.headers.get_all())
        return sum(sizes) + len(self.request.uri or "")

    def _check_size(self) -> None:
        cast(HTTP1Connection, self.request.connection).set_max_body_size(DRAINED_BYTES)
        length = self.request.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > BODY_BYTES:
            if int(length[:20]) > DRAINED_BYTES or "Expect" in self.request.headers:
                raise self._too_large()
            self._deferred = self._too_large()

    def data_received(self, chunk: bytes) -> None:
        self._body_size += len(chunk)
        if self._body_size <= BODY_BYTES:
            self._body += chunk

    @staticmethod
    def _too_large() -> Error:
        return Error("too_large", f"body: {BODY_BYTES} bytes at most")

    def has_body(self) -> bool:
        return self._body_size > 0

    def body(self) -> Any:
        """The request's body, decoded by its Content-Type (JSON without one); none is an empty object."""
        if not self._body_size:
            return {}
        if self._body_size > BODY_BYTES:
            raise self._too_large()
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Error("bad_request", "Content-Encoding: bodies are not compressed here", status=415)
        kind = self.request.headers.get("Content-Type", JSON.media_type).partition(";")[0].strip().lower()
        codec = JSON if kind in _JSON_TYPES else _CODECS.get(kind)
        if codec is None:
            raise Error("bad_request", f"Content-Type: {kind} is neither JSON nor MessagePack", status=415)
        return codec.decode(bytes(self._body))

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", self.codec.media_type)
        if self.request.method in ("GET", "HEAD") and "Cache-Control" not in self._headers:
            self.set_header("Cache-Control", "private, no-cache")  # kept, and asked about with its ETag
        self.finish(self.codec.encode(value))

    def _negotiate(self, method: str) -> None:
        accept = self.request.headers.get("Accept")
        if not accept:
            return
        declaration = declared(type(self), method)
        offered = (declaration and declaration.media_types) or tuple(_CODECS)
        best = max(offered, key=lambda media_type: _quality(accept, media_type))  # the first of equals
        if not _quality(accept, best):
            raise Error("bad_request", f"Accept: only {' and '.join(offered)} here", status=406)
        self.codec = _CODECS.get(best, JSON)

    # --- errors -------------------------------------------------------------------------------------------------------

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        if not isinstance(error, Error):
            reason = HTTPStatus(status_code).phrase if status_code in HTTPStatus._value2member_map_ else "error"
            if isinstance(error, HTTPError) and error.log_message and status_code < 500:
                reason = error.log_message % error.args if error.args else error.log_message
            code = _CODES.get(status_code, "internal" if status_code >= 500 else "bad_request")
            error = Error(code, reason, status=status_code)
        self.node.incidents.refused(error, getattr(self, "principal", None), self.client_address())
        self.refusal = error
        self._set_cors_headers()
        self.set_status(error.status)
        for name, value in problem_headers(error).items():
            self.set_header(name, value)
        if not self._prepared:
            self.set_header("Connection", "close")
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods()))
        self.finish(problem_body(error))

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


def problem_headers(error: Error) -> dict[str, str]:
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.rev is not None:
        headers["ETag"] = f'"{error.rev}"'
    if error.retry_after is not None or error.status in (429, 503):
        headers["Retry-After"] = str(max(1, round((error.retry_after or 0.5) + 0.5)))
    return headers


def problem_body(error: Error) -> bytes:
    title = HTTPStatus(error.status).phrase
    return JSON.encode({"type": "about:blank", "title": title, "status": error.status, **problem(error)})


def _quality(accept: str, media_type: str) -> float:
    """How much `media_type` is wanted, 0 to 1, by the most specific range that fits (RFC 9110, section 12.5.1)."""
    ranges = {"*/*": 0, media_type.partition("/")[0] + "/*": 1, media_type: 2}
    best, quality = -1, 0.0
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        specific = ranges.get(name, -1)
        if specific <= best:
            continue
        best, quality = specific, 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(max(float(parameter[2:]), 0.0), 1.0)
                except ValueError:
                    quality = 0.0
    return quality


class NotFound(BaseHandler):
    async def admit(self, method: str) -> None:
        raise Error("not_found", "there is nothing at this path")


class Misdirected(BaseHandler):
    """For who calls us by a name that is not ours (origins.py)."""

    async def admit(self, method: str) -> None:
        name = self.request.host_name
        raise Error(
            "permission_denied", f"Host: {name} is not a name of this server; list it under server.hosts", status=421
        )
