"""The cold path: what somebody costs who comes to a channel that nobody has open. Operations per server CPU second.

    python -m bench.cold [--channels 2000] [--runs 3]

Distinct channels with ten messages each, after a restart: subscribing with `last: 10`, resuming five behind, and
reading ten messages of history over the WebSocket; and beside them our own acknowledged publishes, in the same run, as
the measure of the machine. Each load has so many operations under way at a time as IN_FLIGHT says.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Waterspout
from bench.load import Publishes, Stopwatch, fill
from bench.servers import Ours, Server

MESSAGES = 10
BEHIND = 5
CONNECTIONS = 200
IN_FLIGHT = 500
PUBLISHES = 20_000
DIALECT = Waterspout("benchd")


def load(server: Server, channels: int, command: Callable[[int], dict[str, object]], messages: int) -> float:
    """Operations per CPU second of the server: one of each channel. It is done when its reply and `messages` messages
    have come."""
    clients = Clients(server.port, DIALECT)
    clients.spins = 0
    owed = {DIALECT.channel(number): messages + 1 for number in range(channels)}
    done = 0

    def on_text(client: Client, text: str, size: int) -> None:
        nonlocal done
        push = json.loads(text)
        if push["type"] not in ("reply", "message"):
            raise BenchError(f"not what was asked for: {text[:300]}")
        channel = push.get("channel") or DIALECT.channel(push["id"] - 1)
        if push["type"] == "reply" and len(push.get("messages", ())) not in (0, MESSAGES):
            raise BenchError(f"not {MESSAGES} messages: {text[:300]}")
        owed[channel] -= 1
        done += not owed[channel]

    try:
        connections = clients.open(() for _ in range(CONNECTIONS))
        clients.on_text = on_text
        watch = Stopwatch(server.cpu, clients)
        sent = 0
        while done < channels:
            for number in range(sent, min(channels, done + IN_FLIGHT)):
                text = json.dumps({"id": number + 1, "channel": DIALECT.channel(number)} | command(number))
                clients.send(connections[number % CONNECTIONS], frame(text.encode()))
                sent += 1
            for client in clients.ready():
                clients.receive(client)
        return watch.stop(channels, []).per_cpu_second
    finally:
        clients.close()


def measure(channels: int) -> dict[str, float]:
    with Server(Ours("waterspout", "Waterspout", DIALECT)) as server:
        cursors = fill(server.port, DIALECT, channels, MESSAGES, BEHIND, "x" * 128)
        found: dict[str, float] = {}
        loads: dict[str, tuple[Callable[[int], dict[str, object]], int]] = {
            "subscribe": (lambda number: {"type": "subscribe", "last": MESSAGES}, MESSAGES),
            "resume": (lambda number: {"type": "subscribe", "after": cursors[number]}, BEHIND),
            "history": (lambda number: {"type": "history", "limit": MESSAGES}, 0),
        }
        for name, (command, messages) in loads.items():
            server.kill()
            server.restart()
            found[name] = load(server, channels, command, messages)
        time.sleep(1.5)
        with Publishes(server.port, DIALECT, server.cpu) as publishes:
            publishes.saturate(PUBLISHES // 10, IN_FLIGHT)
            found["publish"] = publishes.saturate(PUBLISHES, IN_FLIGHT).per_cpu_second
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = [measure(options.channels) for _ in range(options.runs)]
    for name in runs[0]:
        ratio = median(run[name] / run["publish"] for run in runs)
        print(f"{name:10} {median(run[name] for run in runs):8.0f} per CPU second, {ratio:5.2f} × our own publishes")


if __name__ == "__main__":
    main()
