"""The doors: the only code that knows Tornado. The route table is here, one file a door beside it."""

from __future__ import annotations

import os
import re
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule
from tornado.web import Application

from handlers.auth import Login, Logout, Refresh, Register
from handlers.base import BaseHandler, Compressed, Misdirected, NotFound
from handlers.channels import Batch, Messages, Polls
from handlers.documentation import DocumentationPage
from handlers.documents import Batch as DocumentBatch
from handlers.documents import Document, Documents
from handlers.events import ChannelEvents, JoinedEvents, Tickets
from handlers.nodes import ChannelList, Nodes
from handlers.openapi import OpenApi, document
from handlers.ops import ROOT, STATIC, Health, Metrics, Page, Readiness, log_request
from handlers.origins import Hosts, Origins
from handlers.presence import Presence
from handlers.users import DisconnectUser, RevokeUser, UnsubscribeUser
from handlers.websocket import WebSocketHandler
from server.metrics import registry
from server.node import Node
from server.sessions.turns import Turns
from server.wire.codec import JSON

ROUTES: dict[str, type[BaseHandler]] = {
    "/v1/ws": WebSocketHandler,
    "/v1/channels/{channel}/messages": Messages,
    "/v1/channels/{channel}/events": ChannelEvents,
    "/v1/channels/{channel}/presence": Presence,
    "/v1/channels": ChannelList,
    "/v1/events": JoinedEvents,
    "/v1/poll": Polls,
    "/v1/publish": Batch,
    "/v1/tickets": Tickets,
    "/v1/nodes": Nodes,
    "/v1/documents/{collection}:batch": DocumentBatch,
    "/v1/documents/{collection}": Documents,
    "/v1/documents/{collection}/{document_id}": Document,
    "/v1/channels/{channel}/unsubscribe": UnsubscribeUser,
    "/v1/users/{user}/disconnect": DisconnectUser,
    "/v1/users/{user}/revoke": RevokeUser,
    "/v1/auth/register": Register,
    "/v1/auth/login": Login,
    "/v1/auth/refresh": Refresh,
    "/v1/auth/logout": Logout,
    "/healthz": Health,
    "/readyz": Readiness,
    "/metrics": Metrics,
    "/openapi.json": OpenApi,
}


class PageFolder(PathMatches):
    """`/chat/` is static/chat/index.html, `/chat/chat.js` lies beside it; every folder there that has an index.html is
    a page, your own too."""

    def __init__(self) -> None:
        super().__init__(r"/([a-z][\w-]*(?:/.*)?)")

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        return found if found and os.path.isfile(STATIC / request.path.split("/")[1] / "index.html") else None


class Site(Application):
    """All the doors of one port. Who calls the server by a foreign name finds every one of them shut."""

    def __init__(self, node: Node, hosts: Hosts, rules: list[Any]) -> None:
        self._hosts = hosts
        self._misdirected = {"node": node}
        super().__init__(
            rules,
            default_handler_class=NotFound,
            default_handler_args={"node": node},
            log_function=log_request,
            origins=Origins(node.config),
        )
        self.add_transform(Compressed)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if self._hosts.knows(request.host_name):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, Misdirected, self._misdirected)


def make_app(node: Node) -> Application:
    own: dict[type, dict[str, Any]] = {
        Metrics: {"registry": registry(node)},
        OpenApi: {"document": JSON.encode(document(ROUTES))},
        WebSocketHandler: {"turns": Turns()},
    }
    server, auth = node.config.server, node.config.auth
    return Site(
        node,
        Hosts(server.host, server.hosts, lets_in=auth.guests or auth.accounts),
        [
            *(
                (re.sub(r"{\w+}", "([^/]+)", path.replace(".", r"\.")), handler, {"node": node, **own.get(handler, {})})
                for path, handler in ROUTES.items()
            ),
            (r"/docs()", Page, {"path": str(STATIC / "docs.html")}),
            (r"/()", Page, {"path": str(STATIC), "default_filename": "index.html"}),
            Rule(PageFolder(), Page, {"path": str(STATIC), "default_filename": "index.html"}),
            (r"/((?:README|CHANGELOG|docs/[\w-]+|clients/python/README)\.md)", DocumentationPage, {"path": str(ROOT)}),
            (r"/(LICENSE|docs/images/[\w-]+\.png|bench/results/\w+\.svg)", Page, {"path": str(ROOT)}),
            (r"/static/(.*)", Page, {"path": str(STATIC)}),
            (r"/favicon\.ico()", Page, {"path": str(STATIC / "icon.svg")}),
        ],
    )


def make_metrics_app(node: Node) -> Application:
    """For a port of its own, which only the operator can reach: no key is asked for."""
    with_node = {"node": node}
    return Site(
        node,
        Hosts(node.config.metrics.host, node.config.server.hosts, lets_in=True),
        [
            (r"/metrics", Metrics, with_node | {"registry": registry(node), "keyless": True}),
            (r"/healthz", Health, with_node),
            (r"/readyz", Readiness, with_node),
        ],
    )
