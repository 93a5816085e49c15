"""Live documents: reading, writing and watching a collection.

A document is one flat dict with `_id` and `_rev`. `_rev` changes with every change of content, whoever made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from waterspout_client.events import Gap, Message, Push
from waterspout_client.subscription import Home, Item, Snapshot, Stream

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    documents: list[Document]
    page: str | None
    """To go on with; None at the end."""


@dataclass(frozen=True, slots=True)
class Change:
    """One document of the view was put (it is new, changed, or matches `where` now) or deleted (or stopped
    matching)."""

    op: Literal["put", "delete"]
    id: str
    rev: str | None
    document: Document | None
    """None for a delete, and if `truncated`."""
    truncated: bool = False
    """The document is too large for a push: read it with `get`. The copy has only its `_id` and `_rev`."""
    cursor: str | None = None

    @classmethod
    def of(cls, message: Message) -> Change:
        data = message.data
        return cls(
            data["op"], data["id"], data.get("rev"), data.get("document"), data.get("truncated") is True, message.cursor
        )


@dataclass(frozen=True, slots=True)
class Replaced:
    """A snapshot: the copy was filled, or filled anew because it could not be brought up to date change by change."""

    documents: dict[str, Document]


class Node(Home, Protocol):
    """What a collection needs of its client."""

    async def request(self, kind: str, /, *, again: bool = True, **fields: Any) -> Push: ...


class Collection:
    """Reading is tried again after a loss of connection. Writing is not, since somebody else may have written
    meanwhile: WaterspoutError says `disconnected`, and `if_rev` makes trying again safe."""

    def __init__(self, client: Node, name: str, max_pending: int) -> None:
        self._client = client
        self.name = name
        self._max_pending = max_pending

    async def get(self, id: str) -> Document:
        """WaterspoutError `not_found` if there is none."""
        reply = await self._client.request("get", collection=self.name, document_id=id)
        return document_of(reply)

    async def put(self, id: str, document: Document, *, if_rev: str | None = None, if_absent: bool = False) -> Document:
        """Write the whole document (its fields; `_id` and `_rev` are left out). `conflict` unless its `_rev` is
        `if_rev`, or unless there is none and `if_absent` says so."""
        fields = {name: value for name, value in document.items() if name not in ("_id", "_rev")}
        return await self._write("put", id, document=fields, if_rev=if_rev, if_absent=if_absent or None)

    async def patch(self, id: str, changes: Document, *, if_rev: str | None = None) -> Document:
        """Merge into the document (RFC 7396): fields that are None are removed."""
        return await self._write("patch", id, document=changes, if_rev=if_rev)

    async def delete(self, id: str, *, if_rev: str | None = None) -> None:
        await self._client.request("delete", again=False, collection=self.name, document_id=id, if_rev=if_rev)

    async def find(
        self,
        where: Document | None = None,
        *,
        sort: str | None = None,
        limit: int | None = None,
        page: str | None = None,
    ) -> Found:
        """where  equality, `$ne $gt $gte $lt $lte $in`, `$and`
        sort   field names with commas in between, a `-` in front for descending
        page   that of the answer before"""
        reply = await self._client.request("find", collection=self.name, where=where, sort=sort, limit=limit, page=page)
        return Found(reply["documents"], reply.get("page"))

    def watch(self, where: Document | None = None, *, max_pending: int | None = None) -> Watch:
        """Keep a copy of what matches `where`, to be used with `async with` and `async for`."""
        options: Push = {"snapshot": True}
        if where is not None:
            options["where"] = where
        return Watch(self._client, f"docs:{self.name}", options, max_pending=max_pending or self._max_pending)

    async def _write(self, kind: str, id: str, **fields: Any) -> Document:
        return document_of(
            await self._client.request(kind, again=False, collection=self.name, document_id=id, **fields)
        )


class Watch(Stream[Change | Replaced | Gap]):
    """Hands on each change after it has been made in `documents`; first a `Replaced` with all there is."""

    labelled = True

    documents: dict[str, Document]
    """The copy, by `_id`. It moves with the loop that reads, and only with it."""

    def __init__(self, home: Home, channel: str, options: Push, *, max_pending: int) -> None:
        super().__init__(home, channel, options, max_pending=max_pending)
        self.documents = {}

    def _make(self, item: Item) -> Change | Replaced | Gap | None:
        if isinstance(item, Snapshot):
            self.documents = {document["_id"]: document for document in item.documents}
            return Replaced(self.documents)
        if isinstance(item, Message):
            change = Change.of(item)
            if change.op == "delete":
                self.documents.pop(change.id, None)
            else:
                self.documents[change.id] = change.document or {"_id": change.id, "_rev": change.rev}
            return change
        return item if isinstance(item, Gap) else None


def document_of(reply: Push) -> Document:
    document: Document = reply["document"]
    return document
