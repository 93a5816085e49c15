"""The server on a core of its own, and how long its loop is held: `python bench/sampled.py FILE [the flags of run.py]`.

At each SIGUSR2 the longest holds since the last one are written into FILE, as JSON in milliseconds: how late what was
due every millisecond has run, but no longer than this process computed meanwhile, in whatever thread. So what other
processes take from the machine is not in it ("held"), beside what it was with it ("late").
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run
from bench.servers import SERVER_CORE
from handlers import serving

LOOK_EVERY = 0.001


class Samples:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: list[float] = []
        self._late: list[float] = []

    async def go_on(self) -> None:
        while True:
            due, began = time.perf_counter() + LOOK_EVERY, time.process_time()
            await asyncio.sleep(LOOK_EVERY)
            late = time.perf_counter() - due
            self._late.append(late)
            self._held.append(min(late, time.process_time() - began))

    def tell(self) -> None:
        told = {name: _quantiles(some) for name, some in (("held", self._held), ("late", self._late))}
        self._held, self._late = [], []
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(told))
        part.rename(self._file)


def _quantiles(some: list[float]) -> dict[str, float]:
    ordered = sorted(some) or [0.0]
    parts = {"p99_ms": 0.99, "p99.9_ms": 0.999, "most_ms": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[min(int(len(ordered) * part), last)] * 1000, 2) for name, part in parts.items()}


def main(file: Path) -> None:
    os.sched_setaffinity(0, {SERVER_CORE})
    serve = serving.serve

    async def sampled(*arguments: Any) -> None:
        samples = Samples(file)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, samples.tell)
        looking = asyncio.create_task(samples.go_on())
        try:
            await serve(*arguments)
        finally:
            looking.cancel()

    serving.serve = sampled
    sys.exit(run.main(sys.argv[1:]))


if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    main(file)
