"""My rooms: how long `$rooms` takes at connect, for one user of 500 rooms and for 1,000 users at once with 20 each.

    .venv/bin/python -m bench.my_rooms [--rooms 500] [--users 1000] [--each 20] [--runs 15]

Every room has twenty messages that nobody has read, one in five of which mentions somebody, by name or all of them. Of
the user of many rooms the median of the runs is told, of the herd when the last one has all of its rows; each with the
CPU that the server and MongoDB have spent on it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.support.client import Client, make_token
from tests.support.processes import UNLIMITED, Mongod, Server

SECRET = "only for measuring: thirty-two bytes"
KEY = "the key of the bench"
MESSAGES = 20
SETTINGS = {
    **UNLIMITED,
    "auth.secret": SECRET,
    "auth.api_keys": {
        "bench": {
            "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True, "channels": {"room:*": ["publish"]},
        },
    },
    "namespaces.room": {"members": True, "subscribe": "member", "publish": "member", "amend": "own"},
    "limits.connections": 0,
    "limits.members_per_channel": 0,
    "limits.memberships_per_user": 0,
    "mongodb.database": "bench",
}  # fmt: skip


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def token(user: str) -> str:
    return make_token(SECRET, user, iat=int(time.time() - 10))


async def seed(server: Server, rooms: int, users: int, each: int) -> None:
    members: dict[int, list[str]] = {room: ["ann"] for room in range(rooms)}
    for user in range(users):
        for place in range(each):
            members[(user * 7 + place * (rooms // each)) % rooms].append(f"u{user}")
    for room, some in members.items():
        body = {"members": [{"user": user} for user in dict.fromkeys(some)]}
        answer = await server.post(f"/v1/channels/room:{room}/members", body, token=KEY)
        assert all("error" not in one for one in answer.body["results"]), answer
    for _ in range(MESSAGES // 5):
        for start in range(0, rooms, 100):
            messages = []
            for room in range(start, min(start + 100, rooms)):
                named = [{}, {}, {}, {}, {"mentions": ["*"] if room % 4 == 0 else [members[room][-1], "ann"]}]
                messages += [{"channel": f"room:{room}", "data": "x" * 128, **one} for one in named]
            answer = await server.post("/v1/publish", {"messages": messages}, token=KEY)
            assert all("error" not in one for one in answer.body["results"]), answer


class Rooms:
    """All rows of one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.rows = self.mentions = 0
        self.all = asyncio.Event()

    def take(self, push: dict[str, object]) -> None:
        if push["type"] != "rooms":
            return
        rows = push["rooms"]
        assert isinstance(rows, list)
        self.rows += len(rows)
        self.mentions += sum(row["mentions"] for row in rows)
        if not push["more"]:
            self.all.set()

    async def load(self) -> None:
        self.client.on_stray = self.take
        await self.client.subscribe("$rooms")
        await self.all.wait()


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Mongod(Path(folder)) as mongod, Server(Path(folder), mongod.uri, settings=SETTINGS) as server:
            await seed(server, options.rooms, options.users, options.each)
            pids = {"server": server.pid, "mongod": mongod.pid}
            before = {name: cpu(pid) for name, pid in pids.items()}
            times = []
            for _ in range(options.runs):
                async with Client(server.ws, token=token("ann")) as client:
                    began = time.perf_counter()
                    rooms = Rooms(client)
                    await rooms.load()
                    times.append(time.perf_counter() - began)
                    assert rooms.rows == options.rooms
            spent = {name: (cpu(pid) - before[name]) / options.runs * 1000 for name, pid in pids.items()}
            print(
                f"{options.rooms} rooms, alone: {median(times) * 1000:.0f} ms, {rooms.mentions} mentions; "
                + ", ".join(f"{name} {ms:.0f} ms of CPU" for name, ms in spent.items())
            )
            clients = [Client(server.ws, token=token(f"u{number}")) for number in range(options.users)]
            for index in range(0, len(clients), 100):
                await asyncio.gather(*(client.__aenter__() for client in clients[index : index + 100]))
            before = {name: cpu(pid) for name, pid in pids.items()}
            all_rooms = [Rooms(client) for client in clients]
            began = time.perf_counter()
            await asyncio.gather(*(rooms.load() for rooms in all_rooms))
            took = time.perf_counter() - began
            spent = {name: (cpu(pid) - before[name]) * 1000 for name, pid in pids.items()}
            print(
                f"{options.users} users at once, {sum(rooms.rows for rooms in all_rooms)} rows: the last after "
                f"{took * 1000:.0f} ms; " + ", ".join(f"{name} {ms:.0f} ms of CPU" for name, ms in spent.items())
            )
            for client in clients:
                await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="How long it takes to see one's rooms.")
    parser.add_argument("--rooms", type=int, default=500)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--runs", type=int, default=15)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
