"""Case 15, revoked while connected: on other instances, without Redis, and without a majority of MongoDB."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack

import pytest

from tests.chaos.world import World, span
from tests.support.client import Client, make_token
from tests.support.processes import ReplicaSet
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))

SECRET = "a secret of at least thirty-two bytes"
KEY = "the operator's own key"
SETTINGS = {
    "auth.secret": SECRET,
    "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
    "namespaces.live": {"durable": False, "publish": "server", "subscribe": "user"},
    "namespaces.open": {"durable": False, "publish": "server", "subscribe": "anyone"},
}
OPERATOR = {"Authorization": f"Bearer {KEY}"}


async def test_15_without_a_majority(replicated_world: World, replica_set: ReplicaSet) -> None:
    """What a lone primary says may be old: after three seconds nothing that needs a right is delivered,
    though Redis brings it on, and no revocation is said to be done. Then all goes on, and a revocation ends the
    subscription on the other instance within a second, with Redis dead."""
    async with replicated_world as world, AsyncExitStack() as stack:
        world.settings |= SETTINGS
        redis = await world.redis()
        near, far = await world.start_servers([redis.url] * 2)

        async def client(token: str | None, channel: str | None = None) -> Client:
            one = Client((near if channel is None else far).ws, token=token)
            stack.push_async_callback(one.close)
            await one.connect()
            if channel is not None:
                await one.subscribe(channel)
            return one

        ann = await client(make_token(SECRET, "ann", iat=int(time.time()) - 10), "live:x")
        guest = await client(None, "open:x")
        shop = await client(KEY)

        async def rounds_until(held: bool, within: float) -> float:
            """Publish both until ann gets hers, or does not while the guest does: seconds."""
            began = time.monotonic()
            while time.monotonic() - began < within:
                ann.subscriptions["live:x"].waiting()
                for channel in ("live:x", "open:x"):
                    await shop.publish(channel, None)
                await guest.subscriptions["open:x"].message()
                await ann.ping()  # what was sent to her before is there
                if (not ann.subscriptions["live:x"].waiting()) is held:
                    return time.monotonic() - began
                await asyncio.sleep(0.05)
            raise TimeoutError("it goes on" if held else "it does not go on")

        await rounds_until(False, 5)
        primary = await replica_set.primary()
        others = [member for member in replica_set.members if member is not primary]
        for member in others:
            await member.kill()
        stopped = await rounds_until(True, 10)
        answer = await near.post("/v1/users/bob/revoke", {}, headers=OPERATOR, timeout=20)
        assert answer.status == 503, answer
        for member in others:
            await replica_set.restart(member)
        await replica_set.primary()
        await rounds_until(False, 30)
        await redis.kill()
        assert (await near.post("/v1/users/ann/revoke", {}, headers=OPERATOR)).status == 200
        began = time.monotonic()
        await until(lambda: ann.losses, 5, "the end")
        took = time.monotonic() - began
        assert ann.losses[0].code == 4501
    assert stopped <= 4.0  # 3 s and what was on its way
    assert took <= 1.0
