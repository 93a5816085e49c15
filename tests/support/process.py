"""A child process of a test, whatever it runs."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.nursery import ROOT, Forked
from tests.support.waiting import until


def binary(package: str, inside: str, name: str) -> Path:
    """`inside` the installed `package`, which is found but not imported (importing it may start things), else PATH."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations if spec else None) or ():
        if (candidate := Path(location) / inside).is_file():
            return candidate
    if found := shutil.which(name):
        return Path(found)
    raise FileNotFoundError(f"{name}: neither in the package {package} nor on PATH")


class Startable:
    """`async with` starts it; leaving stops it and removes what it kept on disk."""

    async def start(self) -> Self:
        raise NotImplementedError

    async def stop(self) -> None:
        """Stopping twice is fine."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove what was kept on disk; logs stay, they are what one reads after a failure."""

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.stop()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            self.clean()


class Process(Startable):
    """A child process: started, signalled, waited for, never left behind."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / f"{name}.log"
        self.root = ROOT
        """Where it runs; of the server, the project that it is."""
        self._child: subprocess.Popen[bytes] | Forked | None = None

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
