"""The doors: the only code that knows Tornado. The route table is here, one file a door beside it."""

from __future__ import annotations

from pathlib import Path

from tornado.web import Application

from handlers.auth import Login, Logout, Refresh, Register
from handlers.base import NotFound
from handlers.channels import Messages
from handlers.nodes import ChannelList, Nodes
from handlers.ops import Health, Metrics, Page, Readiness, log_request
from handlers.presence import Presence
from handlers.users import DisconnectUser, RevokeUser, UnsubscribeUser
from handlers.websocket import WebSocketHandler
from server.metrics import registry
from server.node import Node

STATIC = Path(__file__).resolve().parents[1] / "static"


def make_app(node: Node) -> Application:
    with_node = {"node": node}
    return Application(
        [
            (r"/v1/ws", WebSocketHandler, with_node),
            (r"/v1/channels/([^/]+)/messages", Messages, with_node),
            (r"/v1/channels/([^/]+)/presence", Presence, with_node),
            (r"/v1/channels", ChannelList, with_node),
            (r"/v1/nodes", Nodes, with_node),
            (r"/v1/channels/([^/]+)/unsubscribe", UnsubscribeUser, with_node),
            (r"/v1/users/([^/]+)/disconnect", DisconnectUser, with_node),
            (r"/v1/users/([^/]+)/revoke", RevokeUser, with_node),
            (r"/v1/auth/register", Register, with_node),
            (r"/v1/auth/login", Login, with_node),
            (r"/v1/auth/refresh", Refresh, with_node),
            (r"/v1/auth/logout", Logout, with_node),
            (r"/healthz", Health, with_node),
            (r"/readyz", Readiness, with_node),
            (r"/metrics", Metrics, with_node | {"registry": registry(node)}),
            (r"/()", Page, {"path": str(STATIC), "default_filename": "index.html"}),
            (r"/(console/?)", Page, {"path": str(STATIC), "default_filename": "index.html"}),
            (r"/static/(.*)", Page, {"path": str(STATIC)}),
        ],
        default_handler_class=NotFound,
        default_handler_args=with_node,
        log_function=log_request,
    )


def make_metrics_app(node: Node) -> Application:
    """For a port of its own, which only the operator can reach: no key is asked for."""
    with_node = {"node": node}
    return Application(
        [
            (r"/metrics", Metrics, with_node | {"registry": registry(node), "keyless": True}),
            (r"/healthz", Health, with_node),
            (r"/readyz", Readiness, with_node),
        ],
        default_handler_class=NotFound,
        default_handler_args=with_node,
        log_function=log_request,
    )
