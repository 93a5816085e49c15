"""Views of a collection's changes: one document, a `where`, or the rows of one user; they share the one log.

A change that makes a document match is a `put` of the view, one that makes it match no longer a `delete`. What the
view does not show, it passes over; the offsets of its messages have holes, its cursor does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from server.documents.where import Facts, TooMuch, Where
from server.wire.messages import Message

Json = dict[str, Any]
_UNTRIED: Final = {"rev": None, "document": None, "truncated": True}
"""Of a document on which a `where` cannot be tried: that it has changed."""


class Owner(NamedTuple):
    """The rows of one user are all there is."""

    field: str
    user: str

    def owns(self, document: Mapping[str, Any]) -> bool:
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
        before, after = _facts(message)
        shown = self._matches(after)
        if shown is not False:
            return self._named(message, data if shown else {**data, **_UNTRIED})
        if self._matches(before) is not False:
            gone = {"op": "delete", "id": data["id"], "rev": None, "document": None}
            return self._named(message, data if data == gone else gone)
        return None

    def _named(self, message: Message, data: Json) -> Message:
        tag = data["id"] if self.conflate else None
        if data is message.data and self.channel == message.channel and tag is None:
            return message  # and its encoding with it
        return message.having(self.channel, data, tag)

    def _matches(self, facts: Facts | None) -> bool | None:
        """Whether the view shows a document; None: trying its `where` would take too long."""
        if facts is None:
            return False
        image = facts.document
        if self.owner is not None and not self.owner.owns(image):
            return False
        # Of a document that is too large for the log nothing is known; its readers are told that it changed.
        if self.where is None or ("_truncated" in image and image.get("_rev") is None):
            return True
        try:
            return self.where.holds(facts)
        except TooMuch:
            return None


def _facts(message: Message) -> tuple[Facts | None, Facts | None]:
    """Of the document before and after; for all views of a message the same ones."""
    known: tuple[Facts | None, Facts | None] | None = getattr(message, "facts", None)
    if known is None:
        before, after = message.images or (None, None)
        after = after or message.data["document"]
        known = message.facts = (
            None if before is None else Facts(before, bounded=True),
            None if after is None else Facts(after, bounded=True),
        )
    return known
