"""A document of MongoDB as clients see it: one flat JSON object with `_id` and `_rev`.

What JSON does not have (documents may be written by other programs) appears as MongoDB's relaxed extended JSON:
{"$date": …}, {"$numberDecimal": …}, {"$numberDouble": "NaN"}, {"$oid": …}, {"$binary": …}. An ObjectId as `_id` is its
24 hexadecimal digits; documents with an `_id` of any other type are not shown at all.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_MS
)
"""Whatever is stored can be read, and what was not touched is written back as it was."""
RAW: Final[CodecOptions[Any]] = OPTIONS.with_options(document_class=RawBSONDocument)
VISIBLE: Final = {"_id": {"$type": ["string", "objectId"]}}
_PLAIN: Final = frozenset((str, bool, int, type(None)))
_RELAXED: Final = json_util.RELAXED_JSON_OPTIONS

Json = dict[str, Any]


def document(raw: bytes) -> Json:
    """`_rev` is a hash of the bytes: it changes with every change of content, whoever makes it."""
    fields = bson.decode(raw, OPTIONS)
    identifier = fields.pop("_id")
    fields.pop("_rev", None)  # the name is ours
    return {"_id": str(identifier), "_rev": rev(raw), **{name: plain(value) for name, value in fields.items()}}


def rev(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def is_visible(identifier: Any) -> bool:
    return isinstance(identifier, str | ObjectId)


def ids(identifier: str) -> list[Any]:
    """What `_id` may be in MongoDB."""
    stored: list[Any] = [identifier]
    if len(identifier) == 24 and ObjectId.is_valid(identifier) and identifier == identifier.lower():
        stored.append(ObjectId(identifier))
    return stored


def plain(value: Any) -> Any:
    """One value of a document."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is dict:
        return {name: plain(below) for name, below in value.items()}
    if kind is list:
        if _PLAIN.issuperset(map(type, value)):  # long lists are mostly of such, and this is a tenth of the work
            return value
        return [plain(below) for below in value]
    if isinstance(value, int):
        return int(value)
    if kind is float and math.isfinite(value):
        return value
    converted = json_util.default(value, _RELAXED) if kind is not float else {"$numberDouble": _infinite(value)}
    return plain(converted) if type(converted) is dict else converted


def _infinite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
