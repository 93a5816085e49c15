"""What every door shares: who is asking and from where, bodies in and out, errors as problem+json.

A handler is made when the headers of a request are there. Whether it may be looked at is decided then (`admit`), before
its body comes; a body that is refused is thrown away as it comes. Tornado parses and writes; its RequestHandler is not
used, as it costs more than the rest of a publish.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar

from tornado.iostream import IOStream, StreamClosedError

from handlers.negotiation import best_media_type, content_coding, wants_page
from handlers.operations import declared
from handlers.problems import MISDIRECTED, not_found_page, page_headers, problem_body, problem_headers
from handlers.request import Request, unescape
from handlers.server import BODY_BYTES, Stream
from handlers.site import Site
from server.access.admission import ConnectionSeats
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.wire.codec import JSON, MSGPACK, Codec

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEADER_BYTES: Final = 16384
DRAINED_BYTES: Final = 16 << 20
"""Of a body that is refused so much is read and thrown away: who is still sending does not read an answer."""
HELD_BYTES: Final = 256 << 20
"""Of the bodies of all requests that are under way."""
COMPRESSED_FROM: Final = 1024
COMPRESSED_ASIDE_FROM: Final = 1 << 17
"""Bytes from which on a thread does it: they take milliseconds."""

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_JSON_TYPES: Final = (
    *("application/json", "application/merge-patch+json", "application/x-www-form-urlencoded", "text/plain"),
)
_CODECS: Final = {codec.media_type: codec for codec in (JSON, MSGPACK)}
_CORS_REQUEST: Final = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"
_CORS_RESPONSE: Final = "ETag, Retry-After"
_ENTITY_TAG: Final = re.compile(r'"[^"]*"')
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class BaseHandler:
    codec: Codec = JSON
    answers_always: ClassVar[bool] = False
    """Also who has no seat: for probes, which have to tell a full server from a dead one."""
    logged: ClassVar[bool] = True

    def __init__(self, site: Site, request: Request, path: tuple[str, ...] = ()) -> None:
        self.site = site
        self.node = site.node
        self.request = request
        self.request_id = site.request_id()
        self.principal = GUEST
        self._address = site.client_address(request.remote_ip, request.headers)
        self.path_args: tuple[str, ...] = path
        """The parameters of the path, unescaped by `admit`."""
        self.refusal: Error | None = None
        """What it was answered with, or will be as soon as the body is through."""
        self.status = 200
        self.detached = False
        self._headers: dict[str, str] = {
            "X-Request-Id": self.request_id,
            "X-Content-Type-Options": "nosniff",
            "Vary": "Origin, Accept, Accept-Encoding",
        }
        self._payload = b""
        self._entity_tag: str | None = None
        self._body = bytearray()
        self._has_body = False
        self._coding = "identity"
        origin = request.headers.get("Origin")
        if origin is not None and site.origins.listed(origin):
            self._headers["Access-Control-Allow-Origin"] = origin
            self._headers["Access-Control-Expose-Headers"] = _CORS_RESPONSE

    # --- from headers to answer: called by the exchange ---------------------------------------------------------------

    async def begin(self) -> None:
        """The headers are there."""
        request = self.request
        request.connection.set_max_body_size(DRAINED_BYTES)
        length = request.headers.get("Content-Length", "")
        size = int(length[:20]) if length.isdecimal() else 0
        try:
            if request.context.refusal is not None and not self.answers_always:
                raise request.context.refusal
            if not self.site.hosts.knows(request.host_name):
                why = f"Host: {request.host_name} is not a name of this server; list it under server.hosts"
                raise Error("permission_denied", why, status=MISDIRECTED)
            self.path_args = tuple(map(unescape, self.path_args))
            await self.admit(request.method)
            if size > BODY_BYTES:
                raise _too_large()
        except Error as error:
            self.refusal = self._counted(error)
        except Exception as error:
            self.refusal = self._failed(error)
        if self.refusal is not None and (size > DRAINED_BYTES or "Expect" in request.headers):
            self._refuse(self.refusal)
            await self._send(kept=False)  # before the body, which closes the connection
            self.site.log(self)

    def receive(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._has_body = True
        if self.refusal is not None:
            return
        self._body += chunk
        self.site.held_bytes += len(chunk)
        if len(self._body) > BODY_BYTES:
            self.refusal = _too_large()
        elif self.site.held_bytes > HELD_BYTES:
            self.refusal = Error("unavailable", "too many bodies are under way", retry_after=1.0)
        if self.refusal is not None:
            self.forget_body()

    def forget_body(self) -> None:
        self.site.held_bytes -= len(self._body)
        self._body = bytearray()

    async def run(self) -> None:
        """The body is there: answer, unless the connection was handed on."""
        try:
            if self.refusal is not None:
                raise self.refusal
            await self._method()
        except Error as error:
            self._refuse(error)
        except Exception as error:
            self._refuse(self._failed(error))
        finally:
            self.forget_body()
        if not self.detached:
            await self._send()
        self.site.log(self)

    def _method(self) -> Awaitable[None]:
        # HEAD is GET without its body, which is left out at the end.
        method = self.request.method
        work: Awaitable[None] = getattr(self, "get" if method == "HEAD" else method.lower())(*self.path_args)
        return work

    # --- who and from where -------------------------------------------------------------------------------------------

    async def admit(self, method: str) -> None:
        """Whether the request may be looked at: Error if not."""
        self._check_method(method)
        self._check_headers()
        if method == "OPTIONS":
            return
        if method not in ("GET", "HEAD"):
            self.check_origin()  # A page of anywhere can send a form; only ours may make the browser's user publish.
        self._negotiate("GET" if method == "HEAD" else method)
        self.principal = await self.authenticate()
        self.node.admission.count_request(self.principal, self.client_address())

    def _check_method(self, method: str) -> None:
        if method not in self.methods():
            raise Error("bad_request", f"method: only {', '.join(self.methods())} here", status=405)

    def _check_headers(self) -> None:
        if len(self.request.uri) + self.request.headers.size > HEADER_BYTES:
            raise Error("too_large", f"headers: {HEADER_BYTES} bytes at most", status=431)

    async def authenticate(self) -> Principal:
        """The principal of the Authorization header; a guest without one, where guests are allowed."""
        token = self.bearer_token()
        fetching = self.node.authenticator.fetching(token)
        if fetching is not None:
            await fetching
        return self.node.identities.authenticate(token, self._address)

    def _counted(self, error: Error) -> Error:
        """A request counts whatever becomes of it: of a user as soon as that is known, else of the address."""
        if error.code not in ("rate_limited", "limit_exceeded") and not self.answers_always:
            try:
                self.node.admission.count_request(GUEST, self.client_address())
            except Error as limited:
                return limited
        return error

    def client_address(self) -> str:
        return self._address

    def bearer_token(self) -> str | None:
        header = self.request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Error("unauthenticated", "Authorization: expected Bearer and a token")
        return token.strip()

    @contextmanager
    def entering(self, principal: Principal | None) -> Iterator[ConnectionSeats]:
        """Let in one more connection that stays. Its seats are taken now, and given back if it has not become the
        client's when the block ends."""
        self.node.lifecycle.check_leaving()
        seats = self.node.admission.enter(principal, self.client_address())
        try:
            yield seats
        finally:
            if not seats.connected:
                seats.leave()

    def check_origin(self) -> None:
        if not self.site.origins.allow(self.request):
            raise Error("permission_denied", "Origin: not allowed; list it under origins")

    # --- methods ------------------------------------------------------------------------------------------------------

    @classmethod
    @cache
    def methods(cls) -> list[str]:
        """What this path answers to."""
        own = [name for name in _METHODS if hasattr(cls, name.lower())]
        return [*own, *(["HEAD"] if "GET" in own else []), "OPTIONS"]

    async def options(self, *path: str) -> None:
        """A browser's preflight gets its answer in headers; everybody else learns what is allowed here."""
        allowed = ", ".join(self.methods())
        self.set_status(204)
        self.set_header("Allow", allowed)
        if "Access-Control-Request-Method" in self.request.headers and "Access-Control-Allow-Origin" in self._headers:
            self.set_header("Access-Control-Allow-Methods", allowed)
            self.set_header("Access-Control-Allow-Headers", _CORS_REQUEST)
            self.set_header("Access-Control-Max-Age", "600")

    def get_query_argument(self, name: str, default: str | None = None) -> str | None:
        """The last of that name."""
        given = self.request.arguments.get(name)
        return given[-1] if given else default

    def get_query_arguments(self, name: str) -> list[str]:
        return self.request.arguments.get(name, [])

    # --- bodies -------------------------------------------------------------------------------------------------------

    def has_body(self) -> bool:
        return self._has_body

    def raw_body(self) -> bytes:
        return bytes(self._body)

    def body(self) -> Any:
        """The request's body, decoded by its Content-Type (JSON without one); none is an empty object."""
        if not self._has_body:
            return {}
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Error("bad_request", "Content-Encoding: bodies are not compressed here", status=415)
        kind = self.request.headers.get("Content-Type", JSON.media_type).partition(";")[0].strip().lower()
        codec = JSON if kind in _JSON_TYPES else _CODECS.get(kind)
        if codec is None:
            told = "Content-Type: neither JSON nor MessagePack"
            raise Error(
                "bad_request", f"Content-Type: {kind[:100]} is neither JSON nor MessagePack", status=415, told=told
            )
        return codec.decode(bytes(self._body))

    def set_status(self, status: int) -> None:
        self.status = status

    def set_header(self, name: str, value: str) -> None:
        self._headers[name] = value

    def finish(self, payload: bytes = b"") -> None:
        """The answer's body as it is; it is sent when the method has returned."""
        self._payload = payload

    def answer(self, value: Any, status: int = 200, *, entity_tag: str | None = None) -> None:
        """In the encoding that was asked for. An answer to GET has an entity tag: `entity_tag`, or one of its bytes."""
        self.status = status
        self._headers["Content-Type"] = self.codec.media_type
        self._payload = self.codec.encode(value)
        if self.request.method in ("GET", "HEAD"):
            self._headers.setdefault("Cache-Control", "private, no-cache")  # kept, and asked about with its ETag
            self._entity_tag = entity_tag or hashlib.sha1(self._payload, usedforsecurity=False).hexdigest()

    def _negotiate(self, method: str) -> None:
        accept, encoding = self.request.headers.get("Accept"), self.request.headers.get("Accept-Encoding")
        if accept and accept != "*/*":
            declaration = declared(type(self), method)
            offered = (declaration and declaration.media_types) or tuple(_CODECS)
            best = best_media_type(accept, offered)
            if best is None:
                raise Error("bad_request", f"Accept: only {' and '.join(offered)} here", status=406)
            self.codec = _CODECS.get(best, JSON)
        if encoding is not None:
            coding = content_coding(encoding)
            if coding is None:
                raise Error("bad_request", "Accept-Encoding: only gzip and identity here", status=406)
            self._coding = coding

    async def _send(self, *, kept: bool = True) -> None:
        try:
            await self._write(kept)
        except Exception as error:  # then nobody knows how much of it has gone out
            self._failed(error)
            self.request.connection.close()

    async def _write(self, kept: bool) -> None:
        status, headers, payload = self.status, self._headers, self._payload
        if self._entity_tag is not None and status == 200:
            headers["ETag"] = f'"{self._entity_tag}"'
            if self._is_known(headers["ETag"]):
                status = self.status = 304
                payload = b""
                del headers["Content-Type"]
        if len(payload) >= COMPRESSED_FROM and self._coding == "gzip" and headers.get("Content-Type") in _CODECS:
            headers["Content-Encoding"] = "gzip"
            aside = len(payload) >= COMPRESSED_ASIDE_FROM
            payload = await asyncio.to_thread(gzip.compress, payload, 6) if aside else gzip.compress(payload, 6)
        if status not in (204, 304):
            headers["Content-Length"] = str(len(payload))
        headers["Date"] = self.site.date()
        if not (kept and self.request.kept and self.request.context.refusal is None):
            headers["Connection"] = "close"
        elif self.request.to_be_told:
            headers["Connection"] = "keep-alive"
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", *(f"{name}: {headers[name]}" for name in headers)]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin1")
        # As a block: `write_headers` would take it apart and check again what was made here.
        connection = self.request.connection
        stream = connection.stream
        assert isinstance(stream, Stream)
        with suppress(StreamClosedError):
            waiting = stream.send(head if self.request.method == "HEAD" else head + payload)
            if waiting is not None:
                await waiting
        connection.finish()
        if not self.request.kept:
            connection.close()  # Tornado does so only if nothing else stands in the Connection header

    def _is_known(self, tag: str) -> bool:
        known = self.request.headers.get("If-None-Match")
        return known is not None and (known.strip() == "*" or tag in _ENTITY_TAG.findall(known))

    def head_of_response(self) -> bytes:
        """The header lines of a response that is written by hand, without those that describe its content."""
        lines = [f"{name}: {value}\r\n" for name, value in self._headers.items() if name != "Content-Type"]
        return "".join(lines).encode("latin1")

    async def while_connected(self, work: Awaitable[T]) -> T:
        """What `work` gives. The request is given up when the client closes the connection."""
        task = asyncio.current_task()
        assert task is not None

        def give_up() -> None:
            task.cancel()

        self.request.connection.set_close_callback(give_up)
        try:
            return await work
        finally:
            self.request.connection.set_close_callback(None)

    def detach(self) -> IOStream:
        """The connection leaves HTTP; nothing more is sent here."""
        self.detached = True
        return self.request.connection.detach()

    # --- errors -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: Error) -> None:
        """The answer is this error, whatever was to be answered."""
        self.refusal = error
        error.__traceback__ = None  # or its frames, and what was sent, wait in a circle for the collector
        self.node.incidents.refused(error, self.principal, self.client_address())
        self.status, self._entity_tag = error.status, None
        page = error.status == 404 and error.code == "not_found" and self.links_to_nowhere()
        self._payload = not_found_page() if page else problem_body(error)
        for name in ("Content-Type", "Cache-Control", "ETag", "Location"):
            self._headers.pop(name, None)
        self._headers.update(page_headers() if page else problem_headers(error))
        if error.status == 405:
            self._headers["Allow"] = ", ".join(self.methods())

    def links_to_nowhere(self) -> bool:
        """Whether a person should see that as a page."""
        return False

    def _failed(self, error: Exception) -> Error:
        """A bug. The log has where, and no words of what was asked."""
        logger.error("%s %s failed", self.request.named_method, self.request.path, exc_info=error, extra=self.about())
        return Error("internal", _REASONS[500])

    def about(self) -> dict[str, Any]:
        """For the log."""
        return {
            "request": self.request_id,
            "user": self.principal.user,
            "ip": self.client_address(),
            "origin": self.request.headers.get("Origin"),
            "code": self.refusal.code if self.refusal else None,
        }


def _too_large() -> Error:
    return Error("too_large", f"body: {BODY_BYTES} bytes at most")


class OpenHandler(BaseHandler):
    """For everybody, and of no cost worth counting."""

    async def admit(self, method: str) -> None:
        self._check_method(method)


class NotFound(BaseHandler):
    async def admit(self, method: str) -> None:
        raise Error("not_found", "there is nothing at this path")

    def links_to_nowhere(self) -> bool:
        return self.request.method == "GET" and wants_page(self.request.headers.get("Accept", ""))
