"""REST: reacting to messages."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.channels import offset_of
from handlers.operations import operation
from server.wire.reactions import ReactionSet


class Reaction(BaseHandler):
    @operation("React to a message", {200: ReactionSet})
    async def put(self, channel: str, offset: str, kind: str) -> None:
        """As the user whose token it is, with an emoji or any word; the same twice is one. For whoever may read the
        channel, where the namespace says `reactions: true`."""
        await self._react(channel, offset, kind, True)

    @operation("Take a reaction back", {200: ReactionSet})
    async def delete(self, channel: str, offset: str, kind: str) -> None:
        """One's own; also one that is not there (any more)."""
        await self._react(channel, offset, kind, False)

    async def _react(self, channel: str, offset: str, kind: str, on: bool) -> None:
        of = offset_of(offset)
        at = await self.node.reactions.react(self.principal, channel, of, kind, on, address=self.client_address())
        self.answer(ReactionSet(channel=channel, of=of, kind=kind, on=on, at=at))
