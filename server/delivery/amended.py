"""Delivery in channels where messages can be amended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from server.delivery.hub import Hub
from server.wire.amendments import Amendment
from server.wire.messages import Message


def deliver_amended(hub: Hub, messages: list[Message]) -> None:
    """As `Hub.deliver`: amendments are told in their places among the messages, and what is hidden is left out."""
    for amendment, run in runs(messages):
        if amendment is None:
            hub.deliver(run)
        elif not amendment.hidden:
            hub.tell(amendment.channel, amendment.push(), amendment.offset, amendment.offset)


def runs(messages: list[Message]) -> Iterator[tuple[Amendment | None, list[Message]]]:
    """In order: each amendment by itself, and what is between them."""
    for _, group in groupby(messages, lambda one: one.offset if isinstance(one, Amendment) else 0):
        run = list(group)
        first = run[0]
        yield (first, run) if isinstance(first, Amendment) else (None, run)
