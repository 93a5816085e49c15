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


def is_origin(text: str) -> bool:
    """Whether a browser may say so of a page (RFC 6454): `scheme://host`, `scheme://host:port`, or `null`."""
    try:
        parts = urlsplit(text)
        named = bool(parts.scheme and parts.hostname) and "*" not in text and "@" not in text
        return text == "null" or (named and parts.port != 0 and text.partition("://")[2] == parts.netloc)
    except ValueError:
        return False
