"""Channel names: theirs need no namespace, ours always have one."""

from __future__ import annotations

from server.core.errors import Error


class ChannelNames:
    """`namespace`: where names without a colon live; None: nowhere."""

    def __init__(self, namespace: str | None) -> None:
        self._namespace = namespace

    def ours(self, name: str) -> str:
        """The channel that they call `name`; `unknown_channel` if it has no colon and there is no place for such. It
        need not be a well-formed name of ours: whoever decides of rights says so."""
        if ":" in name:
            return name
        if self._namespace is None:
            raise Error(
                "unknown_channel", f"channel: {name[:100]!r} has no namespace, and centrifugo.namespace is null"
            )
        return f"{self._namespace}:{name}"

    def theirs(self, channel: str) -> str:
        """What they call a channel of ours: for those that nobody has named yet, as in a list."""
        namespace, _, rest = channel.partition(":")
        return rest if namespace == self._namespace and ":" not in rest else channel
