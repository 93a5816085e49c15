"""RFC 6455 frames: what a client sends comes out whole, and what it may not send has its close code."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import websocket
from server.core.errors import Disconnect
from server.wire import frames
from server.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PING_FRAME,
    PONG,
    TEXT,
    Parser,
    close_frame,
    frame,
    unmask,
)

LIMIT = 1 << 17
MASK = b"\x37\xfa\x21\x3d"
Frame = tuple[int, bytes]


def sent(opcode: int, payload: bytes = b"", *, final: bool = True, mask: bytes = MASK, size: int = -1) -> bytes:
    """A client's frame; `size` is the width of its length field in bytes, the shortest one by default."""
    length = len(payload)
    if size < 0:
        size = 0 if length < 126 else 2 if length < 0x10000 else 8
    head = bytes([(0x80 if final else 0) | opcode, 0x80 | {0: length, 2: 126, 8: 127}[size]])
    return head + (length.to_bytes(size, "big") if size else b"") + mask + unmask(mask, payload)


def parse(data: bytes, limit: int = LIMIT) -> list[Frame]:
    return fed(Parser(limit), data)


def fed(parser: Parser, data: bytes) -> list[Frame]:
    """What comes out, without what only says that a fragment was seen."""
    return [out for out in parser.feed(data) if out[0] != CONTINUATION]


def close_code(data: bytes, limit: int = LIMIT) -> int:
    with pytest.raises(Disconnect) as caught:
        parse(data, limit)
    return caught.value.code


texts = st.text(max_size=200).map(lambda text: (TEXT, text.encode()))
binaries = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]).map(lambda size: (BINARY, bytes(size)))
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """The bytes of some messages, fragmented and with control frames in between, and what is to come out."""
    data, expected = b"", []
    for opcode, payload in draw(st.lists(texts | binaries | controls, max_size=6)):
        if opcode >= CLOSE:
            data += sent(opcode, payload, mask=draw(st.binary(min_size=4, max_size=4)))
            expected.append((opcode, payload))
            continue
        cuts = [0, *sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3))), len(payload)]
        for index, (start, end) in enumerate(pairwise(cuts)):
            final = index == len(cuts) - 2
            data += sent(CONTINUATION if index else opcode, payload[start:end], final=final)
            if not final and draw(st.booleans()):
                between = draw(controls)
                data += sent(*between)
                expected.append(between)
        expected.append((opcode, payload))
    return data, expected


@given(streams(), st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(stream: tuple[bytes, list[Frame]], data: st.DataObject) -> None:
    """Wherever the network cuts the bytes, the same messages come out, whole and in order."""
    raw, expected = stream
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20))), len(raw)]
    parser = Parser(LIMIT)
    assert [out for start, end in pairwise(cuts) for out in fed(parser, raw[start:end])] == expected


def test_byte_by_byte() -> None:
    """A client that sends byte by byte is understood."""
    parser = Parser(LIMIT)
    raw = sent(TEXT, b"a" * 300) + sent(PING) + sent(BINARY, bytes(70000))
    outs = [out for byte in raw for out in fed(parser, bytes([byte]))]
    assert outs == [(TEXT, b"a" * 300), (PING, b""), (BINARY, bytes(70000))]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_server_frames_are_unmasked_and_of_the_shortest_form(size: int) -> None:
    """A server's frame is the header, the shortest length and the payload as it is."""
    framed = frame(BINARY, bytes(size))
    header = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(framed) == header + size
    assert framed[0] == 0x82
    assert framed[1] == (size if size < 126 else 126 if size < 65536 else 127)


@pytest.mark.parametrize("unmask", [frames.unmask, websocket.unmask], ids=["ours", "the door's"])
@given(payload=st.binary(max_size=300), mask=st.binary(min_size=4, max_size=4))
def test_unmask_is_the_rfcs_and_its_own_inverse(
    unmask: Callable[[bytes, bytes], bytes], payload: bytes, mask: bytes
) -> None:
    """Unmasking is the byte-wise XOR of section 5.3, and undoes itself."""
    masked = unmask(mask, payload)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert unmask(mask, masked) == payload


def test_a_control_frame_comes_out_before_the_message_it_interrupts() -> None:
    """A ping between two fragments is answered before the message is whole."""
    data = sent(TEXT, b"hel", final=False) + sent(PING, b"?") + sent(CONTINUATION, b"lo")
    assert parse(data) == [(PING, b"?"), (TEXT, b"hello")]


def test_every_fragment_is_seen_when_it_comes() -> None:
    """Whoever counts what a client sends sees each fragment, though the message comes with the last one."""
    data = sent(TEXT, b"a", final=False) + sent(CONTINUATION, final=False) * 3 + sent(CONTINUATION, b"b")
    assert list(Parser(LIMIT).feed(data)) == [(CONTINUATION, b"")] * 4 + [(TEXT, b"ab")]


def test_a_character_may_be_split_between_fragments() -> None:
    """UTF-8 is a matter of the message, not of its fragments."""
    euro = "€".encode()
    assert parse(sent(TEXT, euro[:1], final=False) + sent(CONTINUATION, euro[1:])) == [(TEXT, euro)]


VIOLATIONS = {
    "unmasked": (frame(TEXT, b"x"), 1002),
    **{f"reserved bit {bit:#x}": (bytes([0x81 | bit]) + sent(TEXT, b"x")[1:], 1002) for bit in (0x40, 0x20, 0x10)},
    **{f"opcode {opcode}": (sent(opcode), 1002) for opcode in (*range(3, 8), *range(11, 16))},
    "fragmented ping": (sent(PING, final=False), 1002),
    "fragmented close": (sent(CLOSE, final=False), 1002),
    "long ping": (sent(PING, bytes(126)), 1002),
    "ping with a 64-bit length": (sent(PING, b"", size=8), 1002),
    "16-bit length of 125": (sent(BINARY, bytes(125), size=2), 1002),
    "64-bit length of 65535": (sent(BINARY, bytes(65535), size=8), 1002),
    "continuation of nothing": (sent(CONTINUATION, b"x"), 1002),
    "continuation after a whole message": (sent(TEXT, b"x") + sent(CONTINUATION, b"x"), 1002),
    "text inside of a message": (sent(TEXT, b"x", final=False) + sent(TEXT, b"x"), 1002),
    "binary inside of a message": (sent(TEXT, b"x", final=False) + sent(BINARY, b"x", final=False), 1002),
    "close of one byte": (sent(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (sent(CLOSE, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "close reason not UTF-8": (sent(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (sent(TEXT, b"\xff"), 1007),
    "overlong UTF-8": (sent(TEXT, b"\xc0\x80"), 1007),
    "surrogate": (sent(TEXT, b"\xed\xa0\x80"), 1007),
    "fragments not UTF-8 together": (sent(TEXT, b"\xe2\x82", final=False) + sent(CONTINUATION, b"x"), 1007),
    "text cut inside of a character": (sent(TEXT, b"\xe2\x82"), 1007),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_every_violation_has_its_close_code(data: bytes, code: int) -> None:
    """What the RFC forbids ends the connection with the code the RFC names."""
    assert close_code(data) == code


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
def test_a_good_close_comes_out(code: int) -> None:
    """A close frame comes out with its code and reason; an empty one too."""
    payload = struct.pack("!H", code) + b"bye"
    assert parse(sent(CLOSE, payload) + sent(CLOSE)) == [(CLOSE, payload), (CLOSE, b"")]


def test_messages_before_a_violation_still_come_out() -> None:
    """What was right before the first wrong frame has been handed on."""
    parser = Parser(LIMIT).feed(sent(TEXT, b"good") + frame(TEXT, b"bad"))
    assert next(parser) == (TEXT, b"good")
    with pytest.raises(Disconnect):
        next(parser)


@pytest.mark.parametrize("size", [200, 70000])
def test_a_message_may_have_the_limit_and_no_byte_more(size: int) -> None:
    """The limit is of the message: whole, in fragments, and refused from the header on."""
    assert parse(sent(BINARY, bytes(size)), limit=size) == [(BINARY, bytes(size))]
    whole = sent(BINARY, bytes(size + 1))
    assert close_code(whole, limit=size) == 1009
    assert close_code(whole[:10], limit=size) == 1009
    parts = sent(BINARY, bytes(size), final=False) + sent(CONTINUATION, b"x")
    assert close_code(parts, limit=size) == 1009


def test_endless_empty_fragments_meet_the_limit() -> None:
    """Fragments without payload do not collect for ever."""
    endless = sent(TEXT, b"", final=False) + sent(CONTINUATION, b"", final=False) * 200
    assert close_code(endless, limit=150) == 1009


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1])
def test_an_absurd_length_is_refused_from_its_header(length: int) -> None:
    """A length of 63 bits and more ends the connection before anything is waited for."""
    assert close_code(b"\x82\xff" + length.to_bytes(8, "big")) in (1002, 1009)


def test_close_frames_keep_to_the_room_they_have() -> None:
    """A long reason is cut at a character's edge, to 125 bytes in all."""
    framed = close_frame(4001, "é" * 100)
    assert framed[0] == 0x88
    assert framed[1] == len(framed) - 2 <= 125
    assert framed[2:4] == struct.pack("!H", 4001)
    assert framed[4:].decode() == "é" * 61


def test_the_ping_frame_is_an_empty_ping() -> None:
    """The ping everybody gets is an empty, unmasked ping."""
    assert frame(PING, b"") == PING_FRAME
