"""Who acts: a guest, a user, or a server with an API key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field


class Start(Struct, frozen=True):
    """Where a subscription begins that the server makes: behind the cursor `after`, with the `last` messages, or (with
    neither) from now on."""

    last: Annotated[int, Meta(ge=0, le=1000)] | None = None
    after: str | None = None


class Principal(Struct, frozen=True):
    """A guest has neither a user nor rights of its own; a server acts with an API key."""

    user: str | None = None
    server: bool = False
    channels: Mapping[str, list[str]] = field(default_factory=dict)
    """Rights beyond the namespaces' rules: pattern with `*` → actions."""
    subscribe: Mapping[str, Start] = field(default_factory=dict)
    """What the server subscribes each of its connections to, whatever they ask for; `channels` has the rights to it."""
    expires: float | None = None
    """Seconds since 1970, UTC."""
    admin: bool = False
    consumers: frozenset[str] = frozenset()
    """Those that it may work for."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    """All the claims of the token."""
    info: Any = None
    """The token's `info`: what others may be shown of a user."""
    channel_info: Any = None
    """The same, of a token for one channel, in that channel."""
    token: str | None = None
    """Names the token: its `jti`, or a digest."""
    issued: float | None = None
    """The token's `iat`: seconds since 1970, UTC."""

    @property
    def name(self) -> str:
        """For people and logs."""
        return self.user or "a guest"


GUEST: Final = Principal()
