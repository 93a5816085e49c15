"""Who is in a channel, client by client, for those who are told so: the part of Attendance that knows no grace.

Kept only where somebody can ask for it. It goes to the other nodes with the attendance, under the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from server.brokers.base import ClientRow
from server.wire.messages import Notice
from server.wire.pushes import ClientJoinPush, ClientLeavePush


class Visitor(NamedTuple):
    client: str
    user: str | None
    info: Any
    channel_info: Any


Table = dict[str, dict[str, Visitor]]
"""Channel → client's id → who it is, of one node."""


def clients_topic(channel: str) -> str:
    """Of the hub: what whoever wants to hear of each client's coming and going listens to."""
    return f"{channel}\0clients"


def is_channel(topic: str) -> bool:
    """Whether a topic of the hub is a channel's own."""
    return "\0" not in topic


class Visitors:
    """`deliver(notices)` reaches those who listen to the `clients_topic` of a channel, where `tells(channel)`."""

    def __init__(self, node: str, *, deliver: Callable[[list[Notice]], None], tells: Callable[[str], bool]) -> None:
        self._own: Table = {}
        self._tables: dict[str, Table] = {node: self._own}
        self._deliver = deliver
        self._tells = tells
        self._changed: set[tuple[str, str]] = set()
        self._news: dict[str, dict[str, tuple[bool, Visitor]]] = {}

    # --- here ---------------------------------------------------------------------------------------------------------

    def enter(self, channel: str, visitor: Visitor) -> None:
        self._set(self._own, channel, visitor.client, visitor)
        self._changed.add((channel, visitor.client))

    def leave(self, channel: str, client: str) -> None:
        self._set(self._own, channel, client, None)
        self._changed.add((channel, client))

    def show(self, channel: str) -> list[Visitor]:
        """On all nodes."""
        return [visitor for table in self._tables.values() for visitor in table.get(channel, {}).values()]

    def take_news(self) -> None:
        """Tell of who has come and gone since the last time."""
        news, self._news = self._news, {}
        for channel, of in news.items():
            notices = [
                Notice(clients_topic(channel), (ClientJoinPush if came else ClientLeavePush)(channel, *visitor))
                for came, visitor in of.values()
            ]
            if notices:
                self._deliver(notices)

    # --- between nodes ------------------------------------------------------------------------------------------------

    def take_changes(self) -> list[ClientRow]:
        changed, self._changed = self._changed, set()
        return [_row(channel, client, self._own.get(channel, {}).get(client)) for channel, client in changed]

    def rows(self) -> list[ClientRow]:
        """All that are here."""
        return [_row(channel, visitor.client, visitor) for channel, of in self._own.items() for visitor in of.values()]

    def apply(self, node: str, rows: Iterable[ClientRow]) -> None:
        table = self._tables.setdefault(node, {})
        for channel, client, present, user, info, channel_info in rows:
            self._set(table, channel, client, Visitor(client, user, info, channel_info) if present else None)

    def replace(self, node: str, rows: list[ClientRow]) -> None:
        """These are all that are on the node."""
        kept = {(channel, client) for channel, client, *_ in rows}
        table = self._tables.setdefault(node, {})
        for channel, client in [(channel, client) for channel, of in table.items() for client in of]:
            if (channel, client) not in kept:
                self._set(table, channel, client, None)
        self.apply(node, rows)

    def forget(self, node: str) -> None:
        self.replace(node, [])
        del self._tables[node]

    def _set(self, table: Table, channel: str, client: str, visitor: Visitor | None) -> None:
        of = table.setdefault(channel, {})
        before = of.pop(client, None)
        if visitor is not None:
            of[client] = visitor
        elif not of:
            del table[channel]
        if (before is None) != (visitor is None) and self._tells(channel):
            news = self._news.setdefault(channel, {})
            known = before or visitor
            assert known is not None
            if client in news:  # and gone again before anybody was told, or the other way round
                del news[client]
            else:
                news[client] = visitor is not None, known


def _row(channel: str, client: str, visitor: Visitor | None) -> ClientRow:
    if visitor is None:
        return channel, client, False, None, None, None
    return channel, client, True, visitor.user, visitor.info, visitor.channel_info


def chunks(*lists: list[Any], size: int) -> Iterator[tuple[list[Any], ...]]:
    """Of all the lists side by side, `size` at most of each at a time; one at least."""
    longest = max(map(len, lists))
    for index in range(0, max(longest, 1), size):
        yield tuple(items[index : index + size] for items in lists)
