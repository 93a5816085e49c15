"""What is stored of a membership though MongoDB's answer was an error: whoever looks at their rooms is told of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_rooms import OPTIONS, Rooms, token
from tests.support.client import Refused
from tests.support.nodes import instances
from tests.support.processes import Mongod
from tests.support.redis_servers import Redis
from tests.support.waiting import until

WRITES = ["insert", "update", "delete", "findAndModify"]
CASES: dict[str, tuple[dict[str, Any], Callable[[Rooms], bool]]] = {
    "read": ({"type": "read", "channel": "room:a"}, lambda mine: mine.unread()["room:a"] == 0),
    "join": ({"type": "join", "channel": "room:b"}, lambda mine: "room:b" in mine.rows),
    "mute": (
        {"type": "member", "channel": "room:a", "mute": True},
        lambda mine: bool(mine.rows["room:a"].get("mute")),
    ),
    "leave": ({"type": "leave", "channel": "room:a"}, lambda mine: "room:a" not in mine.rows),
}


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize("case", CASES)
async def test_what_was_stored_without_an_answer_is_told(mongod: Mongod, tmp_path: Path, case: str) -> None:
    """To the user's other sessions, at the same node and at another one."""
    command, told = CASES[case]
    async with (
        AsyncExitStack() as stack,
        Redis(tmp_path) as redis,
        instances(2, mongod.uri, OPTIONS, redis=redis.url) as (instance, another),
    ):
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"))
        for user in (ann, bob):
            await user.request("join", channel="room:a")
        cursor = (await bob.publish("room:a", 1))["cursor"]
        mine = await Rooms().follow(ann)
        theirs = await Rooms().follow(await another.user(stack, token("ann")))
        for rooms in (mine, theirs):
            await until(lambda rooms=rooms: rooms.loaded and rooms.unread() == {"room:a": 1}, 3, "the rooms")
        other = await instance.user(stack, token("ann"))
        fields = {name: value for name, value in command.items() if name != "type"}
        if case == "read":
            fields["cursor"] = cursor
        members = f"{instance.node.database.name}.{instance.node.database.own('members').name}"
        unsure = {"failCommands": WRITES, "namespace": members, "writeConcernError": {"code": 64, "errmsg": "late"}}
        await mongod.fail_command(unsure)
        try:
            with pytest.raises(Refused):
                await other.request(command["type"], **fields)
        finally:
            assert await mongod.disarm() > 0
        await until(lambda: told(mine) and told(theirs), 10, "what has become of it")
