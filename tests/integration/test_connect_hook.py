"""The hook that is asked about who connects: at every door, in order, and with nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

import server.access.hooks
from server.core import config
from server.core.errors import StartError
from server.core.principals import GUEST
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.support.centrifugo import Wire
from tests.support.client import Client, Push, Refused, make_token
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
TURNS = 4


class Gate:
    """A back end of this process: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.rule: Callable[[dict[str, Any]], Any] = lambda question: None
        self.under_way = self.most = 0

    async def ask(self, question: dict[str, Any]) -> Any:
        self.questions.append(question)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            answer = self.rule(question)
            return await answer if isinstance(answer, Awaitable) else answer
        finally:
            self.under_way -= 1

    def think(self) -> tuple[asyncio.Event, asyncio.Event]:
        """From now on it takes its time: that it has begun to think, and that it may answer."""
        thinking, go_on = asyncio.Event(), asyncio.Event()

        async def wait(question: dict[str, Any]) -> None:
            thinking.set()
            await go_on.wait()

        self.rule = wait
        return thinking, go_on


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def settings(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    monkeypatch.setattr(server.access.hooks, "CONCURRENT", TURNS)
    module = types.ModuleType("gate_of_this_test")
    module.ask = gate.ask  # type: ignore[attr-defined]
    sys.modules["gate_of_this_test"] = module
    key = {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}
    yield {
        "hooks": {"gate": {"function": "gate_of_this_test:ask", "actions": ["connect"], "timeout": "10s"}},
        "auth.api_keys": {"ops": key},
        "namespaces.vip": {"presence": True},
        "centrifugo.enabled": True,
        "limits.connections_per_user": 0,
    }
    del sys.modules["gate_of_this_test"]


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def token(user: str = "ann", **claims: Any) -> str:
    return make_token(SECRET, user, iat=1_700_000_000, **claims)


async def come(client: Client, count: int) -> list[Push]:
    await until(lambda: len(client.strays) >= count, 5, f"{count} pushes")
    taken, client.strays[:count] = client.strays[:count], []
    return taken


async def get(base: str, path: str, bearer: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    response = await AsyncHTTPClient().fetch(base + path, headers=headers, raise_error=False)
    return response.code, json.loads(response.body)


@pytest.mark.gen_test
async def test_the_question(url: str, gate: Gate) -> None:
    """Who connects, from where, by which way and with what; guests and back ends too. Commands wait for the answer, and
    are carried out in their order."""
    async with Client(url, greet=False) as ann:
        bearer = token(role="editor")
        session, published = await asyncio.gather(
            ann.request("connect", token=bearer, name="shop", version="2.1"), ann.publish("chat:a", 1)
        )
        assert (session["user"], published["offset"]) == ("ann", 1)
        (question,) = gate.questions
        assert question.pop("claims")["role"] == "editor"
        assert question.pop("address") in ("127.0.0.1", "::1")
        assert question == {
            "action": "connect", "user": "ann", "server": False, "transport": "websocket", "name": "shop",
            "version": "2.1",
        }  # fmt: skip
    async with Client(url, greet=False) as guest:
        await guest.publish("chat:a", 2)  # whose first command is no connect
    async with Client(url, token=KEY, bearer=True):
        assert [(one["user"], one["server"], one["name"]) for one in gate.questions[1:]] == [
            (None, False, ""),
            ("ops", True, ""),
        ]


@pytest.mark.gen_test
async def test_it_refuses(url: str, base_url: str, gate: Gate, node: Node) -> None:
    """With its reason, at every door; what came behind the connect is not carried out, and no seat is left taken."""
    gate.rule = lambda question: {"allow": False, "reason": "not today"}
    async with Client(url, greet=False) as ann:
        with pytest.raises(Refused, match="permission_denied: not today"):
            await ann.request("connect", token=token())
        await until(lambda: ann.losses, 5, "the end")
        assert (ann.losses[0].code, ann.losses[0].reason) == (4500, "not today")
    async with Client(url, greet=False) as guest:
        with pytest.raises(Refused, match="not today"):
            await guest.publish("chat:a", 1)
    async with Wire(base_url) as wire:
        assert (await wire.ask(connect={}))["error"] == {"code": 103, "message": "not today"}
        assert await wire.closed() == 3507
    messages = "/v1/channels/chat:a/messages"
    for path in ("/v1/channels/chat:a/events", "/v1/poll?channel=chat:a", messages + "?wait=1&after=0"):
        assert (await get(base_url, path))[1]["reason"] == "not today"
    assert (await get(base_url, messages))[0] == 200  # no connection
    assert node.admission.connections.total == node.admission.addresses.total == node.admission.per_user.total == 0
    assert node.log.known_head("chat:a") is None or node.log.known_head("chat:a").offset == 0  # type: ignore[union-attr]


@pytest.mark.gen_test
async def test_it_gives(url: str, base_url: str, gate: Gate, node: Node) -> None:
    """Info, rights and subscriptions, as long as the connection is there: a new token does not take them; Centrifugo's
    clients have them as well, and who listens by an event stream."""
    gate.rule = lambda question: {
        "info": {"name": "Ann"}, "channels": {"vip:b*": ["publish", "subscribe"]}, "subscribe": {"vip:a": {"last": 1}},
    }  # fmt: skip
    async with Client(url, token=token("seed")) as seed:
        await come(seed, 1)
        await seed.publish("vip:b", 1)
    publishing = node.publisher.publish(
        GUEST.__class__(user="x", server=True, channels={"vip:*": ["publish"]}), "vip:a", "old"
    )
    assert publishing is not None
    await publishing
    async with Client(url, token=token()) as ann:
        subscribed, message = await come(ann, 2)
        assert (subscribed["type"], subscribed["channel"], message["data"]) == ("subscribed", "vip:a", "old")
        await ann.subscribe("vip:b")
        users = (await ann.presence("vip:a"))["users"]
        assert {"user": "ann", "sessions": 1, "info": {"name": "Ann"}} in users
        with pytest.raises(Refused, match="may not subscribe"):
            await ann.subscribe("vip:c")
        await ann.request("refresh", token=token(jti="another"))
        await ann.publish("vip:b", 2)
        assert (await ann.subscriptions["vip:b"].message())["data"] == 2
        assert {push["type"] for push in ann.strays} <= {"join"}
        assert len(gate.questions) == 2
    async with Wire(base_url) as wire:
        reply = await wire.ask(connect={"token": token(), "name": "js", "version": "5"})
        assert list(reply["connect"]["subs"]) == ["vip:a"]
        assert [pub["data"] for pub in await wire.pubs(1)] == ["old"]
        assert (gate.questions[-1]["name"], gate.questions[-1]["version"]) == ("js", "5")


@pytest.mark.gen_test
async def test_polls_do_not_ask_each_time(base_url: str, http_server: object, gate: Gate) -> None:
    """What was said of the first counts for those of the same token and address for a while, the rights it gave too; of
    another token it is asked."""
    gate.rule = lambda question: {"subscribe": ["vip:a"]}
    same = token()  # made a second later it is another one
    for _ in range(3):
        assert (await get(base_url, "/v1/poll", same))[0] == 200
    assert [question["transport"] for question in gate.questions] == ["poll"]
    assert (await get(base_url, "/v1/poll", token("bob")))[0] == 200
    assert len(gate.questions) == 2


@pytest.mark.gen_test
async def test_guests_are_asked_about_each(base_url: str, http_server: object, gate: Gate) -> None:
    """Of guests at one address nobody knows which polls are the same one's: what one is given is not another's."""
    gate.rule = lambda question: {"subscribe": ["vip:a"]}
    for number in (1, 2):
        assert (await get(base_url, "/v1/poll"))[0] == 200
        assert len(gate.questions) == number


@pytest.mark.gen_test
async def test_a_thousand_at_once(url: str, gate: Gate, node: Node) -> None:
    """No more than the hook is asked at a time; who is gone meanwhile is asked about no more, and leaves nothing."""
    open_now = asyncio.Event()

    async def wait(question: dict[str, Any]) -> None:
        await open_now.wait()

    gate.rule = wait
    sockets = await asyncio.gather(*(websocket_connect(url) for _ in range(200)))
    for socket in sockets:
        await socket.write_message(json.dumps({"type": "connect", "id": 1, "token": token()}))
    await until(lambda: len(node.admission.users.get("ann", ())) == 200, 10, "seats taken")
    await until(lambda: gate.under_way == TURNS, 5, "questions")
    for socket in sockets[20:]:
        socket.close()
    await until(lambda: len(node.admission.users["ann"]) == 20, 10, "those that stay")
    open_now.set()
    for socket in sockets[:20]:
        assert json.loads(str(await socket.read_message()))["user"] == "ann"
    assert gate.most == TURNS
    assert len(gate.questions) <= 20 + TURNS
    for socket in sockets[:20]:
        socket.close()
    await until(lambda: not node.admission.clients, 5, "nobody")
    assert node.admission.connections.total == node.admission.per_user.total == 0
    assert gate.under_way == 0


@pytest.mark.gen_test
async def test_rights_are_asked_for_again(url: str, gate: Gate, node: Node) -> None:
    """A token that is revoked while the hook thinks lets nobody in; nor one that is, by an event stream."""
    thinking, go_on = gate.think()
    operator = GUEST.__class__(user="ops", server=True, admin=True)
    async with Client(url, greet=False) as ann:
        connecting = asyncio.ensure_future(ann.request("connect", token=token()))
        listening = asyncio.ensure_future(get(url.replace("ws", "http", 1)[:-6], "/v1/channels/feed:a/events", token()))
        await thinking.wait()
        await until(lambda: len(gate.questions) == 2, 5, "both")
        await node.moderation.revoke(operator, "ann")
        go_on.set()
        with pytest.raises(Exception, match=r"revoked|4501"):
            await connecting
        assert (await listening)[1]["code"] == "unauthenticated"


@pytest.mark.gen_test
async def test_who_is_subscribed_while_the_hook_thinks(url: str, gate: Gate, node: Node) -> None:
    """What a back end wants for a user who is about to come in, it has as soon as it is in, and not before."""
    thinking, go_on = gate.think()
    operator = GUEST.__class__(user="ops", server=True, admin=True)
    async with Client(url, greet=False) as ann:
        connecting = asyncio.ensure_future(ann.request("connect", token=token()))
        await thinking.wait()
        node.directives.subscribe(operator, "ann", "vip:a")
        await asyncio.sleep(0)
        assert not ann.strays
        go_on.set()
        await connecting
        assert [push["channel"] for push in await come(ann, 1)] == ["vip:a"]


@pytest.mark.gen_test
@pytest.mark.parametrize("on_failure", ["deny", "allow"])
async def test_when_it_fails(url: str, gate: Gate, node: Node, on_failure: str) -> None:
    """It is as with other hooks: `unavailable` with the invitation to come back, or passed over. An answer that is not
    understood is a failure, told without its words."""
    node.config.hooks["gate"].on_failure = on_failure  # type: ignore[assignment]
    for answer in ("secret words", {"channels": "secret"}, {"subscribe": ["secret words"]}, {"channels": {"x": ["y"]}}):
        gate.rule = lambda question: answer  # noqa: B023
        async with Client(url, greet=False) as ann:
            if on_failure == "allow":
                assert (await ann.request("connect"))["user"] is None
                continue
            with pytest.raises(Refused, match="unavailable") as caught:
                await ann.request("connect")
            assert "secret" not in caught.value.reason
            await until(lambda: ann.losses, 5, "the end")
            assert ann.losses[0].code == 4004


def test_only_one_is_asked() -> None:
    """Two hooks that say `connect` are a mistake."""
    hook = {"function": "os.path:join", "actions": ["connect"]}
    with pytest.raises(StartError, match="hooks: a, b: only one is asked about connect"):
        config.load(None, {}, {"hooks": {"a": hook, "b": hook}}.items())
