"""The objects on the wire: which commands are understood, and what the answers look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.core.errors import ERRORS, STALLED, Disconnect, Error
from server.wire.commands import Connect, History, Ping, Publish, Subscribe, Unsubscribe, parse_command
from server.wire.dialects import NATIVE
from server.wire.pushes import DisconnectPush, DroppedPush, ErrorPush, GapPush, Push


def shown(push: Push) -> Any:
    """As it stands on the wire."""
    return json.loads(NATIVE.codec.encode(push))


def refusal(value: Any) -> str:
    with pytest.raises(Error) as caught:
        parse_command(value)
    assert caught.value.code == "bad_request"
    return caught.value.reason


@pytest.mark.parametrize(
    ("value", "command"),
    [
        ({"type": "connect"}, Connect()),
        ({"type": "connect", "id": 1, "token": "t"}, Connect(id=1, token="t")),
        ({"type": "subscribe", "channel": "c:1", "after": "0"}, Subscribe(channel="c:1", after="0")),
        ({"type": "subscribe", "channel": "c:1", "last": 0}, Subscribe(channel="c:1", last=0)),
        ({"type": "unsubscribe", "channel": "c:1"}, Unsubscribe(channel="c:1")),
        ({"type": "publish", "channel": "c:1", "data": None}, Publish(channel="c:1", data=None)),
        ({"type": "publish", "channel": "c:1", "data": [{}], "key": "k", "tag": "", "echo": False},
         Publish(channel="c:1", data=[{}], key="k", tag="", echo=False)),
        ({"type": "history", "channel": "c:1", "before": "e:9", "limit": 1000},
         History(channel="c:1", before="e:9", limit=1000)),
        ({"type": "ping", "id": -1}, Ping(id=-1)),
    ],
)  # fmt: skip
def test_commands(value: Any, command: Any) -> None:
    """Every command of the contract becomes its struct."""
    assert parse_command(value) == command


def test_unknown_fields_are_ignored() -> None:
    """A newer client may send more than we know."""
    assert parse_command({"type": "ping", "id": 1, "colour": "red"}) == Ping(id=1)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"type": "subscribe"}, "channel"),
        ({"type": "subscribe", "channel": 1}, "channel"),
        ({"type": "subscribe", "channel": "c:1", "last": 1001}, "last"),
        ({"type": "subscribe", "channel": "c:1", "last": -1}, "last"),
        ({"type": "subscribe", "channel": "c:1", "after": 7}, "after"),
        ({"type": "publish", "channel": "c:1"}, "data"),
        ({"type": "publish", "channel": "c:1", "data": 1, "key": ""}, "key"),
        ({"type": "publish", "channel": "c:1", "data": 1, "key": "k" * 256}, "key"),
        ({"type": "publish", "channel": "c:1", "data": 1, "tag": 5}, "tag"),
        ({"type": "publish", "channel": "c:1", "data": 1, "echo": "no"}, "echo"),
        ({"type": "history", "channel": "c:1", "limit": 0}, "limit"),
        ({"type": "history", "channel": "c:1", "limit": 1001}, "limit"),
        ({"type": "ping", "id": "1"}, "id"),
        ({"type": "ping", "id": True}, "id"),
        ({"type": "ping", "id": 1.5}, "id"),
        ({"type": "fly"}, "type"),
        ({"type": None}, "type"),
        ({"type": ["ping"]}, "type"),
        ({"id": 1}, "type"),
    ],
)
def test_a_wrong_field_is_named(value: Any, named: str) -> None:
    """What is missing, mistyped or out of bounds is `bad_request`, and the reason says which field it is."""
    assert named in refusal(value)


@pytest.mark.parametrize("value", [None, 1, "ping", [], [{"type": "ping"}]])
def test_only_objects_are_commands(value: Any) -> None:
    """Anything but an object is refused."""
    assert "object" in refusal(value)


@pytest.mark.parametrize("code", ERRORS)
def test_errors(code: str) -> None:
    """Every error of the catalogue says its code, its reason and whether to try again."""
    push = shown(ErrorPush.of(3, Error(code, "why")))
    assert push == {"type": "error", "id": 3, "code": code, "reason": "why", "retry": ERRORS[code].retry}
    assert shown(ErrorPush.of(None, Error(code, "why", retry_after=1.23456))) == {
        "type": "error", "code": code, "reason": "why", "retry": ERRORS[code].retry, "retry_after": 1.235
    }  # fmt: skip


def test_the_catalogue_is_the_contracts() -> None:
    """Codes and HTTP statuses are those of the contract."""
    statuses = {code: kind.status for code, kind in ERRORS.items()}
    assert statuses == {
        "bad_request": 400, "unauthenticated": 401, "token_expired": 401, "permission_denied": 403,
        "unknown_channel": 404, "not_found": 404, "conflict": 409, "too_large": 413, "rate_limited": 429,
        "refused": 422, "limit_exceeded": 429, "unavailable": 503, "outcome_unknown": 503, "internal": 500,
    }  # fmt: skip
    assert Error("conflict", "revision", status=412).status == 412


def test_pushes() -> None:
    """Replies, gaps, drops and endings have the shapes of the contract."""
    assert NATIVE.reply(Ping(id=5), {"more": True})[2:] == b'{"type":"reply","id":5,"more":true}'
    assert shown(GapPush.trimmed("c:1", "e", 12, 80)) == {
        "type": "gap", "channel": "c:1", "from": 12, "to": 80, "cursor": "e:80"
    }  # fmt: skip
    assert shown(GapPush.reset("c:1", "e")) == {
        "type": "gap", "channel": "c:1", "from": None, "to": None, "cursor": "e:0", "reason": "epoch"
    }  # fmt: skip
    assert shown(DroppedPush("c:1", 3)) == {"type": "dropped", "channel": "c:1", "count": 3}
    assert shown(DisconnectPush.of(Disconnect(STALLED, "slow"), 2.40049)) == {
        "type": "disconnect", "code": 4001, "reason": "slow", "reconnect": True, "delay": 2.4
    }  # fmt: skip


@pytest.mark.parametrize(("code", "back"), [(1002, True), (4000, True), (4499, True), (4500, False), (4999, False)])
def test_the_close_code_says_whether_to_come_back(code: int, back: bool) -> None:
    """From 4500 on a client need not come back."""
    assert Disconnect(code, "").reconnect is back
