"""What do subscriptions by pattern cost those who have none? `python -m bench.patterns [ROUNDS]`

The fan-out of one channel to 500 subscribers, ephemeral, 32 messages in flight: alone; while somebody listens to a
pattern of another namespace; and while somebody listens to one of this namespace, which brings every message once more.
Deliveries per CPU second of the server, in turn in one run, medians; each beside the first as a ratio, the median of
the pairs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.clients import Clients
from bench.dialects import Waterspout
from bench.fanout import Fanout, Shape
from bench.servers import Ours, Server

SUBSCRIBERS, WINDOW, MESSAGES = 500, 32, 12_000
OPEN = {"durable": False, "publish": "anyone", "subscribe": "anyone", "patterns": True}
SETTINGS = tuple(f"namespaces.{name}={json.dumps(OPEN)}" for name in ("bench", "other"))
WAYS = {"nobody": None, "elsewhere": "other:*", "here": "bench:*"}


class Listener:
    """One more client, with a pattern."""

    def __init__(self, port: int, dialect: Waterspout, pattern: str) -> None:
        self._clients = Clients(port, dialect)
        (client,) = self._clients.open([()])
        command = {"type": "subscribe", "id": 1, "channel": pattern}
        heard: list[str] = []
        self._clients.on_text = lambda client, text, size: heard.append(text)
        self._clients.send(client, self._clients.framed(json.dumps(command)))
        while not heard:
            for ready in self._clients.ready():
                self._clients.receive(ready)

    def close(self) -> None:
        self._clients.close()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    dialect = Waterspout("bench")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with (
        Server(Ours("waterspout", "Waterspout", dialect, SETTINGS)) as server,
        Fanout(server.port, dialect, server.cpu, Shape(1, 1, SUBSCRIBERS)) as load,
    ):
        load.connect()
        load.run(MESSAGES, WINDOW)
        for number in range(rounds):
            for way in list(WAYS) if number % 2 else list(reversed(WAYS)):
                pattern = WAYS[way]
                listener = None if pattern is None else Listener(server.port, dialect, pattern)
                found[way].append(load.run(MESSAGES, WINDOW).per_cpu_second)
                if listener is not None:
                    listener.close()
    for way, rates in found.items():
        ratio = median(one / alone for one, alone in zip(rates, found["nobody"], strict=True))
        print(f"{way:10} {median(rates):12,.0f} deliveries per CPU second   {ratio:5.3f}")


if __name__ == "__main__":
    main()
