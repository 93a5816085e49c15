"""What options are made of: sections, durations, counts."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds."""
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")

Count = Annotated[int, Meta(ge=0)]
MAX_STORED: Final = 15 << 20
"""Bytes of JSON that are sure to fit into a document of MongoDB (16 MiB), whatever is stored with them."""
Stored = Annotated[int, Meta(ge=0, le=MAX_STORED)]
Rate = Annotated[float, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Seconds(float):
    """A duration; in the file `30s`, `100ms`, `10m`, `2h`, `30d` or a number of seconds."""


class Section(Struct, forbid_unknown_fields=True, kw_only=True):
    """Some options that belong together. `check(path)`, of those that have one, raises StartError for what the types
    alone do not say; `path` is where the section stands in the configuration."""


def parse_duration(value: Any) -> Seconds:
    """Of `30s`, `100ms`, `10m`, `2h`, `30d` or a number of seconds; ValueError otherwise."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 30s, 100ms, 10m, 2h or 30d")
    return Seconds(float(match[1]) * UNITS[match[2]])


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_url(url: Any) -> bool:
    """Whether it leads somewhere by http or https."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and not re.search(r"\s", url) else None
        return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as `https://[`, or `:http` for the port
        return False


def is_safe(url: Any) -> bool:
    """Whether secrets may go there: https, or http on loopback."""
    if not is_url(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
