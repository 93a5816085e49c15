"""Folding: what readers are shown of messages that have been amended.

An amendment is an entry first, and folded into its message a moment later (amendments.py). So whoever reads asks for
what is pending first and for the messages then: what is not pending any more is in the messages. The other order would
miss what is folded in between.

Who goes through the entries gets of each page every message as it is now, and of the amendments only the last of a kind
for each message. The others are `hidden`: their offsets are taken, and nothing is told of them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from server.wire.amendments import CONTENT, SUMMARIES, AmendedMessage, Amendment
from server.wire.messages import Message

KNOWN: Final = 20_000
"""Channels of which is remembered that they have amendments."""
CHANGES_SECONDS: Final = 60.0
"""How long is remembered when a channel's last amendment came: longer than a read takes."""


class Overlays:
    """Which channels have amendments, as far as this node knows, and when the last one came."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._changed: OrderedDict[str, float] = OrderedDict()
        self._cleared = 0.0

    def known(self, channel: str) -> bool:
        return channel in self._known

    def note(self, channel: str) -> None:
        """There are amendments in the channel, or may soon be."""
        self._known[channel] = None
        self._known.move_to_end(channel)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def touch(self, channel: str) -> None:
        """An amendment has come: what was read before must not be shown any more."""
        self.note(channel)
        self.drop(channel)

    def drop(self, channel: str) -> None:
        """What was read before must not be shown any more, though there need be no amendments."""
        now = time.monotonic()
        self._changed[channel] = now
        self._changed.move_to_end(channel)
        while next(iter(self._changed.values())) < now - CHANGES_SECONDS:
            self._changed.popitem(last=False)

    def changed(self, channel: str) -> float:
        """When the last amendment came, by the monotonic clock; what was read before that is old."""
        return self._changed.get(channel, self._cleared)

    def clear(self) -> None:
        self._cleared = time.monotonic()
        self._known.clear()
        self._changed.clear()


WHOLE: Final = ("edit", "append", *SUMMARIES)
"""What is told as the message has it by now."""


def overlaid(message: AmendedMessage, amendments: Iterable[Amendment]) -> AmendedMessage:
    """The message with what is not folded into it yet."""
    for amendment in amendments:
        message = message.amended(amendment)
    return message


def originals_of(messages: Sequence[Message], floor: int) -> list[int]:
    """The offsets of the messages that a page's amendments are about and that are not in the page, as far as they are
    needed: in the order of the amendments that need them."""
    first = messages[0].offset if messages else 0
    wanted = {
        message.of: None
        for message in messages
        if isinstance(message, Amendment) and message.op in WHOLE and floor < message.of < first
    }
    return list(wanted)


def fold(
    messages: Sequence[Message], pending: Sequence[Amendment], originals: Mapping[int, AmendedMessage], floor: int
) -> list[Message]:
    """A page as it is shown: as many entries, some of them hidden. `pending`: read before the page. `originals`: those
    that `originals_of` asks for, as far as they are still there."""
    unfolded: dict[int, list[Amendment]] = {}
    for amendment in (*pending, *messages):
        if isinstance(amendment, Amendment) and amendment.pending:
            unfolded.setdefault(amendment.of, []).append(amendment)
    now = {offset: overlaid(message, unfolded.get(offset, ())) for offset, message in originals.items()}
    shown: list[Message] = []
    for message in messages:
        if isinstance(message, AmendedMessage):
            message = now[message.offset] = overlaid(message, unfolded.get(message.offset, ()))
        shown.append(message)
    told: set[tuple[int, str]] = set()
    for index in range(len(shown) - 1, -1, -1):
        amendment = shown[index]
        if isinstance(amendment, Amendment):
            kind = amendment.of, "content" if amendment.op in CONTENT else amendment.op
            amendment = amendment.hiding() if kind in told else _as_it_is_now(amendment, now, floor)
            if not amendment.hidden:  # an edit that came too late does not take the place of the erasing
                told.add(kind)
            shown[index] = amendment
    return shown


def _as_it_is_now(amendment: Amendment, originals: Mapping[int, AmendedMessage], floor: int) -> Amendment:
    """What is told of the last amendment of its kind in a page: of an edit or an append the data as it is by now, of a
    summary what was counted last. Nothing of what is trimmed, and of what is erased only that."""
    if amendment.of <= floor:
        return amendment.hiding()
    original = originals.get(amendment.of)
    if amendment.op not in WHOLE:
        gone = original is not None and original.deleted is not None
        return amendment.hiding() if gone and amendment.op != "delete" else amendment
    if original is None or original.deleted is not None:
        return amendment.hiding()
    return amendment.showing(original)
