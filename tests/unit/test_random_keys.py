"""Keys for messages whose publishers have none."""

from __future__ import annotations

import re

from server.core.random_keys import RandomKeys


def test_no_key_comes_twice() -> None:
    """Also beyond those that are drawn at a time; each is 16 characters for a URL, with 96 bits of chance."""
    keys = RandomKeys()
    drawn = [keys.next() for _ in range(10_000)]
    assert len(set(drawn)) == len(drawn)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", key) for key in drawn)
    assert len({key[0] for key in drawn}) == len({key[-1] for key in drawn}) == 64
