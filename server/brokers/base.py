"""The broker carries messages between nodes. This docstring is its contract; tests/conformance holds all to it.

- At most once: what is published may be lost, doubled or reordered, and nobody is told. Order is normally kept,
  but not between channels that lie on different masters of a Cluster.
- `publish` and `announce` never block, never await and never raise; what cannot be sent is dropped and counted.
- A node receives what it publishes itself, by the same path, if it is subscribed.
- What `subscribe` returns is done once messages published from now on arrive, or at once if the link is down (`problem`
  says so): it is then made up for on reconnecting, after which `on_reconnect` is called. None: they arrive.
- Callbacks run on the event loop, never inside `subscribe`; what they raise is logged.
- Foreign or tampered payloads are dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from server.wire.messages import Message

Row = tuple[str, str | None, int, Any]
"""(channel, user or None for the guests, sessions or −1 for who has left, info)"""


ClientRow = tuple[str, str, bool, str | None, Any, Any]
"""(channel, the client's id, whether it is there, user or None, info, info of the channel)"""


class AttendanceUpdate(Struct, frozen=True, array_like=True):
    """Who is where on one node (server/presence/attendance.py): the change `number`, or one of the `parts` of its whole
    table as it was after that change."""

    number: int
    rows: list[Row]
    part: int = 0
    parts: int = 0
    clients: list[ClientRow] = field(default_factory=list)
    """The same client by client, where they are named."""


class Question(Struct, frozen=True, array_like=True):
    """Which channels have subscribers: the first `limit` names behind `after` that begin with `prefix`. Or what went
    wrong within the last hour."""

    id: str
    prefix: str
    after: str
    limit: int
    about: Literal["channels", "recent"] = "channels"


class Answer(Struct, frozen=True, array_like=True):
    id: str
    channels: dict[str, tuple[int, float]]
    """(subscribers on this node, messages a second)"""
    recent: dict[str, Any] | None = None


class Directive(Struct, frozen=True, array_like=True):
    """What a back end wants done with the sessions of a user that are open now, on whichever node. It is done once, or
    not at all: nobody keeps it."""

    action: Literal["subscribe", "refresh"]
    user: str
    session: str | None = None
    """Only this one of them."""
    channel: str = ""
    expires: float | None = None
    """Seconds since 1970; None: they may stay for ever."""
    expired: bool = False
    info: Any = None
    data: Any = None
    last: int | None = None
    """A subscription begins with so many messages."""
    issued: float = inf
    """When it was wanted, in seconds since 1970 by MongoDB's clock: what is taken back later does not come again."""


class Letter(Struct, frozen=True, array_like=True):
    """For somebody on one node (server/cluster/letters.py)."""

    node: str
    box: str
    body: bytes


class Announcement(Struct, frozen=True, omit_defaults=True):
    """What a node tells all the others, and itself."""

    node: str
    beat: bool = False
    """Sent once a second by every node: the canary it must hear itself."""
    stats: dict[str, Any] | None = None
    """With the beat: how it is (stats.py)."""
    attended: int = 0
    """With the beat: the number of its last attendance."""
    attendance: AttendanceUpdate | None = None
    ask: list[str] = field(default_factory=list)
    """Nodes that are to announce their whole attendance."""
    question: Question | None = None
    answer: Answer | None = None
    heads: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The channels it has committed to since the last beat: (epoch, offset)."""
    news: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Channels that a consumer follows on another node than this one, and how far they reach: told at once."""
    tallies: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of those of them that have amendments: (amendments, offset of the newest message)."""
    mentioned: list[str] = field(default_factory=list)
    """Those of them in which somebody may have been mentioned since."""
    amended: str | None = None
    """A channel in which it has amended a message: nobody may show what was read before."""
    erased: str | None = None
    """The same, of a channel that need have no amendments."""
    amends: bool = False
    """It knows of amendments, and counts them."""
    members: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Who has become what where: (user, channel, role or None). Only a hint."""
    reads: list[tuple[str, str, str, int, int, int]] = field(default_factory=list)
    """How far users have read: (user, channel, epoch, offset, amendments up to there, how often it had moved then)."""
    directive: Directive | None = None
    revoked: bool = False
    """There is a new revocation: it is found without this, but later."""
    letter: Letter | None = None
    want: str | None = None
    """A channel it cannot get its messages into, because others are faster."""


OnMessages = Callable[[list[Message], str], None]
"""(contiguous messages of one channel, id of the node they come from)"""
OnAnnouncement = Callable[[Announcement], None]
OnReconnect = Callable[[], None]


OnAll = Callable[[list[Message]], None]


class Broker(Protocol):
    on_all: OnAll
    """Called with what is published in the namespaces that are followed: messages of one channel, once more than those
    of a channel that is subscribed to. Set by who wants it."""
    dropped: int
    """Publications that could not be sent."""
    refused: int
    """Payloads that were not ours."""

    async def start(
        self, node: str, on_messages: OnMessages, on_announcement: OnAnnouncement, on_reconnect: OnReconnect
    ) -> None: ...

    async def close(self) -> None: ...

    def publish(self, messages: list[Message]) -> None:
        """Messages of one channel: contiguous offsets, or all ephemeral."""

    def announce(self, announcement: Announcement) -> None: ...

    def subscribe(self, channel: str) -> asyncio.Future[None] | None:
        """Whoever gives up waiting for what is returned does not undo it."""

    async def unsubscribe(self, channel: str) -> None: ...

    async def follow(self, namespace: str) -> None:
        """Return once all that is published in the namespace arrives (`on_all`); `unavailable` if it does not. What is
        lost is not made up for."""

    async def unfollow(self, namespace: str) -> None: ...

    def suspect(self) -> None:
        """The node has not heard itself for too long: the link is to be made anew."""

    def problem(self) -> str | None:
        """Why messages do not get through at the moment, or None."""
