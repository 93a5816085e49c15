"""What an endpoint takes and answers, declared once: the arguments are parsed by it, and /openapi.json is made of it.

    class Messages(BaseHandler):
        @operation("Read the history", {200: HistoryPage})
        async def get(self, channel: str, query: HistoryQuery) -> None: ...

The types of `query`, `headers` and `body` are structs: they are filled from the request before the method is called,
or it is answered with a `bad_request` that names the field. The docstring is the description.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import fields as fields_of

from server.wire.commands import convert

Method = Callable[..., Awaitable[None]]
SOURCES: Final = ("query", "headers", "body")


class Operation(NamedTuple):
    summary: str
    description: str
    answers: Mapping[int, Any]
    """Status → the type of its body; None: it has none."""
    takes: Mapping[str, Any]
    """`query`, `headers`, `body` → their structs, as far as there are any."""
    media_types: tuple[str, ...] | None
    """What it answers in; None: JSON or MessagePack."""


def operation(
    summary: str, answers: Mapping[int, Any], *, media_types: tuple[str, ...] | None = None
) -> Callable[[Method], Method]:
    def declare(method: Method) -> Method:
        hints = typing.get_type_hints(method, include_extras=True)
        takes: dict[str, Any] = {source: hints[source] for source in SOURCES if source in hints}
        readers = {source: _reader(source, kind) for source, kind in takes.items()}
        described = " ".join((method.__doc__ or "").split())

        @functools.wraps(method)
        def bound(handler: Any, *path: str) -> Awaitable[None]:
            return method(handler, *path, **{source: read(handler) for source, read in readers.items()})

        bound.operation = Operation(summary, described, answers, takes, media_types)  # type: ignore[attr-defined]
        return bound

    return declare


def declared(handler: type, method: str) -> Operation | None:
    found: Operation | None = getattr(getattr(handler, method.lower(), None), "operation", None)
    return found


def is_list(kind: Any) -> bool:
    """Whether a query's field may be given several times."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_origin(kind) is list


def _reader(source: str, kind: type[msgspec.Struct]) -> Callable[[Any], Any]:
    """Reads an argument of a request. What its struct says of its fields is looked up here, once."""
    if source == "body":
        return lambda handler: convert(handler.body(), kind)
    names = [(field.encode_name, is_list(field.type)) for field in fields_of(kind)]

    def read(handler: Any) -> Any:
        values: dict[str, Any] = {}
        for name, many in names:
            given: Any
            if source == "headers":
                given = _utf8(handler.request.headers.get(name))
            elif many:
                given = handler.get_query_arguments(name) or None
            else:
                given = handler.get_query_argument(name)
            if given is not None:
                values[name] = given
        return convert(values, kind, strict=False)

    return read


def _utf8(header: str | None) -> str | None:
    """Tornado reads headers as Latin-1, clients send UTF-8: a key has to be the same as in a body."""
    try:
        return header and header.encode("latin1").decode()
    except UnicodeError:
        return header
