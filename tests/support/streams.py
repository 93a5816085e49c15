"""A channel's stream as a node has it, without the node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from server.core.cursors import Position
from server.core.tasks import Keeper
from server.delivery.hub import Hub
from server.delivery.sequencer import Sequencer
from server.delivery.streams import Stream
from server.wire.messages import Page


def open_stream(
    hub: Hub,
    position: Position,
    read: Callable[[str, Position, int], Awaitable[Page]],
    confirmed_head: Callable[[str], Awaitable[int]],
) -> tuple[Stream, Sequencer]:
    """Of `chat:a`, which has been delivered up to `position`."""
    sequencer = Sequencer(
        "chat:a",
        read=read,
        confirmed_head=confirmed_head,
        deliver=hub.deliver,
        lost=lambda *_: None,
        repairs=Counter(),
        keeper=Keeper(),
    )
    sequencer.start(position)
    return Stream("chat:a", 0.0, sequencer, Keeper()), sequencer
