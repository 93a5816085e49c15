"""REST through a real server: publish, history, health and errors."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgpack
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from server.node import Node

MESSAGES = "/v1/channels/chat:lobby/messages"


async def call(client: AsyncHTTPClient, url: str, body: Any = None, **options: Any) -> tuple[int, Any]:
    """The status and the decoded body of a request; POST if there is a body."""
    if body is not None and not isinstance(body, bytes | str):
        body = json.dumps(body)
    response: HTTPResponse = await client.fetch(
        url, method="GET" if body is None else "POST", body=body, raise_error=False, **options
    )
    return response.code, json.loads(response.body)


@pytest.mark.gen_test
async def test_publish_answers_where_the_message_is(http_client: AsyncHTTPClient, base_url: str) -> None:
    """A publish is 201 with offset and cursor; offsets are 1, 2, 3…"""
    for offset in (1, 2, 3):
        status, receipt = await call(http_client, base_url + MESSAGES, {"data": {"n": offset}})
        assert status == 201
        assert receipt["offset"] == offset
        assert receipt["cursor"].endswith(f":{offset}")
        assert receipt["duplicate"] is False


@pytest.mark.gen_test
async def test_a_retry_gets_the_first_offset(http_client: AsyncHTTPClient, base_url: str) -> None:
    """The same key and data is 200 and a duplicate; with other data it is a conflict; nothing new is stored."""
    url = base_url + MESSAGES
    assert (await call(http_client, url, {"data": {"a": 1, "b": 2}, "key": "k"}))[0] == 201
    status, receipt = await call(http_client, url, {"data": {"b": 2, "a": 1}, "key": "k"})
    assert (status, receipt["offset"], receipt["duplicate"]) == (200, 1, True)
    status, receipt = await call(http_client, url, {"data": {"a": 1, "b": 2}}, headers={"Idempotency-Key": "k"})
    assert (status, receipt["offset"]) == (200, 1)
    status, problem = await call(http_client, url, {"data": "other", "key": "k"})
    assert (status, problem["code"]) == (409, "conflict")
    assert len((await call(http_client, url))[1]["messages"]) == 1


@pytest.mark.gen_test
async def test_history_pages_both_ways(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Bounds are exclusive, pages are oldest first, `more` looks the way of reading, and cursors continue."""
    url = base_url + MESSAGES
    for n in range(1, 8):
        await call(http_client, url, {"data": n})
    status, page = await call(http_client, f"{url}?after=0&limit=3")
    assert status == 200
    assert [m["data"] for m in page["messages"]] == [1, 2, 3]
    assert page["more"] is True
    assert page["gap"] is None
    _, page = await call(http_client, f"{url}?after={page['cursor']}&limit=10")
    assert [m["data"] for m in page["messages"]] == [4, 5, 6, 7]
    assert page["more"] is False
    assert page["cursor"] == page["head"]
    _, empty = await call(http_client, f"{url}?after={page['cursor']}")
    assert (empty["messages"], empty["cursor"]) == ([], page["cursor"])
    _, newest = await call(http_client, f"{url}?limit=2")
    assert [m["data"] for m in newest["messages"]] == [6, 7]
    assert newest["more"] is True
    _, older = await call(http_client, f"{url}?before={newest['messages'][0]['cursor']}&limit=3")
    assert [m["data"] for m in older["messages"]] == [3, 4, 5]
    assert older["cursor"] == older["messages"][0]["cursor"]
    _, oldest = await call(http_client, f"{url}?before={older['cursor']}")
    assert [m["data"] for m in oldest["messages"]] == [1, 2]
    assert oldest["more"] is False


@pytest.mark.gen_test
async def test_a_key_is_the_same_in_a_header_and_in_a_body(http_client: AsyncHTTPClient, base_url: str) -> None:
    """What a client sends as UTF-8 in the header is the key that it would have been in the body."""
    url = base_url + MESSAGES
    sent = "für 5 €".encode().decode("latin1")  # as Tornado's client wants it
    assert (await call(http_client, url, {"data": 1}, headers={"Idempotency-Key": sent}))[0] == 201
    status, receipt = await call(http_client, url, {"data": 1, "key": "für 5 €"})
    assert (status, receipt["key"], receipt["duplicate"]) == (200, "für 5 €", True)


@pytest.mark.gen_test
async def test_an_empty_channel_has_a_cursor_that_stays_good(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Reading creates nothing, and what is published later comes after that cursor."""
    url = base_url + "/v1/channels/chat:empty/messages"
    _, page = await call(http_client, url)
    assert page["messages"] == []
    await call(http_client, url, {"data": "first"})
    _, page = await call(http_client, f"{url}?after={page['cursor']}")
    assert [m["data"] for m in page["messages"]] == ["first"]


@pytest.mark.gen_test
async def test_another_epoch_is_a_gap(http_client: AsyncHTTPClient, base_url: str) -> None:
    """A cursor of another history gets an explicit gap and then everything retained; so does one from the future."""
    url = base_url + MESSAGES
    _, receipt = await call(http_client, url, {"data": 1})
    for cursor in ("zzzz:5", receipt["cursor"].split(":")[0] + ":99"):
        _, page = await call(http_client, f"{url}?after={cursor}")
        assert page["gap"] == {"from": None, "to": None, "reason": "epoch"}
        assert [m["data"] for m in page["messages"]] == [1]


FAITHFUL = [
    None, True, 0, -(2**63), 2**63 - 1, 1.0, -0.5, 1e300, "", "ü\u0000\U0001f300", [], {}, [[1], {"a": None}],
    {"$where": "1", "a.b": 1, "": 2}, {"$ref": "c", "$id": 1}, {"a\u0000b": [{"$gt": 1}]}, {"_id": {"$oid": "x"}},
]  # fmt: skip


@pytest.mark.gen_test
async def test_data_is_stored_faithfully(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Any JSON value comes back as it was, whatever MongoDB or a driver would make of its keys."""
    url = base_url + "/v1/channels/chat:faithful/messages"
    for data in FAITHFUL:
        assert (await call(http_client, url, {"data": data}))[0] == 201
    _, page = await call(http_client, url)
    for message, data in zip(page["messages"], FAITHFUL, strict=True):
        assert json.dumps(message["data"]) == json.dumps(data)


DEEP = "[" * 33 + "]" * 33
BAD_BODIES = [
    ("", 400, "bad_request"),
    ("{", 400, "bad_request"),
    ("[]", 400, "bad_request"),
    ("{}", 400, "bad_request"),
    ('{"data": 1, "key": 5}', 400, "bad_request"),
    ('{"data": 1, "key": ""}', 400, "bad_request"),
    ('{"data": NaN}', 400, "bad_request"),
    ('{"data": 9223372036854775808}', 400, "bad_request"),
    ('{"data": "\\ud800"}', 400, "bad_request"),
    ('{"data": {"a": 1, "a": 2}}', 400, "bad_request"),
    (f'{{"data": {DEEP}}}', 400, "bad_request"),
    (f'{{"data": [{",".join("1" * 10_001)}]}}', 400, "bad_request"),
    (f'{{"data": "{"x" * 65_536}"}}', 413, "too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES, ids=lambda value: str(value)[:30])
@pytest.mark.gen_test
async def test_a_bad_body_is_refused(
    http_client: AsyncHTTPClient, base_url: str, body: str, status: int, code: str
) -> None:
    """It gets a typed problem, and nothing is stored."""
    answer = await call(http_client, base_url + MESSAGES, body)
    assert (answer[0], answer[1]["code"], answer[1]["status"]) == (status, code, status)
    assert (await call(http_client, base_url + MESSAGES))[1]["messages"] == []


BAD_PATHS = [
    ("/v1/channels/nocolon/messages", 400, "bad_request"),
    ("/v1/channels/Chat:x/messages", 400, "bad_request"),
    ("/v1/channels/chat:a%20b/messages", 400, "bad_request"),
    ("/v1/channels/chat:%ff/messages", 400, "bad_request"),
    ("/v1/channels/nope:x/messages", 404, "unknown_channel"),
    ("/v1/channels/feed:x/messages", 403, "permission_denied"),
    ("/v1/channels/live:x/messages", 400, "bad_request"),
    ("/v1/channels/chat:x/messages?after=x", 400, "bad_request"),
    ("/v1/channels/chat:x/messages?limit=0", 400, "bad_request"),
    ("/v1/channels/chat:x/messages?limit=1001", 400, "bad_request"),
    ("/v1/channels/chat:x/messages?after=0&before=0", 400, "bad_request"),
    ("/nowhere", 404, "not_found"),
]


@pytest.mark.parametrize(("path", "status", "code"), BAD_PATHS)
@pytest.mark.gen_test
async def test_a_bad_request_is_refused(
    http_client: AsyncHTTPClient, base_url: str, path: str, status: int, code: str
) -> None:
    """It gets the code of the catalogue as problem+json."""
    response = await http_client.fetch(base_url + path, raise_error=False)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.code, json.loads(response.body)["code"]) == (status, code)


@pytest.mark.gen_test
async def test_messagepack_both_ways(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Content-Type and Accept choose MessagePack."""
    kind = "application/msgpack"
    response = await http_client.fetch(
        base_url + MESSAGES,
        method="POST",
        body=msgpack.packb({"data": {"n": 2**62}}),
        headers={"Content-Type": kind, "Accept": kind},
    )
    assert response.headers["Content-Type"] == kind
    assert msgpack.unpackb(response.body)["offset"] == 1
    assert (await call(http_client, base_url + MESSAGES))[1]["messages"][0]["data"] == {"n": 2**62}


@pytest.mark.gen_test
async def test_a_token_is_believed_or_refused(http_client: AsyncHTTPClient, base_url: str) -> None:
    """A good token makes a user with its rights; a bad one is 401 and never a guest."""
    from tests.support.client import make_token

    token = make_token("a secret of at least thirty-two bytes", "ann", channels={"feed:*": ["publish"]})
    headers = {"Authorization": f"Bearer {token}"}
    url = base_url + "/v1/channels/feed:x/messages"
    assert (await call(http_client, url, {"data": 1}, headers=headers))[0] == 201
    _, page = await call(http_client, url, headers=headers)
    assert page["messages"][0]["user"] == "ann"
    status, problem = await call(http_client, url, headers={"Authorization": f"Bearer {token}x"})
    assert (status, problem["code"]) == (401, "unauthenticated")


@pytest.mark.gen_test
async def test_ephemeral_publish_is_accepted_only(http_client: AsyncHTTPClient, base_url: str) -> None:
    """202, and neither offset nor cursor."""
    status, answer = await call(http_client, base_url + "/v1/channels/live:x/messages", {"data": 1})
    assert (status, answer) == (202, {"channel": "live:x"})


@pytest.mark.gen_test
async def test_health_and_readiness(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Both are 200 while everything works."""
    assert await call(http_client, base_url + "/healthz") == (200, {"status": "ok"})
    assert await call(http_client, base_url + "/readyz?strict=1") == (200, {"status": "ready"})


class TestAnOperator:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        keys = {"ops": {"sha256": hashlib.sha256(b"ops").hexdigest(), "admin": True}}
        return {"auth.api_keys": keys, "namespaces.chat.history": {"size": 2}, "mongodb.dedupe_window": 0}

    @pytest.mark.gen_test
    async def test_lists_what_is_stored(self, http_client: AsyncHTTPClient, base_url: str, node: Node) -> None:
        """Channels with messages, in pages by name, whether anybody listens or not; with what is retained of each."""
        for name, count in (("a", 1), ("b:1", 4), ("b:2", 1), ("c", 1)):
            for number in range(count):
                await call(http_client, f"{base_url}/v1/channels/chat:{name}/messages", {"data": number})
        await node.log.trimmer.step()

        async def listed(query: str) -> tuple[list[tuple[str, int]], str | None]:
            headers = {"Authorization": "Bearer ops"}
            status, page = await call(http_client, f"{base_url}/v1/stored?{query}", headers=headers)
            assert status == 200, page
            for one in page["channels"]:
                assert 0 < one["oldest"] <= one["newest"]
            return [(one["channel"], one["messages"]) for one in page["channels"]], page["next"]

        assert await listed("limit=2") == ([("chat:a", 1), ("chat:b:1", 2)], "chat:b:1")
        assert await listed("limit=2&after=chat:b:1") == ([("chat:b:2", 1), ("chat:c", 1)], None)
        assert await listed("prefix=chat:b") == ([("chat:b:1", 2), ("chat:b:2", 1)], None)
        assert await listed("prefix=chat:b&after=chat:a&limit=1") == ([("chat:b:1", 2)], "chat:b:1")
        assert await listed("prefix=nobody:") == ([], None)
        assert (await call(http_client, f"{base_url}/v1/stored"))[0] == 403
