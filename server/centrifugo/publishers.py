"""Which client a message is from: it stands in the message's key, sealed, since a key is its publisher's to choose.

{session}-{number}.{seal}
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Container
from typing import Any, Final

from msgspec import UNSET

from server.access.seals import Seals
from server.core.errors import Error
from server.wire.amendments import AmendedMessage, AmendedMessagePush, AmendPush
from server.wire.messages import Message
from server.wire.pushes import MessagePush, Push

MADE: Final = 1024
"""Keys that are remembered, at most."""
_AMENDED: Final = (AmendPush, AmendedMessagePush, AmendedMessage)
_KEY: Final = re.compile(r"((s[0-9a-f]{12})-[0-9]+)\.([0-9a-f]{24})")


def _tags(push: Push) -> dict[str, str]:
    """There is no word for it in this protocol, so it is a publication like others: who knows the tags can tell."""
    if isinstance(push, AmendPush):
        tags = {"amend": push.op, "of": str(push.of)}
        return tags if push.part is UNSET else tags | {"part": str(push.part)}
    if isinstance(push, AmendedMessagePush):
        states = {"edited": push.edited, "deleted": push.deleted, "pinned": push.pinned}
        return {name: "true" for name, value in states.items() if value is not UNSET}
    return {}


class Publishers:
    """`api_keys`: the names of back ends, which are nobody's business."""

    __slots__ = ("_seals", "_api_keys", "_made")

    def __init__(self, seals: Seals, api_keys: Container[str]) -> None:
        self._seals = seals
        self._api_keys = api_keys
        self._made: dict[str, tuple[str, str | None, str]] = {}
        """Keys that were made here of late: for which channel and user, and of which session. No seal of these has to
        be looked at."""

    def key(self, channel: str, user: str | None, session: str, number: int) -> str:
        """For the publish `number` of a session. Nobody can guess it and publish something else under it before; and
        nobody else can use it afterwards."""
        name = f"{session}-{number}"
        try:
            key = f"{name}.{self._seals.seal(channel, name, user or '')}"
        except Error:  # the server is starting: then nobody is told whose it is
            return f"{name}.{secrets.token_hex(12)}"
        if len(self._made) >= MADE:
            self._made.clear()
        self._made[key] = channel, user, session
        return key

    def publication(self, message: Message | MessagePush | AmendPush) -> dict[str, Any]:
        """What is told of a message: {"data", "info"?: {"user", "client"}, "offset"?, "time", "tags"?}. `info` where a
        user has published it, or a client whose protocol knows this word; `tags` where it was amended, or amends."""
        user = message.user
        data = message.data
        if isinstance(message, AmendPush) and message.at is not UNSET:  # what was counted
            data = {message.op: getattr(message, message.op), "at": message.at}
        publication: dict[str, Any] = {"data": None if data is UNSET else data}
        client = self._client(message.channel, user, message.key) if message.key else ""
        if client or (user is not None and user not in self._api_keys):
            publication["info"] = {"user": user or "", "client": client}
        if message.offset:
            publication["offset"] = message.offset
        publication["time"] = message.time
        if isinstance(message, _AMENDED):
            tags = _tags(message.push() if isinstance(message, AmendedMessage) else message)
            if tags:
                publication["tags"] = tags
        return publication

    def _client(self, channel: str, user: str | None, key: str) -> str:
        made = self._made.get(key)
        if made is not None and made[0] == channel and made[1] == user:
            return made[2]
        match = _KEY.fullmatch(key)
        return match[2] if match and self._seals.holds(match[3], channel, match[1], user or "") else ""
