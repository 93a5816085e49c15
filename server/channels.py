"""Channel names, and cursors: positions in a channel.

A name is `namespace:rest`. The namespace decides the options (config.yaml), the rest is the user's.
A cursor is `epoch:offset`, opaque to clients, or `0`: the beginning of any channel. A joined cursor is a position in
each of several channels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from server.errors import bad_request

MAX_NAME_BYTES: Final = 255
MAX_OFFSET: Final = 2**63 - 1
DOCUMENTS: Final = "docs"
"""The built-in namespace of the changes of documents."""
SYSTEM: Final = "$sys"
"""The other built-in one: what the server tells of itself, to who has an API key that is `admin`."""
NODES: Final = "$sys:nodes"
EVENTS: Final = "$sys:events"
SYSTEM_CHANNELS: Final = (NODES, EVENTS)

# White space and control characters in the sense of Unicode: \s, C0, DEL and C1.
_NAME: Final = re.compile(r"(?P<namespace>[a-z][a-z0-9_-]*|\$sys):[^\s\x00-\x1f\x7f-\x9f]+")
_CURSOR: Final = re.compile(r"([0-9a-z]{1,32}):(0|[1-9][0-9]{0,18})")


@lru_cache(maxsize=16384)
def namespace_of(channel: str) -> str:
    """The namespace of a well-formed name; `bad_request` for any other."""
    match = _NAME.fullmatch(channel)
    if match is None:
        raise bad_request("channel: a name is namespace:rest, without white space or control characters")
    if len(channel.encode()) > MAX_NAME_BYTES:
        raise bad_request(f"channel: a name has {MAX_NAME_BYTES} bytes at most")
    return match["namespace"]


@lru_cache(maxsize=16384)
def owners_of(channel: str) -> tuple[str, ...]:
    """The parts of a well-formed name behind the namespace: whoever is named by one owns the channel."""
    return tuple(channel.split(":")[1:])


def without_label(channel: str) -> str:
    """`docs:orders#open` is `docs:orders` under a name of the client's own, so that it may watch a collection several
    times: the same rights, the same log. (Behind a slash `#` is a part of the document's id.)"""
    name, label, _ = channel.partition("#")
    return name if label and name.startswith(f"{DOCUMENTS}:") and "/" not in name else channel


def collection_of(channel: str) -> str:
    """`orders`, of `docs:orders`, `docs:orders#open` and `docs:orders/17`."""
    return without_label(channel).partition(":")[2].partition("/")[0]


def is_pattern(text: str) -> bool:
    """Whether it may match anything (see `matches`): it has a namespace, or is `*`."""
    return text == "*" or ":" in text


def matches(pattern: str, channel: str) -> bool:
    """Whether a well-formed name is one of `pattern`: `chat:*`, `chat:room-*`, `*:lobby`, `*`.

    In front of the colon stands a namespace, or `*` for every declared one (never for the built-in ones); behind it
    `*` is any characters. Linear in the name's length whatever the pattern: both may be strangers'.
    """
    if pattern == "*":
        pattern = "*:*"
    namespace, colon, wanted = pattern.partition(":")
    own, _, rest = channel.partition(":")
    if not colon or (namespace != own and (namespace != "*" or own == DOCUMENTS or own.startswith("$"))):
        return False
    first, *others = wanted.split("*")
    if not others:
        return rest == wanted
    last = others.pop()
    if len(first) + len(last) > len(rest) or not (rest.startswith(first) and rest.endswith(last)):
        return False
    start, end = len(first), len(rest) - len(last)
    for part in others:
        found = rest.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


class Position(NamedTuple):
    """Behind the message `offset` of the history `epoch`."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}" if self.epoch else "0"


BEGINNING: Final = Position("", 0)
"""The beginning of any channel, whatever its epoch."""


def parse_cursor(text: str, field: str = "after") -> Position:
    if text == "0":
        return BEGINNING
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[2]) > MAX_OFFSET:
        raise bad_request(f"{field}: not a cursor")
    return Position(match[1], int(match[2]))


def join_cursors(cursors: Mapping[str, str | None]) -> str:
    """One cursor for several channels, in whatever order they are asked for: `~digest.epoch:offset.offset.-`, by name.

    The digest tells the set of channels; an epoch stands where it is not the one before; `-` is for an ephemeral
    channel. 128 channels take about 500 bytes: it travels in headers and URLs. Of one channel it is that channel's own.
    """
    if len(cursors) == 1:
        return next(iter(cursors.values())) or "-"
    items = [_digest(cursors)]
    known = ""
    for channel in sorted(cursors):
        cursor = cursors[channel]
        epoch, colon, offset = (cursor or "-").partition(":")
        items.append(offset if colon and epoch == known else cursor or "-")
        known = epoch if colon else known
    return "~" + ".".join(items)


def split_cursor(text: str, channels: Iterable[str], field: str = "after") -> dict[str, str | None]:
    """The channels' own cursors again; `bad_request` if they are not the channels that were joined."""
    names = sorted(channels)
    digest, *items = text.removeprefix("~").split(".")
    if digest != _digest(names) or len(items) != len(names):
        raise bad_request(f"{field}: not a cursor of these channels")
    cursors: dict[str, str | None] = {}
    epoch = ""
    for channel, item in zip(names, items, strict=True):
        if item == "-":
            cursors[channel] = None
            continue
        if ":" in item:
            epoch = item.partition(":")[0]
        elif item != "0":
            item = f"{epoch}:{item}"
        cursors[channel] = str(parse_cursor(item, field))
    return cursors


def _digest(channels: Iterable[str]) -> str:
    return hashlib.blake2s(" ".join(sorted(channels)).encode(), digest_size=6).hexdigest()
