"""static/waterspout.js in a Node process of its own, driven by client.mjs."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from tests.support.processes import ROOT, Server
from tests.support.waiting import until

Event = dict[str, Any]
# Quick attempts: the tests wait for the client, not for its politeness.
QUICK = {"minDelay": 0.05, "maxDelay": 0.5}


class Client:
    """The client in its Node process: results by command, and everything it told, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._results: dict[int, asyncio.Future[Any]] = {}
        self.events: list[Event] = []
        self.noise: list[str] = []

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self.noise.append(line.decode())
                continue
            if "event" in event:
                self.events.append(event)
                continue
            future = self._results.pop(event["id"])
            if future.done():
                continue  # given up by the test
            if "error" in event:
                future.set_exception(ClientError(event["error"]))
            else:
                future.set_result(event["result"])

    def start(self, command: str, **fields: Any) -> asyncio.Future[Any]:
        """Send a command; its result comes when it comes."""
        number = next(self._ids)
        future = self._results[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "command": command, **fields}).encode() + b"\n")
        return future

    async def do(self, command: str, within: float = 20.0, **fields: Any) -> Any:
        async with asyncio.timeout(within):
            return await self.start(command, **fields)

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    def messages(self) -> list[Any]:
        return [event["data"] for event in self.told("message")]

    def offsets(self) -> list[int]:
        return [event["offset"] for event in self.told("message")]

    def states(self) -> list[str]:
        return [event["state"] for event in self.told("state")]

    async def state(self, name: str, within: float = 20.0) -> Event:
        """Wait for the newest state to be `name`."""
        await until(lambda: self.states()[-1:] == [name], within, f"state {name!r}")
        return self.told("state")[-1]

    async def received(self, count: int, within: float = 20.0) -> list[Any]:
        """The data of the messages, once there are `count`; a moment is given to those that are too many."""
        await until(lambda: len(self.messages()) >= count, within, f"{count} messages")
        await asyncio.sleep(0.3)
        assert len(self.messages()) == count, self.messages()
        return self.messages()


class ClientError(Exception):
    def __init__(self, error: Event) -> None:
        super().__init__(f"{error['code']}: {error['reason']}")
        self.code = error["code"]
        self.error = {name: value for name, value in error.items() if value is not None}


@asynccontextmanager
async def client(node: list[str], url: str, **options: Any) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        *node,
        str(ROOT / "tests/browser/client.mjs"),
        url,
        json.dumps({**QUICK, **options}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    one = Client(process)
    reading = asyncio.create_task(one.read())
    try:
        yield one
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


def scenario(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[list[str], Server], None]:
    """A test with the fixtures `node` and `running`, on a loop of its own."""

    def test(node: list[str], running: Server) -> None:
        asyncio.run(function(node, running))

    test.__doc__ = function.__doc__
    return test


def room() -> str:
    return f"chat:{secrets.token_hex(4)}"


async def post(server: Server, channel: str, data: Any) -> Event:
    answer = await server.post(f"/v1/channels/{quote(channel)}/messages", {"data": data})
    assert answer.status == 201, answer
    body: Event = answer.body
    return body


async def stored(server: Server, channel: str) -> list[Any]:
    answer = await server.get(f"/v1/channels/{channel}/messages?limit=1000")
    assert answer.status == 200, answer
    return [message["data"] for message in answer.body["messages"]]
