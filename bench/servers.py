"""The servers under test: installed, started on a core of their own, watched, and stopped by their pid."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.centrifuge import CentrifugeJson, CentrifugeProtobuf, CentrifugoJson, CentrifugoProtobuf
from bench.dialects import Dialect, Plain, SocketIO, Waterspout

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
INSTALLED = ROOT / "bench" / ".peers"
SERVER_CORE, GENERATOR_CORE = 0, 1
PAGE = os.sysconf("SC_PAGE_SIZE")

UNLIMITED = {
    "limits.messages_per_second": 0,
    "limits.burst": 0,
    "limits.connections": 0,
    "limits.connections_per_ip": 0,
    "limits.connections_per_user": 0,
    "namespaces.bench": "{durable: false, publish: anyone, subscribe: anyone}",
    "namespaces.benchd": "{durable: true, publish: anyone, subscribe: anyone}",
}


class Unavailable(Exception):
    """A server that cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """A server that can be started. `name` is what tables call it, `label` what it is."""

    name: str
    label: str
    dialect: Dialect

    def install(self) -> None:
        """Make it startable, or raise Unavailable."""

    def command(self, port: int, directory: Path) -> list[str]:
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        return {}

    def ready(self, port: int) -> bool:
        """Whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Ours(Contestant):
    """Waterspout, started as its users start it: embedded MongoDB, memory broker; only the limits are lifted, and
    what `settings` names is set."""

    settings: tuple[str, ...] = ()

    def command(self, port: int, directory: Path) -> list[str]:
        lifted = (f"{key}={value}" for key, value in UNLIMITED.items())
        settings = [part for setting in (*lifted, *self.settings) for part in ("--set", setting)]
        return [sys.executable, "run.py", "--port", str(port), "--data-dir", str(directory / "data"), *settings]

    def install(self) -> None:
        if not (ROOT / "run.py").exists():
            raise Unavailable("there is no run.py")

    def ready(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@dataclass(frozen=True)
class OnOurs(Contestant):
    """A module of peers/ on Waterspout's own environment and MongoDB."""

    def command(self, port: int, directory: Path) -> list[str]:
        return [sys.executable, "-m", f"bench.peers.{self.name}_server"]


@dataclass(frozen=True)
class PythonPeer(Contestant):
    """A server in a virtual environment of its own."""

    @property
    def requirements(self) -> Path:
        return PEERS / f"requirements-{self.name}.txt"

    @property
    def python(self) -> Path:
        return INSTALLED / self.name / "bin" / "python"

    def install(self) -> None:
        def build(home: Path) -> None:
            _quietly([sys.executable, "-m", "venv", str(home)])
            _quietly([str(self.python), "-m", "pip", "install", "--quiet", "-r", str(self.requirements)])

        _once(INSTALLED / self.name, self.requirements, build)

    def command(self, port: int, directory: Path) -> list[str]:
        return [str(self.python), str(PEERS / f"{self.name.replace('-', '_')}_server.py")]

    def versions(self) -> dict[str, str]:
        pins = (line.split("==") for line in self.requirements.read_text().splitlines() if "==" in line)
        return dict(pins)


@dataclass(frozen=True)
class NodePeer(Contestant):
    """A server on Node; all of them share one node_modules, which NODE_PATH points to."""

    def install(self) -> None:
        if not (shutil.which("node") and shutil.which("npm")):
            raise Unavailable("node and npm are not installed")

        def build(home: Path) -> None:
            home.mkdir()
            shutil.copy(PEERS / "package.json", home)
            _quietly(["npm", "install", "--prefix", str(home), "--no-package-lock", "--no-audit", "--no-fund"])

        _once(INSTALLED / "node", PEERS / "package.json", build)

    def command(self, port: int, directory: Path) -> list[str]:
        return ["node", str(PEERS / f"{self.name.replace('.', '')}_server.js")]

    def versions(self) -> dict[str, str]:
        package = json.loads((INSTALLED / "node" / "node_modules" / self.name / "package.json").read_text())
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return {self.name: package["version"], "node": node}


@dataclass(frozen=True)
class Centrifugo(Contestant):
    """Centrifugo v6, built from its module: memory engine, and a namespace with history and recovery."""

    @property
    def version(self) -> str:
        return (PEERS / "centrifugo.version").read_text().strip()

    def install(self) -> None:
        if not shutil.which("go"):
            raise Unavailable("go is not installed")

        def build(home: Path) -> None:
            fetched = home / "fetched"
            places = {"GOBIN": str(home / "bin"), "GOPATH": str(fetched), "GOCACHE": str(fetched / "cache")}
            limits = {"GOFLAGS": "-p=1 -modcacherw", "GOTOOLCHAIN": "local"}
            module = f"github.com/centrifugal/centrifugo/v6@{self.version}"
            _quietly(["nice", "go", "install", module], 1800, places | limits)
            shutil.rmtree(fetched)

        _once(INSTALLED / "centrifugo", PEERS / "centrifugo.version", build)

    def command(self, port: int, directory: Path) -> list[str]:
        config = json.loads((PEERS / "centrifugo.json").read_text())
        config["http_server"]["port"] = port
        (directory / "centrifugo.json").write_text(json.dumps(config))
        return [str(INSTALLED / "centrifugo" / "bin" / "centrifugo"), "--config", str(directory / "centrifugo.json")]

    def versions(self) -> dict[str, str]:
        return {"centrifugo": self.version}


def _quietly(command: list[str], within: float = 600, variables: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=os.environ | (variables or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=within,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(_last_line(done.stderr or done.stdout))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _once(home: Path, pins: Path, build: Callable[[Path], None]) -> None:
    """Build `home` unless it was built from the same pins before."""
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    stamp = home / "built-from"
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(exist_ok=True)
    try:
        build(home)
    except (Unavailable, OSError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(home, ignore_errors=True)
        raise Unavailable(f"did not install: {error}") from error
    stamp.write_text(digest)


class Server:
    """A contestant running: `with Server(contestant) as server`."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.port = free_port()

    def __enter__(self) -> Server:
        self._directory = tempfile.TemporaryDirectory(prefix="waterspout-bench-")
        self.home = Path(self._directory.name)
        self._log = self.home / "log"
        self._start()
        return self

    def _start(self) -> None:
        mine = os.sched_getaffinity(0)
        # setpriv becomes the server, so the pid is the server's; it is killed if we are.
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        # A child inherits the core it starts on, and so do its threads. Pinning it later would miss those.
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    prefix + self.contestant.command(self.port, self.home),
                    cwd=ROOT,
                    env=os.environ
                    | {
                        "PORT": str(self.port),
                        "DATA": str(self.home / "data"),
                        "NODE_PATH": str(INSTALLED / "node" / "node_modules"),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        finally:
            os.sched_setaffinity(0, mine)
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise

    def kill(self) -> None:
        """SIGKILL: nobody is told anything."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start what was killed again, on the same port and data."""
        self._start()

    def terminate(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait(30)

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 60
        while not self.contestant.ready(self.port):
            if self._process.poll() is not None:
                raise Unavailable(f"did not start: {self.last_words()}")
            if time.monotonic() > until:
                raise Unavailable("not ready within 60 s")
            time.sleep(0.05)
        # A database belongs beside the generator, as it would to another machine: the server keeps its core to itself.
        for child in self.children():
            for thread in Path(f"/proc/{child}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {GENERATOR_CORE})

    def last_words(self) -> str:
        return _last_line(self._log.read_text(errors="replace"))

    def children(self) -> list[int]:
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]

    def cpu(self) -> float:
        """CPU seconds of the server process so far, all its threads, without its children."""
        return process_cpu(self._process.pid)

    def children_cpu(self) -> float:
        return sum(process_cpu(child) for child in self.children())

    def resident(self) -> int:
        """Resident bytes of the server process."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE


def process_cpu(pid: int) -> float:
    """CPU seconds of another process, whose clock has an id made of the pid (Linux, clock_getcpuclockid(3)). It counts
    nanoseconds; /proc/<pid>/stat counts hundredths."""
    return time.clock_gettime(~pid << 3 | 2)


def free_port() -> int:
    """Below the range outgoing connections are given ports from, so that no client of ours sits on it."""
    with socket.socket() as probe:
        for port in random.sample(range(20000, 32000), 100):
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port")


_PLAIN = Plain()
SMALL_QUEUES = ("limits.queue_bytes=16384",)
CENTRIFUGO = ("centrifugo.enabled=true",)
CONTESTANTS: tuple[Contestant, ...] = (
    Ours("waterspout", "Waterspout", Waterspout("bench")),
    Ours("waterspout-durable", "Waterspout, durable", Waterspout("benchd")),
    Ours("waterspout-queue", "Waterspout, 16 KiB queues", Waterspout("bench"), SMALL_QUEUES),
    Ours("waterspout-durable-queue", "Waterspout, durable, 16 KiB queues", Waterspout("benchd"), SMALL_QUEUES),
    Ours("waterspout-centrifuge", "Waterspout, Centrifugo's protocol", CentrifugeJson("bench"), CENTRIFUGO),
    Ours("waterspout-protobuf", "Waterspout, Centrifugo's in Protobuf", CentrifugeProtobuf("bench"), CENTRIFUGO),
    Ours(
        "waterspout-centrifuge-durable",
        "Waterspout, Centrifugo's protocol, durable",
        CentrifugeJson("benchd"),
        CENTRIFUGO,
    ),
    Ours("waterspout-asyncio", "Waterspout, asyncio's loop", Waterspout("bench"), ("server.uvloop=false",)),
    PythonPeer("tornado", "Tornado, write_message", _PLAIN),
    PythonPeer("websockets", "websockets, broadcast()", _PLAIN),
    PythonPeer("picows", "picows", _PLAIN),
    PythonPeer("python-socketio", "python-socketio on uvicorn", SocketIO()),
    PythonPeer("fastapi", "FastAPI on uvicorn", _PLAIN),
    PythonPeer("socketify", "socketify (uWebSockets, C++)", _PLAIN),
    OnOurs("motor", "Motor, insert_one awaited", Waterspout("naive")),
    Centrifugo("centrifugo", "Centrifugo, in memory", CentrifugoJson("bench")),
    Centrifugo("centrifugo-protobuf", "Centrifugo, in memory, Protobuf", CentrifugoProtobuf("bench")),
    NodePeer("ws", "ws on Node", _PLAIN),
    NodePeer("socket.io", "Socket.IO on Node", SocketIO()),
)
