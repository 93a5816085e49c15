"""Small programs of ours on foreign clients: each takes some steps, then listens through a storm.

They are told in the environment what to do (README.md), and say on standard output, in lines of JSON, how it went.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop import fetched
from tests.interop.fetched import HERE, Missing
from tests.support.client import make_token

STEPS = ("connect", "subscribe", "publish", "history", "presence", "refresh")
FIRST_TOKEN = 3.0
"""Seconds that the first token is good for, so that a second one is asked for."""


@dataclass(frozen=True)
class Program:
    name: str
    protocol: str
    command: Callable[[], list[str]]

    def __str__(self) -> str:
        return f"{self.name}, {self.protocol}"


def _javascript() -> list[str]:
    return ["node", str(fetched.javascript() / "program.mjs")]


def _python() -> list[str]:
    return [sys.executable, str(HERE / "python" / "program.py")]


PROGRAMS = [
    Program("centrifuge (npm)", "json", _javascript),
    Program("centrifuge (npm)", "protobuf", _javascript),
    Program("centrifuge-python", "json", _python),
    Program("centrifuge-python", "protobuf", _python),
    Program("centrifuge-go", "json", lambda: [str(fetched.go())]),
    Program("centrifuge-go", "protobuf", lambda: [str(fetched.go())]),
    Program("centrifuge-java", "protobuf", lambda: list(fetched.java())),
]


@dataclass
class Run:
    """One program running."""

    program: Program
    process: asyncio.subprocess.Process
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """It listens to the storm, or has ended."""
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    storm: dict[str, Any] | None = None
    said: str = ""
    """What else it has said, at the end."""

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                self.said = line.decode(errors="replace").strip() or self.said
                continue
            if told["step"] == "ready":
                self.ready.set()
            elif told["step"] == "storm":
                self.storm = told
            elif "failed" in told:
                self.failed[told["step"]] = told["failed"]
            else:
                self.passed.append(told["step"])
        await self.process.wait()
        self.ready.set()

    def outcome(self, count: int) -> Mapping[str, str]:
        """Step → why it has failed; none of those that have passed."""
        why = dict(self.failed)
        for step in STEPS:
            if step not in self.passed:
                why.setdefault(step, f"not reached; {self.said}")
        if self.storm is None:
            why["storm"] = f"did not end; {self.said}"
        elif self.storm["received"] != count or self.storm["distinct"] != count or not self.storm["ordered"]:
            why["storm"] = f"of {count}: {self.storm}"
        return why


async def start(program: Program, command: list[str], base: str, secret: str, storm: str, count: int) -> Run:
    """`base`: the server's, as http://…; `storm`: the channel that `count` messages will come in."""
    user = f"user-{uuid.uuid4().hex[:8]}"
    query = "?cf_protocol=protobuf" if program.protocol == "protobuf" else ""
    environment = {
        "INTEROP_URL": base.replace("http", "ws", 1) + "/connection/websocket" + query,
        "INTEROP_PROTOCOL": program.protocol,
        "INTEROP_CHANNEL": f"own-{uuid.uuid4().hex[:8]}",
        "INTEROP_STORM": storm,
        "INTEROP_COUNT": str(count),
        "INTEROP_USER": user,
        "INTEROP_TOKEN": make_token(secret, user, FIRST_TOKEN, iat=int(time.time())),
        "INTEROP_NEXT_TOKEN": make_token(secret, user, 3600, jti="next"),
    }
    script = Path(command[-1])
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        cwd=script.parent if script.is_file() else None,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return Run(program, process)


def available() -> tuple[list[tuple[Program, list[str]]], dict[str, str]]:
    """Those that this machine can run, with their commands; and of the others why not."""
    found, missing = [], {}
    for program in PROGRAMS:
        try:
            found.append((program, program.command()))
        except Missing as error:
            missing[str(program)] = str(error)
    return found, missing
