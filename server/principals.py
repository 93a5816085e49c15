"""Who acts: a guest, a user, or a server with an API key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field


class Principal(Struct, frozen=True):
    """A guest has neither a user nor rights of its own; a server acts with an API key."""

    user: str | None = None
    server: bool = False
    channels: Mapping[str, list[str]] = field(default_factory=dict)
    """Rights beyond the namespaces' rules: pattern with `*` → actions."""
    expires: float | None = None
    """Seconds since 1970, UTC."""
    admin: bool = False

    @property
    def name(self) -> str:
        """For people and logs."""
        return self.user or "a guest"


GUEST: Final = Principal()
