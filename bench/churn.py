"""Does memory stay flat while clients come and go? `python -m bench.churn [--minutes 60]`

Every second 20 WebSockets come, read what five channels have last had, listen, publish, are refused something, and
leave; a long poll and a request for history with them. Ten of a thousand channels are new each second, so that what is
kept of channels nobody has open any more is part of it. Printed each minute: the server's memory, and the processor
time that the minute took.
"""

from __future__ import annotations

import argparse
import time

from bench.attacks import Http, WebSocket, command
from bench.dialects import Waterspout
from bench.servers import Ours, Server

CLIENTS = 20
CHANNELS = 5
KNOWN = 1000
NEW = 10


def second(port: int, number: int) -> None:
    clients = [WebSocket(port) for _ in range(CLIENTS)]
    for at, client in enumerate(clients):
        first = number * NEW + at * CHANNELS
        names = [f"benchd:{(first + n) % (KNOWN + number * NEW)}" for n in range(CHANNELS)]
        client.send(b"".join(command(type="subscribe", id=1, channel=name, last=5) for name in names))
        client.send(command(type="publish", id=2, channel=names[0], data={"number": number, "text": "x" * 100}))
        client.send(command(type="history", id=3, channel=names[1], limit=5))
        client.send(command(type="publish", id=4, channel="nothing:x", data=1))
    http = Http(port)
    http.send("GET", f"/v1/channels/benchd:{number % KNOWN}/messages?limit=5")
    http.send("GET", f"/v1/channels/benchd:{number % KNOWN}/messages?after=0&wait=1")
    for client in clients:
        client.wait(CHANNELS + 3)
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=60)
    options = parser.parse_args()
    with Server(Ours("waterspout", "Waterspout", Waterspout("benchd"))) as server:
        print("| minute | MiB | CPU s |\n|---:|---:|---:|", flush=True)
        begun, number = time.monotonic(), 0
        for minute in range(options.minutes + 1):
            before = server.cpu()
            while time.monotonic() < begun + 60 * minute:
                second(server.port, number)
                number += 1
                time.sleep(max(0.0, begun + number - time.monotonic()))
            print(f"| {minute} | {server.resident() / 2**20:.1f} | {server.cpu() - before:.1f} |", flush=True)


if __name__ == "__main__":
    main()
