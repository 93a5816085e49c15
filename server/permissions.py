"""Who may do what in a channel: deny by default, one place that decides.

Every door (WebSocket, REST, history, resume) asks `Permissions.check` before it touches a channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from server.channels import SYSTEM, SYSTEM_CHANNELS, namespace_of
from server.config import Namespace
from server.errors import Error
from server.principals import Principal

Action = Literal["publish", "subscribe"]


class Permissions:
    def __init__(self, namespaces: Mapping[str, Namespace]) -> None:
        self._namespaces = namespaces
        self._system = Namespace(durable=False)

    def check(self, principal: Principal, action: Action, channel: str) -> Namespace:
        """The channel's options if `principal` may `action`; else `bad_request` (the name), `unknown_channel` (no such
        namespace) or `permission_denied`. The right to subscribe is also the right to history and resume."""
        if namespace_of(channel) == SYSTEM and channel in SYSTEM_CHANNELS:
            if action == "publish" or not principal.admin:
                raise Error("permission_denied", f"{principal.name} may not {action} in {channel}")
            return self._system
        namespace = self._namespaces.get(namespace_of(channel))
        if namespace is None:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        rule = namespace.publish if action == "publish" else namespace.subscribe
        if not (_satisfies(principal, rule) or _granted(principal, action, channel)):
            raise Error("permission_denied", f"{principal.name} may not {action} in {channel}")
        return namespace


def _satisfies(principal: Principal, rule: str) -> bool:
    if rule == "anyone":
        return True
    if rule == "user":
        return principal.user is not None or principal.server
    return rule == "server" and principal.server


def _granted(principal: Principal, action: Action, channel: str) -> bool:
    """Rights a token or an API key carries itself: patterns of channels with `*`."""
    return any(action in actions and _matches(channel, pattern) for pattern, actions in principal.channels.items())


def _matches(channel: str, pattern: str) -> bool:
    return _compiled(pattern).fullmatch(channel) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))
