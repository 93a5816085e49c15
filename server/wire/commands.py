"""What clients ask for. docs/protocol.md tells it to people; the replies and pushes are in pushes.py, REST in rest.py.

Commands are msgspec structs told apart by `type`; the same validation serves JSON and MessagePack, since both arrive
here as plain objects. Unknown fields are ignored, an unknown `type` is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.core.cursors import MAX_OFFSET, Position, parse_cursor
from server.core.errors import bad_request
from server.wire.search import Channels, Most, Place, Text

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
MAX_KEY: Final = 255
MAX_FETCH: Final = 500
DEFAULT_FETCH: Final = 10
MAX_FETCH_WAIT: Final = 60
MAX_DELAY: Final = 7 * 86400
"""Seconds, both."""

Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, Meta(ge=1, le=MAX_OFFSET)]
Part = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
FetchLimit = Annotated[int, Meta(ge=1, le=MAX_FETCH)]
FetchWait = Annotated[float, Meta(ge=0, le=MAX_FETCH_WAIT)]
Ids = Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(min_length=1, max_length=MAX_PAGE)]
Delay = Annotated[float, Meta(ge=0, le=MAX_DELAY)]
MAX_MENTIONS: Final = 50
Mentions = Annotated[list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(max_length=MAX_MENTIONS)]
"""Names of users, or `*`: every member."""
MAX_LABEL: Final = 100
Label = Annotated[str, Meta(max_length=MAX_LABEL)]


class Command(Struct, tag_field="type", kw_only=True, gc=False):
    id: int | None = None
    """Echoed by the reply; a command without one gets no reply (but its errors)."""


class Connect(Command, tag="connect"):
    token: str | None = None
    after: dict[str, str] = field(default_factory=dict)
    """Channel → cursor: where the client was in what the server has subscribed it to on an earlier connection."""
    name: Label = ""
    """Of the client's program, and its version: for hooks."""
    version: Label = ""


class Refresh(Command, tag="refresh"):
    token: str


class Subscribe(Command, tag="subscribe"):
    channel: str
    after: str | None = None
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None
    where: dict[str, Any] | None = None
    """These three for the changes of documents: what to show, the documents themselves first, and not too often."""
    snapshot: bool = False
    conflate: Annotated[float, Meta(ge=0, le=60)] = 0.0
    grant: Annotated[str, Meta(max_length=64)] | None = None
    """Of a `subscribed` push: the right to come back to it."""
    threads: bool = False
    """Of `$rooms`: also the threads that the user follows."""

    def position(self) -> Position | None:
        """Where to go on from; without an epoch in whatever history there is."""
        return None if self.after is None else parse_cursor(self.after)


class Unsubscribe(Command, tag="unsubscribe"):
    channel: str


class Publish(Command, tag="publish"):
    channel: str
    data: Any
    key: Key | None = None
    tag: Annotated[str, Meta(max_length=MAX_KEY)] | None = None
    """What a conflating channel keeps the newest message of."""
    echo: bool = True
    ephemeral: bool = False
    """Pass it on without storing it, in a durable channel."""
    mentions: Mentions | None = None
    """Who is to be told apart that it is there, where channels have members."""
    broadcast: bool = False
    """Of what is published in a thread: publish it in the parent as well."""


At = float | str
"""Seconds since 1970, or a date and time with its zone (RFC 3339)."""


class Schedule(Command, tag="publish"):
    """A `publish` that says `at`."""

    channel: str
    data: Any
    at: At
    key: Key | None = None
    mentions: Mentions | None = None


class Cancel(Command, tag="cancel"):
    scheduled: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
    """What the reply to the publish said."""


class Amending(Struct, kw_only=True):
    """What is to become of a message, whichever way it came: exactly one of these."""

    data: Any = UNSET
    """The new data."""
    append: str | UnsetType = UNSET
    pin: bool | UnsetType = UNSET
    delete: bool = False
    part: Part | None = None
    """Of an append: its number."""
    done: bool = False
    """Of an append: it is the last one."""

    def operation(self) -> tuple[Literal["edit", "append", "delete", "pin"], Any]:
        """What is done, and its data."""
        if (self.data is not UNSET) + (self.append is not UNSET) + (self.pin is not UNSET) + self.delete != 1:
            raise bad_request("data, append, pin: one of them")
        if self.append is not UNSET:
            return "append", self.append
        if self.part is not None or self.done:
            raise bad_request("part, done: with append only")
        if self.delete:
            return "delete", None
        return ("edit", self.data) if self.pin is UNSET else ("pin", self.pin)


class Amend(Command, tag="amend"):
    channel: str
    of: Offset
    op: Literal["edit", "append", "delete", "pin"]
    data: Any = UNSET
    """Of an edit the new data; of an append a text; of a pin whether it is one, true if it is left out."""
    part: Part | None = None
    done: bool = False
    key: Key | None = None

    def amending(self) -> Amending:
        if self.op == "append":
            if not isinstance(self.data, str):
                raise bad_request("data: of an append a string")
            return Amending(append=self.data, part=self.part, done=self.done)
        if self.part is not None or self.done:
            raise bad_request("part, done: with append only")
        if self.op == "delete":
            return Amending(delete=True)
        if self.op == "edit":
            if self.data is UNSET:
                raise bad_request("data: required")
            return Amending(data=self.data)
        pin = True if self.data is UNSET else self.data
        if not isinstance(pin, bool):
            raise bad_request("data: of a pin true or false")
        return Amending(pin=pin)


class React(Command, tag="react"):
    """React to the message `of`; not `on`: no longer."""

    channel: str
    of: Offset
    kind: str
    on: bool = True


class History(Command, tag="history"):
    channel: str
    after: str | None = None
    before: str | None = None
    limit: Limit = DEFAULT_PAGE
    where: dict[str, Any] | None = None


class Get(Command, tag="get"):
    collection: str
    document_id: str


class Find(Command, tag="find"):
    """Also what the query of a listing over REST says."""

    collection: str
    where: Any = None
    sort: str | None = None
    limit: Limit = DEFAULT_PAGE
    page: str | None = None
    fields: str | None = None
    count: bool = False


class Write(Struct, kw_only=True):
    """One write of a document, whichever way it came: alone, in a batch, as a command."""

    op: Literal["put", "patch", "delete"]
    document_id: str | None = None
    """None: a put whose id the server makes, or the document has."""
    document: dict[str, Any] | None = None
    if_rev: str | None = None
    """A revision, or `*`: whatever is there."""
    if_absent: bool = False
    key: Key | None = None

    @property
    def about(self) -> str | None:
        """The document's id, wherever it stands; None: the server makes it."""
        if self.document_id is not None:
            return self.document_id
        identifier = (self.document or {}).get("_id")
        return identifier if isinstance(identifier, str) else None


class WriteCommand(Command):
    """The fields of a `Write` on the wire, where `type` says what `op` says in a batch."""

    op: ClassVar[Literal["put", "patch", "delete"]]
    collection: str
    document_id: str | None = None
    document: dict[str, Any] | None = None
    if_rev: str | None = None
    if_absent: bool = False
    key: Key | None = None

    def write(self) -> Write:
        return Write(
            op=self.op,
            document_id=self.document_id,
            document=self.document,
            if_rev=self.if_rev,
            if_absent=self.if_absent,
            key=self.key,
        )


class Put(WriteCommand, tag="put"):
    op: ClassVar[Literal["put"]] = "put"


class Patch(WriteCommand, tag="patch"):
    op: ClassVar[Literal["patch"]] = "patch"


class Delete(WriteCommand, tag="delete"):
    op: ClassVar[Literal["delete"]] = "delete"


class Presence(Command, tag="presence"):
    channel: str
    left: Annotated[int, Meta(ge=0, le=MAX_PAGE)] = 0
    """How many of those who have left are to be named, the latest first."""


class Join(Command, tag="join"):
    """Become a member of the channel."""

    channel: str


class Leave(Command, tag="leave"):
    channel: str


class SetMember(Command, tag="member"):
    channel: str
    user: str
    role: str | None
    """None: no member any more."""


class Prefer(Command, tag="member"):
    """A `member` that says how the user wants to see its own membership."""

    channel: str
    mute: bool | UnsetType = UNSET
    pin: bool | UnsetType = UNSET
    user: str | None = None
    """Nobody but the user itself."""


class ListMembers(Command, tag="members"):
    channel: str
    after: str | None = None
    limit: Limit = DEFAULT_PAGE


class Call(Command, tag="call"):
    method: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
    data: Any = None
    key: Key | None = None


class Fetch(Command, tag="fetch"):
    """Messages for a worker of a consumer that hands them out."""

    consumer: str
    limit: FetchLimit = DEFAULT_FETCH
    wait: FetchWait = 0


class Ack(Command, tag="ack"):
    consumer: str
    ids: Ids


class Nack(Command, tag="nack"):
    consumer: str
    ids: Ids
    delay: Delay = 0


class Search(Command, tag="search"):
    """Messages by their words."""

    q: Text
    channels: Channels = field(default_factory=list)
    after: Place | None = None
    limit: Most = 20


class Ping(Command, tag="ping"):
    pass


DocumentCommand = Get | Find | Put | Patch | Delete


class Read(Command, tag="read"):
    """Move the user's marker on to the cursor; with `set` also back."""

    channel: str
    cursor: str
    set: bool = False


class Block(Command, tag="block"):
    """Take no messages of the user in direct channels, or take them again."""

    user: str
    on: bool = True


class ListBlocks(Command, tag="blocks"):
    pass


RoomCommand = Join | Leave | SetMember | Prefer | ListMembers | Read
BlockCommand = Block | ListBlocks
WorkCommand = Fetch | Ack | Nack
LaterCommand = Schedule | Cancel
AnyCommand = (
    Connect | Refresh | Subscribe | Unsubscribe | Publish | Amend | React | History | Presence | Ping | DocumentCommand
    | RoomCommand | BlockCommand | Call | WorkCommand | LaterCommand | Search
)  # fmt: skip
# By hand instead of msgspec's tagged union, which is resolved anew at every call (a third of a publish's time).
_COMMANDS: Final[dict[str, type[AnyCommand]]] = {
    "connect": Connect,
    "refresh": Refresh,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "publish": Publish,
    "amend": Amend,
    "react": React,
    "history": History,
    "presence": Presence,
    "ping": Ping,
    "get": Get,
    "find": Find,
    "put": Put,
    "patch": Patch,
    "delete": Delete,
    "call": Call,
    "join": Join,
    "leave": Leave,
    "member": SetMember,
    "members": ListMembers,
    "fetch": Fetch,
    "ack": Ack,
    "nack": Nack,
    "read": Read,
    "block": Block,
    "blocks": ListBlocks,
    "search": Search,
    "cancel": Cancel,
}


def chosen(**options: bool | UnsetType) -> dict[str, bool]:
    """Those of them that are given."""
    return {name: option for name, option in options.items() if option is not UNSET}


def parse_command(value: Any) -> AnyCommand:
    if not isinstance(value, dict):
        raise bad_request("a command is an object")
    name = value.get("type")
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise bad_request(f"type: one of {', '.join(_COMMANDS)}")
    if kind is Publish:
        if "at" in value and value["at"] is not None:
            if value.get("broadcast"):
                raise bad_request("broadcast: not together with at")
            kind = Schedule
    elif kind is SetMember and ("mute" in value or "pin" in value):
        if "role" in value:
            raise bad_request("role: not together with mute and pin, which are the user's own")
        kind = Prefer
    command: AnyCommand = convert(value, kind)
    return command


def convert(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """`value` as the struct `kind`, or `bad_request` naming the field. Not strict: numbers may be text, as in URLs."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise bad_request(_readable(str(error))) from None


def _readable(message: str) -> str:
    """msgspec's «Expected `int`, got `str` - at `$.id`», with the field in front: «id: expected `int`, got `str`»; and
    «Object missing required field `id`» as «id: required»."""
    text, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    missing = text.removeprefix("Object missing required field `")
    if missing != text:
        return f"{field}.{missing.rstrip('`')}: required".lstrip(".")
    return f"{field}: {text[:1].lower()}{text[1:]}" if field else text
