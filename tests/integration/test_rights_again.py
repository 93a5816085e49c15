"""A right that goes while something is waited for is gone: every use case, whatever it waits for."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import pytest

from server.access.permissions import Permissions
from server.channels.amender import Amender
from server.channels.history import History
from server.channels.publisher import Publisher
from server.channels.subscriptions import Subscriptions
from server.core.errors import Error
from server.core.principals import Principal
from server.documents.service import DocumentService
from server.node import Node
from server.presence.service import PresenceService
from server.wire.codec import JSON
from server.wire.commands import Amending, Find, Subscribe, Write
from tests.support.processes import Mongod

ROOT: Final = Path(__file__).resolve().parents[2]
ANN: Final = Principal(user="ann")
OPERATOR: Final = Principal("operator", server=True, admin=True)
UseCase = Callable[[Node], Awaitable[Any]]


class Sink:
    """A subscriber that takes everything."""

    id, codec, direct_write, topics, writable = "s1", JSON, None, 0, True

    def send(self, delivery: Any) -> None: ...

    def flush(self) -> None: ...

    async def drained(self) -> None: ...


async def published(publishing: Awaitable[Any] | None) -> Any:
    return None if publishing is None else await publishing


def subscribing(**options: Any) -> UseCase:
    return lambda node: node.subscriptions.subscribe(ANN, Sink(), Subscribe(**options))


def subscribing_soon(**options: Any) -> UseCase:
    async def subscribe(node: Node) -> Any:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        assert node.subscriptions.subscribe_soon(ANN, Sink(), Subscribe(**options), outcome.set_result)
        if isinstance(await outcome, Error):
            raise outcome.result()

    return subscribe


def reading(**options: Any) -> UseCase:
    bounds = {"after": None, "before": None, "limit": 10}
    return lambda node: node.history.page(ANN, "hall:a", **bounds | options)


def reading_soon(**options: Any) -> UseCase:
    async def read(node: Node) -> Any:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        bounds = {"after": None, "before": None, "limit": 10}
        assert node.history.page_soon(ANN, "yard:a", outcome.set_result, **bounds | options) is None
        if isinstance(await outcome, Error):
            raise outcome.result()

    return read


def amending(**what: Any) -> UseCase:
    return lambda node: node.amender.amend(ANN, "hall:a", 1, Amending(**what))


def writing(op: Any, identifier: str, document: dict[str, Any] | None = None) -> UseCase:
    return lambda node: node.documents.write(ANN, "notes", put(op, identifier, document))


def put(op: Any, identifier: str, document: dict[str, Any] | None) -> Write:
    return Write(op=op, document_id=identifier, document=document)


async def batch(node: Node) -> None:
    """Its first refusal, so that all use cases end in the same way."""
    for result in await node.documents.write_many(ANN, "notes", [put("put", "x", {"a": 1}), put("put", "y", {})]):
        if isinstance(result, Error):
            raise result


# What is done → how, and what besides the hook it waits for: (a part of the node, its method).
USE_CASES: dict[str, tuple[UseCase, list[tuple[str, str]]]] = {
    "publish": (lambda node: published(node.publisher.publish(ANN, "hall:a", 1)), []),
    "publish of a session": (lambda node: published(node.publisher.publish(ANN, "hall:a", 1, session="s1")), []),
    "publish ephemeral": (lambda node: published(node.publisher.publish(ANN, "hall:a", 1, ephemeral=True)), []),
    "subscribe": (subscribing(channel="hall:a"), [("streams", "acquire")]),
    "subscribe ephemeral": (subscribing(channel="flash:a"), [("streams", "acquire")]),
    "subscribe last": (subscribing(channel="hall:a", last=5), [("streams", "acquire"), ("log", "ending")]),
    "subscribe soon": (subscribing_soon(channel="yard:a", last=5), [("log", "ending")]),
    "subscribe last, many": (subscribing(channel="hall:a", last=100), [("log", "floor")]),
    "subscribe after": (subscribing(channel="hall:a", after="0"), [("log", "ending")]),
    "watch": (subscribing(channel="docs:notes", snapshot=True), [("streams", "acquire")]),
    "ticket": (lambda node: node.subscriptions.ticket(ANN, ["hall:a", "flash:a"]), []),
    "edit": (amending(data="x"), [("log.amendments", "original"), ("log.amendments", "announce")]),
    "erase": (amending(delete=True), [("log.amendments", "original"), ("log.amendments", "announce")]),
    "react": (lambda node: node.reactions.react(ANN, "hall:a", 1, "up", True), [("log.amendments", "original")]),
    "one message": (lambda node: node.amender.get(ANN, "hall:a", 1), [("log.amendments", "original")]),
    "history": (reading(), [("log", "ending")]),
    "history soon": (reading_soon(), [("log", "ending")]),
    "history after, soon": (reading_soon(after="0"), [("log", "ending")]),
    "history, long": (reading(limit=100), [("log", "ending"), ("log", "read_back")]),
    "history after": (reading(after="0"), [("log", "ending")]),
    "history after, long": (reading(after="0", limit=100), [("log", "ending"), ("log", "read")]),
    "presence": (lambda node: node.presence.show(ANN, "hall:a"), []),
    "presence by client": (lambda node: node.presence.clients(ANN, "hall:a"), []),
    "presence of the past": (lambda node: node.presence.show(ANN, "hall:a", 5), [("last_seen", "latest")]),
    "get": (lambda node: node.documents.get(ANN, "notes", "old"), [("document_store", "get")]),
    "find": (lambda node: node.documents.find(ANN, Find(collection="notes")), [("document_store", "find")]),
    "put": (writing("put", "x", {"a": 1}), []),
    "patch": (writing("patch", "old", {"a": 2}), []),
    "delete": (writing("delete", "old"), []),
    "batch": (batch, []),
}
CELLS = [(name, "hook", "") for name in USE_CASES if not name.endswith("soon")] + [
    (name, part, method) for name, (_, waits) in USE_CASES.items() for part, method in waits
]


@pytest.fixture
def thinking(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[None]]]:
    """What the hook does before it allows: set by the test."""
    doing: list[Callable[[], Awaitable[None]]] = []

    async def rule(question: dict[str, Any]) -> None:
        for one in doing:
            await one()

    module = types.ModuleType("rules_of_this_test")
    module.rule = rule  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rules_of_this_test", module)
    return doing


@pytest.fixture
def settings(thinking: object) -> dict[str, object]:
    granted = {"publish": "user", "subscribe": "user", "hook": "slow"}
    return {
        "hooks": {"slow": {"function": "rules_of_this_test:rule"}},
        "namespaces.hall": granted | {"presence": True, "ephemeral": True, "amend": "user", "reactions": True},
        "namespaces.yard": {"publish": "user", "subscribe": "user"},
        "namespaces.flash": granted | {"durable": False},
        "collections.notes": {"read": "user", "write": "user", "hook": "slow"},
    }


@pytest.mark.gen_test
@pytest.mark.parametrize(("name", "part", "method"), CELLS)
async def test_a_right_that_goes_meanwhile_is_gone(
    node: Node,
    thinking: list[Callable[[], Awaitable[None]]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    part: str,
    method: str,
) -> None:
    """The revocation is acknowledged while the use case waits: it is refused, and has told and done nothing."""
    await published(node.publisher.publish(OPERATOR, "hall:a", "old"))
    await node.documents.write(OPERATOR, "notes", put("put", "old", {"a": 1}))
    revoked = 0

    async def revoke() -> None:
        nonlocal revoked
        revoked += 1
        await node.moderation.revoke(OPERATOR, "ann", channels=["hall:a", "yard:a", "flash:a", "docs:notes"])

    if part == "hook":
        thinking.append(revoke)
    else:
        one = attrgetter(part)(node)
        real = getattr(one, method)

        async def slowly(*arguments: Any, **options: Any) -> Any:
            result = await real(*arguments, **options)
            await revoke()
            return result

        monkeypatch.setattr(one, method, lambda *a, **options: asyncio.ensure_future(slowly(*a, **options)))
    with pytest.raises(Error) as refused:
        await USE_CASES[name][0](node)
    assert revoked
    assert refused.value.code == "permission_denied"
    monkeypatch.undo()
    thinking.clear()
    assert (await node.log.heads(["hall:a"]))["hall:a"].offset == 1
    assert node.publisher.published == 1
    documents = (await node.documents.find(OPERATOR, Find(collection="notes")))["documents"]
    assert [(one["_id"], one["a"]) for one in documents] == [("old", 1)]
    assert all(stream_users == 0 for stream_users, _ in node.streams.listened("", "", 100).values())
    assert not node.attendance.users("hall:a")


@pytest.mark.parametrize("kind", [Publisher, Amender, Subscriptions, History, DocumentService, PresenceService])
def test_every_use_case_stands_in_the_table(kind: type) -> None:
    """Whatever takes a principal is tried above, but what only admins' API keys may do, who are
    not revoked, and what awaits nothing."""
    source = inspect.getsource(sys.modules[__name__])
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        asks = "principal" in inspect.signature(method).parameters
        if asks and not name.startswith("_") and name not in ("view", "check_view", "remove", "store", "stored"):
            assert f".{name}(ANN" in source, f"{kind.__name__}.{name}"


def _asking(tree: ast.AST) -> Iterator[str]:
    """The functions that ask `Permissions` themselves."""
    checks = {name for name in vars(Permissions) if name.startswith("check")}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                asked = isinstance(node, ast.Attribute) and node.attr in checks
                if asked and ast.unparse(node.value).endswith("permissions"):
                    yield function.name


def test_rights_are_asked_for_in_one_place() -> None:
    """`Rights` alone decides when a right is asked for again; who asks the rules themselves awaits nothing."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("server", "handlers")
        for path in (ROOT / folder).rglob("*.py")
        for name in _asking(ast.parse(path.read_text()))
    }
    elsewhere = {(path, name) for path, name in found if path != "server/access/rights.py"}
    assert elsewhere == {
        ("server/channels/publisher.py", "publish"),  # the way without a hook, on which nothing waits
        ("server/channels/publisher.py", "store"),  # what was accepted earlier; nothing waits
        ("server/outbox/scheduled.py", "_take_out"),  # which of what waits for its time has lost its right
        ("server/cluster/directives.py", "subscribe"),  # whether there could be such a right at all; awaits nothing
        ("server/delivery/patterns.py", "_ask"),  # as a message comes, of who has a pattern
        ("server/sessions/client.py", "check_subscriptions"),  # after a new token: what of the old ones' rights is left
    }


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(("put", "update"), ("put", "find"), ("patch", "find"), ("put of another", "update")),
        *(("create", "findAndModify"), ("create with digits", "find"), ("batch", "find")),
    ],
)
async def test_a_write_that_waits_for_mongodb_is_not_done(node: Node, mongod: Mongod, name: str, command: str) -> None:
    """In the queue behind another one, or between what it reads and what it writes."""
    await node.documents.write(OPERATOR, "notes", put("put", "old", {"a": 1}))
    block = {"failCommands": [command], "blockConnection": True, "blockTimeMS": 700, "appName": "waterspout"}
    collection = "waterspout.creations" if name == "create" else "notes"
    await mongod.fail_command(block | {"namespace": f"{node.database.name}.{collection}"}, {"times": 1})
    others = []
    if command == "update":  # one that is under way, and others that wait behind it
        others = [asyncio.ensure_future(node.documents.write(OPERATOR, "notes", put("put", "b", {"a": 1})))]
    writes = {
        "put": put("put", "x", {"a": 1}),
        "patch": put("patch", "old", {"a": 2}),
        "put of another": put("put", "old", {"a": 3}),
        "create": Write(op="put", document={"a": 1}, key="k"),
        "create with digits": Write(op="put", document={"_id": "5" * 24, "a": 1}),
    }
    await asyncio.sleep(0)
    writing = asyncio.ensure_future(
        batch(node) if name == "batch" else node.documents.write(ANN, "notes", writes[name])  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    await node.moderation.revoke(OPERATOR, "ann", channels=["docs:notes"])
    with pytest.raises(Error) as refused:
        await writing
    assert refused.value.code == "permission_denied"
    await asyncio.gather(*others)
    documents = (await node.documents.find(OPERATOR, Find(collection="notes")))["documents"]
    assert {one["_id"]: one["a"] for one in documents} == {"old": 1} | ({"b": 1} if others else {})
