"""Editing, erasing and pinning messages that are there."""

from __future__ import annotations

from typing import Any

from waterspout_client import calls
from waterspout_client.events import Published
from waterspout_client.link import Link


class Amending:
    """The part of a client that does it."""

    async def _link(self) -> Link:
        raise NotImplementedError

    async def edit(self, channel: str, of: int, data: Any, *, key: str | None = None) -> Published:
        """Change what the message at the offset `of` says, where the namespace lets you. Through losses it is sent
        again with the same key, so it is done once."""
        return Published.of(await calls.amend(self._link, channel, of, "edit", key, data=data))

    async def remove(self, channel: str, of: int, *, key: str | None = None) -> Published:
        """Erase the message for everybody, for good; as `edit`."""
        return Published.of(await calls.amend(self._link, channel, of, "delete", key))

    async def pin(self, channel: str, of: int, pinned: bool = True, *, key: str | None = None) -> Published:
        """Pin the message, or no longer; as `edit`."""
        return Published.of(await calls.amend(self._link, channel, of, "pin", key, data=pinned))
