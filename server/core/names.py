"""Channel names: `namespace:rest`. The namespace decides the options (config.yaml), the rest is the user's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from server.core.errors import bad_request

MAX_NAME_BYTES: Final = 255
DOCUMENTS: Final = "docs"
"""The built-in namespace of the changes of documents."""
SYSTEM: Final = "$sys"
"""The other built-in one: what the server tells of itself, to who has an API key that is `admin`."""
NODES: Final = "$sys:nodes"
EVENTS: Final = "$sys:events"
SYSTEM_CHANNELS: Final = (NODES, EVENTS)
HAPPENINGS: Final = "$sys:presence:"
"""What the channels begin with in which events for consumers are kept (server/consumers/events.py). Nobody reads them
but the server."""
ONLINE: Final = "$sys:online"
"""In the attendance: who is connected at all. No channel that anybody could name."""
PERSONAL: Final = "$user"
"""What concerns a person and no room: `$user:ann` is read by ann alone and written by servers."""
ROOMS: Final = "$rooms"
"""Each user's own view of the channels that they are a member of: no channel, and nobody publishes there."""
THREADS: Final = "$thread"
"""`$thread:12:chat:tea` is what answers the message 12 of `chat:tea`: a channel with the rights and the options of that
one, its parent."""
DEAD: Final = "dead"
"""What could not be handed on, with the reason: written by the server alone, read by who has an API key that is
`admin`."""

# White space and control characters in the sense of Unicode: \s, C0, DEL and C1.
_NAME: Final = re.compile(r"(?P<namespace>[a-z][a-z0-9_-]*|\$sys|\$user):[^\s\x00-\x1f\x7f-\x9f]+")
_THREAD: Final = re.compile(r"\$thread:([1-9][0-9]{0,17}):(.+)", re.DOTALL)


_NOT_IN_NAMES: Final = re.compile(r"[,%\s\x00-\x1f\x7f-\x9f]")


@lru_cache(maxsize=16384)
def namespace_of(channel: str) -> str:
    """The namespace of a well-formed name, of a thread that of its parent; `bad_request` for any other."""
    if channel == ROOMS:
        return ROOMS
    if is_thread(channel):
        return _namespace_of_thread(channel)
    match = _NAME.fullmatch(channel)
    if match is None:
        raise bad_request("channel: a name is namespace:rest, without white space or control characters")
    if len(channel.encode()) > MAX_NAME_BYTES:
        raise bad_request(f"channel: a name has {MAX_NAME_BYTES} bytes at most")
    return match["namespace"]


def _namespace_of_thread(channel: str) -> str:
    match = _THREAD.fullmatch(channel)
    if match is None:
        raise bad_request(f"channel: the name of a thread is {THREADS}:OFFSET:CHANNEL")
    namespace = namespace_of(match[2])
    if is_thread(match[2]) or namespace in (DOCUMENTS, DEAD) or namespace.startswith("$"):
        raise bad_request(f"channel: there are no threads in {match[2]}")
    return namespace


def is_thread(channel: str) -> bool:
    return channel.startswith("$thread:")


def parent_of(channel: str) -> str:
    """Of a well-formed name: itself; of a thread the channel whose message it is about, and whose rights it has."""
    return channel.split(":", 2)[2] if channel.startswith("$thread:") else channel


def root_of(thread: str) -> int:
    """The offset of the message that a thread is about."""
    return int(thread.split(":", 2)[1])


def thread_of(channel: str, offset: int) -> str:
    """The thread about a message of the channel."""
    return f"{THREADS}:{offset}:{channel}"


@lru_cache(maxsize=16384)
def owners_of(channel: str) -> tuple[str, ...]:
    """The parts of a well-formed name behind the namespace: whoever is named by one owns the channel. All that is
    behind `$user:` is one name."""
    namespace, *parts = channel.split(":")
    return (":".join(parts),) if namespace == PERSONAL else tuple(parts)


def direct_name(namespace: str, one: str, other: str) -> str:
    """The channel of two users: `dm:ann,bob`, in the order of their names' code points. What separates names or has no
    place in one of a channel stands there as in a URL: `%2C` for a comma."""
    names = sorted((one, other))
    return f"{namespace}:{','.join(_NOT_IN_NAMES.sub(lambda found: quote(found[0], safe=''), name) for name in names)}"


def pair_of(channel: str) -> tuple[str, str]:
    """The two users of a direct channel; `bad_request` for a name of none, or another name of the same."""
    namespace, _, rest = channel.partition(":")
    try:
        one, other = (unquote(name, errors="strict") for name in rest.split(","))
    except ValueError:  # not two, or not UTF-8
        one = other = ""
    if one == other or not (one and other):
        raise bad_request(f"channel: a direct channel is named after two users, as {namespace}:ann,bob")
    name = direct_name(namespace, one, other)
    if name != channel:
        raise bad_request(f"channel: the name of this direct channel is {name}")
    return one, other


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
    `*` is any characters.
    """
    if pattern == "*":
        pattern = "*:*"
    namespace, colon, wanted = pattern.partition(":")
    own, _, rest = channel.partition(":")
    if not colon or (namespace != own and (namespace != "*" or own in (DOCUMENTS, DEAD) or own.startswith("$"))):
        return False
    return fits(wanted, rest)


def covers(patterns: Iterable[str], channel: str) -> bool:
    """Whether what is taken in channels of these patterns is taken in this one: in those of a collection's documents
    along with the collection, in threads along with their channel."""
    channel = without_label(channel)
    whole = channel.partition("/")[0] if channel.startswith(f"{DOCUMENTS}:") else parent_of(channel)
    return any(matches(pattern, one) for pattern in patterns for one in {channel, whole})


def fits(pattern: str, text: str) -> bool:
    """Whether that is the text, with `*` for any characters. Each part is looked for once, behind the one before it, so
    that no pattern takes long: both may be strangers'."""
    first, *others = pattern.split("*")
    if not others:
        return text == pattern
    last = others.pop()
    if len(first) + len(last) > len(text) or not (text.startswith(first) and text.endswith(last)):
        return False
    start, end = len(first), len(text) - len(last)
    for part in others:
        found = text.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True
