"""Opening channels: how many who have waited go on in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from server.core.config import Namespace
from server.core.cursors import Position
from server.core.loop_share import SLICE, TASK, LoopShare
from server.core.tasks import Keeper
from server.delivery.hub import Hub
from server.delivery.streams import Streams
from server.log.endings import Ending, Head, Near
from server.log.groups import LOT, GroupReader


class Broker:
    """Confirms all subscriptions at once, as Redis does when it is back."""

    def __init__(self) -> None:
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return asyncio.shield(self.confirmed)

    async def unsubscribe(self, channel: str) -> None: ...


class Log:
    """Finds all heads with one read."""

    def __init__(self, keeper: Keeper, share: LoopShare) -> None:
        self.group: GroupReader[str, Ending] = GroupReader(keeper, "endings", self.find, 1000, share)

    async def find(self, channels: Any) -> dict[str, Ending]:
        return {channel: Ending(channel, Head(Position("e", 0), 0)) for channel in channels}

    def ending(self, channel: str, near: Near | None) -> asyncio.Future[Ending]:
        return self.group.ask(channel)

    async def read(self, *_: Any) -> Any: ...

    async def confirmed_head(self, *_: Any) -> Any: ...


@pytest.mark.parametrize("durable", [True, False])
def test_many_that_open_channels_at_once_go_on_in_several_turns(durable: bool) -> None:
    async def go() -> None:
        keeper, share, broker = Keeper(), LoopShare(), Broker()
        log: Any = Log(keeper, share)
        given: Any = broker
        streams = Streams("n", broker=given, log=log, hub=Hub(), keeper=keeper, loop_share=share)
        turn = 0

        async def one(number: int) -> int:
            await streams.acquire(f"live:{number}", Namespace(durable=durable))
            return turn

        opening = [asyncio.ensure_future(one(number)) for number in range(1000)]
        await asyncio.sleep(0)
        broker.confirmed.set_result(None)
        while not all(task.done() for task in opening):
            turn += 1
            await asyncio.sleep(0)
        went_on = Counter(task.result() for task in opening)
        assert max(went_on.values()) <= SLICE / TASK + LOT
        await keeper.close()

    asyncio.run(go())
