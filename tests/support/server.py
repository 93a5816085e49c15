"""`run.py` as an operator starts it, and requests to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from tests.support.nursery import nursery
from tests.support.ports import LOOPBACK, free_port
from tests.support.process import ROOT, Process
from tests.support.waiting import until

# Limits meant for strangers would refuse a test that plays hundreds of clients from one address.
UNLIMITED: dict[str, Any] = {
    "limits.messages_per_second": 0,
    "limits.burst": 0,
    "limits.connections_per_ip": 0,
    "limits.connections_per_user": 0,
}


@dataclass(frozen=True)
class Response:
    """An HTTP answer: `body` is decoded when it is JSON, else bytes."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Server(Process):
    """`run.py` as an operator starts it, but for the modules, which need not be loaded by each anew. `settings` become
    `--set key=value` (the value is written as JSON, which is YAML)."""

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

    def launch(self) -> None:
        match self.command():
            case [sys.executable, program, *arguments] if program == str(ROOT / "run.py"):
                self.directory.mkdir(parents=True, exist_ok=True)
                self._child = nursery().fork(arguments, self.log)
            case _:
                super().launch()

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
