"""Calls: the same at every door, with and without a key; and what a back end's failures become."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

import server.calls.calls
import server.calls.kept
import waterspout_client
from server.access.revocations import Revocation
from server.backend import Refused as No
from server.calls.kept import KeptAnswers, Reservation
from server.core import config
from server.core.errors import STALLED, Disconnect, Error, StartError
from server.core.principals import Principal
from server.node import Node
from tests.support.back_end import RAW_SECRET, SECRET, Answer, Asked, BackEnd
from tests.support.client import Client, Codec, Refused, make_token
from tests.support.nodes import another
from tests.support.processes import Mongod
from tests.support.waiting import until

PROBLEM = {"Content-Type": "application/problem+json"}
ANN = Principal(user="ann")
SHOP = Principal("shop", server=True)
KEY = "an API key of at least thirty-two bytes"


@pytest.fixture
def theirs(io_loop: object) -> Iterator[BackEnd]:
    one = BackEnd()
    one.rule = lambda asked: {"data": {"asked": asked.question["data"]}}
    yield one
    one.stop()


async def publishes(question: dict[str, Any]) -> Any:
    """What a function does that talks to the server which asks it."""
    url, channel = question["data"]["url"], question["data"]["channel"]
    status, answer = await rest(url, f"/v1/channels/{channel}/messages", {"data": question["data"]})
    return {"data": {"status": status, "code": answer.get("code")}}


async def asks_itself(question: dict[str, Any]) -> None:
    """The hook of a channel, which publishes in that channel."""
    if question["action"] == "publish":
        await rest(question["data"]["url"], f"/v1/channels/{question['channel']}/messages", {"data": question["data"]})


def function(question: dict[str, Any]) -> Any:
    data = question["data"]
    if data == "no":
        raise No("sold out", {"left": 0}, 409)
    if data == "problem":
        return {"status": 410, "reason": "gone"}
    if data == "crash":
        raise RuntimeError("the payload is 4711")
    return data if data == "bare" else None if data is None else {"data": [question["method"], data]}


@pytest.fixture
def settings(theirs: BackEnd) -> Iterator[dict[str, object]]:
    module = types.ModuleType("methods_of_this_test")
    vars(module).update(function=function, publishes=publishes, asks_itself=asks_itself)
    sys.modules[module.__name__] = module
    web = {"url": theirs.url, "secret": SECRET, "allow": "anyone"}
    yield {
        "auth.api_keys": {"shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
        "hooks": {"loop": {"function": "methods_of_this_test:asks_itself", "timeout": "500ms"}},
        "namespaces.loop": {"publish": "anyone", "subscribe": "anyone", "hook": "loop"},
        "quotas": {"enforced": True, "user": {"messages": 40, "bytes": 100_000}},
        "calls": {
            "orders.*": web | {"timeout": "30s"},  # some tests keep it waiting
            "orders.old.*": {"function": "methods_of_this_test:function", "allow": "anyone"},
            "orders.old.place": web | {"secret": RAW_SECRET},
            "users.*": web | {"allow": "user", "concurrency_per_user": 2},
            "staff.*": web | {"allow": ["server", "claim:role=staff"]},
            "slow.*": web | {"timeout": "200ms", "answer_bytes": 100},
            "one.*": web | {"concurrency": 1, "concurrency_per_user": 0},
            "often.*": web | {"rate": {"per_user": 0.01, "burst": 2}},
            "talk": {"function": "methods_of_this_test:publishes", "allow": "anyone"},
        },
    }
    del sys.modules[module.__name__]


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def rest(base: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    response = await AsyncHTTPClient().fetch(
        base + path, method="POST", body=json.dumps(body), headers=headers, raise_error=False
    )
    return response.code, json.loads(response.body)


async def call(client: Client, method: str, data: Any = None, **fields: Any) -> Any:
    return (await client.request("call", method=method, data=data, **fields))["data"]


def outcomes(node: Node, pattern: str) -> dict[str, int]:
    """How many calls of the pattern ended how."""
    seconds = node.calls.patterns[pattern].seconds
    return {outcome: list(values.cumulative())[-1][1] for outcome, values in seconds.items()}


@pytest.mark.gen_test
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_call_over_websocket(url: str, theirs: BackEnd, node: Node, codec: Codec) -> None:
    """The back end is told who asks for what, from which session; the caller gets its data."""
    async with Client(url, token=make_token(str(node.config.auth.secret), "ann"), codec=codec) as ann:
        reply = await ann.request("call", method="orders.place", data={"n": [1, "ü"]}, key="k1")
        assert reply == {"type": "reply", "id": reply["id"], "data": {"asked": {"n": [1, "ü"]}}}
        assert await call(ann, "orders.place") == {"asked": None}
        session = ann.session["session"]
    assert [asked.question for asked in theirs.asked] == [
        {"method": "orders.place", "data": {"n": [1, "ü"]}, "user": "ann", "key": "k1", "session": session},
        {"method": "orders.place", "data": None, "user": "ann", "key": None, "session": session},
    ]


@pytest.mark.gen_test
async def test_a_call_over_rest(base_url: str, http_server: object, theirs: BackEnd) -> None:
    """Of a guest; of an API key, of which the back end is told that it is one. `key` is in the body or the header."""
    assert await rest(base_url, "/v1/call/orders.place", {"data": 1}) == (200, {"data": {"asked": 1}})
    answer = await rest(
        base_url, "/v1/call/orders.place", {"data": 2}, Authorization=f"Bearer {KEY}", **{"Idempotency-Key": "k"}
    )
    assert answer == (200, {"data": {"asked": 2}})
    guest, server = [asked.question for asked in theirs.asked]
    assert guest == {"method": "orders.place", "data": 1, "user": None, "key": None, "session": None}
    assert server == guest | {"data": 2, "user": "shop", "key": "k", "server": True}


@pytest.mark.gen_test
async def test_the_longest_pattern_wins(url: str, base_url: str, theirs: BackEnd) -> None:
    """And a name that is written out goes before all patterns; what fits none is not found at either door."""
    async with Client(url) as client:
        assert await call(client, "orders.old.list", 1) == ["orders.old.list", 1]
        assert await call(client, "orders.old.place", 1) == {"asked": 1}
        assert await call(client, "orders.new", 1) == {"asked": 1}
        for method in ("order", "ORDERS.new", "talk.more"):
            with pytest.raises(Refused, match="not_found: method: there is no"):
                await call(client, method)
        assert (await rest(base_url, "/v1/call/none%2Fat%20all", {}))[0] == 404
    assert "webhook-id" not in theirs.asked[0].headers
    assert "webhook-id" in theirs.asked[1].headers


@pytest.mark.gen_test
async def test_who_may_call(url: str, base_url: str, theirs: BackEnd, node: Node) -> None:
    """A rule, as elsewhere; a token that is revoked gives no right, also when that happens while the call is asked."""
    secret = str(node.config.auth.secret)
    async with (
        Client(url) as guest,
        Client(url, token=make_token(secret, "ann")) as ann,
        Client(url, token=make_token(secret, "eve", role="staff")) as eve,
    ):
        with pytest.raises(Refused, match=r"permission_denied: a guest may not call users\.x"):
            await call(guest, "users.x")
        assert await call(ann, "users.x", 1) == {"asked": 1}
        with pytest.raises(Refused, match="permission_denied"):
            await call(ann, "staff.x")
        assert await call(eve, "staff.x", 1) == {"asked": 1}
        assert (await rest(base_url, "/v1/call/staff.x", {}, Authorization=f"Bearer {KEY}"))[0] == 200

        async def revoke(asked: Asked) -> Any:
            await node.revocations.add(Revocation("revoke", "eve"))
            return {"data": "for your eyes only"}

        theirs.rule = revoke
        with pytest.raises(Error, match="unauthenticated"):
            await node.calls.call(Principal(user="eve", claims={"role": "staff"}, token="t", issued=1.0), "staff.x", 1)


@pytest.mark.gen_test
async def test_a_refusal_is_told(url: str, base_url: str, theirs: BackEnd) -> None:
    """The reason and the details, and over REST the status; `reason` goes before `detail`, and that before `title`.
    What is too much of them is left out."""
    async with Client(url) as client:
        for problem, reason, details in (
            ({"reason": "sold out", "detail": "d", "details": {"left": 0}}, "sold out", {"left": 0}),
            ({"detail": "none is left", "title": "Conflict"}, "none is left", None),
            ({"title": "Conflict", "reason": 1}, "Conflict", None),
            ({}, "the back end says no", None),
            ({"reason": "r" * 5000, "details": "d" * 20_000}, "r" * 1000, None),
        ):
            theirs.rule = lambda asked, problem=problem: Answer(409, problem, PROBLEM)
            with pytest.raises(Refused) as refused:
                await call(client, "orders.place")
            told = {"code": "refused", "reason": reason, "retry": False} | ({"details": details} if details else {})
            assert refused.value.error == told | {"type": "error", "id": refused.value.error["id"]}
            status, answer = await rest(base_url, "/v1/call/orders.place", {})
            assert (status, {name: answer[name] for name in told}) == (409, told)
        theirs.rule = lambda asked: Answer(499, {"reason": "odd"}, PROBLEM)
        assert (await rest(base_url, "/v1/call/orders.place", {}))[0] == 499


@pytest.mark.gen_test
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_back_end_that_fails(
    url: str, base_url: str, theirs: BackEnd, caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    """`unavailable`, or with a key `outcome_unknown`, and nothing of its words is told or logged."""

    async def slowly(asked: Asked) -> None:
        await asyncio.sleep(1)

    words = "the payload is 4711"
    answers: list[Any] = [
        Answer(500, {"reason": words}, PROBLEM), Answer(302, headers={"Location": theirs.url}), Answer(409, words),
        Answer(200, b"{" + words.encode()), Answer(200, [words]), Answer(200, {"daten": words}),
        Answer(200, {"data": words * 20}),
    ]  # fmt: skip
    code = "unavailable" if key is None else "outcome_unknown"
    async with Client(url) as client:
        for rule in [*(lambda asked, answer=answer: answer for answer in answers), slowly]:
            theirs.rule = rule
            with pytest.raises(Refused, match=rf"{code}: calls\.slow\.\*: ") as refused:
                await call(client, "slow.x", key=key)
            assert refused.value.retry
            assert refused.value.retry_after
            assert "4711" not in str(refused.value)
        status, problem = await rest(base_url, "/v1/call/slow.x", {"key": key})
        assert (status, problem["code"]) == (503, code)
        for data in ("crash", "bare"):
            with pytest.raises(Refused, match=code) as refused:
                await call(client, "orders.old.x", data, key=key)
            assert "4711" not in str(refused.value)
        theirs.rule = lambda asked: Answer(204)
        assert await call(client, "slow.x", key=key) is None
    assert "4711" not in caplog.text


@pytest.mark.gen_test
async def test_functions(url: str, base_url: str) -> None:
    """What they return, what they refuse, and nothing at all."""
    async with Client(url) as client:
        assert await call(client, "orders.old.x", 1) == ["orders.old.x", 1]
        assert await call(client, "orders.old.x") is None
        with pytest.raises(Refused, match="refused: sold out") as refused:
            await call(client, "orders.old.x", "no")
        assert refused.value.error["details"] == {"left": 0}
    assert (await rest(base_url, "/v1/call/orders.old.x", {"data": "no"}))[0] == 409
    status, problem = await rest(base_url, "/v1/call/orders.old.x", {"data": "problem"})
    assert (status, problem["code"], problem["reason"]) == (410, "refused", "gone")


@pytest.mark.gen_test
async def test_bad_input(url: str, base_url: str, theirs: BackEnd, node: Node) -> None:
    """The field and the limit are named, and nobody is asked."""
    async with Client(url) as client:
        for fields, told in (
            ({}, "bad_request: method: required"),
            ({"method": 1}, "bad_request: method: expected"),
            ({"method": ""}, "bad_request: method: expected"),
            ({"method": "m" * 256}, "bad_request: method: expected"),
            ({"method": "orders.x", "key": ""}, "bad_request: key: expected"),
            ({"method": "orders.x", "key": "k" * 256}, "bad_request: key: expected"),
            ({"method": "orders.x", "data": "x" * 70_000}, "too_large: data: 70002 bytes; message_bytes is 65536"),
        ):
            with pytest.raises(Refused, match=told):
                await client.request("call", **fields)
    for path, body, status in (
        ("orders.x", {"key": 1}, 400), ("m" * 256, {}, 400), ("orders.x", {"data": "x" * 70_000}, 413), ("x", {}, 404),
    ):  # fmt: skip
        assert (await rest(base_url, f"/v1/call/{path}", body))[0] == status
    assert theirs.asked == []


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_an_answer_is_kept_for_its_key(
    url: str, base_url: str, theirs: BackEnd, node: Node, mongod: Mongod
) -> None:
    """Data or refusal: who calls again gets the same, on another node too. Keys are each user's and method's own."""
    theirs.rule = lambda asked: {"data": len(theirs.asked)}
    secret = str(node.config.auth.secret)
    async with Client(url, token=make_token(secret, "ann")) as ann, Client(url, token=make_token(secret, "bob")) as bob:
        assert [await call(ann, "orders.place", 1, key="k") for _ in range(3)] == [1, 1, 1]
        assert await call(bob, "orders.place", 1, key="k") == 2
        assert await call(ann, "orders.cancel", 1, key="k") == 3
        assert await call(ann, "orders.place", 1, key="k2") == 4
    async with another(node, mongod) as second:
        assert await second.calls.call(ANN, "orders.place", 1, "k") == 1
        with pytest.raises(Error, match="conflict: key: another call"):
            await second.calls.call(ANN, "orders.place", 2, "k")
        theirs.rule = lambda asked: Answer(409, {"reason": "sold out", "details": [1]}, PROBLEM)
        for one in (node, second, node):
            with pytest.raises(Error, match="refused: sold out") as refused:
                await one.calls.call(ANN, "orders.place", 1, "k3")
            assert (refused.value.status, refused.value.details) == (409, [1])
    assert len(theirs.asked) == 5
    assert outcomes(node, "orders.*") == {"answered": 4, "kept": 3, "refused": 1}


@pytest.mark.gen_test
async def test_what_is_kept_counts_in_the_quotas(node: Node, theirs: BackEnd) -> None:
    """As messages do: of who calls again, and of what has no answer, nothing; of API keys neither."""
    theirs.rule = lambda asked: Answer(500) if asked.question["data"] == 0 else {"data": "x" * asked.question["data"]}

    async def call(key: str | None, size: int = 1, who: Principal = ANN) -> Any:
        try:
            return len(await node.calls.call(who, "orders.x", size, key))
        except Error as error:
            return error.code, error.limit

    assert await call("failed", 0) == ("outcome_unknown", None)
    assert [await call(f"key {number // 2}") for number in range(80)] == [1] * 80
    assert await call("another") == ("limit_exceeded", "quotas.user.messages")
    assert [await call("key 3"), await call(None), await call("another", who=SHOP)] == [1] * 3
    bob = Principal("bob")
    assert [await call(key, 60_000, bob) for key in ("1", "2", "3")] == [
        60_000, 60_000, ("limit_exceeded", "quotas.user.bytes"),
    ]  # fmt: skip


@pytest.mark.gen_test
async def test_guests_of_two_addresses_do_not_share_keys(node: Node, theirs: BackEnd) -> None:
    """One's key is not the other's, however it is called."""
    theirs.rule = lambda asked: {"data": len(theirs.asked)}
    guest = Principal()
    assert await node.calls.call(guest, "orders.x", 1, "k", address="192.0.2.1") == 1
    assert await node.calls.call(guest, "orders.x", 1, "k", address="192.0.2.2") == 2
    assert await node.calls.call(guest, "orders.x", 1, "k", address="192.0.2.1") == 1


@pytest.mark.gen_test
async def test_what_has_no_answer_is_asked_again(node: Node, theirs: BackEnd) -> None:
    """With the same key, and the same `webhook-id`."""
    theirs.rule = lambda asked: Answer(500) if len(theirs.asked) == 1 else {"data": "done"}
    with pytest.raises(Error, match="outcome_unknown"):
        await node.calls.call(ANN, "orders.x", 1, "k")
    assert await node.calls.call(ANN, "orders.x", 1, "k") == "done"
    first, second = theirs.asked
    assert first.question == second.question
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.gen_test
async def test_calls_with_one_key_at_the_same_time_ask_once(node: Node, theirs: BackEnd, mongod: Mongod) -> None:
    """Through two nodes: all get the one answer; or if there is none, each in its turn asks again."""
    go = asyncio.Event()

    async def rule(asked: Asked) -> Any:
        await go.wait()
        return {"data": len(theirs.asked)}

    theirs.rule = rule
    async with another(node, mongod) as second:
        calls = [asyncio.ensure_future(one.calls.call(ANN, "orders.x", 1, "k")) for one in (node, node, second, second)]
        await until(lambda: theirs.asked, what="a question")
        go.set()
        assert await asyncio.gather(*calls) == [1] * 4
        theirs.rule = lambda asked: Answer(500) if len(theirs.asked) == 2 else {"data": "done"}
        calls = [asyncio.ensure_future(one.calls.call(ANN, "orders.x", 1, "k2")) for one in (node, second)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(map(str, ends)) == ["done", "outcome_unknown: calls.orders.*: answered 500"]
    assert len(theirs.asked) == 3


class AfterEachLook:
    """The database, where something happens between a look at a row and what is done about it."""

    def __init__(self, database: Any, then: Callable[[], Awaitable[Any]]) -> None:
        self._database, self._then = database, then

    def own(self, name: str) -> Any:
        self._rows = self._database.own(name)
        return self

    async def find_one(self, which: Any) -> Any:
        row = await self._rows.find_one(which)
        await self._then()
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


@pytest.mark.gen_test
async def test_an_answer_that_is_kept_in_the_last_moment_is_not_overwritten(node: Node) -> None:
    """Its lease was over when the next one looked, and the answer there before that one could take the key."""
    late, rows = Reservation("a key", "data", "late"), node.database.own("calls")
    first = KeptAnswers(node.database, 60.0, node.clock)
    assert await first.reserve(late, 5.0) is None
    await rows.update_one({"_id": "a key"}, {"$set": {"until": 1}})
    between: Any = AfterEachLook(node.database, lambda: first.keep(late, b"1"))
    second = KeptAnswers(between, 60.0, node.clock)
    assert await second.reserve(Reservation("a key", "data", "next"), 5.0) == b"1"


@pytest.mark.gen_test
async def test_the_key_of_a_node_that_died_is_given_to_the_next(
    node: Node, theirs: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over, and not before; an answer of an earlier window is none any more."""
    theirs.rule = lambda asked: {"data": len(theirs.asked)}
    assert await node.calls.call(ANN, "slow.x", 1, "k") == 1
    rows = node.database.own("calls")
    later, past = node.clock.now_ms() + 60_000, datetime.fromtimestamp(0, UTC)
    # As if the node had died before it could write the answer down.
    await rows.update_one({}, {"$unset": {"answer": ""}, "$set": {"until": later}})
    with monkeypatch.context() as impatient:
        impatient.setattr(server.calls.calls, "TURN_WITHIN", 0.0)
        with pytest.raises(Error, match="outcome_unknown: key: another call with it is under way"):
            await node.calls.call(ANN, "slow.x", 1, "k")
    await rows.update_one({}, {"$set": {"until": 1}})
    assert await node.calls.call(ANN, "slow.x", 1, "k") == 2
    assert await node.calls.call(ANN, "slow.x", 1, "k") == 2
    await rows.update_one({}, {"$set": {"expires": past}})
    assert await node.calls.call(ANN, "slow.x", 1, "k") == 3


@pytest.mark.gen_test
async def test_a_long_call_keeps_its_key(
    node: Node, theirs: BackEnd, mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the lease is: it is renewed, so nobody else asks."""
    monkeypatch.setattr(server.calls.kept, "LEASE", 0.3)
    renewed = asyncio.Event()
    until_then = 0

    async def rule(asked: Asked) -> Any:
        await renewed.wait()
        return {"data": len(theirs.asked)}

    async def lease_moves_on() -> bool:
        nonlocal until_then
        row = await node.database.own("calls").find_one({})
        until_then = until_then or row["until"]
        return bool(row["until"] > until_then + 600)

    theirs.rule = rule
    async with another(node, mongod) as second:
        calls = [asyncio.ensure_future(node.calls.call(ANN, "orders.x", 1, "k"))]
        await until(lambda: theirs.asked, what="a question")
        calls.append(asyncio.ensure_future(second.calls.call(ANN, "orders.x", 1, "k")))
        await until(lease_moves_on, what="a lease that is renewed")
        renewed.set()
        assert await asyncio.gather(*calls) == [1, 1]


@pytest.mark.gen_test
async def test_a_key_without_mongodb(node: Node, theirs: BackEnd, mongod: Mongod) -> None:
    """Where it is not known whether it was asked before, it is not asked; what needs no key goes on."""
    fail = {"failCommands": ["insert"], "errorCode": 11600, "appName": "waterspout"}
    await mongod.fail_command(fail | {"namespace": f"{node.database.name}.waterspout.calls"}, {"times": 5})
    with pytest.raises(Error, match="unavailable: MongoDB"):
        await node.calls.call(ANN, "orders.x", 1, "k")
    assert theirs.asked == []
    assert await node.calls.call(ANN, "orders.x", 1) == {"asked": 1}


# --- the Python client ------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_python_client(base_url: str, http_server: object) -> None:
    """What the back end answers and refuses, and an answer that is not waited for."""
    async with waterspout_client.Client(base_url) as client:
        assert await client.call("orders.x", {"n": 1}) == {"asked": {"n": 1}}
        assert await client.call("orders.x") == {"asked": None}
        with pytest.raises(waterspout_client.WaterspoutError) as refused:
            await client.call("orders.old.x", "no")
        assert (refused.value.code, refused.value.reason) == ("refused", "sold out")
        assert (refused.value.retry, refused.value.details) == (False, {"left": 0})
        with pytest.raises(waterspout_client.WaterspoutError, match=r"outcome_unknown: .* no answer within 0\.0 s"):
            await client.call("orders.x", timeout=0.0)
        for _ in range(2):
            await client.call("often.x")
        with pytest.raises(waterspout_client.WaterspoutError, match="rate_limited"):
            await client.call("often.x")


@pytest.mark.gen_test
async def test_the_python_client_and_losses(base_url: str, http_server: object, theirs: BackEnd, node: Node) -> None:
    """With a key a call is made again; without one nobody knows, and it is said."""
    silent = asyncio.Event()

    async def rule(asked: Asked) -> Any:
        if len(theirs.asked) < 3:
            await silent.wait()
        return {"data": "done"}

    theirs.rule = rule
    async with waterspout_client.Client(base_url, min_delay=0.01, max_delay=0.1) as client:
        kept = asyncio.ensure_future(client.call("orders.x", 1, key="k"))
        lost = asyncio.ensure_future(client.call("orders.x", 1))
        await until(lambda: len(theirs.asked) == 2, what="two questions")
        for session in list(node.admission.clients):
            session.disconnect(Disconnect(STALLED, "a test"), 0.0)
        with pytest.raises(waterspout_client.WaterspoutError, match="disconnected"):
            await lost
        assert await kept == "done"
    silent.set()
    keys = [asked.question["key"] for asked in theirs.asked]
    assert sorted(keys, key=str) == [None, "k", "k"]


# --- how many at a time -----------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_calls_do_not_wait_for_each_other(url: str, theirs: BackEnd) -> None:
    """Nor does anything else of the session wait for them."""
    go = asyncio.Event()

    async def rule(asked: Asked) -> Any:
        if asked.question["data"] == "slow":
            await go.wait()
        return {"data": asked.question["data"]}

    theirs.rule = rule
    async with Client(url) as client:
        slow = asyncio.ensure_future(call(client, "orders.x", "slow"))
        await until(lambda: theirs.asked, what="a question")
        assert await call(client, "orders.x", "fast") == "fast"
        await client.publish("chat:x", 1)
        assert not slow.done()
        go.set()
        assert await slow == "slow"


@pytest.mark.gen_test
async def test_concurrency_is_bounded(url: str, theirs: BackEnd, node: Node) -> None:
    """Of a pattern: the others wait. Of a user: the others are refused, and have their seats again afterwards."""
    go, at_once, most = asyncio.Event(), 0, 0

    async def rule(asked: Asked) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await go.wait()
        at_once -= 1
        return {"data": 1}

    theirs.rule = rule
    async with Client(url, token=make_token(str(node.config.auth.secret), "ann")) as ann:
        two = [asyncio.ensure_future(call(ann, "users.x")) for _ in range(2)]
        await until(lambda: at_once == 2, what="two questions")
        with pytest.raises(Refused, match="limit_exceeded") as refused:
            await call(ann, "users.x")
        assert refused.value.retry_after
        many = [asyncio.ensure_future(call(ann, "one.x")) for _ in range(5)]
        await until(lambda: at_once == 3, what="one more")
        go.set()
        assert await asyncio.gather(*two, *many) == [1] * 7
        assert most == 3
        assert await call(ann, "users.x") == 1


@pytest.mark.gen_test
async def test_a_rate(url: str, theirs: BackEnd) -> None:
    """As of namespaces: so many saved up, and then it is said when the next may come."""
    async with Client(url) as client:
        for _ in range(2):
            await call(client, "often.x")
        with pytest.raises(Refused, match="rate_limited") as refused:
            await call(client, "often.x")
        assert refused.value.retry_after > 10
        assert await call(client, "orders.x", 1) == {"asked": 1}


@pytest.mark.gen_test
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("door", ["websocket", "rest"])
async def test_a_call_ends_with_its_connection(
    url: str, base_url: str, theirs: BackEnd, node: Node, door: str, key: str | None
) -> None:
    """The seat is free again, and a call with the same key is asked anew."""
    go = asyncio.Event()

    async def rule(asked: Asked) -> Any:
        await go.wait()
        return {"data": 1}

    theirs.rule = rule
    if door == "websocket":
        client = await Client(url).connect()
        calling = asyncio.ensure_future(call(client, "orders.x", key=key))
        await until(lambda: theirs.asked, what="a question")
        client.abort()
        calling.cancel()
    else:
        _, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rpartition(":")[2]))
        body = json.dumps({"key": key}).encode()
        head = f"POST /v1/call/orders.x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: theirs.asked, what="a question")
        writer.close()
        await writer.wait_closed()
    await until(lambda: outcomes(node, "orders.*") == {"cancelled": 1}, what="its end")
    go.set()
    assert await rest(base_url, "/v1/call/orders.x", {"key": key}) == (200, {"data": 1})
    assert len(theirs.asked) == 2


@pytest.mark.gen_test
async def test_whoever_waits_for_the_same_key_keeps_the_call(node: Node, theirs: BackEnd) -> None:
    """The first goes; the second gets the answer of what the first had begun."""
    go = asyncio.Event()

    async def rule(asked: Asked) -> Any:
        await go.wait()
        return {"data": 1}

    theirs.rule = rule
    first = asyncio.ensure_future(node.calls.call(ANN, "orders.x", 1, "k"))
    await until(lambda: theirs.asked, what="a question")
    second = asyncio.ensure_future(node.calls.call(ANN, "orders.x", 1, "k"))
    await asyncio.sleep(0)
    with pytest.raises(Error, match="conflict: key: another call"):
        await node.calls.call(ANN, "orders.x", 2, "k")
    first.cancel()
    await asyncio.wait([first])
    go.set()
    assert await second == 1
    assert len(theirs.asked) == 1


# --- loops ------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_method_may_talk_to_the_server(url: str, base_url: str, node: Node) -> None:
    """It publishes, also where a hook publishes into the very channel that it is asked about: that one is given up in
    time, and nothing is locked."""
    async with Client(url) as client:
        subscription = await client.subscribe("chat:x")
        answer = await call(client, "talk", {"url": base_url, "channel": "chat:x"})
        assert answer == {"status": 201, "code": None}
        assert (await subscription.message())["data"] == {"url": base_url, "channel": "chat:x"}
        answer = await call(client, "talk", {"url": base_url, "channel": "loop:x"})
        assert answer == {"status": 503, "code": "unavailable"}
        assert (await node.log.heads(["loop:x"]))["loop:x"].offset == 0
        assert await call(client, "orders.x", 1) == {"asked": 1}


# --- what operators see -----------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_metrics_name_patterns_and_no_methods(url: str, base_url: str, theirs: BackEnd) -> None:
    """Of what strangers may choose nothing is a label."""
    async with Client(url) as client:
        await call(client, "orders.a-name-of-a-stranger")
        with pytest.raises(Refused):
            await call(client, "another-name-of-a-stranger")
    fetched = await AsyncHTTPClient().fetch(f"{base_url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    text = fetched.body.decode()
    assert 'waterspout_call_seconds_count{outcome="answered",pattern="orders.*"} 1.0' in text
    assert "stranger" not in text


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("x", {}, "calls.x: one of url and function"),
        ("x", {"url": "http://h/", "secret": "short"}, "calls.x.secret"),
        ("x", {"function": "a:b", "allow": "owner"}, "calls.x.allow: nobody owns a method"),
        ("x", {"function": "a:b", "allow": "all"}, "calls.x.allow: 'all' is none of"),
        ("x", {"function": "a:b", "timeout": 0}, "calls.x.timeout"),
        ("x", {"function": "a:b", "concurrency": 0}, "calls.x.concurrency"),
        ("a b", {"function": "a:b"}, "calls.a b: a pattern has 1 to 255 characters"),
    ],
)
def test_a_bad_call_is_refused_by_name(name: str, options: dict[str, Any], key: str) -> None:
    """The option is named."""
    with pytest.raises(StartError) as refused:
        config.load(None, {}, [("calls", {name: options})])
    assert key in str(refused.value)
