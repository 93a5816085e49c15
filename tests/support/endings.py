"""The ends of logs, as who subscribes or reads history asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from server.core.tasks import Keeper
from server.log.endings import Ending
from server.node import Node
from tests.support.logs import opened
from tests.support.processes import Mongod
from tests.support.waiting import until


async def written_elsewhere(node: Node, mongod: Mongod, *channels: str) -> None:
    """Three messages in each, of which this node does not know yet."""
    async with opened(mongod.uri, node.config.mongodb, node="another") as log:
        for number in range(3):
            await asyncio.gather(*(log.append(channel, None, f"key {number}", number, 10) for channel in channels))


class Endings:
    """Keeps back what a log answers."""

    def __init__(self, node: Node) -> None:
        self._ask = node.log.ending
        self._waiting: list[tuple[asyncio.Future[Ending], asyncio.Future[Ending]]] = []

    def asked(self, *arguments: Any) -> asyncio.Future[Ending]:
        later: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._ask(*arguments), later))
        return later

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet."""
        return len(self._waiting)

    async def asked_for(self, number: int = 1) -> None:
        await until(lambda: self.waiting == number, what="questions for the ends of logs")

    def answer_one(self) -> None:
        """The oldest."""
        found, later = self._waiting.pop(0)
        found.add_done_callback(lambda found: later.set_result(found.result()))

    def answer(self, error: BaseException | None = None) -> None:
        """Or fail with the error in its place."""
        assert self._waiting
        for found, later in self._waiting:
            if error is None:
                found.add_done_callback(lambda found, later=later: later.set_result(found.result()))
            else:
                later.set_exception(error)
        self._waiting.clear()


def spawns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that are begun from now on."""
    spawned: list[str] = []
    spawn = Keeper.spawn

    def counted(self: Keeper, name: str, work: Coroutine[Any, Any, Any], **more: Any) -> Any:
        spawned.append(name)
        return spawn(self, name, work, **more)

    monkeypatch.setattr(Keeper, "spawn", counted)
    return spawned
