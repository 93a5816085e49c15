"""A whole node in the test's own process, on a real MongoDB, behind a real HTTP server."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from handlers import make_app
from handlers.routing import Doors
from handlers.server import HTTPServer
from server.core import config, logs
from server.node import Node
from tests.support.databases import Databases
from tests.support.nodes import Instance
from tests.support.processes import Mongod
from tests.support.receiver import Receiver

SETTINGS = {
    "limits.connections_per_ip": 0,
    "limits.messages_per_second": 0,
    "auth.secret": "a secret of at least thirty-two bytes",
    "namespaces.chat": {"publish": "anyone", "subscribe": "anyone"},
    "namespaces.feed": {"publish": "server", "subscribe": "user"},
    "namespaces.live": {"durable": False, "publish": "anyone", "subscribe": "anyone"},
}


@pytest.fixture
def settings() -> dict[str, object]:
    """Override to change a test's configuration."""
    return {}


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """Its name. Nothing is in it but empty collections of tests before."""
    name = databases.take()
    yield name
    databases.give_back(name)


@pytest.fixture
def node(io_loop: IOLoop, mongod: Mongod, database: str, settings: dict[str, object]) -> Iterator[Node]:
    options = config.load(None, {}, (SETTINGS | {"mongodb.database": database} | settings).items())
    node = Node(options, mongod.uri)
    io_loop.run_sync(node.start)
    yield node
    io_loop.run_sync(node.close)


@pytest.fixture
def receiver(io_loop: IOLoop) -> Iterator[Receiver]:
    """A user's back end for consumers."""

    async def start() -> Receiver:
        one = Receiver()
        one.start()
        return one

    one = io_loop.run_sync(start)
    yield one
    io_loop.run_sync(one.stop)


@pytest.fixture
def http_server(io_loop: IOLoop, app: Doors, _unused_port: tuple[socket.socket, int]) -> Iterator[HTTPServer]:
    """Ours, under pytest-tornado's name: its other fixtures are made of it."""
    server = HTTPServer(app, [_unused_port[0]])
    yield server
    server.stop()
    io_loop.run_sync(server.close_all_connections)


@pytest.fixture
def bearer() -> str | None:
    """Override to have `ask` say who asks."""
    return None


@pytest.fixture
def ask(node: Node, base_url: str, http_server: HTTPServer, bearer: str | None) -> Any:
    """A request of the REST API: its status, and the body as far as there is one."""
    instance = Instance(node, base_url)

    async def ask(method: str, path: str, body: Any = None, token: str | None = bearer) -> tuple[int, Any]:
        return await instance.call(method, f"/v1{path}", body, token)

    return ask


@pytest.fixture
def app(node: Node) -> Doors:
    return make_app(node)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The server's own log at its most talkative; what repeats is all there."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)  # or `configure` would close pytest's own
    monkeypatch.setattr(logs, "BURST", 1_000_000)
    text = io.StringIO()
    logs.configure(config.Log(level="debug", format="json"), text)
    yield text
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
