"""By what limits count an address."""

from __future__ import annotations

import pytest

from server.core.addresses import address_key, is_origin


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("", ""),
        ("0.0.0.0:1", "0.0.0.0:1"),
        ("not:an:address", "not:an:address"),
        ("/tmp/socket", "/tmp/socket"),
    ],
)
def test_of_ipv6_the_network_counts(address: str, key: str) -> None:
    """An IPv6 address counts as its /64, an IPv4 one as itself in either form, and what is neither as itself."""
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("https://rt.example.com", True),
        ("http://localhost:8080", True),
        ("https://[2001:db8::1]:8443", True),
        ("null", True),
        ("https://rt.example.com/", False),
        ("https://*.example.com", False),
        ("https://ann@example.com", False),
        ("https://example.com:", False),
        ("https://example.com:0", False),
        ("https://example.com:99999", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_what_a_browser_calls_an_origin(text: str, is_one: bool) -> None:
    assert is_origin(text) is is_one
