"""From a request to the handler of its path; pages are files, and Tornado's to serve."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from handlers.base import BaseHandler, NotFound
from handlers.headers import Headers
from handlers.pages import log_page
from handlers.request import Request
from handlers.server import RequestConnection
from handlers.site import Site
from server.access.admission import Visit


class Routes:
    """Paths with their parameters in braces → handlers, tried in the order in which they stand."""

    def __init__(self, routes: Mapping[str, type[BaseHandler]]) -> None:
        self._fixed = {path: handler for path, handler in routes.items() if "{" not in path}
        self._handlers: dict[int, tuple[type[BaseHandler], int]] = {}
        patterns, group = [], 1
        for path, handler in routes.items():
            if path not in self._fixed:
                patterns.append("(" + re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)) + ")")
                self._handlers[group] = handler, path.count("{")
                group += 1 + path.count("{")
        self._pattern = re.compile("|".join(patterns) or r"(?!)")

    def find(self, path: str) -> tuple[type[BaseHandler], tuple[str, ...]] | None:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, ()
        found = self._pattern.fullmatch(path)
        if found is None or found.lastindex is None:
            return None
        handler, count = self._handlers[found.lastindex]  # the outermost group closes last
        groups = found.groups()
        return handler, groups[found.lastindex : found.lastindex + count]


class Pages(Application):
    """Files. What is none of them is not Tornado's to answer."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        return self.default_router.find_handler(request, **kwargs)


class Doors:
    """All that one port answers to."""

    def __init__(self, site: Site, routes: Mapping[str, type[BaseHandler]], pages: Sequence[Any] = ()) -> None:
        self.site = site
        self.routes = Routes(routes)
        self.pages = Pages(list(pages), log_function=log_page, site=site)

    def visit(self, peer: str) -> Visit | None:
        """A seat for a connection of this address; `limit_exceeded` if there is none. The operator's port has no
        limit."""
        site = self.site
        return None if site.keyless else site.node.admission.visit(peer, proxied=peer in site.proxies)

    def exchange(self, connection: RequestConnection) -> HTTPMessageDelegate:
        return Exchange(self, connection)


class Exchange(HTTPMessageDelegate):
    """One request and its answer."""

    __slots__ = ("_doors", "_connection", "_handler", "_page")

    def __init__(self, doors: Doors, connection: RequestConnection) -> None:
        self._doors = doors
        self._connection = connection
        self._handler: BaseHandler | None = None
        self._page: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        doors = self._doors
        request = Request(self._connection, start_line, self._connection.headers or Headers(headers))
        found = doors.routes.find(request.path)
        if found is None:
            if doors.site.hosts.knows(request.host_name) and request.context.refusal is None:
                self._page = doors.pages.find_handler(
                    HTTPServerRequest(connection=self._connection, start_line=start_line, headers=headers)
                )
                if self._page is not None:
                    return self._page.headers_received(start_line, headers)
            found = NotFound, ()
        kind, path = found
        self._handler = handler = kind(doors.site, request, path)
        return handler.begin()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._page is not None:
            return self._page.data_received(chunk)
        if self._handler is not None:
            self._handler.receive(chunk)
        return None

    def finish(self) -> None:
        if self._page is not None:
            self._page.finish()
        elif self._handler is not None:
            self._doors.site.keeper.spawn("request", self._handler.run())

    def on_connection_close(self) -> None:
        if self._page is not None:
            self._page.on_connection_close()
        elif self._handler is not None:  # or the request was none
            self._handler.forget_body()
