"""Channel names and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.channels import BEGINNING, MAX_OFFSET, Position, namespace_of, parse_cursor
from server.errors import Error

epochs = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=32)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("chat:lobby", "chat"),
        ("a:b", "a"),
        ("a-b_9:x", "a-b_9"),
        ("chat:a:b:c", "chat"),
        ("chat:日本/x?y#z%20*", "chat"),
        ("docs:orders/1", "docs"),
        ("$sys:stats", "$sys"),
        ("chat:" + "x" * 250, "chat"),
    ],
)
def test_the_namespace_of_a_good_name(name: str, namespace: str) -> None:
    """The namespace is what stands before the first colon."""
    assert namespace_of(name) == namespace


BAD = ["", "chat", "chat:", ":x", "Chat:x", "9a:x", "_a:x", "ch at:x", "é:x", "$other:x", " chat:x"]
BAD += ["chat:x\n", "\nchat:x"]
BAD += [f"chat:a{character}b" for character in " \t\n\r\x00\x1f\x7f\x85\xa0\u2003\u2028\u3000"]
BAD += ["chat:" + "x" * 251, "chat:" + "é" * 126]


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_other_names_are_refused(name: str) -> None:
    """White space, control characters, other namespaces and more than 255 bytes are `bad_request`."""
    with pytest.raises(Error, match="bad_request: channel"):
        namespace_of(name)


@given(epochs, st.integers(0, MAX_OFFSET))
def test_a_cursor_makes_the_round_trip(epoch: str, offset: int) -> None:
    """Every position is read back from its cursor."""
    assert parse_cursor(str(Position(epoch, offset))) == Position(epoch, offset)


def test_the_beginning_is_the_cursor_0() -> None:
    """The beginning of any channel is written `0`."""
    assert str(BEGINNING) == "0"
    assert parse_cursor("0") == BEGINNING


NO_CURSORS = ["", "1", "00", "e", ":1", "e:", "e:-1", "e:01", "e:1 ", " e:1", "e:1\n", "E:1", "e:1:2", "e:+1"]
NO_CURSORS += ["e:1.0", "e:٣", "é:1", "e" * 33 + ":1", f"e:{2**63}", "e:" + "9" * 30]


@pytest.mark.parametrize("text", NO_CURSORS, ids=ascii)
def test_what_is_no_cursor_is_refused_by_its_field(text: str) -> None:
    """Anything else is `bad_request`, and the field is named."""
    with pytest.raises(Error, match="bad_request: before: not a cursor"):
        parse_cursor(text, "before")
