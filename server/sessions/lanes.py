"""Which commands of a client wait for which: in order on one channel; of documents, on one document.

Publishes do not wait for each other (the log keeps their order), everything else waits for what is under way. A lane is
there while something other than publishes is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from server.wire.commands import (
    Amend,
    BlockCommand,
    Call,
    Cancel,
    DocumentCommand,
    Fetch,
    Find,
    Get,
    History,
    Presence,
    Publish,
    React,
    RoomCommand,
    Schedule,
    Search,
    Subscribe,
    Unsubscribe,
    WorkCommand,
)

ChannelCommand = Subscribe | Unsubscribe | Publish | Schedule | Amend | React | History | Presence | RoomCommand
LaneCommand = ChannelCommand | DocumentCommand | WorkCommand | BlockCommand | Call | Cancel | Search


class Lanes:
    """Of one session."""

    __slots__ = ("by_name", "_publishing")

    def __init__(self) -> None:
        self.by_name: dict[str, list[LaneCommand]] | None = None
        """By channel, or what else commands are about: those that wait. Nothing, or empty, while there is no lane."""
        self._publishing: dict[str, asyncio.Future[Any]] | None = None
        """Per channel the newest publish under way."""

    def join(self, command: LaneCommand) -> bool:
        """Have it wait, if its channel has a lane."""
        lane = self.by_name.get(_name(command)) if self.by_name else None
        if lane is None:
            return False
        lane.append(command)
        return True

    def enter(self, command: LaneCommand) -> str | None:
        """Have it wait, if its channel has a lane; else it is the first of a new one: the name of that."""
        if self.by_name is None:
            self.by_name = {}
        name = _name(command)
        lane = self.by_name.get(name)
        if lane is not None:
            lane.append(command)
            return None
        self.by_name[name] = [command]
        return name

    def first(self, name: str) -> LaneCommand:
        """The command whose turn it is."""
        assert self.by_name is not None
        return self.by_name[name][0]

    def done(self, name: str) -> bool:
        """The lane's first command has been carried out. True: there is nobody behind it, so there is no lane any more,
        and whoever comes later opens one of its own."""
        assert self.by_name is not None
        lane = self.by_name[name]
        del lane[0]
        if not lane:
            del self.by_name[name]
        return not lane

    def publishing(self, channel: str, outcome: asyncio.Future[Any]) -> None:
        """A publish is under way until `outcome` is done."""
        if self._publishing is None:
            self._publishing = {}
        self._publishing[channel] = outcome

    def published(self, channel: str, outcome: asyncio.Future[Any]) -> None:
        """It is done."""
        if self._publishing is not None and self._publishing.get(channel) is outcome:
            del self._publishing[channel]

    def publish_under_way(self, channel: str) -> asyncio.Future[Any] | None:
        """The outcome of the newest publish in the channel, if it is not known yet."""
        return self._publishing.get(channel) if self._publishing else None


def _name(command: LaneCommand) -> str:
    if isinstance(command, Amend) and command.op == "append":  # what waits is merged; numbers say in which order
        return f"{command.channel} append {command.of} {id(command) if command.part is not None else ''}"
    if isinstance(command, ChannelCommand):
        return command.channel
    if isinstance(command, Call | Cancel | Search):
        return f"call/{id(command)}"  # each has a lane of its own: none waits for another
    if isinstance(command, BlockCommand):
        return "blocks"
    if isinstance(command, WorkCommand):  # a fetch may wait, and nobody is to wait for it but the next one
        return f"{command.consumer} {'fetch' if isinstance(command, Fetch) else id(command)}"
    name = f"docs:{command.collection}"
    if isinstance(command, Find):
        return name
    about = command.document_id if isinstance(command, Get) else command.write().about
    return f"{name}/{about or id(command)}"  # documents whose id the server makes have no order among themselves
