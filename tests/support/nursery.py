"""Servers that need not load their modules, which is most of the work of a start: a process has loaded them, and forks
for each server. It has one thread and no loop, so what is forked is what a new process would be by then."""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1


class Forked:
    """One of them; what the tests use of a `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask(pid=self.pid)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # else the number may be another's by now
            os.kill(self.pid, number)


class Nursery:
    """The process, as the tests see it. It ends with them, and all its servers with it."""

    def __init__(self) -> None:
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        command = [*prefix, sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        atexit.register(self._end)

    def fork(self, arguments: list[str], log: Path) -> Forked:
        """`run.py` with these arguments, which says all that it says in this file."""
        return Forked(self, self.ask(arguments=arguments, log=str(log.resolve()), environment=dict(os.environ)))

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def _end(self) -> None:
        self._process.communicate()


@functools.cache
def nursery() -> Nursery:
    """That of this process, for as long as it lives."""
    return Nursery()


def serve() -> int:
    """In the process itself: fork when it is asked to, and say how those ended that are asked for. In a fork: the
    server, to its end."""
    import gc

    import uvloop  # noqa: F401

    import run
    from handlers import serving  # noqa: F401

    gc.collect()
    gc.freeze()  # or the first collection of each server would copy all pages
    own = os.getpid()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "pid" in question:
            ended, status = os.waitpid(question["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            _prepare(question, own)
            return run.main(sys.argv[1:])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


def _prepare(question: dict[str, Any], parent: int) -> None:
    """What a new process is given when it is made."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the tests have ended")
    with open(os.devnull, "rb") as nothing, open(question["log"], "ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.clear()
    os.environ.update(question["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [str(ROOT / "run.py"), *question["arguments"]]


if __name__ == "__main__":
    sys.exit(serve())
