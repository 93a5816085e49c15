"""Server-sent events: a push as an event of a text/event-stream."""

from __future__ import annotations

from typing import Final

from server.wire.codec import JSON, Codec
from server.wire.frames import TEXT
from server.wire.pushes import Push


class EventCodec(Codec):
    def frame(self, push: Push) -> bytes:
        """`event: <type>`, `id: <cursor>`, `data: <json>`. JSON has no bare newline in it, so an empty line ends the
        event and nothing else."""
        kind, cursor = push.__struct_config__.tag, getattr(push, "cursor", None)
        place = f"id: {cursor}\n" if cursor else ""
        return b"event: %b\n%bdata: %b\n\n" % (str(kind).encode(), place.encode(), self.encode(push))


EVENT_STREAM: Final = EventCodec("events", "text/event-stream", TEXT, JSON.encode, JSON.decode)
