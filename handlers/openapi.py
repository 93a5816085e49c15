"""/openapi.json: what the handlers declare (operations.py), written down as OpenAPI 3.1 for programs and for /docs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import fields as fields_of

from handlers.base import BaseHandler, OpenHandler
from handlers.operations import Operation, declared, is_list, operation
from server import __version__
from server.wire.codec import JSON, MSGPACK
from server.wire.commands import MAX_KEY
from server.wire.rest import Channel, Problem, PublishItem, StoredDocument
from server.wire.rooms import MemberItem

REFERENCE: Final = "#/components/schemas/{name}"
PATH_PARAMETERS: Final[dict[str, Any]] = {
    "scheduled": Annotated[str, Meta(description="What the publish has answered as `id`")],
    "channel": Channel,
    "collection": Annotated[str, Meta(description="A declared collection", examples=["orders"])],
    "consumer": Annotated[str, Meta(description="One of the configuration", examples=["mailer"])],
    "document_id": Annotated[str, Meta(description="The `_id` of a document", examples=["65f0a1b2c3d4e5f6a7b8c9d0"])],
    "kind": Annotated[str, Meta(min_length=1, description="An emoji, or any word", examples=["👍"])],
    "method": Annotated[
        str, Meta(min_length=1, max_length=MAX_KEY, description="As the back end knows it", examples=["orders.place"])
    ],
    "offset": Annotated[int, Meta(ge=1, description="Of a message in its channel", examples=[12])],
    "passkey": Annotated[str, Meta(description="As it is listed", examples=["6Vh8cKz1"])],
    "provider": Annotated[str, Meta(description="One of `auth.oidc`", examples=["google"])],
    "session": Annotated[str, Meta(description="A sign-in, as it is listed", examples=["5f2c0a"])],
    "user": Annotated[str, Meta(description="A user's name: the `sub` of their tokens", examples=["ann"])],
}
NAMED: Final = ("DocumentFields", "StoredDocument")
"""Schemas by title that are no structs and have a name all the same."""
ETAG: Final = {"description": "The revision: for If-Match and If-None-Match", "schema": {"type": "string"}}
RETRY_AFTER: Final = {"description": "Seconds, of 429 and 503", "schema": {"type": "integer"}}
PLACES: Final = {"query": "query", "headers": "header"}


def document(routes: Mapping[str, type[BaseHandler]]) -> dict[str, Any]:
    """`routes`: path, with its parameters in braces, → handler. What a handler does not declare is left out."""
    operations = [
        (path, method.lower(), declaration)
        for path, handler in routes.items()
        for method in handler.methods()
        if (declaration := declared(handler, method)) is not None
    ]
    kinds = [Problem, PublishItem, MemberItem, *_kinds(declaration for _, _, declaration in operations)]
    _, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    paths: dict[str, Any] = {}
    for path, method, declaration in operations:
        paths.setdefault(path, {})[method] = _operation(path, method, declaration)
    named: dict[str, Any] = {}
    paths = _opened(paths, named)
    schemas = {name: _opened(schema, named) for name, schema in components.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Waterspout", "version": __version__, "license": {"name": "MIT"}},
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas | named,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "An error",
                    "headers": {"Retry-After": RETRY_AFTER},
                    "content": {"application/problem+json": {"schema": {"$ref": REFERENCE.format(name="Problem")}}},
                }
            },
        },
    }


def _opened(value: Any, named: dict[str, Any]) -> Any:
    """Objects whose fields are the user's own say that there may be any, which not all generators take for granted;
    schemas that have a name of their own are put into `named`."""
    if isinstance(value, list):
        return [_opened(one, named) for one in value]
    if not isinstance(value, dict):
        return value
    opened = {name: _opened(one, named) for name, one in value.items()}
    for field in opened.get("properties", {}).values():
        field.pop("default", None)  # a field with a default counts as one that is always there
    if opened.get("type") == "object" and ("properties" not in opened or opened.get("title") in NAMED):
        opened.setdefault("additionalProperties", True)
    if opened.get("title") not in NAMED:
        return opened
    named[opened["title"]] = opened
    return {"$ref": REFERENCE.format(name=opened["title"])}


def _kinds(declarations: Iterator[Operation]) -> Iterator[Any]:
    """What needs a schema of its own, besides parameters."""
    for declaration in declarations:
        yield from (kind for kind in declaration.answers.values() if kind is not None)
        if "body" in declaration.takes:
            yield declaration.takes["body"]


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return schema


def _operation(path: str, method: str, declaration: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": method + re.sub(r"\W", "", path.removeprefix("/v1").title()),
        "summary": declaration.summary,
        "description": declaration.description,
        "parameters": [
            _parameter(name, "path", True, _schema(PATH_PARAMETERS[name])) for name in re.findall(r"{(\w+)}", path)
        ],
        "responses": {
            **{str(status): _response(status, kind, declaration) for status, kind in declaration.answers.items()},
            "4XX": {"$ref": "#/components/responses/Problem"},
            "5XX": {"$ref": "#/components/responses/Problem"},
        },
    }
    for source, place in PLACES.items():
        if source in declaration.takes:
            described["parameters"] += _parameters(declaration.takes[source], place)
    if "body" in declaration.takes:
        schema = _schema(declaration.takes["body"])
        media_types = [codec.media_type for codec in (JSON, MSGPACK)]
        if method == "patch":
            media_types.insert(0, "application/merge-patch+json")
        content = {media_type: {"schema": schema} for media_type in media_types}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameters(kind: type[msgspec.Struct], place: str) -> Iterator[dict[str, Any]]:
    for field in fields_of(kind):
        schema = _schema(field.type)
        choices = [choice for choice in schema.pop("anyOf", [schema]) if choice != {"type": "null"}]
        schema = {**schema, **choices[0]}  # absent, not null
        if field.default not in (msgspec.NODEFAULT, None):
            schema["default"] = field.default
        parameter = _parameter(field.encode_name, place, field.required, schema)
        yield parameter | ({"style": "form", "explode": True} if is_list(field.type) else {})


def _parameter(name: str, place: str, required: bool, schema: dict[str, Any]) -> dict[str, Any]:
    described = {"description": schema.pop("description")} if "description" in schema else {}
    return {"name": name, "in": place, "required": required, "schema": schema, **described}


def _response(status: int, kind: Any, declaration: Operation) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind is not None:
        media_types = declaration.media_types or (JSON.media_type, MSGPACK.media_type)
        response["content"] = {media_type: {"schema": _schema(kind)} for media_type in media_types}
    # What may be asked for again with If-None-Match, and what has a revision.
    if (status in (200, 304) and 304 in declaration.answers) or kind is StoredDocument:
        response["headers"] = {"ETag": ETAG}
    if status == 201 and kind is StoredDocument:
        response["headers"] |= {"Location": {"description": "Its path", "schema": {"type": "string"}}}
    return response


class OpenApi(OpenHandler):
    @operation("This document", {200: dict[str, Any]}, media_types=(JSON.media_type,))
    async def get(self) -> None:
        self.set_header("Content-Type", JSON.media_type)
        self.set_header("Cache-Control", "no-cache")
        self.finish(self.site.openapi)
