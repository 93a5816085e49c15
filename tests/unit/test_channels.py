"""Channel names and cursors."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.cursors import BEGINNING, MAX_OFFSET, Position, join_cursors, parse_cursor, split_cursor
from server.core.errors import Error
from server.core.names import namespace_of

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
        ("$thread:12:chat:tea", "chat"),
        ("$thread:1:chat:a:b:c", "chat"),
        ("$thread:1:chat:" + "x" * 250, "chat"),
    ],
)
def test_the_namespace_of_a_good_name(name: str, namespace: str) -> None:
    """The namespace is what stands before the first colon; of a thread it is its parent's."""
    assert namespace_of(name) == namespace


BAD = ["", "chat", "chat:", ":x", "Chat:x", "9a:x", "_a:x", "ch at:x", "é:x", "$other:x", " chat:x"]
BAD += ["chat:x\n", "\nchat:x"]
BAD += [f"$thread:{rest}" for rest in ("", "1", "1:", "1:chat", "0:chat:x", "01:chat:x", "-1:chat:x", "x:chat:x")]
BAD += [f"$thread:{rest}" for rest in (":chat:x", "1 :chat:x", "1:chat:x\n", "9" * 30 + ":chat:x", "٣:chat:x")]
BAD += [f"$thread:1:{parent}" for parent in ("docs:orders", "dead:x", "$user:ann", "$sys:nodes", "$rooms")]
BAD += ["$thread:1:$thread:1:chat:x", "$thread:*:chat:*", "$thread", "$threads:1:chat:x"]
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


CURSORS = st.one_of(
    st.none(), st.builds("{}:{}".format, st.sampled_from(["k3f9x2ab", "z"]), st.integers(0, MAX_OFFSET))
)
NAMES = st.from_regex(r"[a-z]{1,3}:[a-z~.:,-]{1,3}", fullmatch=True)


@given(st.dictionaries(NAMES, CURSORS, min_size=2, max_size=20), st.randoms())
def test_a_joined_cursor_is_split_again(cursors: dict[str, str | None], chance: random.Random) -> None:
    """In whatever order the channels are asked for; for other channels it is refused."""
    joined = join_cursors(cursors)
    names = list(cursors)
    chance.shuffle(names)

    def place(cursor: str | None) -> str | None:
        return "0" if cursor and cursor.endswith(":0") else cursor  # the beginning, in other words

    assert {name: place(cursor) for name, cursor in split_cursor(joined, names).items()} == {
        name: place(cursor) for name, cursor in cursors.items()
    }
    assert join_cursors(dict(reversed(cursors.items()))) == joined
    with pytest.raises(Error, match="not a cursor of these channels"):
        split_cursor(joined, [*names[1:], "other:x"])


@pytest.mark.parametrize(
    "text", ["~", "~x.1.2", "~.k:1.2", "~{}.1.k:2", "~{}.k:1", "~{}.k:1.2.3", "~{}.k:x.1", "~{}..", "k:1"]
)
def test_a_broken_joined_cursor_is_refused(text: str) -> None:
    digest = join_cursors({"a:a": "k:1", "b:b": "k:2"})[1:].partition(".")[0]
    with pytest.raises(Error, match="after: not a cursor"):
        split_cursor(text.format(digest), ["a:a", "b:b"])


def test_the_cursor_of_many_channels_is_short() -> None:
    """It travels in a header with every event of a stream."""
    assert len(join_cursors({f"chat:room-{n}": f"k3f9x2ab:{1000 + n}" for n in range(128)})) < 700
