"""Names and commands of Centrifugo's protocol, without a server."""

from __future__ import annotations

import json

import pytest

from server.access.seals import Seals
from server.centrifugo.dialects import websocket
from server.centrifugo.encodings import Json, protobuf
from server.centrifugo.names import Names
from server.centrifugo.publishers import MADE, Publishers
from server.core.errors import Error
from server.delivery.hub import Hub
from server.wire.codec import JSON
from server.wire.messages import Message
from tests.support.protobuf import decode, split
from tests.unit.test_hub import Sink, message, turn
from tests.unit.virtual_time import run


@pytest.mark.parametrize("name", ["news", "news$1", "chat:a", "chat:a:b"])
def test_names_there_and_back(name: str) -> None:
    """One-to-one, and with a namespace that stands for no colon."""
    names = Names("cf")
    assert names.theirs(names.ours(name)) == name
    assert names.ours("news") == "cf:news"


@pytest.mark.parametrize(
    ("namespace", "name"),
    [(None, "news"), ("cf", "cf:news"), ("cf", "cf:a:b"), ("cf", "two words"), (None, "Chat:a"), ("cf", ":a")],
)
def test_names_that_no_channel_can_have(namespace: str | None, name: str) -> None:
    """Without a namespace where there is none, or under a second name."""
    with pytest.raises(Error, match="unknown_channel"):
        Names(namespace).ours(name)


@pytest.mark.parametrize("since", [0, 1], ids=["made just now", "made long ago"])
def test_a_key_says_whose_it_is_where_it_was_made_for_and_nowhere_else(since: int) -> None:
    """Whether it is remembered or its seal is looked at: in its channel, of its user."""
    publishers = Publishers(Seals(str.encode, "publishers"), ())
    key = publishers.key("c:1", "ann", "s0123456789ab", 1)
    for number in range(since * MADE):
        publishers.key("c:1", "ann", "s0123456789ab", 2 + number)

    def info(channel: str, user: str | None) -> dict[str, str] | None:
        found: dict[str, str] | None = publishers.publication(Message(channel, "e", 1, key, user, 0, 1)).get("info")
        return found

    assert info("c:1", "ann") == {"user": "ann", "client": "s0123456789ab"}
    assert info("c:1", "bob") == {"user": "bob", "client": ""}
    assert info("c:2", "ann") == {"user": "ann", "client": ""}
    assert info("c:1", None) is None


def test_a_message_is_encoded_once_however_many_listen() -> None:
    """500 clients of each encoding, and as many native ones, which are sent what they would be without them."""

    async def deliver() -> None:
        names, hub = Names("c"), Hub()
        binary = protobuf()
        assert binary is not None
        nobody = Publishers(Seals(str.encode, "publishers"), ())
        codecs = [websocket(names, nobody, Json()).codec, websocket(names, nobody, binary).codec, JSON]
        sinks = [[Sink(codec) for _ in range(500)] for codec in codecs]
        written: list[bytes] = []
        for one in (sink for of in sinks for sink in of):
            one.direct_write = written.append
            hub.add("c:1", one)
        hub.deliver([message(1)])
        await turn()
        assert (hub.encodes, hub.sends, len(written)) == (3, 1500, 1500)
        assert len({id(data) for data in written}) == 3
        first, second, native = written[0], written[500], written[1000]
        assert json.loads(first[2:])["push"]["channel"] == "1"
        assert decode(decode(decode(next(split(second[2:])))[4])[4])[4] == b"1"
        assert native == message(1).frame(JSON)

    run(deliver())
