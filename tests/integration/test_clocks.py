"""Nodes whose clocks are wrong, by seconds and by an hour: they decide as the others do, and say so."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

import server.node
from server.core.clock import Clock
from server.core.errors import REVOKED, Error
from tests.integration.test_revocations import closed, instances, token
from tests.support.processes import Mongod
from tests.support.waiting import until

SKEWS = [-3600.0, -10.0, 10.0, 3600.0]
PASSWORD = "correct horse battery"


def wrong_by(seconds: float) -> Clock:
    return Clock(lambda: time.time() + seconds)


def both(mongod: Mongod, skew: float, **options: Any) -> Any:
    """One node whose clock is right, and one whose clock is not."""
    presence = {"namespaces.room": {"publish": "user", "subscribe": "user", "presence": True}}
    return instances(mongod.uri, mongod.uri, clocks=(Clock(), wrong_by(skew)), **{**presence, **options})


@pytest.mark.gen_test
@pytest.mark.parametrize("skew", SKEWS)
async def test_a_wrong_clock_is_a_reason_with_its_size(mongod: Mongod, skew: float) -> None:
    """Readiness is degraded, over HTTP as well: the node works, and somebody should look after it."""
    async with both(mongod, skew) as (right, wrong):
        assert await right.node.readiness() == ("ready", [])
        answer = await AsyncHTTPClient().fetch(f"{wrong.base}/readyz", raise_error=False)
        assert answer.code == 200
        told = json.loads(answer.body)
        assert told["status"] == "degraded"
        direction = "behind" if skew < 0 else "ahead of"
        found = wrong.node.clock.skew  # no closer than MongoDB's answer is quick
        assert told["reasons"] == [f"clock: this node's is {abs(found):.1f} s {direction} MongoDB's"]
        assert abs(found + skew) < 2


@pytest.mark.gen_test
async def test_a_clock_that_is_set_is_noticed(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks are compared again and again."""
    monkeypatch.setattr(server.node, "COMPARE_EVERY", 0.05)
    ahead = 0.0
    async with instances(mongod.uri, clocks=(Clock(lambda: time.time() + ahead),)) as (one,):
        assert await one.node.readiness() == ("ready", [])
        ahead = 50.0
        await until(lambda: one.node.lifecycle.status()[0] == "degraded", what="the reason")
        ahead = 0.0
        await until(lambda: one.node.lifecycle.status()[0] == "ready", what="the end of it")


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("skew", SKEWS)
async def test_a_revocation_through_a_wrong_clock(mongod: Mongod, skew: float) -> None:
    """It ends the sessions on every node and takes the tokens issued before it, and none that is issued after it."""
    async with both(mongod, skew) as (right, wrong), AsyncExitStack() as stack:
        old = token("ann", ago=2)
        sessions = [await one.user(stack, old, "room:x") for one in (right, wrong)]
        status, _ = await wrong.call("/v1/users/ann/revoke", {})
        assert status == 200
        for session in sessions:
            assert await closed(session) == REVOKED
        new = token("ann", ago=-2)
        for one in (right, wrong):
            with pytest.raises(Error, match="unauthenticated: the token has been revoked"):
                one.node.identities.authenticate(old)
            assert one.node.identities.authenticate(new).user == "ann"


@pytest.mark.gen_test
@pytest.mark.parametrize("skew", SKEWS)
async def test_tokens_and_tickets_live_as_long_on_every_node(mongod: Mongod, skew: float) -> None:
    """Fresh ones are good where the clock says that they are from the future, expired ones nowhere."""
    async with both(mongod, skew) as (right, wrong):
        fresh, expired = token("ann", ago=0, exp=int(time.time()) + 60), token("ann", exp=int(time.time()) - 60)
        for one, other in ((right, wrong), (wrong, right)):
            ann = one.node.identities.authenticate(fresh)
            with pytest.raises(Error, match="token_expired"):
                one.node.identities.authenticate(expired)
            ticket, seconds = await one.node.subscriptions.ticket(ann, ["room:x"])
            assert seconds == pytest.approx(60, abs=2)
            assert other.node.identities.redeem(ticket, ["room:x"]).user == "ann"


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("skew", SKEWS)
async def test_logins_at_a_wrong_clock(mongod: Mongod, skew: float) -> None:
    """Tokens that a node signs have the common time in them, so a login after a revocation is good everywhere."""
    async with both(mongod, skew, **{"auth.accounts": True}) as (right, wrong):
        body = {"user": "ann", "password": PASSWORD}
        status, first = await wrong.call("/v1/auth/register", body, None)
        assert status == 201
        assert first["expires"] == pytest.approx(time.time() + 900, abs=5)
        for one in (right, wrong):
            assert one.node.identities.authenticate(first["token"]).user == "ann"
        status, second = await right.call("/v1/auth/refresh", {"refresh_token": first["refresh_token"]}, None)
        assert status == 200
        assert right.node.identities.authenticate(second["token"]).user == "ann"


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("skew", SKEWS)
async def test_last_seen_is_the_common_time(mongod: Mongod, skew: float) -> None:
    """Whoever leaves a room at a node whose clock is wrong was last seen now."""
    async with both(mongod, skew) as (right, wrong), AsyncExitStack() as stack:
        eve = await wrong.user(stack, token("eve"))
        await eve.subscribe("room:x")
        before = time.time()
        await eve.request("unsubscribe", channel="room:x")
        seen: list[Any] = []

        async def noted() -> bool:
            seen[:] = await right.node.last_seen.latest("room:x", 5, [])
            return bool(seen)

        await until(noted, 5, "the note")
        assert seen[0]["user"] == "eve"
        assert seen[0]["last_seen"] / 1000 == pytest.approx(before, abs=5)
