"""What an entry of the outbox says.

waterspout_outbox  {_id, channel, data, key?, user?, at?, mentions?}    by whoever writes to the same MongoDB
                   {_id, channel, text, user, at, key?, by: {…}}    by a client of this server, for later; the data
                                                                    as JSON text, as BSON cannot hold all of it
                   taken: true                                      it may be stored by now: it is not cancelled
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import bson
from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId
from msgspec import Struct

from server.core.errors import Error, bad_request
from server.core.principals import Principal
from server.documents import document_json
from server.wire.codec import JSON
from server.wire.commands import MAX_KEY, Mentions, convert

COLLECTION: Final = "waterspout_outbox"
FURTHEST: Final = 10_000_000_000
"""Seconds since 1970 (the year 2286); more are milliseconds by mistake."""
SHOWN: Final = 256 << 10
"""Bytes of an entry that are shown when it cannot be published."""
ANYWHERE: Final = {"*": ["publish"]}


class _Mentioning(Struct):
    mentions: Mentions


class Entry(NamedTuple):
    id: Any
    """As MongoDB has it."""
    channel: str
    data: Any
    key: str
    principal: Principal
    at: float | None
    """Seconds since 1970; None: at once."""
    mentions: Sequence[str]


def entry_of(raw: bytes) -> Entry:
    """`bad_request` for one that says nothing that could be published."""
    fields = bson.decode(raw, document_json.OPTIONS)
    channel, user, key = fields.get("channel"), fields.get("user"), fields.get("key")
    if not isinstance(channel, str):
        raise bad_request("channel: required, a text")
    if user is not None and not (isinstance(user, str) and user):  # "" has the keys of what is appended
        raise bad_request("user: a text that is not empty, or nothing")
    if key is not None and not (isinstance(key, str) and 1 <= len(key) <= MAX_KEY):
        raise bad_request(f"key: a text of 1 to {MAX_KEY} characters, or nothing")
    mentions = convert({"mentions": fields.get("mentions") or []}, _Mentioning).mentions
    by, text = fields.get("by"), fields.get("text")
    if "data" in fields:
        data = document_json.plain(fields["data"])
        principal = Principal(user=user, server=True, channels=ANYWHERE)
    elif isinstance(text, str) and isinstance(by, dict) and isinstance(by.get("rights"), str):
        data = JSON.decode(text.encode())
        principal = Principal(**JSON.decode(by["rights"].encode()))
    else:
        raise bad_request("data: required")
    return Entry(
        fields["_id"], channel, data, key or name_of(fields["_id"]), principal, moment(fields.get("at")), mentions
    )


def name_of(identifier: Any) -> str:
    """An `_id` as text: of an ObjectId its 24 digits."""
    text = identifier if isinstance(identifier, str) else None
    if isinstance(identifier, ObjectId):
        text = str(identifier)
    if text is None:
        text = JSON.encode(document_json.plain(identifier)).decode()
    return text if 1 <= len(text) <= MAX_KEY else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def moment(at: Any) -> float | None:
    """Of a date or a number of seconds since 1970."""
    if at is None:
        return None
    if isinstance(at, DatetimeMS):
        return int(at) / 1000
    if isinstance(at, bool | Timestamp) or not isinstance(at, int | float) or not abs(at) < FURTHEST:
        raise bad_request("at: a date, or seconds since 1970")
    return float(at)


def for_the_dead(raw: bytes, error: Error) -> dict[str, Any]:
    """{"code", "reason", "id", "entry"}: what operators are shown of an entry, null for one that is too large."""
    fields = bson.decode(raw, document_json.OPTIONS)
    for name in ("by", "taken"):
        fields.pop(name, None)
    shown = {name: document_json.plain(value) for name, value in fields.items()} if len(raw) <= SHOWN else None
    return {"code": error.code, "reason": error.reason, "id": name_of(fields["_id"]), "entry": shown}
