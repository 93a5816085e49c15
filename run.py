"""Waterspout's front door: flags → config → (embedded MongoDB) → node → application → listen → drain."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import resource
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tornado.netutil import bind_sockets

from handlers import make_app, make_metrics_app
from handlers.server import HTTPServer
from server import __version__
from server.access.auth import Authenticator
from server.core import config, logs
from server.core.collector import Collector
from server.core.errors import Error, StartError
from server.core.names import is_pattern
from server.core.tasks import Keeper
from server.mongo.embedded import EmbeddedMongoDB
from server.node import Node
from server.tools import development, seed, users
from server.wire.codec import JSON

logger = logging.getLogger("waterspout")

ROOT = Path(__file__).resolve().parent


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """The flags, and in `run` what they ask for: without a command, the server. A command takes all the flags of the
    server as well, before or behind it, and gets (flags, config); it answers the exit code."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: config.yaml)")
    common.add_argument("--host", help="address to listen on")
    common.add_argument("--port", type=int, help="port to listen on")
    common.add_argument("--data-dir", metavar="DIR", help="where the embedded MongoDB keeps its data")
    common.add_argument("--mongodb-uri", metavar="URI", help="a replica set; `embedded` starts one")
    common.add_argument("--redis-url", metavar="URL", help="joins several instances")
    common.add_argument("--log-format", choices=("text", "json"), help="default: text on a terminal, else JSON")
    common.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="any option; VALUE is YAML; repeatable"
    )
    common.add_argument(
        "--development", action="store_true", help="on one's own machine: accounts, example users, rooms with members"
    )
    common.add_argument("--check-config", action="store_true", help="check the configuration and leave")
    parser = argparse.ArgumentParser(
        parents=[common],
        description="A self-hosted real-time server: channels and live documents. Without a command, it serves.",
    )
    parser.add_argument("--version", action="version", version=f"waterspout {__version__}")
    parser.set_defaults(run=run_server)
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("doctor", help="look for what is wrong with MongoDB, Redis and this machine").set_defaults(
        run=run_doctor
    )
    token = commands.add_parser("token", help="print a token for development, signed with auth.secret")
    token.add_argument("--user", required=True, help="its sub")
    token.add_argument(
        "--channels", action="append", default=[], metavar="PATTERN=ACTIONS",
        help="rights beyond the namespaces', such as 'chat:*=publish,subscribe' or 'docs:orders=write'; repeatable",
    )  # fmt: skip
    token.add_argument("--ttl", default="1h", metavar="DURATION", help="until it expires (default: 1h)")
    token.add_argument("--info", metavar="JSON", help="what others may be shown of the user")
    token.set_defaults(run=run_token)
    example = commands.add_parser("seed", help="fill the collections with an example shop and market")
    example.add_argument("--simulate", action="store_true", help="and keep orders flowing and prices moving")
    example.set_defaults(run=lambda flags, options: seed.run(options, flags.simulate))
    made = commands.add_parser("new", help="make a folder with a page, a configuration and a rule, to begin with")
    made.add_argument("folder", type=Path, metavar="FOLDER")
    made.set_defaults(run=run_new)
    users.declare(commands, users.run)
    imported = commands.add_parser(
        "import-centrifugo", help="print a configuration made from Centrifugo's (JSON), and what could not be turned"
    )
    imported.add_argument("file", type=Path)
    imported.set_defaults(run=run_import)
    flags, rest = common.parse_known_args(arguments)
    return parser.parse_args(rest, flags)


def run_doctor(_: argparse.Namespace, options: config.Config) -> int:
    from server.tools import doctor  # here, with the libraries of all that it looks at

    return doctor.run(options)


def run_import(flags: argparse.Namespace, _: config.Config) -> int:
    from server.tools import import_centrifugo  # here, as a start does not need it

    return import_centrifugo.run(flags.file)


def run_new(flags: argparse.Namespace, _: config.Config) -> int:
    from server.tools import new

    program = Path(sys.argv[0])
    command = program.name if program.suffix != ".py" else shlex.join((sys.executable, str(program.resolve())))
    return new.run(flags.folder, command)


def load_config(flags: argparse.Namespace, environment: Mapping[str, str]) -> config.Config:
    named = {
        "server.host": flags.host,
        "server.port": flags.port,
        "server.data_dir": flags.data_dir,
        "mongodb.uri": flags.mongodb_uri,
        "redis.url": flags.redis_url,
        "log.format": flags.log_format,
    }
    values: list[tuple[str, Any]] = list(development.SETTINGS.items()) if flags.development else []
    values += [(path, value) for path, value in named.items() if value is not None]
    for setting in flags.set:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise StartError(f"--set {setting}: expected A.B=VALUE")
        values.append((path, config.parse_value(text, f"--set {path}")))
    file = flags.config or (ROOT / "config.yaml")
    folder = str(file.resolve().parent)
    if folder not in sys.path:  # last: functions of hooks and consumers may lie beside the file that names them
        sys.path.append(folder)
    return config.load(file, environment, values)


def listen(host: str, port: int, option: str, reuse_port: bool = False) -> list[socket.socket]:
    """`option` is what chooses another port."""
    try:
        return bind_sockets(port, host, backlog=4096, reuse_port=reuse_port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{host}:{port} is taken by another program; {option} chooses another port") from None
        raise StartError(f"{host}:{port}: {error.strerror}") from None


async def serve(options: config.Config, examples: bool = False) -> None:
    """Until a signal asks for the end. StartError if it cannot begin, or cannot go on. `examples`: make some at the
    start, for who develops."""
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


def run_server(flags: argparse.Namespace, options: config.Config) -> int:
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory(options)) as runner:
        runner.run(serve(options, flags.development))
    return 0


def run_token(flags: argparse.Namespace, options: config.Config) -> int:
    """The token alone on standard output, so that it can be put into a variable."""
    channels = {}
    for right in flags.channels:
        pattern, _, actions = right.partition("=")
        channels[pattern] = [action.strip() for action in actions.split(",")]
        if not is_pattern(pattern) or not set(channels[pattern]) <= {"publish", "subscribe", "write"}:
            raise StartError(f"--channels {right}: expected NAMESPACE:PATTERN=publish,subscribe,write")
    try:
        ttl = config.parse_duration(config.parse_value(flags.ttl, "--ttl"))
        if ttl <= 0:
            raise ValueError("it would have expired")
    except ValueError as error:
        raise StartError(f"--ttl {flags.ttl}: {error}") from None
    try:
        info = None if flags.info is None else JSON.decode(flags.info.encode())
    except Error as error:
        raise StartError(f"--info: {error.reason}") from None
    authenticator = Authenticator(options.auth)
    token, _ = authenticator.sign(flags.user, ttl, channels=channels or None, info=info)
    try:
        authenticator.authenticate(token)
    except Error as error:
        raise StartError(error.reason) from None
    print(token)
    return 0


def main(arguments: list[str]) -> int:
    flags = parse_flags(arguments)
    try:
        options = load_config(flags, os.environ)
        if flags.check_config:
            print("the configuration is good")
            return 0
        logs.configure(options.log, sys.stderr)
        code: int = flags.run(flags, options)
        return code
    except StartError as error:
        print(f"waterspout: {error}", file=sys.stderr)
        return 1
    except Exception:  # a bug; the log has its traceback without what it says of payloads
        logger.exception("waterspout has failed")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
