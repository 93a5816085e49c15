"""JSON Schema of collections: what is wrong is named, and no document takes long."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.config import Collection
from server.core.errors import Error, StartError
from server.documents.schemas import Schemas


def schemas(schema: dict[str, Any]) -> Schemas:
    return Schemas({"c": Collection(schema=schema)})


@pytest.mark.parametrize(("schema", "document", "place"), [
    ({"required": ["a"]}, {}, "document: "),
    ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x", 5]}, "a.1: "),
    ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"minimum": 0}}}, {"a": -1}, "a: "),
    ({"additionalProperties": False, "properties": {"a": True}}, {"b": 1}, "document: "),
    ({"properties": {"a": {"uniqueItems": True}}}, {"a": [[n % 9_999] for n in range(10_000)]}, "a: "),
    ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 100_000 + "!"}, "a: "),
    ({"properties": {"a": {"pattern": "^(?=a)(a|aa)+$"}}}, {"a": "a" * 100_000 + "!"}, "a: "),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"exclusiveMinimum": True,
      "minimum": 1}}}, {"a": 1}, "a: "),
])  # fmt: skip
def test_what_is_wrong_is_named_by_its_place(schema: dict[str, Any], document: dict[str, Any], place: str) -> None:
    """However long its lists and texts are, and whatever the patterns."""
    with pytest.raises(Error) as refusal:
        schemas(schema).check("c", document)
    assert refusal.value.code == "bad_request"
    assert refusal.value.reason.startswith(place)
    assert len(refusal.value.reason) < 300


def test_a_refusal_quotes_no_value() -> None:
    """In a patched document it may be another's."""
    for rule in ({"type": "object"}, {"enum": ["a"]}, {"const": 1}, {"pattern": "^x$"}, {"maxLength": 1},
                 {"minLength": 99}, {"anyOf": [{"type": "number"}]}, {"not": {"type": "string"}}, False):  # fmt: skip
        with pytest.raises(Error) as refusal:
            schemas({"properties": {"a": rule}}).check("c", {"a": "the secret"})
        assert "secret" not in refusal.value.reason, rule


@pytest.mark.parametrize("schema", [
    {"type": "nonsense"}, {"pattern": "("}, {"$ref": "http://127.0.0.1:9/x"}, {"$ref": "file:///etc/hostname"},
    {"$ref": "#/nowhere"},
])  # fmt: skip
def test_a_schema_that_is_none_is_said_at_start(schema: dict[str, Any]) -> None:
    """And nothing is fetched."""
    with pytest.raises(StartError, match=r"collections\.c\.schema"):
        schemas(schema)
