"""Centrifugo's server API: what back ends ask for, carried out by the use cases that everybody else's requests go to.

    {"result": {…}}    or    {"error": {"code", "message"}}

An API key with `admin` may subscribe, unsubscribe, disconnect and refresh users, remove histories and look around; for
publishing and reading a key needs the rights of the channels, as in our own REST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from server.brokers.base import Directive
from server.centrifugo.api_requests import (
    BatchRequest,
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectRequest,
    HistoryRequest,
    Payload,
    PublishRequest,
    RefreshRequest,
    RpcRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    decoded,
)
from server.centrifugo.codes import METHOD_NOT_FOUND, CodedError, error_fields
from server.centrifugo.door import Centrifugo
from server.centrifugo.history import read
from server.centrifugo.replies import presence, presence_stats
from server.core.errors import Error, bad_request
from server.core.names import SYSTEM, fits, namespace_of
from server.core.principals import Principal
from server.log.log import Receipt
from server.node import Node
from server.presence.service import Present
from server.wire.commands import MAX_PAGE, convert

Fields = dict[str, Any]
Publishing = asyncio.Future[Receipt | None] | None

_RECONNECT: Final = (range(3000, 3500), range(4000, 4500))
"""Close codes after which their clients come back."""


class Caller:
    """A back end with one request, which has the name `request`: what it publishes keeps its order."""

    def __init__(self, door: Centrifugo, node: Node, principal: Principal, address: str, request: str) -> None:
        self._node = node
        self._names = door.names
        self._publishers = door.publishers
        self._directives = node.directives
        self._principal = principal
        self._address = address
        self._request = request
        self._methods: dict[str, tuple[Any, Callable[[Any], Awaitable[Fields]]]] = {
            "publish": (PublishRequest, self._publish),
            "broadcast": (BroadcastRequest, self._broadcast),
            "subscribe": (SubscribeRequest, self._subscribe),
            "unsubscribe": (UnsubscribeRequest, self._unsubscribe),
            "disconnect": (DisconnectRequest, self._disconnect),
            "refresh": (RefreshRequest, self._refresh),
            "presence": (ChannelRequest, self._presence),
            "presence_stats": (ChannelRequest, self._presence_stats),
            "history": (HistoryRequest, self._history),
            "history_remove": (ChannelRequest, self._history_remove),
            "info": (dict[str, Any], self._info),
            "rpc": (RpcRequest, self._rpc),
            "channels": (ChannelsRequest, self._channels),
        }

    async def call(self, method: str, params: Any) -> Fields:
        """The result of one method; Error if there is none."""
        kind, carry_out = self._find(method)
        return await carry_out(convert(params, kind))

    async def batch(self, params: Any) -> list[Fields]:
        """[{METHOD: result} or {"error"}], in the order of the commands: each is refused by itself. One after another,
        unless they are said to be independent."""
        request: BatchRequest = convert(params, BatchRequest)
        if request.parallel:
            return await asyncio.gather(*map(self._reply, request.commands))
        return [await self._reply(command) for command in request.commands]

    def _find(self, method: str) -> tuple[Any, Callable[[Any], Awaitable[Fields]]]:
        found = self._methods.get(method)
        if found is None:
            raise CodedError(METHOD_NOT_FOUND, "not_found", f"method: one of {', '.join(self._methods)}, batch")
        return found

    async def _reply(self, command: Fields) -> Fields:
        try:
            if len(command) != 1:
                raise bad_request("commands: each is an object with one method in it")
            ((method, params),) = command.items()
            return {method: await self.call(method, params)}
        except Error as error:
            return self._refusal(error)

    def _refusal(self, error: Error) -> Fields:
        self._node.incidents.refused(error, self._principal, self._address)
        return {"error": error_fields(error)}

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _start(self, name: str, data: Any, payload: Payload) -> Publishing:
        return self._node.publisher.publish(
            self._principal,
            self._names.ours(name),
            data,
            payload.idempotency_key or None,
            ephemeral=payload.skip_history,
            session=self._request,
            address=self._address,
        )

    async def _publish(self, request: PublishRequest) -> Fields:
        return await _stored(self._start(request.channel, request.value(), request))

    async def _broadcast(self, request: BroadcastRequest) -> Fields:
        data = request.value()
        started: list[Publishing | Error] = []
        for name in request.channels:  # all are under way, in order, before one is waited for
            try:
                started.append(self._start(name, data, request))
            except Error as error:
                started.append(error)
        return {"responses": [await self._response(one) for one in started]}

    async def _response(self, publishing: Publishing | Error) -> Fields:
        try:
            if isinstance(publishing, Error):
                raise publishing
            return {"result": await _stored(publishing)}
        except Error as error:
            return self._refusal(error)

    # --- users --------------------------------------------------------------------------------------------------------

    async def _subscribe(self, request: SubscribeRequest) -> Fields:
        request.check()
        channel = self._names.ours(request.channel)
        if namespace_of(channel) not in self._node.config.namespaces:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        info = decoded("b64info", request.b64info) if request.b64info else request.info
        data = decoded("b64data", request.b64data) if request.b64data else request.data
        what = Directive("subscribe", request.user, request.one(), channel=channel, info=info, data=data)
        self._directives.issue(self._principal, what)
        return {}

    async def _refresh(self, request: RefreshRequest) -> Fields:
        expires = float(request.expire_at) or None
        what = Directive("refresh", request.user, request.one(), expires=expires, expired=request.expired)
        self._directives.issue(self._principal, what)
        return {}

    async def _unsubscribe(self, request: UnsubscribeRequest) -> Fields:
        channel = self._names.ours(request.channel)
        moderation = self._node.moderation
        await moderation.unsubscribe(self._principal, channel, request.user, "", session=request.one())
        return {}

    async def _disconnect(self, request: DisconnectRequest) -> Fields:
        farewell = request.disconnect
        await self._node.moderation.disconnect(
            self._principal,
            request.user,
            "" if farewell is None else farewell.reason,
            reconnect=farewell is not None and any(farewell.code in codes for codes in _RECONNECT),
            code=None if farewell is None else farewell.code,
            session=request.one(),
            spared=request.whitelist,
        )
        return {}

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _present(self, request: ChannelRequest) -> Present:
        channel = self._names.ours(request.channel)
        return await self._node.presence.clients(self._principal, channel, address=self._address)

    async def _presence(self, request: ChannelRequest) -> Fields:
        return presence(await self._present(request))

    async def _presence_stats(self, request: ChannelRequest) -> Fields:
        return presence_stats(await self._present(request))

    async def _history(self, request: HistoryRequest) -> Fields:
        since = None if request.since is None else (request.since.offset, request.since.epoch)
        messages, head = await read(
            self._node.history,
            self._principal,
            self._names.ours(request.channel),
            limit=request.limit,
            since=since,
            reverse=request.reverse,
            address=self._address,
        )
        publications = [self._publishers.publication(message) for message in messages]
        return {"publications": publications, "offset": head.offset, "epoch": head.epoch}

    async def _history_remove(self, request: ChannelRequest) -> Fields:
        await self._node.history.remove(self._principal, self._names.ours(request.channel))
        return {}

    # --- operators ----------------------------------------------------------------------------------------------------

    async def _info(self, request: Fields) -> Fields:
        nodes = self._node.directory.nodes(self._principal)["nodes"]
        return {
            "nodes": [
                {
                    "uid": node["node"],
                    "name": node["node"],
                    "version": node["version"],
                    "num_clients": node["connections"],
                    "num_users": node.get("users", 0),  # a node of an earlier version does not say it
                    "num_subs": node["subscriptions"],
                    "num_channels": node["channels"],
                    "uptime": node["uptime"],
                }
                for node in nodes
            ]
        }

    async def _channels(self, request: ChannelsRequest) -> Fields:
        """`pattern` has `*` for any characters."""
        found: Fields = {}
        after: str | None = ""
        while after is not None:
            page = await self._node.directory.channels(self._principal, "", after, MAX_PAGE)
            for row in page["channels"]:
                name = self._names.theirs(row["channel"])
                if not name.startswith(SYSTEM) and fits(request.pattern or "*", name):
                    found[name] = {"num_clients": row["subscribers"]}
            after = page["next"]
        return {"channels": found}

    async def _rpc(self, request: RpcRequest) -> Fields:
        calls = self._node.calls
        return {"data": await calls.call(self._principal, request.method, request.params, address=self._address)}


async def _stored(publishing: Publishing) -> Fields:
    """Where the message is; nothing of one that is not stored."""
    receipt = None if publishing is None else await publishing
    return {} if receipt is None else {"offset": receipt.position.offset, "epoch": receipt.position.epoch}
