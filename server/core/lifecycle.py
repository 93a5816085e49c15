"""Whether a node is open: from the moment its back ends are reached until it leaves."""

from __future__ import annotations

from server.core.errors import Error


class Lifecycle:
    """Shared by all the parts of one node."""

    __slots__ = ("opened", "leaving", "waits_for")

    def __init__(self) -> None:
        self.opened = False
        self.leaving = False
        self.waits_for = "MongoDB: not asked yet"
        """What has kept it from being opened so far."""

    def check(self) -> None:
        """`unavailable` unless the node can work with MongoDB: it is opened, and not leaving."""
        if not self.opened:
            raise Error("unavailable", f"the server is starting: {self.waits_for}", retry_after=1.0)
        self.check_leaving()

    def check_leaving(self) -> None:
        """`unavailable` if nobody is let in any more."""
        if self.leaving:
            raise Error("unavailable", "the server is leaving", retry_after=1.0)
