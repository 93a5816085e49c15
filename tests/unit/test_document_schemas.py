"""JSON Schema of collections: what is wrong is named, and no document takes long."""

from __future__ import annotations

import threading
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


@pytest.mark.parametrize(("number", "of", "is_one"), [
    (4.35, 0.01, True), (0.075, 0.01, False), (1e300, 0.01, True), (1e308, 1e-300, True), (1e-9, 0.01, False),
    (9223372036854775807, 7, True), (-0.3, 0.1, True), (0, 3, True), ("x", 2, True), (True, 2, True), (None, 2, True),
    (5, 2.5, True), (5.5, 2, False),
])  # fmt: skip
def test_multiples_are_those_of_the_digits(number: Any, of: float, is_one: bool) -> None:
    """Exactly, however large or small; what is no number is nobody's multiple and allowed."""
    checked = schemas({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"multipleOf": of}}})
    if is_one:
        checked.check("c", {"a": number})
        return
    with pytest.raises(Error) as refusal:
        checked.check("c", {"a": number})
    assert refusal.value.reason == f"a: the value is not a multiple of {of}"


def test_the_loop_has_its_turn_while_many_values_are_checked() -> None:
    """Between two of them, in whatever thread they are checked: it is not held until the last one."""
    checked = schemas({"additionalProperties": {"items": {"multipleOf": 0.01, "pattern": "^(?=a)a+$"}}})
    document = {"a": [0.5] * 30_000, "b": ["a" * 20] * 30_000}
    ended = threading.Event()

    def check() -> None:
        checked.check("c", document)
        ended.set()

    thread = threading.Thread(target=check)
    thread.start()
    turns = 0
    while not ended.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 1


def test_a_refusal_quotes_no_value() -> None:
    """In a patched document it may be another's."""
    for rule in ({"type": "object"}, {"enum": ["a"]}, {"const": 1}, {"pattern": "^x$"}, {"maxLength": 1},
                 {"minLength": 99}, {"anyOf": [{"type": "number"}]}, {"not": {"type": "string"}}, False):  # fmt: skip
        with pytest.raises(Error) as refusal:
            schemas({"properties": {"a": rule}}).check("c", {"a": "the secret"})
        assert "secret" not in refusal.value.reason, rule


@pytest.mark.parametrize("schema", [
    {"type": "nonsense"}, {"pattern": "("}, {"multipleOf": 0}, {"items": {"pattern": 5}},
    {"$ref": "http://127.0.0.1:9/x"}, {"$ref": "file:///etc/hostname"},
    {"$ref": "#/nowhere"},
])  # fmt: skip
def test_a_schema_that_is_none_is_said_at_start(schema: dict[str, Any]) -> None:
    """And nothing is fetched."""
    with pytest.raises(StartError, match=r"collections\.c\.schema"):
        schemas(schema)
