"""What a write must be, and what a stored document becomes by it. Nothing here waits."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument

from server.core.errors import Error, bad_request
from server.core.names import MAX_NAME_BYTES
from server.documents import document_json
from server.documents.document_json import Json
from server.documents.views import Owner
from server.wire.codec import JSON, MAX_DEPTH, MAX_NODES, bound_json
from server.wire.commands import Write

_ID: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")
_MISSING: Final = object()


def prepared(collection: str, write: Write, limit: int) -> Json:
    """What is to be stored (of a patch: what is to be merged), with its `_id` first. `limit`: bytes; 0: none."""
    fields = dict(write.document or {})
    identifier = fields.pop("_id", write.document_id)
    fields.pop("_rev", None)  # the server's: whoever sends back what was read need not take it out
    if write.document_id is not None and identifier != write.document_id:
        raise bad_request("document: _id is not the id of the document")
    if write.op != "put" and write.document_id is None:
        raise bad_request("document_id: which document is missing")
    if write.op != "delete" and write.document is None:
        raise bad_request("document: missing")
    if write.if_absent and (write.op != "put" or write.if_rev is not None):
        raise bad_request("if_absent: for a put alone, and without if_rev")
    if write.key is not None and (write.op != "put" or write.document_id is not None or write.if_rev is not None):
        raise bad_request("key: for a document whose id the server makes")
    if identifier is None:
        identifier = secrets.token_hex(10)
    if write.op == "put":
        check_id(collection, identifier)
    _check_names(fields)
    check_size(fields, limit)
    return {"_id": identifier, **fields}


def check_id(collection: str, identifier: Any) -> None:
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise bad_request("_id: text without white space or control characters")
    limit = MAX_NAME_BYTES - len(f"docs:{collection}/")
    if len(identifier.encode()) > limit:
        raise bad_request(f"_id: {limit} bytes at most")


def check_size(fields: Json, limit: int) -> bytes:
    """The fields as JSON, if that is no more than `limit` bytes (0: none); else `too_large`."""
    text = JSON.encode(fields)
    if limit and len(text) > limit:
        raise Error("too_large", f"document: {len(text)} bytes; document_bytes is {limit}")
    return text


def check_values(text: bytes) -> None:
    """`too_large` for more values than one message can bring: what could not be put as a whole is not patched together
    either."""
    try:
        bound_json(text)
    except Error:
        raise Error("too_large", f"document: {MAX_NODES} values at most, nested {MAX_DEPTH} deep") from None


def _check_names(fields: Json) -> None:
    todo: list[Any] = [fields]
    for item in todo:
        if isinstance(item, dict):
            for name in item:
                if name[:1] == "$" or "." in name or "\0" in name:
                    wrong = "a name has no $ in front, no dot and no NUL"
                    raise bad_request(f"document: {name[:100]!r}: {wrong}", f"document: {wrong}")
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


def check_condition(write: Write, identifier: str, current: Json | None) -> None:
    """`conflict` with status 412, and the present revision."""
    rev = current["_rev"] if current else None
    if write.if_absent and current is not None:
        raise Error("conflict", f"if_absent: {identifier} is there already", status=412, rev=rev)
    if write.if_rev is not None and (current is None or write.if_rev not in (rev, "*")):
        raise Error("conflict", f"if_rev: the revision is {rev or 'none: there is no such document'}",
                    status=412, rev=rev)  # fmt: skip


def keep_owners(owner: Owner | None, op: str, fields: Json, current: Json | None, stored: Json | None) -> Json:
    """Who owns a document is not for its owners to change: the field stays what it is, whether they send it back or
    leave it out; and a new document is its maker's alone. `current` is the present document as it is shown, `stored`
    as it is in MongoDB."""
    if owner is None:
        return fields
    kept = owner.user if current is None else current.get(owner.field)
    given = fields.get(owner.field, _MISSING)
    absent = given is _MISSING or (given is None and op == "put")
    if not absent and given != kept:
        raise Error("permission_denied", f"{owner.field}: who owns the document stays as it is")
    if op == "put":
        return {**fields, owner.field: owner.user if stored is None else stored.get(owner.field)}
    return {name: value for name, value in fields.items() if name != owner.field}


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def without_id(document: Json) -> Json:
    return {name: value for name, value in document.items() if name != "_id"}


def check_once(raw: RawBSONDocument, decoded: Json) -> None:
    """`conflict` if another program has stored a name twice in one (sub)document: comparing it with what it is to
    become ends MongoDB 6."""
    if len(bson.encode(decoded, codec_options=document_json.OPTIONS)) == len(raw.raw):
        return
    twice: list[str] = []

    class Names(dict[str, Any]):
        def __setitem__(self, name: str, value: Any) -> None:
            if name in self:
                twice.append(name[:100])
            super().__setitem__(name, value)

    bson.decode(raw.raw, document_json.OPTIONS.with_options(document_class=Names))
    if twice:
        raise Error(
            "conflict",
            f"document: another program has stored {twice[0]!r} twice in it; put the whole document anew",
            told="document: another program has stored a name twice in it",
        )
