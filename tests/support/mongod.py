"""mongod, alone and as a replica set of three."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ConnectionFailure, NotPrimaryError, OperationFailure

from tests.support.ports import LOOPBACK, free_port
from tests.support.process import Process, Startable, binary
from tests.support.waiting import until

PASSWORD = "one-password"
ROOT_USER = "root"


def mongod_binary() -> Path:
    return binary("fiftyone", "db/bin/mongod", "mongod")


class Mongod(Process):
    """A mongod that is a replica set of one (transactions, change streams, majority reads all need a set), or none at
    all (`replica_set=""`). With `auth` it knows users, which `add_user` makes."""

    def __init__(self, directory: Path, name: str = "mongod", replica_set: str = "one", auth: bool = False) -> None:
        super().__init__(name, directory)
        self.replica_set = replica_set
        self.auth = auth
        self._has_root = False
        self.port = free_port()
        self.data = directory / f"{name}-data"

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def uri(self) -> str:
        return (
            f"mongodb://{self.address}/?replicaSet={self.replica_set}"
            if self.replica_set
            else f"mongodb://{self.address}/"
        )

    def uri_of(self, user: str, password: str = PASSWORD) -> str:
        return f"mongodb://{user}:{password}@{self.uri.removeprefix('mongodb://')}&authSource=admin"

    def command(self) -> list[str]:
        self.data.mkdir(parents=True, exist_ok=True)
        more = ["--replSet", self.replica_set] if self.replica_set else []
        if self.auth:
            key = self.directory / f"{self.name}.key"
            key.touch(0o600)
            key.write_text("k" * 64)
            more += ["--auth", "--keyFile", str(key)]
        return [
            str(mongod_binary()),
            *more,
            *("--bind_ip", LOOPBACK, "--port", str(self.port)),
            *("--dbpath", str(self.data), "--nounixsocket"),  # its socket would be left in /tmp by a kill
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
            *("--wiredTigerEngineConfigString", "log=(file_max=32MB)"),  # at each start it reads a whole one, of 100 MB
            *("--setParameter", "enableTestCommands=1"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),  # a set's member takes 15 s to leave
        ]

    async def wait_ready(self) -> None:
        """Initiated (the first time) and a writable primary."""
        await self.wait_answering()
        if self.replica_set:
            try:
                members = [{"_id": 0, "host": self.address}]
                await self.admin("replSetInitiate", {"_id": self.replica_set, "members": members})
            except OperationFailure as error:
                if error.code not in (13, 23):  # AlreadyInitialized: a restart; with users it asks who wants to know
                    raise
        await until(self.is_primary, 30, f"primary of {self.name}")
        if self.auth and not self._has_root:
            await self.admin("createUser", ROOT_USER, pwd=PASSWORD, roles=["root"])
            self._has_root = True

    async def add_user(self, name: str, database: str, *roles: str, password: str = PASSWORD) -> str:
        """A user with these roles on one database; its URI."""
        rights = [{"role": role, "db": database} for role in roles]
        await self.admin("createUser", name, pwd=password, roles=rights)
        return self.uri_of(name, password)

    async def wait_answering(self) -> None:
        async def answers() -> bool:
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.log_tail()}"
            try:
                await self.admin("ping", patience=1)
            except ConnectionFailure:
                return False
            return True

        await until(answers, 30, f"answer from {self.name}")

    async def is_primary(self) -> bool:
        if not self.running:
            return False
        try:
            return bool((await self.admin("hello", patience=1))["isWritablePrimary"])
        except ConnectionFailure:
            return False

    async def admin(self, command: str, value: Any = 1, *, patience: float = 15, **options: Any) -> dict[str, Any]:
        """Run one command on the `admin` database of exactly this member, which may take `patience` s to be found."""

        def run() -> dict[str, Any]:
            with MongoClient[dict[str, Any]](
                LOOPBACK,
                self.port,
                directConnection=True,
                **({"username": ROOT_USER, "password": PASSWORD} if self._has_root else {}),
                serverSelectionTimeoutMS=int(patience * 1000),
                connectTimeoutMS=int(patience * 1000),
                socketTimeoutMS=20_000,
            ) as client:
                return client.admin.command(command, value, **options)

        # A thread and the blocking client: the async one leaves sockets for the garbage collector when a server dies.
        return await asyncio.to_thread(run)

    async def fail_command(self, data: Mapping[str, Any], mode: str | Mapping[str, Any] = "alwaysOn") -> int:
        """Arm the fail point `failCommand`: `fail_command({"failCommands": ["insert"], "closeConnection": True},
        {"times": 3})`. How often it has struck until now."""
        return int((await self.admin("configureFailPoint", "failCommand", mode=mode, data=dict(data)))["count"])

    async def disarm(self) -> int:
        """Disarm `failCommand`; how often it has struck until now."""
        return await self.fail_command({}, "off")

    def clean(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)


class ReplicaSet(Startable):
    """Three mongods that elect quickly. Members that were killed stay dead until `restart`."""

    def __init__(self, directory: Path, name: str = "set", election_timeout: float = 1.5) -> None:
        self.name = name
        self.election_timeout = election_timeout
        self.members = [Mongod(directory, f"{name}-{number}", replica_set=name) for number in range(3)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={self.name}"

    async def start(self) -> Self:
        for member in self.members:
            member.launch()
        await asyncio.gather(*(member.wait_answering() for member in self.members))
        await self.members[0].admin("replSetInitiate", {
            "_id": self.name,
            "members": [{"_id": number, "host": member.address} for number, member in enumerate(self.members)],
            "settings": {
                "electionTimeoutMillis": int(self.election_timeout * 1000),
                "heartbeatIntervalMillis": 300,
                "heartbeatTimeoutSecs": 2,
            },
        })  # fmt: skip
        await self.primary()
        await self.all_in_step()
        return self

    async def primary(self, within: float = 30.0) -> Mongod:
        """The member that is primary now, waiting for an election to end."""

        async def find() -> Mongod | None:
            for member in self.members:
                if await member.is_primary():
                    return member
            return None

        return await until(find, within, f"primary of {self.name}", every=0.05)

    async def all_in_step(self, within: float = 60.0) -> None:
        """Wait until every member that runs is a primary or a secondary (a restarted one has first to catch up)."""

        async def settled() -> bool:
            states = [member["state"] for member in (await (await self.primary()).admin("replSetGetStatus"))["members"]]
            return sum(state in (1, 2) for state in states) == sum(member.running for member in self.members)

        await until(settled, within, f"settled {self.name}", every=0.1)

    async def step_down(self) -> Mongod:
        """Make the primary stand down and return it; another member wins the next election."""
        old = await self.primary()

        async def asked() -> bool:
            try:
                await old.admin("replSetStepDown", 5, secondaryCatchUpPeriodSecs=3)
            except (AutoReconnect, NotPrimaryError):
                return True  # older servers close the connection instead of answering
            except OperationFailure as error:
                if error.code in (46, 189, 262):  # another step-down, an election or a slow secondary is in the way
                    return False
                raise
            return True

        await until(asked, 30, f"step-down of {old.name}", every=0.1)
        return old

    async def kill_primary(self) -> Mongod:
        """SIGKILL the primary and return it, for `restart`."""
        old = await self.primary()
        await old.kill()
        return old

    async def restart(self, member: Mongod) -> None:
        """Start a killed member again and wait until it answers (it catches up by itself)."""
        member.launch()
        await member.wait_answering()

    async def fail_command(self, data: Mapping[str, Any], mode: str | Mapping[str, Any] = "alwaysOn") -> Mongod:
        """Arm `failCommand` on the primary; see `Mongod.fail_command`. Returns the member, for disarming."""
        member = await self.primary()
        await member.fail_command(data, mode)
        return member

    async def clear_fail_points(self) -> None:
        for member in self.members:
            if member.running:
                await member.disarm()

    async def heal(self) -> None:
        """Undo whatever a test that broke off has left: members that are dead or paused, and fail points."""
        for member in self.members:
            if member.running:
                member.resume()
            else:
                await self.restart(member)
        await self.all_in_step()
        await self.clear_fail_points()

    async def stop(self) -> None:
        # All are signalled before any is waited for: a primary that leaves alone first hands over to somebody.
        for member in self.members:
            if member.running:
                member.resume()
                member.send_signal(signal.SIGTERM)
        await asyncio.gather(*(member.stop() for member in self.members))

    def clean(self) -> None:
        for member in self.members:
            member.clean()
