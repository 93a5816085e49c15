"""Commands that are a question and an answer, and change nothing of the session that asks: each with its use case.

A new one is a struct in wire/commands.py, a place among its neighbours in lanes.py, and a function here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from server.core.principals import Principal
from server.node import Node
from server.sessions.client import ConnectedClient
from server.wire.commands import (
    Ack,
    Amend,
    Block,
    BlockCommand,
    Call,
    Cancel,
    Delete,
    Fetch,
    Find,
    Get,
    History,
    Join,
    LaterCommand,
    Leave,
    ListBlocks,
    ListMembers,
    Nack,
    Patch,
    Prefer,
    Presence,
    Put,
    React,
    Read,
    RoomCommand,
    Schedule,
    Search,
    SetMember,
    WorkCommand,
    WriteCommand,
    chosen,
)

Answer = Mapping[str, Any]
"""The fields of the reply."""
Paged = History | Presence | Find | ListMembers | Search
"""What is answered with a page: one at a time, as none may be dropped."""
Request = (
    Paged | Amend | React | Get | Put | Patch | Delete | RoomCommand | BlockCommand | Call | WorkCommand | LaterCommand
)


def answer(node: Node, principal: Principal, request: Request, client: ConnectedClient) -> Awaitable[Answer]:
    """Raises what says why not."""
    return _USE_CASES[type(request)](node, principal, request, client)


async def _history(node: Node, principal: Principal, request: History, client: ConnectedClient) -> Answer:
    page = await node.history.page(
        principal, request.channel, after=request.after, before=request.before, limit=request.limit,
        where=request.where, address=client.address,
    )  # fmt: skip
    return {"channel": request.channel, **page}


async def _amend(node: Node, principal: Principal, request: Amend, client: ConnectedClient) -> Answer:
    receipt = await node.amender.amend(
        principal, request.channel, request.of, request.amending(), key=request.key, address=client.address
    )
    return {"channel": request.channel, **receipt.fields()}


async def _react(node: Node, principal: Principal, request: React, client: ConnectedClient) -> Answer:
    channel, of, kind, on = request.channel, request.of, request.kind, request.on
    at = await node.reactions.react(principal, channel, of, kind, on, address=client.address)
    return {"channel": channel, "of": of, "kind": kind, "on": on, "at": at}


async def _presence(node: Node, principal: Principal, request: Presence, client: ConnectedClient) -> Answer:
    page = await node.presence.show(principal, request.channel, request.left, address=client.address)
    return {"channel": request.channel, **page}


async def _find(node: Node, principal: Principal, request: Find, client: ConnectedClient) -> Answer:
    return await node.documents.find(principal, request, address=client.address)


async def _get(node: Node, principal: Principal, request: Get, client: ConnectedClient) -> Answer:
    document = await node.documents.get(principal, request.collection, request.document_id, address=client.address)
    return {"document": document}


async def _write(node: Node, principal: Principal, request: WriteCommand, client: ConnectedClient) -> Answer:
    written = await node.documents.write(principal, request.collection, request.write(), address=client.address)
    return written.fields()


async def _join(node: Node, principal: Principal, request: Join, client: ConnectedClient) -> Answer:
    role = await node.rooms.of(request.channel).join(principal, request.channel, address=client.address)
    return {"channel": request.channel, "user": principal.user, "role": role}


async def _leave(node: Node, principal: Principal, request: Leave, client: ConnectedClient) -> Answer:
    await node.rooms.of(request.channel).leave(principal, request.channel, address=client.address)
    return {"channel": request.channel, "user": principal.user, "role": None}


async def _set_member(node: Node, principal: Principal, request: SetMember, client: ConnectedClient) -> Answer:
    channel, user = request.channel, request.user
    role = await node.rooms.of(request.channel).set_role(principal, channel, user, request.role, address=client.address)
    return {"channel": channel, "user": user, "role": role}


async def _prefer(node: Node, principal: Principal, request: Prefer, client: ConnectedClient) -> Answer:
    return await node.rooms.of(request.channel).prefer(
        principal, request.channel, request.user, chosen(mute=request.mute, pin=request.pin), address=client.address
    )


async def _members(node: Node, principal: Principal, request: ListMembers, client: ConnectedClient) -> Answer:
    page = await node.rooms.of(request.channel).page(
        principal, request.channel, request.after, request.limit, address=client.address
    )
    return {"channel": request.channel, **page}


async def _search(node: Node, principal: Principal, request: Search, client: ConnectedClient) -> Answer:
    return await node.search.find(
        principal, request.q, request.channels, request.after, request.limit, address=client.address
    )


async def call(node: Node, principal: Principal, request: Call, client: ConnectedClient) -> Answer:
    """The answer of the user's back end; it is given up when the client goes."""
    calling = node.calls.call(
        principal, request.method, request.data, request.key, session=client.id, address=client.address
    )
    return {"data": await client.while_connected(calling)}


async def _fetch(node: Node, principal: Principal, request: Fetch, client: ConnectedClient) -> Answer:
    """Nothing is handed out to who has gone."""
    fetching = node.workers.fetch(principal, request.consumer, request.limit, request.wait)
    return await client.while_connected(fetching)


async def _ack(node: Node, principal: Principal, request: Ack, client: ConnectedClient) -> Answer:
    return await node.workers.ack(principal, request.consumer, request.ids)


async def _nack(node: Node, principal: Principal, request: Nack, client: ConnectedClient) -> Answer:
    return await node.workers.nack(principal, request.consumer, request.ids, request.delay)


async def _read(node: Node, principal: Principal, request: Read, client: ConnectedClient) -> Answer:
    cursor = await node.rooms.markers.read(
        principal, request.channel, request.cursor, back=request.set, address=client.address
    )
    return {"channel": request.channel, "cursor": str(cursor)}


async def _block(node: Node, principal: Principal, request: Block, client: ConnectedClient) -> Answer:
    await node.rooms.blocks.set(principal, request.user, request.on, address=client.address)
    return {"user": request.user, "blocked": request.on}


async def _blocks(node: Node, principal: Principal, request: ListBlocks, client: ConnectedClient) -> Answer:
    return {"blocked": await node.rooms.blocks.list(principal, address=client.address)}


async def _schedule(node: Node, principal: Principal, request: Schedule, client: ConnectedClient) -> Answer:
    done = await node.scheduler.publish(
        principal, request.channel, request.data, request.at, request.key, request.mentions, address=client.address
    )
    return {"channel": request.channel, **(done.fields() if done else {})}


async def _cancel(node: Node, principal: Principal, request: Cancel, client: ConnectedClient) -> Answer:
    await node.scheduler.cancel(principal, request.scheduled)
    return {}


_USE_CASES: Final[Mapping[type[Request], Callable[[Node, Principal, Any, ConnectedClient], Awaitable[Answer]]]] = {
    History: _history,
    Amend: _amend,
    React: _react,
    Presence: _presence,
    Find: _find,
    Get: _get,
    Put: _write,
    Patch: _write,
    Delete: _write,
    Call: call,
    Join: _join,
    Leave: _leave,
    SetMember: _set_member,
    Prefer: _prefer,
    ListMembers: _members,
    Search: _search,
    Fetch: _fetch,
    Ack: _ack,
    Nack: _nack,
    Read: _read,
    Block: _block,
    ListBlocks: _blocks,
    Schedule: _schedule,
    Cancel: _cancel,
}
