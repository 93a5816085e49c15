"""Whether a node is open, from the moment its back ends are reached until it leaves, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable

from server.core.errors import Error

Look = Callable[[], str | None]
"""What is wrong with a part, for people, or None."""


class Lifecycle:
    """Shared by all the parts of one node."""

    __slots__ = ("opened", "leaving", "waits_for", "foundations", "parts", "helpers")

    def __init__(self) -> None:
        self.opened = False
        self.leaving = False
        self.waits_for = "MongoDB: not asked yet"
        """What has kept it from being opened so far."""
        self.foundations: list[Look] = []
        """What has to be well even before the node is opened."""
        self.parts: list[Look] = []
        """What the node is down without, once it is opened."""
        self.helpers: list[Look] = []
        """What it can do without for a while: it is degraded meanwhile."""

    def status(self) -> tuple[str, list[str]]:
        """("ready" | "degraded" | "down", why), as far as is known."""
        if self.leaving:
            return "down", ["leaving"]
        down = _problems(self.foundations)
        if not self.opened:
            return "down", [*down, self.waits_for]
        down += _problems(self.parts)
        degraded = _problems(self.helpers)
        return "down" if down else "degraded" if degraded else "ready", [*down, *degraded]

    def check(self) -> None:
        """`unavailable` unless the node can work with MongoDB: it is opened, and not leaving."""
        if not self.opened:
            raise Error("unavailable", f"the server is starting: {self.waits_for}", retry_after=1.0)
        self.check_leaving()

    def check_leaving(self) -> None:
        """`unavailable` if nobody is let in any more."""
        if self.leaving:
            raise Error("unavailable", "the server is leaving", retry_after=1.0)


def _problems(looks: list[Look]) -> list[str]:
    return [problem for look in looks if (problem := look()) is not None]
