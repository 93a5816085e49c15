"""Waterspout's front door: flags → configuration → what they ask for.

A command loads what it is made of and nothing else, so that a mistake in a flag is told at once: the server's own
modules take four times as long as all of the rest.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server import __version__
from server.core import config, logs
from server.core.errors import Error, StartError
from server.core.names import is_pattern

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
    example.set_defaults(run=run_seed)
    made = commands.add_parser("new", help="make a folder with a page, a configuration and a rule, to begin with")
    made.add_argument("folder", type=Path, metavar="FOLDER")
    made.set_defaults(run=run_new)
    _declare_users(commands)
    _declare_consumers(commands)
    erased = commands.add_parser("erase", help="erase a person: messages, account and all else that is kept of them")
    erased.add_argument("--user", required=True, help="the name that tokens give (sub)")
    erased.set_defaults(run=run_erase)
    searched = commands.add_parser("search", help="have older messages found by their words as well")
    searched.set_defaults(run=run_search)
    index = searched.add_subparsers(metavar="ACTION", required=True, dest="action").add_parser(
        "index", help="go through all messages that are searched once more, and say how far that is"
    )
    index.add_argument("--namespace", help="only this one")
    imported = commands.add_parser(
        "import-centrifugo", help="print a configuration made from Centrifugo's (JSON), and what could not be turned"
    )
    imported.add_argument("file", type=Path)
    imported.set_defaults(run=run_import)
    flags, rest = common.parse_known_args(arguments)
    return parser.parse_args(rest, flags)


def _declare_users(commands: Any) -> None:
    users = commands.add_parser("users", help="list, make, disable and change accounts")
    users.set_defaults(run=run_users)
    actions = users.add_subparsers(metavar="ACTION", required=True, dest="action")
    listed = actions.add_parser("list", help="accounts by name")
    listed.add_argument("--prefix", default="", help="of the name")
    listed.add_argument("--role", help="only those who have it")
    listed.add_argument("--disabled", action="store_true", help="only those who are")
    made = actions.add_parser("create", help="make an account, and print a link that sets its password")
    made.add_argument("user")
    made.add_argument("--email", help="taken as verified")
    made.add_argument("--role", action="append", default=[], dest="roles", help="repeatable")
    made.add_argument("--password-stdin", action="store_true", help="read the password instead, one line")
    for action, words in (
        ("disable", "sign a user out everywhere, and let them in no more"),
        ("enable", "let a user in again"),
        ("reset", "print a link that sets a new password"),
        ("sessions", "where a user is signed in"),
        ("sign-out", "end all sessions of a user"),
        ("passkeys", "what a user signs in with beside a password"),
        ("delete", "the account; what the user has written stays"),
    ):
        actions.add_parser(action, help=words).add_argument("user")
    removed = actions.add_parser("remove-passkey", help="as of a device that is lost; what it has signed in ends")
    removed.add_argument("user")
    removed.add_argument("passkey", help="as `passkeys` lists it; behind `--` if it begins with a -")
    roles = actions.add_parser("roles", help="give a user these roles and no others")
    roles.add_argument("user")
    roles.add_argument("roles", nargs="*")


def _declare_consumers(commands: Any) -> None:
    consumers = commands.add_parser("consumers", help="how far consumers are; pause, resume and reset them")
    consumers.set_defaults(run=run_consumers)
    actions = consumers.add_subparsers(metavar="ACTION", required=True, dest="action")
    actions.add_parser("list", help="all of them, and what waits for each")
    actions.add_parser("pause", help="deliver nothing, until it is resumed").add_argument("consumer")
    actions.add_parser("resume", help="also one that a 410 has stopped").add_argument("consumer")
    reset = actions.add_parser("reset", help="go on from another place")
    reset.add_argument("consumer")
    reset.add_argument("--to", required=True, help="`beginning` (of what is retained), `now`, or a cursor of --channel")
    reset.add_argument("--channel", help="there alone, else in all channels")


def run_server(flags: argparse.Namespace, options: config.Config) -> int:
    gc.disable()
    from handlers import serving

    gc.freeze()  # modules stay: to look for garbage among all that they make takes a fifth of a start
    gc.enable()
    serving.run(options, flags.development)
    return 0


def run_doctor(_: argparse.Namespace, options: config.Config) -> int:
    from server.tools import doctor

    return doctor.run(options)


def run_seed(flags: argparse.Namespace, options: config.Config) -> int:
    from server.tools import seed

    return seed.run(options, flags.simulate)


def run_users(flags: argparse.Namespace, options: config.Config) -> int:
    from server.tools import users

    return users.run(flags, options)


def run_consumers(flags: argparse.Namespace, options: config.Config) -> int:
    from server.tools import consumers

    return consumers.run(flags, options)


def run_erase(flags: argparse.Namespace, options: config.Config) -> int:
    from server.tools import erase

    return erase.run(flags.user, options)


def run_search(flags: argparse.Namespace, options: config.Config) -> int:
    from server.tools import search

    return search.run(flags.namespace, options)


def run_import(flags: argparse.Namespace, _: config.Config) -> int:
    from server.tools import import_centrifugo

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
    values: list[tuple[str, Any]] = []
    if flags.development:
        from server.tools import development

        values += development.SETTINGS.items()
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


def run_token(flags: argparse.Namespace, options: config.Config) -> int:
    """The token alone on standard output, so that it can be put into a variable."""
    from server.access.auth import Authenticator
    from server.wire.codec import JSON

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
