"""A user's back end that consumers push to, and its ledger: what it has taken, in which order, and what came again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from tests.support.waiting import until

SECRET = "a secret between the two, of 32 bytes and more"
Answer = int | tuple[int, dict[str, str]]


class Receiver:
    """`rule(request)` answers a status, or one with headers; or waits. What is answered with 200 to 299 is taken."""

    def __init__(self) -> None:
        self.rule: Callable[[dict[str, Any]], Answer | Awaitable[Answer]] = lambda request: 204
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """By channel, in the order of taking, the first time that each came."""
        self.duplicates: Counter[str] = Counter()
        """By channel, messages that were taken once more."""
        self.gaps: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.faults: list[str] = []
        """Messages that came before one with a lower offset, or behind a hole that no gap told of."""
        self.events: list[dict[str, Any]] = []
        self.under_way: Counter[str] = Counter()
        self.overlaps = 0
        """Requests that came while another one of the same channel was under way."""
        self.most = 0
        """Requests at a time."""
        self._keys: dict[str, set[str]] = defaultdict(set)
        self._listener, self.port = bind_unused_port()
        self._server: HTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        receiver = self

        class Hook(RequestHandler):
            async def post(self) -> None:
                status, headers = await receiver.receive(self.request.body, dict(self.request.headers.get_all()))
                self.set_status(status)
                for name, value in headers.items():
                    self.set_header(name, value)

        self._server = HTTPServer(Application([("/hook", Hook)]))
        self._server.add_sockets([self._listener])

    def refuse_connections(self) -> None:
        """It is gone: nobody listens on its port."""
        assert self._server is not None
        self._server.stop()
        asyncio.get_running_loop().create_task(self._server.close_all_connections())

    def listen_again(self) -> None:
        self._listener, _ = bind_unused_port_at(self.port)
        self.start()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self._listener.close()

    async def receive(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        request = json.loads(body)
        self.requests.append(request)
        self.headers.append(headers)
        self.bodies.append(body)
        channel = request.get("channel", "")
        self.under_way[channel] += 1
        self.most = max(self.most, self.under_way.total())
        self.overlaps += self.under_way[channel] > 1
        try:
            answer = self.rule(request)
            if isinstance(answer, Awaitable):
                answer = await answer
        finally:
            self.under_way[channel] -= 1
        status, more = answer if isinstance(answer, tuple) else (answer, {})
        if 200 <= status < 300:
            self._take(request)
        return status, more

    def _take(self, request: dict[str, Any]) -> None:
        self.events += request.get("events", ())
        if "channel" not in request:
            return
        channel = request["channel"]
        taken = self.taken[channel]
        gap = request.get("gap")
        if gap is not None and gap not in self.gaps[channel]:
            self.gaps[channel].append(gap)
        for message in request["messages"]:
            last = taken[-1]["offset"] if taken else message["offset"] - 1
            if message["offset"] <= last:
                if message["key"] not in self._keys[channel]:
                    self.faults.append(f"{channel}: {message['offset']} comes behind {last}")
                self.duplicates[channel] += 1
                continue
            if message["offset"] != last + 1 and (gap is None or gap["to"] != message["offset"] - 1):
                self.faults.append(f"{channel}: {message['offset']} comes behind {last}, and no gap says why")
            gap = None
            taken.append(message)
            self._keys[channel].add(message["key"])

    def missing(self, channel: str, head: int) -> list[int]:
        """Of the offsets 1…head those that have neither been taken nor told of as a gap."""
        there = {message["offset"] for message in self.taken[channel]}
        for gap in self.gaps[channel]:
            if gap["from"] is not None:
                there.update(range(gap["from"], gap["to"] + 1))
        return [offset for offset in range(1, head + 1) if offset not in there]

    def data(self, channel: str) -> list[Any]:
        return [message["data"] for message in self.taken[channel]]

    async def until_taken(self, channel: str, count: int, within: float = 20.0) -> None:
        await until(lambda: len(self.taken[channel]) >= count, within, f"{count} messages of {channel}")


def bind_unused_port_at(port: int) -> tuple[Any, int]:
    from tornado.netutil import bind_sockets

    (listener,) = bind_sockets(port, "127.0.0.1")
    return listener, port
