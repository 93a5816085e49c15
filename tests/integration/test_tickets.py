"""What a ticket is good for, and that it tells nothing."""

from __future__ import annotations

import base64
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.access.tickets import Tickets
from server.core.clock import Clock
from server.core.config import MongoDB
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.mongo.client import connect
from tests.support.processes import Mongod

ANN = Principal(
    "ann-the-user",
    channels={"chat:*": ["publish"]},
    expires=time.time() + 3600,
    claims={"sub": "ann-the-user", "email": "ann@private.example", "roles": ["admin"]},
    info={"name": "Ann-Full-Name"},
    token="the-name-of-the-token",
    issued=time.time() - 5,
)
CHANNELS = ["chat:secret-room", "feed:a"]


@asynccontextmanager
async def opened(mongod: Mongod, *clocks: Clock, lifetime: float = 60) -> AsyncIterator[list[Tickets]]:
    """The tickets of several nodes with one database."""
    database = connect(MongoDB(database=f"test_{uuid.uuid4().hex[:12]}"), mongod.uri)
    try:
        made = [Tickets(database, lifetime, clock) for clock in clocks]
        for one in made:
            await one.open()
        yield made
    finally:
        database.client.close()


def layers(ticket: str) -> bytes:
    """Whatever somebody without the key can make of it."""
    seen = ticket.encode()
    for part in (*ticket.split("."), ticket):
        for decode in (base64.urlsafe_b64decode, bytes.fromhex):
            try:
                raw = decode(part + "=" * (-len(part) % 4))
            except ValueError:
                continue
            seen += raw
            for start in range(16):
                try:
                    seen += zlib.decompress(raw[start:], -15)
                except zlib.error:
                    continue
    return seen


@pytest.mark.gen_test
async def test_a_ticket_tells_nothing(mongod: Mongod) -> None:
    """It stands in URLs: no claim, name or channel can be read in it, and two for the same are not the same."""
    async with opened(mongod, Clock()) as (tickets,):
        ticket, _ = tickets.issue(ANN, CHANNELS)
        assert ticket != tickets.issue(ANN, CHANNELS)[0]
    assert set(ticket) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    seen = layers(ticket)
    for secret in ("ann-the-user", "private.example", "admin", "Ann-Full-Name", "email", "secret-room", "the-token"):
        assert secret.encode() not in seen


@pytest.mark.gen_test
async def test_a_ticket_stands_for_whoever_got_it(mongod: Mongod) -> None:
    """On every node, with all that hooks and others are told of them, and no right but to listen to its channels."""
    async with opened(mongod, Clock(), Clock()) as (one, other):
        ticket, seconds = one.issue(ANN, CHANNELS)
        assert seconds == pytest.approx(60, abs=1)
        ann = other.redeem(ticket, ["feed:a"])
    assert (ann.user, ann.server, ann.admin, ann.claims, ann.info) == (ANN.user, False, False, ANN.claims, ANN.info)
    assert (ann.expires, ann.token, ann.issued) == (ANN.expires, ANN.token, ANN.issued)
    assert ann.channels == {channel: ["subscribe"] for channel in CHANNELS}


@pytest.mark.gen_test
async def test_a_ticket_is_good_for_its_channels_and_its_time(mongod: Mongod) -> None:
    """For its lifetime, and no longer than the token that it stands for."""
    now = time.time()
    async with opened(mongod, Clock(lambda: now)) as (tickets,):
        ticket, _ = tickets.issue(GUEST, CHANNELS)
        with pytest.raises(Error, match="permission_denied"):
            tickets.redeem(ticket, ["feed:a", "feed:b"])
        with pytest.raises(Error, match="bad_request"):
            tickets.issue(GUEST, ["feed:*"])
        now += 59
        assert tickets.redeem(ticket, CHANNELS).user is None
        now += 12
        with pytest.raises(Error, match="token_expired"):
            tickets.redeem(ticket, CHANNELS)
        assert ANN.expires is not None
        now = ANN.expires - 7
        assert tickets.issue(ANN, CHANNELS)[1] == pytest.approx(7)


@pytest.mark.gen_test
async def test_what_is_no_ticket_is_refused(mongod: Mongod) -> None:
    """Changed in any place, cut, padded, of another server, or no ticket at all."""
    async with opened(mongod, Clock()) as (tickets,), opened(mongod, Clock()) as (others,):
        ticket, _ = tickets.issue(ANN, CHANNELS)
        changed = [
            ticket[:place] + ("B" if ticket[place] == "A" else "A") + ticket[place + 1 :]
            for place in range(0, len(ticket) - 1, 7)
        ]
        foreign, _ = others.issue(ANN, CHANNELS)
        for bad in (*changed, foreign, ticket[:-5], ticket[5:], ticket + "x", "", "A", "a.b.c", "é" * 40, "=" * 40):
            with pytest.raises(Error, match="unauthenticated: ticket: not one of this server's"):
                tickets.redeem(bad, CHANNELS)


@pytest.mark.gen_test
async def test_before_the_key_is_known_nobody_can_say(mongod: Mongod) -> None:
    """`unavailable`: the ticket may be a good one."""
    database = connect(MongoDB(), mongod.uri)
    try:
        with pytest.raises(Error, match="unavailable"):
            Tickets(database, 60).redeem("ticket", CHANNELS)
    finally:
        database.client.close()
