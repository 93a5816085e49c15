"""Hooks: the user's own rules, the same at every door, and what happens when they cannot be asked."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

import server.access.hooks
import server.backend.backend
from server.backend import Refused as No
from server.core import config
from server.core.errors import StartError
from server.node import Node
from tests.support.client import Client, Refused, make_token
from tests.support.waiting import until

SECRET = "a secret between the two, of 32 bytes and more"
Rule = Callable[[dict[str, Any]], Awaitable[Any]]


class BackEnd:
    """A user's back end. `rule(question)` answers an object, a status, a status with a problem, or nothing."""

    def __init__(self) -> None:
        self.listener, self.port = bind_unused_port()
        self.questions: list[dict[str, Any]] = []
        self.rule: Callable[[dict[str, Any]], Any] = lambda question: {"allow": True}
        self._server: HTTPServer | None = None

    def serve(self) -> None:
        backend = self

        class Hook(RequestHandler):
            async def post(self) -> None:
                sent = self.request.headers["Waterspout-Timestamp"]
                assert abs(time.time() - int(sent)) < 5
                signed = hmac.new(SECRET.encode(), sent.encode() + b"." + self.request.body, hashlib.sha256).hexdigest()
                assert self.request.headers["Waterspout-Signature"] == f"v1={signed}"
                question = json.loads(self.request.body)
                backend.questions.append(question)
                answer = backend.rule(question)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if isinstance(answer, int):
                    self.set_status(answer)
                elif isinstance(answer, tuple):
                    self.set_status(answer[0])
                    self.set_header("Content-Type", "application/problem+json")
                    self.write(json.dumps(answer[1]))
                elif isinstance(answer, bytes):
                    self.write(answer)
                elif answer is not None:
                    self.write(json.dumps(answer))

        self._server = HTTPServer(Application([("/hook", Hook)]))
        self._server.add_sockets([self.listener])

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self.listener.close()


@pytest.fixture
def backend() -> Iterator[BackEnd]:
    one = BackEnd()
    yield one
    one.stop()


TURNS = 8


@pytest.fixture
def settings(backend: BackEnd, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    monkeypatch.setattr(server.access.hooks, "CONCURRENT", TURNS)
    rules = types.ModuleType("rules_of_this_test")
    rules.sync_rule = sync_rule  # type: ignore[attr-defined]
    rules.async_rule = async_rule  # type: ignore[attr-defined]
    sys.modules["rules_of_this_test"] = rules
    both = {"publish": "anyone", "subscribe": "anyone"}
    url = {"url": f"http://127.0.0.1:{backend.port}/hook", "secret": SECRET, "timeout": "10s"}
    yield {
        "hooks": {
            "web": url,
            "lenient": url | {"on_failure": "allow"},
            "writers": url | {"actions": ["publish"]},
            "sync": {"function": "rules_of_this_test:sync_rule"},
            "async": {"function": "rules_of_this_test:async_rule"},
        },
        "namespaces.web": both | {"hook": "web"},
        "namespaces.flash": both | {"hook": "web", "durable": False},
        "namespaces.lenient": both | {"hook": "lenient"},
        "namespaces.writers": both | {"hook": "writers"},
        "namespaces.sync": both | {"hook": "sync"},
        "namespaces.async": both | {"hook": "async"},
    }
    del sys.modules["rules_of_this_test"]


def sync_rule(question: dict[str, Any]) -> Any:
    if question["action"] == "subscribe":
        return {"allow": not question["channel"].endswith("secret"), "reason": "it is a secret"}
    data, question["data"] = question["data"], "changed in place, which does not count"
    if data == "no":
        raise No("not this")
    if data == "crash":
        raise RuntimeError(f"the payload is {data}")
    return {"data": object()} if data == "odd" else {"data": data.upper()} if data.islower() else None


async def async_rule(question: dict[str, Any]) -> Any:
    return sync_rule(question)


@pytest.fixture
def url(base_url: str, http_server: object, backend: BackEnd) -> str:
    backend.serve()
    return base_url.replace("http", "ws") + "/v1/ws"


async def rest(base: str, path: str, body: Any = None) -> tuple[int, Any]:
    response = await AsyncHTTPClient().fetch(
        base + path, method="GET" if body is None else "POST", body=None if body is None else json.dumps(body),
        raise_error=False,
    )  # fmt: skip
    return response.code, json.loads(response.body)


@pytest.mark.gen_test
async def test_the_question(url: str, backend: BackEnd, node: Node) -> None:
    """Who, what and where; and never the token."""
    token = make_token(str(node.config.auth.secret), "ann", role="editor")
    async with Client(url, token=token) as ann:
        await ann.subscribe("web:x")
        await ann.publish("web:x", {"n": [1]}, key="k")
    subscribe, publish = backend.questions
    assert publish.pop("claims")["role"] == "editor"
    assert publish == {
        "action": "publish", "user": "ann", "server": False, "channel": "web:x", "data": {"n": [1]}, "key": "k",
    }  # fmt: skip
    assert (subscribe["action"], subscribe["channel"]) == ("subscribe", "web:x")
    assert token not in json.dumps(backend.questions)


@pytest.mark.gen_test
async def test_a_refusal_is_the_same_at_every_door(url: str, base_url: str, backend: BackEnd) -> None:
    """Subscribe, resume, history, publish; WebSocket and REST; durable and ephemeral: the hook's reason, and nothing is
    stored."""
    backend.rule = lambda question: {"allow": False, "reason": "mind your words"}
    async with Client(url) as client:
        for attempt in (
            client.subscribe("web:x"), client.subscribe("web:y", after="0"), client.subscribe("flash:x"),
            client.publish("web:x", 1), client.publish("flash:x", 1), client.history("web:x"),
        ):  # fmt: skip
            with pytest.raises(Refused, match="permission_denied: mind your words"):
                await attempt
        for path, body in (("web:x", {"data": 1}), ("flash:x", {"data": 1}), ("web:x", None)):
            status, problem = await rest(base_url, f"/v1/channels/{path}/messages", body)
            assert (status, problem["code"], problem["reason"]) == (403, "permission_denied", "mind your words")
        backend.rule = lambda question: None
        assert (await client.history("web:x"))["messages"] == []


@pytest.mark.gen_test
async def test_data_can_be_changed(url: str, base_url: str, backend: BackEnd, node: Node) -> None:
    backend.rule = lambda question: {"data": {"clean": question["data"]}} if question["action"] == "publish" else {}
    async with Client(url) as client:
        for channel in ("web:x", "flash:x"):
            subscription = await client.subscribe(channel)
            await client.publish(channel, "dirty")
            status, _ = await rest(base_url, f"/v1/channels/{channel}/messages", {"data": "dirty"})
            assert status == (201 if channel == "web:x" else 202)
            assert [m["data"] for m in await subscription.messages(2)] == [{"clean": "dirty"}] * 2
        backend.rule = lambda question: {"data": "x" * node.config.limits.message_bytes}
        with pytest.raises(Refused, match="too_large"):
            await client.publish("web:x", "small")


@pytest.mark.gen_test
@pytest.mark.parametrize("channel", ["web:x", "flash:x"])
async def test_order_is_kept(url: str, backend: BackEnd, channel: str) -> None:
    """Answers come in any order, and some refuse: what is published keeps the order it was sent in, and what was sent
    behind it on the channel (the unsubscribe) waits."""

    async def rule(question: dict[str, Any]) -> Any:
        if question["action"] == "publish":
            await asyncio.sleep(0.001 * (7 * question["data"] % 20))
            return {"allow": question["data"] % 5 != 3}
        return None

    backend.rule = rule
    async with Client(url) as client:
        subscription = await client.subscribe(channel)
        sending = [asyncio.ensure_future(client.publish(channel, n)) for n in range(50)]
        await asyncio.sleep(0)
        leaving = asyncio.ensure_future(client.unsubscribe(channel))
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        await leaving
        assert [isinstance(outcome, Refused) for outcome in outcomes] == [n % 5 == 3 for n in range(50)]
        wanted = [n for n in range(50) if n % 5 != 3]
        assert [push["data"] for push in subscription.waiting()] == wanted
        if channel == "web:x":
            assert [outcome["offset"] for outcome in outcomes if isinstance(outcome, dict)] == list(range(1, 41))


@pytest.mark.gen_test
@pytest.mark.parametrize("failure", ["status", "nonsense", "list", "slow", "huge"])
async def test_a_hook_that_fails(url: str, base_url: str, backend: BackEnd, node: Node, failure: str) -> None:
    """`unavailable`, to be tried again; or, where the configuration says so, it goes without."""
    if failure == "slow":
        node.config.hooks["web"].timeout = node.config.hooks["lenient"].timeout = config.Seconds(0.1)

    async def slowly() -> None:
        await asyncio.sleep(1)

    rules = {
        "status": lambda question: 500, "nonsense": lambda question: b"{", "list": lambda question: [1],
        "slow": lambda question: slowly(), "huge": lambda question: b" " * (2 << 20),
    }  # fmt: skip
    backend.rule = rules[failure]
    async with Client(url) as client:
        with pytest.raises(Refused, match="unavailable: hook web") as refused:
            await client.publish("web:x", 1)
        assert refused.value.retry
        assert refused.value.retry_after
        status, problem = await rest(base_url, "/v1/channels/web:x/messages", {"data": 1})
        assert (status, problem["code"]) == (503, "unavailable")
        await client.publish("lenient:x", 1)


@pytest.mark.gen_test
async def test_a_problem_is_a_refusal(url: str, backend: BackEnd) -> None:
    """A status of 400 to 499 with problem+json says no, for its reason; however often, that is no failure."""
    problems: list[dict[str, Any]] = [{"reason": "not you", "title": "No"}, {"title": "No", "detail": "not now"}, {}]
    reasons = ["not you", "not now", "the back end says no"]
    async with Client(url) as client:
        for problem, reason in list(zip(problems, reasons, strict=True)) * 3:
            backend.rule = lambda question: (403, problem)  # noqa: B023
            for channel in ("web:x", "lenient:x"):
                with pytest.raises(Refused, match=f"permission_denied: {reason}"):
                    await client.publish(channel, 1)
        backend.rule = lambda question: (503, {"reason": "not you"})
        with pytest.raises(Refused, match="unavailable"):
            await client.publish("web:x", 1)


@pytest.mark.gen_test
async def test_the_circuit_breaker(url: str, backend: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some failures in a row the back end is left alone for a while, then one tries, then all goes on."""
    monkeypatch.setattr(server.access.hooks, "RESTS", 0.3)
    backend.rule = lambda question: 500
    async with Client(url) as client:
        for _ in range(server.access.hooks.FAILURES + 5):
            with pytest.raises(Refused, match="unavailable"):
                await client.publish("web:x", 1)
        assert len(backend.questions) == server.access.hooks.FAILURES
        backend.rule = lambda question: None
        async with asyncio.timeout(5):
            while True:
                try:
                    await client.publish("web:x", 1)
                    break
                except Refused as refused:
                    await asyncio.sleep(min(refused.retry_after, 0.3))
        assert len(backend.questions) == server.access.hooks.FAILURES + 1
        await client.publish("web:x", 1)


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("namespace", ["web", "lenient", "sync"])
async def test_a_batch_is_asked_about_as_a_whole(
    url: str, base_url: str, backend: BackEnd, node: Node, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the answers take together: waiting for a turn is not the hook's failure, and it never has more than
    so many questions at a time."""
    monkeypatch.setattr(server.access.hooks, "TURN_WITHIN", 50.0)
    node.config.hooks[namespace].timeout = config.Seconds(1)
    answering, most = 0, 0

    async def rule(question: dict[str, Any]) -> Any:
        nonlocal answering, most
        if question["action"] == "subscribe":
            return None
        answering += 1
        most = max(most, answering)
        await asyncio.sleep(0.1)
        answering -= 1
        return {"data": question["data"].upper()}

    backend.rule = rule
    messages = [{"channel": f"{namespace}:x", "data": f"text {n}"} for n in range(200)]
    status, answer = await rest(base_url, "/v1/publish", {"messages": messages})
    assert status == 200
    assert all("offset" in result for result in answer["results"])
    _, page = await rest(base_url, f"/v1/channels/{namespace}:x/messages?after=0&limit=1000")
    assert [message["data"] for message in page["messages"]] == [f"TEXT {n}" for n in range(200)]
    if namespace != "sync":
        assert len(backend.questions) - sum(one["action"] == "subscribe" for one in backend.questions) == 200
        assert most == TURNS


@pytest.mark.gen_test
async def test_what_has_no_turn_is_refused_and_opens_no_breaker(
    url: str, backend: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many questions before it, or too long: `unavailable`, even where a silent hook is passed over; and the hook
    is asked by the next one."""
    answers = asyncio.Event()

    async def rule(question: dict[str, Any]) -> None:
        await answers.wait()

    backend.rule = rule
    monkeypatch.setattr(server.access.hooks, "TURN_WITHIN", 0.2)
    monkeypatch.setattr(server.access.hooks, "WAITING", 20)
    async with Client(url) as client:
        turns = [asyncio.ensure_future(client.publish(f"lenient:{n}", n)) for n in range(TURNS)]
        await until(lambda: len(backend.questions) == len(turns), 10, "as many questions as there are turns")
        refused = await asyncio.gather(
            *(client.publish(f"lenient:too-many-{n}", n) for n in range(30)), return_exceptions=True
        )
        assert {str(one) for one in refused} == {"unavailable: hook lenient: too many questions wait for it"}
        answers.set()
        await asyncio.gather(*turns)
        await client.publish("lenient:x", 1)
    assert len(backend.questions) == len(turns) + 1


@pytest.mark.gen_test
async def test_a_busy_server_is_not_the_hooks_failure(url: str, backend: BackEnd, node: Node) -> None:
    """Where the event loop has stood still, nobody knows whether the hook has answered: refused, and not counted."""
    node.config.hooks["lenient"].timeout = config.Seconds(0.2)
    asked = asyncio.Event()

    async def rule(question: dict[str, Any]) -> None:
        asked.set()
        time.sleep(2 * server.backend.backend.LATE)  # noqa: ASYNC251 - it is the loop that is to stand still
        await asyncio.sleep(0.2)

    async with Client(url) as client:
        backend.rule = rule
        for n in range(server.access.hooks.FAILURES + 1):
            with pytest.raises(Refused, match="unavailable: hook lenient: this server was too busy"):
                await client.publish("lenient:x", n)
        node.config.hooks["lenient"].timeout = config.Seconds(10)
        backend.rule = lambda question: None
        await client.publish("lenient:x", "asked about")
    assert backend.questions[-1]["data"] == "asked about"


@pytest.mark.gen_test
async def test_only_what_it_is_for(url: str, backend: BackEnd) -> None:
    """`actions: [publish]` is not asked about subscriptions; and a rule that refuses is not asked over."""
    async with Client(url) as client:
        await client.subscribe("writers:x")
        assert backend.questions == []
        await client.publish("writers:x", 1)
        assert len(backend.questions) == 1
        with pytest.raises(Refused, match="permission_denied"):
            await client.publish("feed:x", 1)
        assert len(backend.questions) == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_functions(url: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(url) as client:
        subscription = await client.subscribe(f"{kind}:x")
        await client.publish(f"{kind}:x", "quiet")
        await client.publish(f"{kind}:x", "As It Is")
        assert [m["data"] for m in await subscription.messages(2)] == ["QUIET", "As It Is"]
        with pytest.raises(Refused, match="permission_denied: it is a secret"):
            await client.subscribe(f"{kind}:secret")
        with pytest.raises(Refused, match="permission_denied: not this"):
            await client.publish(f"{kind}:x", "no")
        for data in ("crash", "odd"):
            with pytest.raises(Refused, match="unavailable"):
                await client.publish(f"{kind}:x", data)
        assert "RuntimeError in sync_rule" in caplog.text
        assert "the payload is" not in caplog.text


@pytest.mark.gen_test
async def test_a_right_that_is_revoked_while_the_hook_thinks(url: str, backend: BackEnd, node: Node) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def rule(question: dict[str, Any]) -> None:
        asked.set()
        await go_on.wait()

    backend.rule = rule
    async with Client(url, token=make_token(str(node.config.auth.secret), "ann")) as ann:
        publishing = asyncio.ensure_future(ann.publish("web:x", 1))
        await asked.wait()
        from server.access.revocations import Revocation

        await node.revocations.add(Revocation("revoke", "ann", channels=["web:*"]))
        go_on.set()
        with pytest.raises(Refused, match="permission_denied"):
            await publishing


@pytest.mark.parametrize(
    ("hook", "key"),
    [
        ({}, "hooks.x: one of url and function"),
        ({"url": "http://h/", "function": "a:b"}, "hooks.x: one of url and function"),
        ({"url": "ftp://h/", "secret": SECRET}, "hooks.x.url"),
        ({"url": "http://h/", "secret": "short"}, "hooks.x.secret"),
        ({"function": "no colon"}, "hooks.x.function"),
        ({"function": "a:b", "timeout": 0}, "hooks.x.timeout"),
        ({"function": "a:b", "on_failure": "maybe"}, "hooks.x.on_failure"),
        ({"function": "a:b", "actions": ["read"]}, "hooks.x.actions"),
    ],
)
def test_a_bad_hook_is_refused_by_name(hook: dict[str, Any], key: str) -> None:
    with pytest.raises(StartError, match=key):
        config.load(None, {}, [("hooks.x", hook)])


def test_a_hook_that_is_not_there() -> None:
    with pytest.raises(StartError, match=r"namespaces\.room\.hook"):
        config.load(None, {}, [("namespaces.room", {"hook": "nowhere"})])
    for function in ("no.such.module:f", "json:no_such_function", "json:__doc__"):
        with pytest.raises(StartError, match=r"hooks\.x\.function"):
            server.access.hooks.Hooks({"x": config.Hook(function=function)})
