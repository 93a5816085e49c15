"""A user's back end: an HTTP server that a test says the answers of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from standardwebhooks import Webhook
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

RAW_SECRET = "a secret between the two, of 32 bytes and more"
SECRET = "whsec_" + base64.b64encode(b"a secret of the specification 1 2 3").decode()


class Asked(NamedTuple):
    path: str
    headers: HTTPHeaders
    body: bytes

    @property
    def question(self) -> Any:
        return json.loads(self.body)

    def verify(self) -> None:
        """Raise if it is not signed as its headers say, with one of the two secrets, and now."""
        if "webhook-id" in self.headers:
            Webhook(SECRET).verify(self.body, {name.lower(): value for name, value in self.headers.items()})
            return
        sent = self.headers["Waterspout-Timestamp"]
        assert abs(time.time() - int(sent)) < 5
        signed = hmac.new(RAW_SECRET.encode(), sent.encode() + b"." + self.body, hashlib.sha256).hexdigest()
        assert self.headers["Waterspout-Signature"] == f"v1={signed}"


class Answer(NamedTuple):
    status: int = 200
    body: Any = b""
    """`bytes`, or what becomes JSON."""
    headers: Mapping[str, str] = MappingProxyType({})


Rule = Callable[[Asked], Any]


class BackEnd:
    """`rule(asked)`, which may be a coroutine, gives an `Answer`, or a value that is answered as JSON. Every request is
    verified, and kept in `asked`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.rule: Rule = lambda asked: {}
        self._listener, self.port = bind_unused_port()
        self.url = f"http://127.0.0.1:{self.port}/ask"
        backend = self

        class Handler(RequestHandler):
            async def post(self) -> None:
                asked = Asked(self.request.path, self.request.headers, self.request.body)
                asked.verify()
                backend.asked.append(asked)
                answer = backend.rule(asked)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if not isinstance(answer, Answer):
                    answer = Answer(200, answer)
                self.set_status(answer.status)
                for name, value in answer.headers.items():
                    self.set_header(name, value)
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                if answer.status != 204:
                    self.write(body)

        self._server = HTTPServer(Application([(".*", Handler)]))
        self._server.add_sockets([self._listener])

    def stop(self) -> None:
        self._server.stop()
        self._listener.close()
