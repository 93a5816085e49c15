"""The OpenAPI document is true: schemathesis asks every endpoint for everything that the document allows, and for what
it does not, and every answer is one that the document has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks
from tornado.httpclient import AsyncHTTPClient

import handlers
from handlers.openapi import document
from handlers.operations import declared
from server.wire.codec import MSGPACK
from server.wire.rest import BatchRequest, PublishItem, PublishRequest
from tests.support.processes import UNLIMITED, Mongod, Server


@schemathesis.serializer("application/msgpack")
def pack(context: Any, value: Any) -> dict[str, Any]:
    try:
        return {"data": value if isinstance(value, bytes) else msgpack.packb(value)}
    except (TypeError, OverflowError, ValueError):
        return {"data": b"\xc1"}  # MessagePack does not have all that JSON has


@schemathesis.deserializer("application/msgpack")
def unpack(context: Any, response: Any) -> Any:
    return MSGPACK.decode(response.content)


load_all_checks()
SCHEMA = schemathesis.openapi.from_dict(json.loads(msgspec.json.encode(document(handlers.ROUTES))))
# Whether the data were good or bad is not for the schema to say: rights and namespaces are not in it.
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod) -> Iterator[Server]:
    settings = {**UNLIMITED, "mongodb.database": "openapi"}
    one = Server(tmp_path_factory.mktemp("openapi"), mongod.uri, settings=settings)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


@SCHEMA.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_in_the_document(case: Any, server: Server, session: requests.Session) -> None:
    """Never a 5xx, never a status, a type or a body that is not declared."""
    path, query = case.path_parameters or {}, case.query or {}
    if len(str(path.get("channel", ""))) % 2:
        path["channel"] = "chat:fuzz"  # hardly any text is a channel's name
    if str(query.get("wait", "")).isdigit():
        query["wait"] = min(int(query["wait"]), 1)
    if not case.path.endswith("/events"):
        case.call_and_validate(base_url=server.base, session=session, checks=CHECKS, timeout=20)
        return
    # A stream does not end: what is good is seen from its head.
    with session.request(**case.as_transport_kwargs(base_url=server.base), stream=True, timeout=20) as response:
        if response.status_code == 200:
            assert response.headers["Content-Type"] == "text/event-stream"
        else:
            case.validate_response(response, checks=CHECKS[:-1])


@pytest.mark.gen_test
async def test_the_document_is_served(base_url: str, http_client: AsyncHTTPClient) -> None:
    """With every path of the route table but the WebSocket's, and every method that a handler has."""
    response = await http_client.fetch(base_url + "/openapi.json")
    served = json.loads(response.body)
    assert served["openapi"] == "3.1.0"
    assert served["paths"].keys() == handlers.ROUTES.keys() - {"/v1/ws"}
    for path, handler in handlers.ROUTES.items():
        for method in set(handler.methods()) - {"HEAD", "OPTIONS"}:
            assert declared(handler, method) or path == "/v1/ws", f"{method} {path} is not declared"
    ids = [operation["operationId"] for path in served["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)


def test_the_examples_are_good() -> None:
    """What stands in the document as an example of a request is one."""
    schemas = document(handlers.ROUTES)["components"]["schemas"]
    for kind in (PublishRequest, PublishItem, BatchRequest):
        fields = schemas[kind.__name__]["properties"]
        example = {name: schema["examples"][0] for name, schema in fields.items() if "examples" in schema}
        assert msgspec.convert(example, kind)
        assert "data" in example
