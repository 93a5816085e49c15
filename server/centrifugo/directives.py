"""What back ends do with clients that are connected: subscribe them to a channel, and say how long they may stay."""

from __future__ import annotations

import logging

from msgspec import UNSET

from server.access.rights import must_be_admin
from server.brokers.base import Directive
from server.centrifugo.session import CentrifugoSession
from server.core.errors import TOKEN_EXPIRED, Disconnect
from server.core.principals import Principal
from server.node import Node

logger = logging.getLogger(__name__)


class Directives:
    """Of one node: its sessions, and the word that it gives the others. Clients of other protocols have no word for
    either, and are left alone."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.peers.on_directive = self._carry_out

    def issue(self, principal: Principal, directive: Directive) -> None:
        """Carry it out here, and have the other nodes do it. For API keys that are `admin`."""
        must_be_admin(principal)
        self._node.lifecycle.check_leaving()
        self._node.announcer.announce(directive=directive)
        self._carry_out(directive)

    def _carry_out(self, directive: Directive) -> None:
        for client in tuple(self._node.admission.users.get(directive.user, ())):
            if not isinstance(client, CentrifugoSession) or directive.session not in (None, client.id):
                continue
            try:
                self._do(directive, client)
            except Exception:  # a bug, but this one's alone
                logger.exception("%r: what a back end wants of it failed", client)

    def _do(self, directive: Directive, client: CentrifugoSession) -> None:
        if directive.action == "subscribe":
            data = UNSET if directive.data is None else directive.data
            client.serve_subscription(directive.channel, info=directive.info, data=data)
        elif directive.expired:
            client.disconnect(Disconnect(TOKEN_EXPIRED, "the back end says that it has expired"))
        else:
            client.prolong(directive.expires)
