"""Views of a collection's changes: one document, a `where`, or the rows of one user; they share the one log.

A change that makes a document match is a `put` of the view, one that makes it match no longer a `delete`. What the
view does not show, it passes over; the offsets of its messages have holes, its cursor does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from server.documents.where import Where
from server.wire.messages import Message

Json = dict[str, Any]


class Owner(NamedTuple):
    """The rows of one user are all there is."""

    field: str
    user: str

    def owns(self, document: Json) -> bool:
        """By one user, or by every user of a list: as MongoDB's own equality has it."""
        value = document.get(self.field)
        return value == self.user or (isinstance(value, list) and self.user in value)


class View(NamedTuple):
    """`channel` is the name it was subscribed by.

    Known by its parts: subscribers of the same view share one evaluation and one encoding."""

    channel: str
    collection: str
    id: str | None = None
    where: Where | None = None
    owner: Owner | None = None
    conflate: float = 0.0

    @property
    def log_channel(self) -> str:
        return f"docs:{self.collection}"

    @property
    def shows_all(self) -> bool:
        return self.channel == self.log_channel and self.where is None and self.owner is None

    def show(self, message: Message) -> Message | None:
        """The message as the view has it, or None."""
        data = message.data
        if self.id is not None and data["id"] != self.id:
            return None
        if self.where is None and self.owner is None:
            return self._named(message, data)
        before, after = message.images or (None, None)
        if data["op"] == "put" and self._matches(after or data["document"]):
            return self._named(message, data)
        if self._matches(before):
            gone = {"op": "delete", "id": data["id"], "rev": None, "document": None}
            return self._named(message, data if data == gone else gone)
        return None

    def _named(self, message: Message, data: Json) -> Message:
        tag = data["id"] if self.conflate else None
        if data is message.data and self.channel == message.channel and tag is None:
            return message  # and its encoding with it
        return message.having(self.channel, data, tag)

    def _matches(self, image: Json | None) -> bool:
        if image is None:
            return False
        if self.owner is not None and not self.owner.owns(image):
            return False
        # Of a document that is too large for the log nothing is known; its readers are told that it changed.
        truncated = "_truncated" in image and image.get("_rev") is None
        return self.where is None or truncated or self.where.matches(image)
