"""The process that serves: (embedded MongoDB) → node → application → listen → drain."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tornado.netutil import bind_sockets

from handlers import make_app, make_metrics_app
from handlers.server import HTTPServer
from server import __version__
from server.core import config, logs
from server.core.collector import Collector
from server.core.errors import StartError
from server.core.tasks import Keeper
from server.mongo.embedded import EmbeddedMongoDB
from server.node import Node

logger = logging.getLogger("waterspout")


def run(options: config.Config, examples: bool = False) -> None:
    """Until a signal asks for the end. StartError if it cannot begin, or cannot go on. `examples`: make some at the
    start, for who develops."""
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory(options)) as runner:
        runner.run(serve(options, examples))


def listen(host: str, port: int, option: str, reuse_port: bool = False) -> list[socket.socket]:
    """`option` is what chooses another port."""
    try:
        return bind_sockets(port, host, backlog=4096, reuse_port=reuse_port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{host}:{port} is taken by another program; {option} chooses another port") from None
        raise StartError(f"{host}:{port}: {error.strerror}") from None


async def serve(options: config.Config, examples: bool) -> None:
    asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
    sockets = listen(options.server.host, options.server.port, "--port", options.server.reuse_port)
    metrics = []
    if options.metrics.port is not None:
        metrics = listen(options.metrics.host, options.metrics.port, "--set metrics.port")
    stop = _stop_on_signals()
    embedded = EmbeddedMongoDB(Path(options.server.data_dir)) if options.mongodb.uri == "embedded" else None
    servers: list[HTTPServer] = []
    node: Node | None = None
    keeper = Keeper()
    ends: list[asyncio.Future[Any]] = [stop]
    """Whichever comes first is the end."""
    try:
        uri = options.mongodb.uri
        if embedded is not None:
            starting = keeper.spawn("mongod", embedded.start(), awaited=True)
            await _first(*ends, starting)
            if not starting.done():
                return
            uri = await starting
            ends.append(keeper.spawn("mongod", embedded.supervise(), awaited=True))
        node = Node(options, uri)
        if embedded is not None:
            node.lifecycle.foundations.append(embedded.problem)
        servers = [HTTPServer(make_app(node), sockets), HTTPServer(make_metrics_app(node), metrics)]
        node.lifecycle.helpers += [server.problem for server in servers]
        opening = keeper.spawn("start", node.start(), awaited=True)
        await _first(*ends, opening)
        if opening.done():
            Collector().start()
            if examples:
                from server.tools import development

                await development.fill(node)
            _banner(options, node, sockets)
            await _first(*ends)
    finally:
        for server in servers:
            server.stop()
        for listener in (*sockets, *metrics):
            listener.close()
        try:
            if node is not None:
                await _leave(node, servers, options.server.shutdown_timeout)
        finally:
            await keeper.close()
            if embedded is not None:
                await embedded.stop()


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done, and raise what it has failed with."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


async def _leave(node: Node, servers: list[HTTPServer], within: float) -> None:
    """Decide what was accepted, tell the clients, give them a moment to say goodbye."""
    try:
        async with asyncio.timeout(within):
            await node.close()
            while node.admission.connections.total or any(server.busy for server in servers):
                await asyncio.sleep(0.02)
    except TimeoutError:
        undone = sorted({task.get_name() for task in asyncio.all_tasks()})
        logger.warning("left after %.0f s with work undone: %s", within, ", ".join(undone))


def _stop_on_signals() -> asyncio.Future[None]:
    """Done at the first SIGTERM or SIGINT; the second leaves at once (mongod dies with us)."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        # From here on the kernel's own doing, which no busy loop can delay.
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        logger.info("leaving")
        if not stop.done():
            stop.set_result(None)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    return stop


def _banner(options: config.Config, node: Node, sockets: list[socket.socket]) -> None:
    port = sockets[0].getsockname()[1]
    host = f"[{options.server.host}]" if ":" in options.server.host else options.server.host
    if not logs.readable(options.log, sys.stderr):
        logger.info(
            "Waterspout %s, node %s, process %d, serves on %s:%d", __version__, node.id, os.getpid(), host, port
        )
        return
    mongodb = f"embedded in {options.server.data_dir}/" if options.mongodb.uri == "embedded" else "external"
    lines = (
        f"Waterspout {__version__}, node {node.id}, process {os.getpid()}",
        f"  pages      http://{host}:{port}/",
        f"  WebSocket  ws://{host}:{port}/v1/ws",
        f"  REST       http://{host}:{port}/v1/channels/chat:lobby/messages",
        f"  health     http://{host}:{port}/readyz",
        f"  MongoDB    {mongodb}",
        f"  broker     {'redis' if options.redis.url else 'memory (one instance)'}",
    )
    print("\n".join(lines), file=sys.stderr, flush=True)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory(options: config.Config) -> Any:
    if options.server.uvloop:
        try:
            import uvloop
        except ImportError:
            logger.info("uvloop is not installed; running on asyncio's own loop")
        else:
            return uvloop.new_event_loop
    return None
