"""The benchmark's clients count every message, also those that share a frame."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bench.centrifuge import CentrifugeProtobuf, CentrifugoJson, CentrifugoProtobuf
from bench.clients import BenchError, Client, Clients
from bench.dialects import Dialect

JSON = CentrifugoJson("bench")
PUSHES = [f'{{"push":{{"channel":"bench:0","pub":{{"data":"{n:0128d}","offset":{n}}}}}}}' for n in range(1, 17)]
ANSWER = '{"id":3,"publish":{}}'


def framed(text: str, first: int = 0x81) -> bytes:
    """As a server sends it: not masked."""
    payload = text.encode("latin-1")
    length = len(payload)
    return bytes((first, length) if length < 126 else (first, 126, *length.to_bytes(2, "big"))) + payload


class Received:
    """One client of a server that says what it is told to."""

    def __init__(self, dialect: Dialect) -> None:
        self._counted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.clients = Clients(self._listener.getsockname()[1], dialect)
        self.client: Client = self.clients.dial([])
        self._server, _ = self._listener.accept()
        self._server.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        self.clients.count(range(150, 300))

    def deliveries(self, data: bytes) -> int:
        """How many are counted in these bytes, sent whole."""
        self._server.sendall(data)
        self._server.shutdown(socket.SHUT_WR)
        with pytest.raises(BenchError, match="closed a connection"):
            self._read()
        return self._counted

    def _read(self) -> None:
        while True:
            self.clients.ready()
            self._counted += self.clients.receive(self.client)

    def close(self) -> None:
        self.clients.close()
        self._server.close()
        self._listener.close()


@pytest.fixture
def received(request: pytest.FixtureRequest) -> Iterator[Received]:
    one = Received(request.param)
    yield one
    one.close()


@pytest.mark.parametrize("received", [JSON], indirect=True)
def test_every_line_of_a_frame_is_a_delivery(received: Received) -> None:
    """One push in a frame, sixteen, and one again: eighteen deliveries."""
    assert received.deliveries(b"".join(map(framed, [PUSHES[0], "\n".join(PUSHES), PUSHES[0]]))) == 18


@pytest.mark.parametrize("received", [JSON], indirect=True)
def test_answers_and_pings_between_pushes_are_no_deliveries(received: Received) -> None:
    """A frame of two pushes, an answer and a ping: two; nine answers, as long as a push: none."""
    mixed = "\n".join([PUSHES[0], ANSWER, "{}", PUSHES[1]])
    assert received.deliveries(framed(mixed) + framed("\n".join([ANSWER] * 9))) == 2


@pytest.mark.parametrize("received", [CentrifugoProtobuf("bench")], indirect=True)
def test_every_message_of_a_frame_of_protobuf_is_a_delivery(received: Received) -> None:
    """Three pushes and an answer: three."""
    push = "\x83\x01\x22\x80\x01" + "x" * 128
    answer = "\x04\x08\x03\x42\x00"
    assert received.deliveries(framed(push * 2, 0x82) + framed(answer + push, 0x82)) == 3


@pytest.mark.parametrize("received", [CentrifugeProtobuf("bench")], indirect=True)
def test_with_one_message_a_frame_its_size_is_what_is_counted(received: Received) -> None:
    """Three frames of one push each: three."""
    push = "\x83\x01\x22\x80\x01" + "x" * 128
    received.clients.count(range(130, 140))
    assert received.deliveries(framed(push, 0x82) * 3) == 3


def test_what_shares_a_frame_is_read_word_for_word() -> None:
    """Each message of a frame is itself again."""
    assert list(JSON.messages("\n".join(PUSHES))) == PUSHES
    assert [JSON.delivered(text) for text in PUSHES] == [f"{n:0128d}" for n in range(1, 17)]
