"""Ports on loopback."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A loopback port nobody listens on, below the range from which the kernel takes ports for outgoing connections:
    a killed server must get its port back, though thousands of test clients come and go meanwhile."""
    try:
        ceiling = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        ceiling = 32768
    for _ in range(1000):
        port = random.randrange(max(1024, ceiling - 16384), ceiling)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on loopback")
