"""Waterspout from a shell: `python -m waterspout_client tail chat:lobby`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import json
import logging
import os
import shlex
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TextIO

from waterspout_client.client import Client
from waterspout_client.documents import Change, Document, Replaced
from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Dropped, Event, Gap, Join, Leave, Live, Message, Occupancy, Page
from waterspout_client.state import StateChange

DIM, RED, GREEN, YELLOW, CYAN = "2", "31", "32", "33", "36"

EXAMPLES = """\
examples:
  %(prog)s tail chat:lobby --last 20
  %(prog)s publish chat:lobby '{"text": "hi"}'
  jq -c '.[]' messages.json | %(prog)s publish chat:lobby -
  %(prog)s watch orders --where '{"status": "open"}'
  %(prog)s history chat:lobby --limit 5 --json

COMMAND --help has the options of each. WATERSPOUT_URL and WATERSPOUT_TOKEN stand for --url and --token: other users of
the machine can see arguments.
"""


class Screen:
    """Readable lines, coloured on a terminal; or the objects as JSON, one a line, with `--json`. What strangers wrote
    cannot move the cursor or change the colours."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def show(self, value: Any, *parts: tuple[str | None, str]) -> None:
        if self._json:
            text = json.dumps(value, ensure_ascii=False)
            print("".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text), flush=True)
        else:
            print("  ".join(paint(sys.stdout, colour, text) for colour, text in parts if text), flush=True)

    def tell(self, colour: str, text: str) -> None:
        """About the connection, and errors: never into what another program reads."""
        print(paint(sys.stderr, colour, text), file=sys.stderr, flush=True)

    def state(self, change: StateChange) -> None:
        if change.state == "waiting":
            self.tell(DIM, f"{change.reason}; next attempt in {change.delay:.1f} s")

    def event(self, event: Event) -> None:
        value = {"type": type(event).__name__.lower(), **dataclasses.asdict(event)}
        match event:
            case Message():
                offset = f"#{event.offset}" if event.offset is not None else ""
                self.show(
                    value,
                    (DIM, clock(event.time)),
                    (DIM, offset),
                    (CYAN, event.user or "-"),
                    (None, compact(event.data)),
                )
            case Gap(first=None):
                self.show(value, (YELLOW, "── another history: everything that is retained follows ──"))
            case Gap():
                self.show(value, (YELLOW, f"── {event.first}–{event.last} are no longer retained ──"))
            case Dropped():
                self.show(value, (YELLOW, f"── {event.count} came too fast ──"))
            case Join():
                self.show(value, (GREEN, f"→ {event.user or '-'}"))
            case Leave():
                self.show(value, (RED, f"← {event.user or '-'}"))
            case Occupancy():
                self.show(value, (DIM, there(event.count, event.guests)))
            case Live():
                self.show(value, (DIM, "── live ──"))

    def change(self, change: Change | Replaced | Gap) -> None:
        match change:
            case Replaced():
                for id, document in change.documents.items():
                    self.document("=", DIM, id, document)
            case Change(op="put"):
                self.document("+", GREEN, change.id, change.document, change.truncated)
            case Change():
                self.show({"op": "delete", "id": change.id}, (RED, f"- {change.id}"))
            case Gap():
                self.event(change)

    def document(self, sign: str, colour: str, id: str, document: Document | None, truncated: bool = False) -> None:
        fields = {name: value for name, value in (document or {}).items() if name not in ("_id", "_rev")}
        text = "(too large to show)" if truncated else compact(fields)
        self.show(
            {"op": "put" if sign == "+" else "snapshot", "id": id, "document": document},
            (colour, f"{sign} {id}"),
            (None, text),
        )


def paint(stream: TextIO, colour: str | None, text: str) -> str:
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    plain = colour is None or not stream.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"


def clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def there(users: int, guests: int) -> str:
    return f"{users} here" + (f", {guests} guests" if guests else "")


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


# --- the commands -----------------------------------------------------------------------------------------------------


async def tail(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    async with client.subscribe(arguments.channel, after=arguments.after, last=arguments.last) as events:
        async for event in events:
            screen.event(event)


async def watch(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    async with client.collection(arguments.collection).watch(arguments.where) as changes:
        async for change in changes:
            screen.change(change)


async def publish(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    if arguments.data is not sys.stdin:
        return await publish_one(client, screen, arguments, arguments.data)
    if arguments.key is not None:
        raise ValueError("key: it is one message's, and there may be many lines")
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # else Ctrl-C waits for the thread, and that for a line
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            async with asyncio.timeout(arguments.timeout):
                await publish_one(client, screen, arguments, json_value(line))


async def publish_one(client: Client, screen: Screen, arguments: argparse.Namespace, data: Any) -> None:
    receipt = await client.publish(arguments.channel, data, key=arguments.key, tag=arguments.tag)
    offset = f"#{receipt.offset}" if receipt.offset is not None else "passed on"
    screen.show(dataclasses.asdict(receipt), (GREEN, offset), (DIM, "stored before" if receipt.duplicate else ""))


async def history(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    """All that was asked for, over as many pages as it takes."""
    left = arguments.limit
    after, before = arguments.after, arguments.before
    pages: list[Page] = []
    while left > 0:
        page = await client.history(arguments.channel, after=after, before=before, limit=min(left, 1000))
        pages.append(page)
        left -= len(page.messages)
        if after is not None:
            after = page.cursor
        else:
            before = page.messages[0].cursor if page.messages else None
        if not page.more or not page.messages:
            break
    for page in pages if after is not None else reversed(pages):
        for event in (page.gap, *page.messages):
            if event is not None:
                screen.event(event)


async def presence(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    here = await client.presence(arguments.channel)
    if arguments.json:
        return screen.show(dataclasses.asdict(here))
    for one in here.users:
        screen.show(None, (CYAN, one.user or "-"), (DIM, f"× {one.sessions}" if one.sessions > 1 else ""))
    screen.show(None, (DIM, there(here.count, here.guests)))


def json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        text = text.strip()
        quoted = shlex.quote(json.dumps(text, ensure_ascii=False))
        hint = "" if text.startswith(("{", "[")) else f"; a text has quotes: {quoted}"
        raise argparse.ArgumentTypeError(f"not JSON ({error}){hint}") from None


def json_or_lines(text: str) -> Any:
    return sys.stdin if text == "-" else json_value(text)


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    environment = os.environ.get
    common.add_argument("--url", default=environment("WATERSPOUT_URL", "http://127.0.0.1:8888"), help="of the server")
    common.add_argument("--token", default=environment("WATERSPOUT_TOKEN"), help="a JWT or an API key; none: a guest")
    common.add_argument("--json", action="store_true", help="objects as they are, one a line")
    common.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS",
        help="for an answer, or the first one of tail and watch, which then go on for ever (10)",
    )  # fmt: skip

    top = argparse.ArgumentParser(
        "python -m waterspout_client",
        description="Waterspout from a shell.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Awaitable[None]], help: str, subject: str = "channel") -> Any:
        one = commands.add_parser(name, help=help, description=help, parents=[common])
        one.add_argument(subject)
        one.set_defaults(run=run)
        return one

    one = command("tail", tail, "what is published in a channel, until Ctrl-C")
    start = one.add_mutually_exclusive_group()
    start.add_argument("--last", type=int, metavar="N", help="begin with the newest N messages")
    start.add_argument("--after", metavar="CURSOR", help="begin after a cursor; 0: with the oldest")

    one = command("publish", publish, "publish a message, or one for each line")
    one.add_argument("data", type=json_or_lines, help="any JSON value; -: one on each line of the standard input")
    one.add_argument("--key", help="the idempotency key; by default a random one")
    one.add_argument("--tag", help="what a conflating channel keeps the newest message of")

    one = command("watch", watch, "the documents of a collection and their changes, until Ctrl-C", "collection")
    one.add_argument("--where", type=json_value, metavar="JSON", help='a filter: {"status": "open"}')

    one = command("history", history, "the past of a channel, oldest first")
    bounds = one.add_mutually_exclusive_group()
    bounds.add_argument("--after", metavar="CURSOR")
    bounds.add_argument("--before", metavar="CURSOR")
    one.add_argument("--limit", type=int, default=100, metavar="N", help="how many messages (100)")

    command("presence", presence, "who is in a channel")
    return top


def stop_when_nobody_reads() -> None:
    """`tail … | head` has had enough: that is to be noticed before there is something to write."""
    output, loop, task = sys.stdout.fileno(), asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop() -> None:
        loop.remove_reader(output)
        task.cancel()

    if stat.S_ISFIFO(os.fstat(output).st_mode):
        loop.add_reader(output, stop)


async def run(arguments: argparse.Namespace, screen: Screen) -> int:
    last_reason = ""

    def on_state(change: StateChange) -> None:
        nonlocal last_reason
        if change.state == "waiting":
            last_reason = change.reason
        screen.state(change)

    try:
        async with Client(arguments.url, token=arguments.token, on_state=on_state) as client:
            async with asyncio.timeout(arguments.timeout) as limit:
                await client.ready()
                if arguments.run in (tail, watch):
                    stop_when_nobody_reads()
                    limit.reschedule(None)
                elif getattr(arguments, "data", None) is sys.stdin:
                    limit.reschedule(None)
                await arguments.run(client, screen, arguments)
    except WaterspoutError as error:
        screen.tell(RED, str(error))
    except TimeoutError:
        screen.tell(RED, f"no answer from {arguments.url} within {arguments.timeout:g} s: {last_reason}".rstrip(": "))
    except (ValueError, argparse.ArgumentTypeError) as error:
        screen.tell(RED, str(error))
    else:
        return 0
    return 1


def main() -> None:
    """The exit code: 0; 1 if the server refuses or does not answer; 2 for wrong arguments; 130 after Ctrl-C."""
    arguments = parser().parse_args()
    logging.getLogger("waterspout_client").addHandler(logging.NullHandler())  # `Screen.state` tells the same
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(asyncio.run(run(arguments, Screen(arguments.json))))
    except KeyboardInterrupt:
        sys.exit(130)
    except (BrokenPipeError, asyncio.CancelledError):
        # `tail … | head`: nobody reads, and nobody wants to hear of it at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
