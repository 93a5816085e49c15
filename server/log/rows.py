"""A message as MongoDB has it: the document of each row, and the message of each document.

messages  {_id: {c: channel, o: offset}, e: epoch, u: user, k: key, t: time, d: data}      (or j: data as JSON text)
          changes of documents have an x as well: {k: token, t: cluster time, i: images as JSON text}
          where messages can be amended: s: 1 of what a back end has published; and as far as they apply
              th: offset of the message that it answers, of what was published in that one's thread as well
              v: offset of its last edit or append   w: 1, there were only appends
              ws: its words, where they are searched (words.py)
              gone: {o, u, t}, erased   pin: true, pv: offset that says so
              sums: {operation: {v: what was counted, at, t: when, for marks.py}}, rd: marks of what is to be counted
          where channels have members: mentions: [users, or "*"]
          amendments: z: the message's offset, op, p: 1 while it is not folded into the message (amendments.py);
              until then an edit, an append or a summary has its data (d or j). pin: whether it is one
              appends (appends.py): u: "" and k: made of their number, by: the user, n: [first part, last], ks: keys of
              those that have no number, fin: 1 of the last, nonce: random, so that its writer knows it again
          from a channel's first amendment on: m: how many there are up to here; of amendments l: the newest message
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from server.core.cursors import MAX_OFFSET, NO_TALLY, Tally
from server.core.names import thread_of
from server.wire.amendments import Counted, Deletion, Op, Summary, amended_message, amendment
from server.wire.codec import JSON
from server.wire.messages import Change, Images, Message, mentioning
from server.wire.pushes import MentioningPush, MessagePush

Row = dict[str, Any]
Line = list[Any]
"""[offset, key, user, time (a float), data, data as text, mentions]: what clients are told of a message that was never
amended."""
LINE: Final[Row] = {
    "$let": {
        "vars": {"row": "$$ROOT"},
        "in": [
            "$$row._id.o", "$$row.k", "$$row.u", {"$toDouble": "$$row.t"}, "$$row.d", "$$row.j", "$$row.mentions"
        ],
    }
}  # fmt: skip
"""How MongoDB makes one of a row. A driver takes four times as long for the row itself, which is names for the most
part; and of a line a quarter for the time alone, if that comes as a whole number of 64 bits. (Said so, MongoDB takes no
copy of each row before.)"""

SAID: Final = dict.fromkeys(("d", "j", "v", "w", "pin", "pv", "sums", "mentions", "ws"), 1)
"""All that a message says: what goes when it is erased."""
ON_ITS_WAY: Final = dict.fromkeys(("d", "j", "p"), 1)
"""Of an amendment, what goes when it is folded into its message, or has nothing to be folded into."""
_PLAIN_DEPTH: Final = 100
TEXT_FROM: Final = 32 << 10
"""Bytes of a change from which on it is stored as text: drivers take ten times as long for so many small values, and
let nothing else run meanwhile."""


def id_of(channel: str, offset: int) -> Row:
    return {"c": channel, "o": offset}


def between(channel: str, after: int = 0, upto: int = MAX_OFFSET) -> Row:
    """A filter for `after` < offset ≤ `upto`."""
    return {"_id": {"$gt": id_of(channel, after), "$lte": id_of(channel, upto)}}


# --- into MongoDB -----------------------------------------------------------------------------------------------------


def row(
    channel: str, epoch: str, offset: int, user: str | None, key: str, time: int, data: Any, *, as_text: bool = False
) -> Row:
    stored = _text(data) if as_text or not _is_plain(data) else {"d": data}
    return {"_id": {"c": channel, "o": offset}, "e": epoch, "u": user, "k": key, "t": time} | stored


def change_row(message: Message, change: Change) -> Row:
    """The row of a document's change."""
    document = row(
        message.channel, message.epoch, message.offset, None, change.key, change.time, change.data,
        as_text=change.size > TEXT_FROM,
    )  # fmt: skip
    document["x"] = {"k": change.token, "t": change.at}
    if change.images != (None, None):
        # As text: they are as deep as the document itself, and nobody queries them.
        document["x"]["i"] = JSON.encode(change.images).decode()
    return document


def amendment_row(
    channel: str, epoch: str, offset: int, user: str | None, key: str, time: int, of: int, op: Op, data: Any
) -> Row:
    """The row of an amendment that is still to be folded into the message at `of`."""
    stored = {"pin": data} if op == "pin" else {} if op == "delete" else content(data)
    place = {"_id": {"c": channel, "o": offset}, "e": epoch, "u": user, "k": key, "t": time}
    return place | {"z": of, "op": op, "p": 1} | stored


def content(data: Any) -> Row:
    """How data is stored: one of its two fields."""
    return {"d": data} if _is_plain(data) else _text(data)


def tally_fields(tally: Tally, offset: int) -> Row:
    """What the entry at `offset` stores of what there is up to it."""
    if not tally.amendments:
        return {}
    return {"m": tally.amendments} if tally.newest == offset else {"m": tally.amendments, "l": tally.newest}


def _text(data: Any) -> Row:
    return {"j": JSON.encode(data).decode()}


def _is_plain(data: Any) -> bool:
    """Whether BSON holds it as it is: no key that MongoDB or a driver could take for an operator, a path or a
    reference ({"$ref", "$id"} reads back as another type), no NUL in a key, and not as deep as MongoDB allows at most:
    a message is deeper than the document in it."""
    level = [data]
    for _ in range(_PLAIN_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                for key in item:
                    if key[:1] == "$" or "." in key or "\0" in key:
                        return False
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
        if not below:
            return True
        level = below
    return False


# --- out of MongoDB ---------------------------------------------------------------------------------------------------


def data_of(document: Row) -> Any:
    return msgspec.json.decode(document["j"]) if "j" in document else document.get("d")


def same(one: Any, other: Any) -> bool:
    """Whether two messages have the same data, however their objects are ordered."""

    def canonical(data: Any) -> bytes:
        return msgspec.json.encode(data, enc_hook=int, order="sorted")

    return canonical(one) == canonical(other)


def is_same(stored: Row, data: Any) -> bool:
    """Whether what is stored under a key is a message with this data. What one was before it was edited or erased is
    not known any more."""
    return "z" not in stored and ("v" in stored or "gone" in stored or same(data_of(stored), data))


def contiguous(documents: Iterable[Row], after: int, epoch: str, *, amended: bool = False) -> list[Message]:
    """The messages from `after` + 1 on, up to the first hole (to be read again: it can only be a matter of time). They
    are of the channel's present epoch, whatever it had when they came: after a reset all cursors are new. `amended`:
    there are amendments among them, or of them."""
    if amended:
        return _contiguous_counted(documents, after, epoch)
    messages: list[Message] = []
    expected = after + 1
    for document in documents:
        place = document["_id"]
        offset = place["o"]
        if offset < expected:
            continue
        if offset != expected:
            break
        data = document["d"] if "d" in document else data_of(document)
        message = Message(place["c"], epoch, offset, document["k"], document["u"], int(document["t"]), data)
        if "x" in document:
            message.images = _images(document)
        elif "mentions" in document:
            message = mentioning(message, document["mentions"])
        messages.append(message)
        expected += 1
    return messages


def pushes(channel: str, epoch: str, lines: Iterable[Line]) -> list[MessagePush]:
    """As clients are told of them, for who needs nothing else of them."""
    made: list[MessagePush] = []
    for offset, key, user, time, data, text, mentions in lines:
        if text is not None:
            data = msgspec.json.decode(text)
        push = MessagePush(channel, offset, f"{epoch}:{offset}", key, user, int(time), data)
        if mentions is not None:
            push = MentioningPush(**asdict(push), mentions=mentions)
        made.append(push)
    return made


def _contiguous_counted(documents: Iterable[Row], after: int, epoch: str) -> list[Message]:
    messages: list[Message] = []
    for document in documents:
        offset = document["_id"]["o"]
        if offset > after + 1:
            break
        if offset == after + 1:
            messages.append(counted(document, epoch))
            after = offset
    return messages


def tally_of(document: Row) -> Tally:
    amendments = document.get("m", 0)
    return Tally(amendments, document.get("l", document["_id"]["o"])) if amendments else NO_TALLY


def counted(document: Row, epoch: str) -> Counted:
    """The entry of a channel where messages have been amended."""
    place = document["_id"]
    message = Message(
        place["c"], epoch, place["o"], document["k"], document["u"], int(document["t"]), data_of(document)
    )
    tally = tally_of(document)
    if "z" in document:
        if document["op"] == "pin":
            message.data = document["pin"]
        made = amendment(message, document["z"], document["op"], tally, pending="p" in document)
        if made.op == "append":
            made.user = document["by"]
            made.part = document["n"][1] if "n" in document else None
            made.done = "fin" in document
        return made
    if "th" in document:
        message.tag = thread_of(message.channel, document["th"])
    found = amended_message(message, tally)
    found.version = document.get("v", 0)
    found.edited = found.version > 0 and "w" not in document
    found.pinned = document.get("pin", False)
    found.pin_version = document.get("pv", 0)
    found.by_server = "s" in document
    found.mentions = document.get("mentions", ())
    if "gone" in document:
        gone = document["gone"]
        found.deleted = Deletion(gone["o"], gone["u"], int(gone["t"]))
    if "sums" in document:
        sums = document["sums"].items()
        found.summaries = {op: Summary(one["v"], int(one["at"])) for op, one in sums if "at" in one}
    return found


def _images(document: Row) -> Images | None:
    text = document["x"].get("i")
    return msgspec.json.decode(text, type=Images) if text is not None else None
