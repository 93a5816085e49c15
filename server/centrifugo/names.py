"""Names of channels: theirs may have no namespace, ours always have one."""

from __future__ import annotations

from server.core.errors import Error, bad_request
from server.core.names import namespace_of


class Names:
    """`namespace`: of channels that have no colon in their name there; None: there are none. One-to-one: what is called
    `news` there is `NAMESPACE:news` here, and can be called nothing else there."""

    __slots__ = ("_prefix",)

    def __init__(self, namespace: str | None) -> None:
        self._prefix = None if namespace is None else f"{namespace}:"

    def ours(self, name: str) -> str:
        """`bad_request` for no name at all, `unknown_channel` for one that no channel can have."""
        if not name:
            raise bad_request("channel: required")
        prefix = self._prefix
        if ":" not in name:
            if prefix is None:
                raise Error("unknown_channel", "channel: a name is namespace:rest; centrifugo.namespace is not set")
            name = prefix + name
        elif prefix is not None and name.startswith(prefix):
            raise Error("unknown_channel", "channel: names of this namespace stand without it")
        try:
            namespace_of(name)
        except Error as error:
            raise Error("unknown_channel", error.reason) from None
        return name

    def theirs(self, channel: str) -> str:
        """Of a channel that has no name there, as no colon may be left in it: our own."""
        prefix = self._prefix
        if prefix is None or not channel.startswith(prefix) or ":" in channel[len(prefix) :]:
            return channel
        return channel[len(prefix) :]
