"""Addresses: which count as one client (whoever has one address of an IPv6 network has 2^64 of them), and origins."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

NETWORK_BITS: Final = 64
"""The smallest network that a provider gives to a customer (RFC 6177)."""


def address_key(address: str) -> str:
    """The key that limits count by: of IPv6 its /64 (`2001:db8:1:2::/64`), of IPv4 the address itself, also where it is
    written as an IPv6 one (`::ffff:192.0.2.1`). What is no address (a path, an empty text) is its own key."""
    if ":" not in address:
        return address  # IPv4, or none: the usual case needs no parsing
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])  # without the name of an interface
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, NETWORK_BITS), strict=False))


def origin_parts(text: str) -> tuple[str, str, int | None] | None:
    """Of `https://rt.example.com` (RFC 6454) the scheme, the host, both in lower case, and the port, if it is named.
    None for what is more than an origin, or none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    named = parts.scheme and parts.hostname and port != 0 and "@" not in parts.netloc and not parts.netloc.endswith(":")
    if not named or text.partition("://")[2] != parts.netloc:
        return None
    return parts.scheme, str(parts.hostname), port


def is_origin(text: str) -> bool:
    """Whether a browser may say so of a page: `null` is what it says of some."""
    return text == "null" or ("*" not in text and origin_parts(text) is not None)
