"""Connections to MongoDB that were made too early.

A driver takes a connection for what its mongod was when it was made, as long as the connection lives. One that was made
while the mongod had started, but was no working member of its set yet, is refused for sessions, also when the mongod
has long been the primary; and as it works for all else, nothing ever makes it anew. Publishes would wait for ever.

(PyMongo's own asynchronous client can have no listener: it needs a running loop when it is made, then.)
"""

from __future__ import annotations

from typing import Any

from pymongo.monitoring import (
    ServerClosedEvent,
    ServerDescriptionChangedEvent,
    ServerListener,
    ServerOpeningEvent,
)


class Renewal(ServerListener):
    """Of one client: what was made before a server could be read is not used any more once it can be."""

    def __init__(self) -> None:
        self.client: Any = None
        """PyMongo's, set when it is there."""

    def opened(self, event: ServerOpeningEvent) -> None: ...

    def closed(self, event: ServerClosedEvent) -> None: ...

    def description_changed(self, event: ServerDescriptionChangedEvent) -> None:
        if event.previous_description.is_readable or not event.new_description.is_readable:
            return
        # Nothing public lets go of connections and leaves the client as it is. Those of an older generation are closed
        # instead of being used once more.
        for server in tuple(self.client._topology._servers.values()) if self.client is not None else ():
            server.pool.gen.inc(None)
