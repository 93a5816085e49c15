"""What clients of Centrifugo's protocol read, once: history and presence."""

from __future__ import annotations

from server.centrifugo import requests
from server.centrifugo.history import read
from server.centrifugo.publishers import Publishers
from server.centrifugo.replies import presence, presence_stats
from server.core.cursors import Position
from server.core.errors import Error
from server.core.names import namespace_of
from server.core.principals import Principal
from server.node import Node
from server.wire.pushes import Fields

Asked = requests.History | requests.Presence | requests.PresenceStats


async def answer(node: Node, publishers: Publishers, principal: Principal, command: Asked, address: str) -> Fields:
    """The fields of the reply; `principal` is who it is in the channel."""
    channel = command.channel
    if not isinstance(command, requests.History):
        present = await node.presence.clients(principal, channel, address=address)
        return presence_stats(present) if isinstance(command, requests.PresenceStats) else presence(present)
    namespace = node.config.namespaces.get(namespace_of(channel))
    if namespace is not None and not namespace.durable:
        raise Error("not_found", f"channel: {channel} is ephemeral, it has no history")
    messages, head = await read(
        node.history, principal, channel, limit=command.limit, since=command.since, reverse=command.reverse,
        address=address,
    )  # fmt: skip
    return {"publications": [publishers.publication(message) for message in messages]} | position_fields(head)


def position_fields(head: Position) -> Fields:
    return {"epoch": head.epoch} | ({"offset": head.offset} if head.offset else {})
