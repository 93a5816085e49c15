"""The documentation is true: the options are those of the code, and whatever is shown works like that.

Every fenced block of a page says what it is, and is carried out: `sh run`, `python run` and `js run` by a reader who
follows the page (tests/support/reader.py); `json run` over a WebSocket (`→` is sent, `⇒` by somebody else, `←` must
come back); `http run` as requests (request, blank line, answer); `yaml run` is a configuration. The blocks of one page
build on one another. `…` stands for anything. `text` is only to be looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo import MongoClient
from tornado.websocket import websocket_connect

from docs import generate
from server.core import config
from tests.support.client import make_token
from tests.support.commands import chromium
from tests.support.processes import ROOT, Mongod, Server
from tests.support.reader import Reader, blocks

CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = sorted(ROOT / name for name in ("README.md", "CHANGELOG.md", "clients/python/README.md", "bench/README.md"))
PAGES += sorted((ROOT / "docs").glob("*.md"))
FOLLOWED = ("sh run", "python run", "js run")
PLAYED = ("json run", "http run")
OUTBOX = ROOT / "docs" / "outbox.md"
ELSEWHERE = {
    "json hook": CONFIGURATION,
    "js browser": ROOT / "docs" / "rest.md",
    **dict.fromkeys(("python product", "js product", "js mongosh"), OUTBOX),
}
"""Kinds with a test of their own: below, tests/browser/test_eventsource.py, tests/integration/test_outbox_examples.py
and tests/interop."""

SECRET = "a secret of at least thirty-two bytes"
KEYS = {
    "shop": {"sha256": hashlib.sha256(b"the-key-of-the-shop").hexdigest()},
    "operator": {"sha256": hashlib.sha256(b"the-key-of-the-operator").hexdigest(), "admin": True},
}


IN_A_BROWSER = {ROOT / "README.md", ROOT / "docs" / "quick-start.md"}
"""What these pages make is looked at by tests/browser/test_documentation.py, which follows them as well."""


def with_blocks(*infos: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, *infos)]
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_options_are_documented_from_the_code() -> None:
    """`make docs` brings the page up to date."""
    assert generate.page(CONFIGURATION.read_text()) == CONFIGURATION.read_text()


def test_every_option_is_described() -> None:
    assert [option.path for option in generate.options() if not option.description] == []


def test_every_option_is_in_config_yaml() -> None:
    text = (ROOT / "config.yaml").read_text()
    names = [option.path.rpartition(".")[2] for option in generate.options()]
    assert [name for name in names if not re.search(rf"\b{name}:", text)] == []


def test_config_yaml_has_the_defaults_of_the_code() -> None:
    written = config.load(ROOT / "config.yaml", {}, [])
    for section in ("server", "mongodb", "redis", "auth", "limits", "quotas", "log", "metrics", "origins"):
        assert getattr(written, section) == getattr(config.Config(), section), section


# --- the pages --------------------------------------------------------------------------------------------------------


every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"


@every_page
def test_source_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:server|handlers|static|tests|docs)/[\w./-]+\.\w+)(?:::?\w+)?`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@every_page
def test_every_block_is_carried_out(page: Path) -> None:
    """Or says that it is only to be looked at, and then it shows no command."""
    kinds = {*FOLLOWED, *PLAYED, "yaml run", "text", *(info for info, there in ELSEWHERE.items() if there == page)}
    command = re.compile(r"^(\$ |make |curl |pip |python|\.venv/|apt-get |git |node )", re.MULTILINE)
    for block in blocks(page):
        assert block.info in kinds, f"line {block.line}"
        assert block.info != "text" or not command.search(block.text), f"line {block.line} is a command"


# --- what is shown, works ---------------------------------------------------------------------------------------------


@with_blocks(*FOLLOWED)
def test_a_reader_can_follow(page: Path, mongod: Mongod, tmp_path: Path) -> None:
    if shutil.which("curl") is None and "curl " in page.read_text():
        pytest.skip("curl is not installed")
    if page in IN_A_BROWSER and chromium() is not None:
        pytest.skip("followed by the tests with a browser")
    room = {"publish": "server", "subscribe": "server", "amend": "own"}
    team = room | {"reactions": True}
    forum = room | {"threads": True}
    settings = {"namespaces.room": room, "namespaces.team": team, "namespaces.forum": forum}
    reader = Reader(tmp_path, mongod, {"auth.api_keys": KEYS, **settings})
    try:
        reader.follow(page)
    finally:
        reader.close()


@pytest.fixture(scope="module")
def server(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"mongodb.database": "docs", "auth.api_keys": KEYS, "auth.secret": SECRET, "auth.accounts": True}
    settings["namespaces.room"] = {"publish": "user", "subscribe": "user", "amend": "own|claim:moderator"}
    settings["namespaces.desk"] = {"publish": "user", "subscribe": "user", "search": True}
    settings["namespaces.team"] = {"publish": "user", "subscribe": "user|server", "reactions": True}
    settings["namespaces.forum"] = {"publish": "user", "subscribe": "user", "amend": "own", "threads": True}
    settings["namespaces.dash.patterns"] = True
    settings["consumers"] = {"ledger": {"function": "collections:Counter", "channels": ["dm:*"]}}
    settings["namespaces.club"] = {"members": True, "subscribe": "member|admin", "publish": "member", "amend": "own"}
    settings["namespaces.square"] = {"members": True, "join": "anyone", "subscribe": "user", "publish": "member"}
    settings["namespaces.guild"] = {
        "members": True, "join": "anyone", "subscribe": "member", "publish": "member", "amend": "own", "threads": True,
    }  # fmt: skip
    settings["namespaces.talk"] = {"direct": True, "receipts": True}
    settings["calls"] = {"echo": {"function": "builtins:dict", "allow": "anyone"}}
    settings["namespaces.parcels"] = {"publish": "server"}
    settings["consumers"]["packing"] = {"channels": ["parcels:*"]}  # where no page publishes anything
    settings["centrifugo"] = {"enabled": True, "namespace": "chat"}
    one = Server(tmp_path_factory.mktemp("docs"), mongod.uri, settings=settings)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


VARYING = ("session", "node", "time", "expires", "joined", "at")


def alike(expected: Any, actual: Any) -> bool:
    """`…` stands for anything; of a cursor only the offset counts, of an object every field."""
    if isinstance(expected, str) and "…" in expected:
        return True
    if isinstance(expected, str) and isinstance(actual, str) and re.fullmatch(r"[0-9a-z]+:\d+", expected):
        return expected.partition(":")[2] == actual.partition(":")[2]
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            (name in VARYING and value is not None) or alike(value, actual[name]) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(alike, expected, actual))
    return bool(expected == actual)


def statements(block: str) -> Iterator[tuple[str, str]]:
    """(`→`, `⇒` or `←`, JSON); a statement goes on over indented lines."""
    for statement in re.split(r"\n(?=[→⇒←])", block.strip()):
        yield statement[0], " ".join(line.strip() for line in statement[1:].splitlines()).strip()


def anns_token(subscribe: str | None) -> str:
    return make_token(
        SECRET, "ann", info={"name": "Ann"}, **({"subscribe": json.loads(subscribe)} if subscribe else {})
    )


async def play_websocket(server: Server, block: str) -> None:
    socket = await websocket_connect(server.ws)
    other = await websocket_connect(server.ws)
    received: list[Any] = []
    try:
        for arrow, text in statements(block):
            text = re.sub(r"<ann's token(?:, subscribe: ([^>]*))?>", lambda match: anns_token(match[1]), text)
            if arrow != "←":
                await (socket if arrow == "→" else other).write_message(text)
                continue
            expected = json.loads(text)
            async with asyncio.timeout(5):
                while not any(alike(expected, push) for push in received):
                    message = await socket.read_message()
                    assert message is not None, f"closed {socket.close_code} before {text}; got {received}"
                    received.append(json.loads(message))
            received.remove(next(push for push in received if alike(expected, push)))
    except TimeoutError:
        pytest.fail(f"{text} did not come; left: {received}")
    finally:
        other.close()
        while await other.read_message() is not None:  # until the socket itself is closed
            pass
        socket.close()
        while (message := await socket.read_message()) is not None:
            received.append(json.loads(message))
    assert received == [], "more came than is shown"


async def play_requests(server: Server, block: str) -> None:
    parts = block.strip().split("\n\n")
    assert len(parts) % 2 == 0, "request, blank line, answer"
    for request, answer in list(pairwise(parts))[::2]:
        head, *lines = request.splitlines()
        method, path = head.split()
        headers = dict(line.split(": ", 1) for line in lines if re.match(r"[A-Z][\w-]+: ", line))
        body = "".join(line.strip() for line in lines if not re.match(r"[A-Z][\w-]+: ", line))
        status, *shown = answer.splitlines()
        got = await server.request(method, path, body.encode() or None, headers=headers)
        assert got.status == int(status), (request, got)
        assert alike(json.loads("".join(line.strip() for line in shown)), got.body), (request, got.body)


@with_blocks(*PLAYED)
def test_the_wire_is_as_shown(server: Server, page: Path) -> None:
    for block in blocks(page, *PLAYED):
        play = play_websocket if block.info == "json run" else play_requests
        asyncio.run(play(server, block.text))


@with_blocks("yaml run")
def test_the_configurations_are_some(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml run"):
        file = tmp_path / "config.yaml"
        file.write_text(block.text)
        config.load(file, {}, [])


def test_a_hook_is_asked_as_shown(mongod: Mongod, tmp_path: Path) -> None:
    """docs/configuration.md: the configuration, the question and its signature."""
    (configuration,) = (block for block in blocks(CONFIGURATION, "yaml run") if "moderation" in block.text)
    (question,) = blocks(CONFIGURATION, "json hook")
    asked: list[tuple[dict[str, str], bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        asked.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def run() -> None:
        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        file = tmp_path / "config.yaml"
        file.write_text(configuration.text.replace(":9000/", f":{port}/"))
        settings = {"mongodb.database": "docs_hook", "auth.secret": SECRET}
        async with (
            listener,
            Server(tmp_path, mongod.uri, settings=settings, arguments=("--config", str(file))) as one,
        ):
            token = make_token(SECRET, "ann")
            path = "/v1/channels/chat:lobby/messages"
            assert (await one.post(path, {"data": "hi"}, token=token)).status == 201

    asyncio.run(run())
    ((headers, body),) = asked
    shown, actual = json.loads(question.text), json.loads(body)
    assert shown.pop("claims").items() <= actual.pop("claims").items()
    assert shown | {"key": actual["key"]} == actual
    secret = yaml.safe_load(configuration.text)["hooks"]["moderation"]["secret"]
    signed = f"{headers['waterspout-timestamp']}.".encode() + body
    assert headers["waterspout-signature"] == "v1=" + hmac.new(secret.encode(), signed, "sha256").hexdigest()


def test_a_restored_history_gets_another_epoch(mongod: Mongod, tmp_path: Path) -> None:
    """docs/operations.md, by itself: old cursors find a gap, and all that there is behind it."""

    async def run() -> None:
        async with Server(tmp_path, mongod.uri, settings={"mongodb.database": "docs_restored"}) as one:
            path = "/v1/channels/chat:lobby/messages"
            cursor = (await one.post(path, {"data": "kept"})).body["cursor"]
            await one.terminate()
            with MongoClient(mongod.uri) as client:
                messages = client["docs_restored"]["waterspout.messages"]
                backup = list(messages.find())
                messages.drop()
                messages.insert_many(backup)
            await one.start()
            page = (await one.get(f"{path}?after={cursor}")).body
            assert page["gap"] == {"from": None, "to": None, "reason": "epoch"}
            assert [message["data"] for message in page["messages"]] == ["kept"]

    asyncio.run(run())
