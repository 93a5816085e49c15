"""REST: documents, one by one, as lists and in batches."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from handlers.base import BaseHandler
from handlers.operations import operation
from server.core.errors import Error, bad_request
from server.documents.store import Written
from server.wire.codec import JSON
from server.wire.commands import Find, Write, convert
from server.wire.rest import (
    Conditions,
    DocumentBatch,
    DocumentFields,
    DocumentPage,
    DocumentQuery,
    DocumentResults,
    IdempotencyHeader,
    StoredDocument,
    problem,
)

_ETAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')


class Writing(BaseHandler):
    async def store(self, collection: str, write: Write, conditions: Conditions | None = None) -> None:
        if write.op != "delete" and not self.has_body():
            raise bad_request("the body is a document: an object of fields")
        if conditions is not None:
            match, none = _revs("If-Match", conditions.match), _revs("If-None-Match", conditions.none_match)
            if len(match) > 1 or none not in ([], ["*"]):
                raise bad_request("If-Match: one revision; If-None-Match: * alone")
            write = convert(
                {
                    "op": write.op,
                    "document_id": write.document_id,
                    "document": write.document,
                    "if_rev": match[0] if match else None,
                    "if_absent": bool(none),
                },
                Write,
            )
        written = await self.node.documents.write(self.principal, collection, write, address=self.client_address())
        self.answer_written(collection, written)

    def answer_written(self, collection: str, written: Written) -> None:
        if written.document is None:
            self.set_status(204)
            return
        self.set_header("ETag", f'"{written.document["_rev"]}"')
        if written.created:
            self.set_header("Location", f"/v1/documents/{collection}/{quote(written.document['_id'], safe='')}")
        self.answer(written.document, 201 if written.created else 200)


class Documents(Writing):
    @operation("List documents", {200: DocumentPage, 304: None})
    async def get(self, collection: str, query: DocumentQuery) -> None:
        """`where` is a JSON object of conditions; pages stay right while documents change."""
        find = Find(
            collection=collection,
            where=None if query.where is None else JSON.decode(query.where.encode()),
            sort=query.sort,
            limit=query.limit,
            page=query.page,
            fields=query.fields,
            count=query.count,
        )
        self.answer(await self.node.documents.find(self.principal, find, address=self.client_address()))

    @operation("Create a document", {201: StoredDocument, 200: StoredDocument})
    async def post(self, collection: str, body: DocumentFields, headers: IdempotencyHeader) -> None:
        """The server makes the id, or the body has an `_id`. 200: an earlier request with the same key has made it."""
        await self.store(collection, Write(op="put", document=body, key=headers.key))


class Document(Writing):
    @operation("Read a document", {200: StoredDocument, 304: None})
    async def get(self, collection: str, document_id: str) -> None:
        document = await self.node.documents.get(self.principal, collection, document_id, address=self.client_address())
        self.answer(document, entity_tag=document["_rev"])

    @operation("Put a document", {200: StoredDocument, 201: StoredDocument})
    async def put(self, collection: str, document_id: str, body: DocumentFields, headers: Conditions) -> None:
        """The whole of it. `If-None-Match: *`: only if there is none yet."""
        await self.store(collection, Write(op="put", document_id=document_id, document=body), headers)

    @operation("Change a document", {200: StoredDocument})
    async def patch(self, collection: str, document_id: str, body: DocumentFields, headers: Conditions) -> None:
        """By a JSON merge patch (RFC 7396)."""
        await self.store(collection, Write(op="patch", document_id=document_id, document=body), headers)

    @operation("Delete a document", {204: None})
    async def delete(self, collection: str, document_id: str, headers: Conditions) -> None:
        await self.store(collection, Write(op="delete", document_id=document_id), headers)


class Batch(BaseHandler):
    @operation("Write many documents", {200: DocumentResults})
    async def post(self, collection: str, body: DocumentBatch) -> None:
        """Each with its own outcome; those of one document in their order. It is not one transaction."""
        results = await self.node.documents.write_many(
            self.principal, collection, body.writes, address=self.client_address()
        )
        self.answer({"results": [self._result(one) for one in results]})

    def _result(self, result: Written | Error) -> dict[str, Any]:
        if not isinstance(result, Error):
            return result.fields()
        self.node.incidents.refused(result, self.principal, self.client_address())
        return {"error": problem(result)}


def _revs(header: str, value: str | None) -> list[str]:
    """The revisions of a condition, without their quotes."""
    if value is None:
        return []
    if value.strip() == "*":
        return ["*"]
    tags = [_ETAG.fullmatch(part) for part in value.split(",")]
    if not all(tags):
        raise bad_request(f'{header}: expected "revision" in quotes')
    return [tag[1] for tag in tags if tag]
