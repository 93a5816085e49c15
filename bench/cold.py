"""The cold path: what somebody costs who comes to a channel that nobody has open. Operations per server CPU second.

    python -m bench.cold [--channels 2000] [--runs 3] [--parts]

Distinct channels with ten messages each, after a restart: subscribing with `last: 10`, resuming five behind, and
reading ten messages of history over the WebSocket; and beside them our own acknowledged publishes, in the same run, as
the measure of the machine: of one client, many in a write, and as the others are, one in a write. Each load has so many
operations under way at a time as IN_FLIGHT says, one for each connection in turn; and each once more as a phone does it
that comes back, with TOGETHER of them in one write (each of the others takes a read and a write of the socket for
itself). `--parts` shows where the time goes: the same with one message, with none, in channels that
are open already, and commands that ask nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Waterspout
from bench.load import Publishes, Stopwatch, fill
from bench.servers import Ours, Server

MESSAGES = 10
BEHIND = 5
CONNECTIONS = 200
IN_FLIGHT = 500
TOGETHER = 20
"""Commands of one connection in one write."""
PUBLISHES = 20_000
ONE_IN_A_WRITE = "publish, one in a write"
DIALECT = Waterspout("benchd")

Command = Callable[[int], dict[str, object]]
"""Of the channel with that number."""


class Load:
    """One command for each of `channels`. It is done when its reply has come, with `replied` messages, and `pushed`
    messages after it."""

    def __init__(self, server: Server, channels: int) -> None:
        self._channels = channels
        self._numbers = {DIALECT.channel(number): number for number in range(channels)}
        self._server = server
        self._clients = Clients(server.port, DIALECT)
        self._clients.spins = 0
        self._connections = self._clients.open(() for _ in range(CONNECTIONS))
        self._clients.on_text = self._on_text
        self._owed: list[int] = []
        self._done = 0
        self._replied = 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        self._clients.close()

    def _on_text(self, client: Client, text: str, size: int) -> None:
        push = json.loads(text)
        if push["type"] == "reply":
            number = push["id"] - 1
            if len(push.get("messages", ())) != self._replied:
                raise BenchError(f"not {self._replied} messages: {text[:300]}")
        elif push["type"] == "message":
            number = self._numbers[push["channel"]]
        else:
            raise BenchError(f"not what was asked for: {text[:300]}")
        self._owed[number] -= 1
        self._done += not self._owed[number]

    def run(self, command: Command, *, replied: int = 0, pushed: int = 0, shift: int = 0, together: int = 1) -> float:
        """Commands per CPU second of the server. `shift`: which connections take them, of those that are there;
        `together`: so many of one connection are sent in one write."""
        self._owed = [pushed + 1] * self._channels
        self._done, self._replied = 0, replied
        watch = Stopwatch(self._server.cpu, self._clients)
        sent = 0
        while self._done < self._channels:
            while sent < self._channels and sent + together <= self._done + IN_FLIGHT:
                texts = (
                    json.dumps({"id": number + 1, "channel": DIALECT.channel(number)} | command(number))
                    for number in range(sent, min(self._channels, sent + together))
                )
                connection = self._connections[(sent // together + shift) % CONNECTIONS]
                self._clients.send(connection, b"".join(frame(text.encode()) for text in texts))
                sent += together
            for client in self._clients.ready():
                self._clients.receive(client)
        return watch.stop(self._channels, []).per_cpu_second


def measure(channels: int, parts: bool) -> dict[str, float]:
    with Server(Ours("waterspout", "Waterspout", DIALECT)) as server:
        cursors = fill(server.port, DIALECT, channels, MESSAGES, BEHIND, "x" * 128)
        found: dict[str, float] = {}

        @contextmanager
        def restarted() -> Iterator[Load]:
            server.kill()
            server.restart()
            with Load(server, channels) as load:
                yield load

        def cold(name: str, command: Command, replied: int = 0, pushed: int = 0, together: int = 1) -> None:
            with restarted() as load:
                found[name] = load.run(command, replied=replied, pushed=pushed, together=together)

        def subscribe(_: int) -> dict[str, object]:
            return {"type": "subscribe", "last": MESSAGES}

        def resume(number: int) -> dict[str, object]:
            return {"type": "subscribe", "after": cursors[number]}

        def history(_: int) -> dict[str, object]:
            return {"type": "history", "limit": MESSAGES}

        cold("subscribe", subscribe, pushed=MESSAGES)
        cold(f"subscribe, {TOGETHER} together", subscribe, pushed=MESSAGES, together=TOGETHER)
        cold("resume", resume, pushed=BEHIND)
        cold(f"resume, {TOGETHER} together", resume, pushed=BEHIND, together=TOGETHER)
        cold("history", history, replied=MESSAGES)
        cold(f"history, {TOGETHER} together", history, replied=MESSAGES, together=TOGETHER)
        with restarted() as load:
            one = {"type": "publish", "channel": DIALECT.channel(0), "data": "x" * 128}
            load.run(lambda number: one | {"key": f"first {number}"})
            found[ONE_IN_A_WRITE] = load.run(lambda number: one | {"key": f"second {number}"})
        if parts:
            cold("history of 1", lambda _: {"type": "history", "limit": 1}, replied=1)
            cold("subscribe, last 1", lambda _: {"type": "subscribe", "last": 1}, pushed=1)
            with restarted() as load:
                found["subscribe, none"] = load.run(lambda _: {"type": "subscribe"})
                found["open already"] = load.run(lambda _: {"type": "subscribe"}, shift=1)
                found["ping"] = load.run(lambda _: {"type": "ping"})
        time.sleep(1.5)
        with Publishes(server.port, DIALECT, server.cpu) as publishes:
            publishes.saturate(PUBLISHES // 10, IN_FLIGHT)
            found["publish"] = publishes.saturate(PUBLISHES, IN_FLIGHT).per_cpu_second
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="what the parts of it cost as well")
    options = parser.parse_args()
    runs = [measure(options.channels, options.parts) for _ in range(options.runs)]
    for name in runs[0]:
        found = median(run[name] for run in runs)
        many, alike = (median(run[name] / run[other] for run in runs) for other in ("publish", ONE_IN_A_WRITE))
        print(
            f"{name:23} {found:8.0f} per CPU second, {1e6 / found:5.0f} µs, {many:5.2f} × our own publishes,"
            f" {alike:5.2f} × those one in a write"
        )


if __name__ == "__main__":
    main()
