"""Commands that are a question and an answer, and change nothing of the session that asks: each with its use case.

A new one is a struct in wire/commands.py, a place among its neighbours in lanes.py, and a function here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from server.core.principals import Principal
from server.node import Node
from server.wire.commands import (
    Amend,
    Delete,
    Find,
    Get,
    History,
    Join,
    Leave,
    ListMembers,
    Patch,
    Presence,
    Put,
    RoomCommand,
    SetMember,
    WriteCommand,
)

Answer = Mapping[str, Any]
"""The fields of the reply."""
Paged = History | Presence | Find | ListMembers
"""What is answered with a page: one at a time, as none may be dropped."""
Request = Paged | Amend | Get | Put | Patch | Delete | RoomCommand


async def answer(node: Node, principal: Principal, request: Request, address: str) -> Answer:
    """`address`: where it comes from. Raises what says why not."""
    return await _USE_CASES[type(request)](node, principal, request, address)


async def _history(node: Node, principal: Principal, request: History, address: str) -> Answer:
    page = await node.history.page(
        principal, request.channel, after=request.after, before=request.before, limit=request.limit,
        where=request.where, address=address,
    )  # fmt: skip
    return {"channel": request.channel, **page}


async def _amend(node: Node, principal: Principal, request: Amend, address: str) -> Answer:
    receipt = await node.amender.amend(
        principal, request.channel, request.of, request.amending(), key=request.key, address=address
    )
    return {"channel": request.channel, **receipt.fields()}


async def _presence(node: Node, principal: Principal, request: Presence, address: str) -> Answer:
    page = await node.presence.show(principal, request.channel, request.left, address=address)
    return {"channel": request.channel, **page}


async def _find(node: Node, principal: Principal, request: Find, address: str) -> Answer:
    return await node.documents.find(principal, request, address=address)


async def _get(node: Node, principal: Principal, request: Get, address: str) -> Answer:
    document = await node.documents.get(principal, request.collection, request.document_id, address=address)
    return {"document": document}


async def _write(node: Node, principal: Principal, request: WriteCommand, address: str) -> Answer:
    written = await node.documents.write(principal, request.collection, request.write(), address=address)
    return written.fields()


async def _join(node: Node, principal: Principal, request: Join, address: str) -> Answer:
    role = await node.rooms.members.join(principal, request.channel, address=address)
    return {"channel": request.channel, "user": principal.user, "role": role}


async def _leave(node: Node, principal: Principal, request: Leave, address: str) -> Answer:
    await node.rooms.members.leave(principal, request.channel, address=address)
    return {"channel": request.channel, "user": principal.user, "role": None}


async def _set_member(node: Node, principal: Principal, request: SetMember, address: str) -> Answer:
    channel, user = request.channel, request.user
    role = await node.rooms.members.set_role(principal, channel, user, request.role, address=address)
    return {"channel": channel, "user": user, "role": role}


async def _members(node: Node, principal: Principal, request: ListMembers, address: str) -> Answer:
    page = await node.rooms.members.page(principal, request.channel, request.after, request.limit, address=address)
    return {"channel": request.channel, **page}


_USE_CASES: Final[Mapping[type[Request], Callable[[Node, Principal, Any, str], Awaitable[Answer]]]] = {
    History: _history,
    Amend: _amend,
    Presence: _presence,
    Find: _find,
    Get: _get,
    Put: _write,
    Patch: _write,
    Delete: _write,
    Join: _join,
    Leave: _leave,
    SetMember: _set_member,
    ListMembers: _members,
}
