"""Whole nodes on one database, in the test's own process."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from msgspec import structs
from tornado.httpclient import AsyncHTTPClient
from tornado.testing import bind_unused_port

from handlers import make_app
from handlers.server import HTTPServer
from server.core import config
from server.node import Node
from tests.support.client import Client
from tests.support.processes import Mongod


class Instance:
    """A node with its doors."""

    def __init__(self, node: Node, base: str) -> None:
        self.node = node
        self.base = base
        self.ws = base.replace("http", "ws") + "/v1/ws"

    async def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One request: the status, and the body as far as there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = await AsyncHTTPClient().fetch(
            self.base + path, method=method, headers=headers, raise_error=False, request_timeout=15,
            body=None if body is None else json.dumps(body), allow_nonstandard_methods=True,
        )  # fmt: skip
        return response.code, json.loads(response.body) if response.body else None

    async def user(self, stack: AsyncExitStack, token: str | None, *channels: str, **options: Any) -> Client:
        """A client over WebSocket, until the stack is closed."""
        client = Client(self.ws, token=token, **options)
        stack.push_async_callback(client.close)
        await client.connect()
        for channel in channels:
            await client.subscribe(channel)
        return client


@asynccontextmanager
async def instances(
    number: int, mongodb_uri: str, settings: Mapping[str, Any], *, redis: str | None = None
) -> AsyncIterator[list[Instance]]:
    """So many of them; without Redis they only meet in MongoDB."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(number):
            given = {**settings, "mongodb.database": database, "redis.url": redis}
            node = Node(config.load(None, {}, given.items()), mongodb_uri)
            made.append(Instance(node, await stack.enter_async_context(served(node))))
        yield made


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[str]:
    """The node with its doors open, as long as it is wanted: the base of its URLs."""
    async with AsyncExitStack() as stack:
        await node.start()
        stack.push_async_callback(node.close)
        listener, port = bind_unused_port()
        web = HTTPServer(make_app(node), [listener])
        stack.push_async_callback(web.close_all_connections)
        stack.callback(web.stop)
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def another(node: Node, mongod: Mongod, **changes: Any) -> AsyncIterator[Node]:
    """A second node on the same database, with a configuration that differs in this."""
    second = Node(structs.replace(node.config, **changes), mongod.uri)
    await second.start()
    try:
        yield second
    finally:
        await second.close()
