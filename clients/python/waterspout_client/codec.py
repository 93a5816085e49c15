"""The two encodings of the wire. MessagePack needs the `msgpack` package: `pip install waterspout-client[msgpack]`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Encoding = Literal["json", "msgpack"]


@dataclass(frozen=True, slots=True)
class Codec:
    subprotocol: str
    encode: Callable[[Any], str | bytes]
    decode: Callable[[Any], Any]


def codec(encoding: Encoding) -> Codec:
    if encoding == "json":
        return Codec("waterspout.json", to_json, json.loads)
    import msgpack

    return Codec("waterspout.msgpack", msgpack.packb, msgpack.unpackb)


def to_json(value: Any) -> str:
    """ValueError or TypeError for what JSON cannot say, lone surrogates among it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    text.encode()
    return text
