"""Connections end, whatever the client does or does not do."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import pytest

from handlers import sockets
from server.access.admission import Admission
from server.core.config import Limits
from tests.support.waiting import until


class Deaf:
    ended = False

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def closed(self) -> None:
        self.ended = True


def test_who_says_goodbye_and_takes_nothing_more_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has closed its half, with megabytes unread: nothing of it stays behind."""
    monkeypatch.setattr(sockets, "CLOSE_WITHIN", 0.2)

    async def run() -> None:
        admission = Admission(Limits(), {})
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            connection = sockets.Socket(SimpleNamespace(admission=admission), admission.enter(None, "127.0.0.1"))  # type: ignore[arg-type]
            connection.client = Deaf()  # type: ignore[assignment]
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
            connection.write(b"x" * (8 << 20))
            theirs.shutdown(socket.SHUT_WR)
            await until(lambda: connection.client.ended, 10, "end of the connection")
            assert not admission.connections.total

    asyncio.run(run())
