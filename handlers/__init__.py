"""The doors: the only code that knows Tornado. The route table is here, one file a door beside it."""

from __future__ import annotations

import os
from typing import Any

from tornado.routing import Rule

from handlers import accounts, auth, consumers, passkeys
from handlers.bans import BanList, BanUser, UnbanUser, UserBanLog
from handlers.base import BaseHandler
from handlers.calls import Call
from handlers.capabilities import Capabilities
from handlers.channels import Batch, Message, Messages, Polls
from handlers.documentation import TEMPLATE, DocumentationPage, SearchIndex
from handlers.documents import Batch as DocumentBatch
from handlers.documents import Document, Documents
from handlers.events import ChannelEvents, JoinedEvents, Tickets
from handlers.members import ChannelMember, ChannelMembers, Joining
from handlers.openapi import OpenApi, document
from handlers.operators import ChannelList, Nodes, Recent, StoredChannels
from handlers.ops import Health, Metrics, Readiness
from handlers.origins import Hosts
from handlers.own_pages import POLICY, Fallback, OwnFiles, OwnPage
from handlers.pages import ROOT, STATIC, Page, PageFolder
from handlers.presence import Presence
from handlers.reactions import Reaction
from handlers.rooms import Marker, MyBlock, MyBlocks, MyRooms
from handlers.routing import Doors
from handlers.scheduled import ScheduledMessage, ScheduledMessages
from handlers.search import Found
from handlers.site import Site
from handlers.users import DisconnectUser, RevokeUser, SubscribeUser, UnsubscribeUser, UnsubscribeUserFrom, UserData
from handlers.websocket import WebSocketHandler
from server.core.config import Config
from server.core.errors import StartError
from server.metrics import registry
from server.node import Node
from server.wire.codec import JSON

ROUTES: dict[str, type[BaseHandler]] = {
    "/v1/ws": WebSocketHandler,
    "/v1/channels/{channel}": Capabilities,
    "/v1/channels/{channel}/messages": Messages,
    "/v1/channels/{channel}/messages/{offset}": Message,
    "/v1/channels/{channel}/events": ChannelEvents,
    "/v1/channels/{channel}/presence": Presence,
    "/v1/channels/{channel}/join": Joining,
    "/v1/channels/{channel}/members": ChannelMembers,
    "/v1/channels/{channel}/members/{user}": ChannelMember,
    "/v1/channels/{channel}/read": Marker,
    "/v1/rooms": MyRooms,
    "/v1/blocks": MyBlocks,
    "/v1/blocks/{user}": MyBlock,
    "/v1/channels": ChannelList,
    "/v1/stored": StoredChannels,
    "/v1/events": JoinedEvents,
    "/v1/poll": Polls,
    "/v1/publish": Batch,
    "/v1/scheduled": ScheduledMessages,
    "/v1/scheduled/{scheduled}": ScheduledMessage,
    "/v1/call/{method}": Call,
    "/v1/tickets": Tickets,
    "/v1/nodes": Nodes,
    "/v1/nodes/recent": Recent,
    "/v1/documents/{collection}:batch": DocumentBatch,
    "/v1/documents/{collection}": Documents,
    "/v1/documents/{collection}/{document_id}": Document,
    "/v1/channels/{channel}/messages/{offset}/reactions/{kind}": Reaction,
    "/v1/channels/{channel}/unsubscribe": UnsubscribeUser,
    "/v1/search": Found,
    "/v1/bans": BanList,
    "/v1/users/{user}/ban": BanUser,
    "/v1/users/{user}/unban": UnbanUser,
    "/v1/users/{user}/bans": UserBanLog,
    "/v1/users/{user}/data": UserData,
    "/v1/users/{user}/disconnect": DisconnectUser,
    "/v1/users/{user}/revoke": RevokeUser,
    "/v1/users/{user}/subscribe": SubscribeUser,
    "/v1/users/{user}/unsubscribe": UnsubscribeUserFrom,
    **consumers.ROUTES,
    **auth.ROUTES,
    **passkeys.ROUTES,
    **accounts.ROUTES,
    "/healthz": Health,
    "/readyz": Readiness,
    "/metrics": Metrics,
    "/openapi.json": OpenApi,
}


def make_app(node: Node) -> Doors:
    server, auth = node.config.server, node.config.auth
    hosts = Hosts(server.host, server.hosts, lets_in=auth.guests or auth.accounts)
    site = Site(node, hosts, registry(node), keyless=False, describe=lambda: JSON.encode(document(ROUTES)))
    routes = dict(ROUTES)
    if node.config.centrifugo.enabled:
        # Here, so that a start without it loads nothing of it.
        from handlers import centrifugo, centrifugo_api
        from server.centrifugo.door import Centrifugo

        site.centrifugo = Centrifugo(node)
        routes |= centrifugo.routes(node.config)
        if node.config.centrifugo.api:
            routes |= centrifugo_api.ROUTES
    first, last = _own_pages(node.config)
    return Doors(site, routes, [*first, *_pages(), *last])


def _pages() -> list[Any]:
    """The server's own."""
    return [
        (r"/docs/search\.json()", SearchIndex, {"path": str(TEMPLATE)}),
        (r"/docs()", Page, {"path": str(STATIC / "docs.html")}),
        (r"/()", Page, {"path": str(STATIC), "default_filename": "index.html"}),
        Rule(PageFolder(STATIC), Page, {"path": str(STATIC), "default_filename": "index.html"}),
        (r"/((?:README|CHANGELOG|docs/[\w-]+|clients/python/README)\.md)", DocumentationPage, {"path": str(ROOT)}),
        (r"/(LICENSE|docs/images/[\w-]+\.png|bench/results/\w+\.svg)", Page, {"path": str(ROOT)}),
        (r"/static/(.*)", Page, {"path": str(STATIC)}),
        (r"/favicon\.ico()", Page, {"path": str(STATIC / "icon.svg")}),
    ]


def _own_pages(config: Config) -> tuple[list[Rule], list[Rule]]:
    """What is looked for ahead of the server's own, and behind them."""
    if config.server.pages is None:
        return [], []
    root = os.path.realpath(config.server.pages)
    if not os.path.isdir(root):
        raise StartError(f"configuration: server.pages: {config.server.pages} is not a folder")
    kind = {"path": root, "default_filename": "index.html", "policy": config.server.pages_policy or POLICY}
    return [Rule(OwnFiles(root), OwnPage, kind)], [Rule(Fallback(root), OwnPage, kind)]


def make_metrics_app(node: Node) -> Doors:
    """For a port of its own, which only the operator can reach: no key is asked for."""
    hosts = Hosts(node.config.metrics.host, node.config.server.hosts, lets_in=True)
    site = Site(node, hosts, registry(node), keyless=True)
    return Doors(site, {"/metrics": Metrics, "/healthz": Health, "/readyz": Readiness})
