"""The OpenAPI document is true: schemathesis asks every endpoint for everything that the document allows, and for what
it does not, and every answer is one that the document has."""

from __future__ import annotations

import asyncio
import json
import os
import re
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
from tests.support.authenticator import installed
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


EXAMPLES = 100 if os.environ.get("WATERSPOUT_CHAOS") == "long" else 10
load_all_checks()
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
    settings = {**UNLIMITED, "mongodb.database": "openapi", "auth.accounts": True}
    if installed:
        settings |= {"auth.passkeys": True, "server.url": "http://localhost:8888"}
    one = Server(tmp_path_factory.mktemp("openapi"), mongod.uri, settings=settings)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.trust_env = False  # or all variables are searched for proxies, for each request
        yield one


@pytest.fixture(scope="module")
def described() -> Any:
    return schemathesis.openapi.from_dict(json.loads(msgspec.json.encode(document(handlers.ROUTES))))


@pytest.fixture(autouse=True)
def _named(request: pytest.FixtureRequest) -> None:
    """Schemathesis looks for a test's name where pytest had it before 9.2."""
    vars(request.node).setdefault("_nodeid", request.node.nodeid)


# By a fixture: else every process of a run makes up all requests when it collects the tests, whoever then sends them.
@schemathesis.pytest.from_fixture("described").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
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


def schemas_of(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema in the document, nested ones too."""
    for key, value in described.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                if "type" in one and key not in ("properties", "securitySchemes"):
                    yield one
                yield from schemas_of(one)


class TestForGenerators:
    """What typed clients are made of."""

    DOCUMENT = document(handlers.ROUTES)

    def content(self, path: str, method: str, part: str) -> dict[str, Any]:
        """The schema of a request's body, or of an answer's."""
        operation = self.DOCUMENT["paths"][path][method]
        found = operation["requestBody"] if part == "body" else operation["responses"][part]
        schema: dict[str, Any] = found["content"]["application/json"]["schema"]
        return schema

    def test_documents_are_open_objects(self) -> None:
        """With `_id` and `_rev`, and whatever fields they have, everywhere under one name."""
        one, many = "/v1/documents/{collection}/{document_id}", "/v1/documents/{collection}"
        stored = {"$ref": "#/components/schemas/StoredDocument"}
        for path, method, status in (
            (one, "get", "200"),
            (one, "put", "201"),
            (one, "patch", "200"),
            (many, "post", "201"),
        ):
            assert self.content(path, method, status) == stored
            if method != "get":
                assert self.content(path, method, "body") == {"$ref": "#/components/schemas/DocumentFields"}
        schemas = self.DOCUMENT["components"]["schemas"]
        assert schemas["DocumentPage"]["properties"]["documents"]["items"] == stored
        assert schemas["StoredDocument"]["properties"].keys() == {"_id", "_rev"}
        assert set(schemas["StoredDocument"]["required"]) == {"_id", "_rev"}
        for schema in schemas_of(self.DOCUMENT):
            if schema["type"] == "object" and ("properties" not in schema or schema is schemas["StoredDocument"]):
                assert schema["additionalProperties"], schema

    def test_parameters_of_paths_are_what_they_are(self) -> None:
        """Each described as itself, and as the same thing in every path."""
        seen: dict[str, set[str]] = {}
        for path, methods in self.DOCUMENT["paths"].items():
            for operation in methods.values():
                named = {one["name"]: one for one in operation["parameters"] if one["in"] == "path"}
                assert named.keys() == set(re.findall(r"{(\w+)}", path))
                for name, parameter in named.items():
                    assert parameter["required"]
                    seen.setdefault(name, set()).add(parameter["description"])
        assert {name: len(words) for name, words in seen.items()} == dict.fromkeys(seen, 1)
        assert "namespace" in seen["channel"].pop()
        assert not [name for name in seen if name != "channel" and "namespace" in "".join(seen[name])]

    def test_headers_that_a_client_needs(self) -> None:
        """The revision of whatever has one, the path of what was made, and when to come back."""
        paths = self.DOCUMENT["paths"]
        for path, methods in paths.items():
            for method, operation in methods.items():
                for status, answer in operation["responses"].items():
                    revision = "/documents/" in path and status in ("200", "201") and not path.endswith(":batch")
                    asked_again = method == "get" and "304" in operation["responses"] and status in ("200", "304")
                    assert ("ETag" in answer.get("headers", {})) is bool(revision or asked_again), (
                        path,
                        method,
                        status,
                    )
        assert "Location" in paths["/v1/documents/{collection}"]["post"]["responses"]["201"]["headers"]
        assert "Retry-After" in self.DOCUMENT["components"]["responses"]["Problem"]["headers"]

    def test_what_may_be_left_out_is_optional(self) -> None:
        """A field with a default counts for generators as one that is always there."""
        for name, schema in self.DOCUMENT["components"]["schemas"].items():
            for field, described in schema.get("properties", {}).items():
                assert "default" not in described, f"{name}.{field}"
        merge = self.DOCUMENT["paths"]["/v1/documents/{collection}/{document_id}"]["patch"]["requestBody"]["content"]
        assert "application/merge-patch+json" in merge


def test_the_examples_are_good() -> None:
    """What stands in the document as an example of a request is one."""
    schemas = document(handlers.ROUTES)["components"]["schemas"]
    for kind in (PublishRequest, PublishItem, BatchRequest):
        fields = schemas[kind.__name__]["properties"]
        example = {name: schema["examples"][0] for name, schema in fields.items() if "examples" in schema}
        assert msgspec.convert(example, kind)
        assert "data" in example
