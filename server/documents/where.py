"""The `where` of documents: a small typed language, as a MongoDB filter and as a test in Python with the same answers.

    {"status": "open", "price": {"$gte": 10, "$lt": 20}, "address.city": {"$in": ["Rome", "Oslo"]}, "$and": [{…}, {…}]}

Equality, `$ne $gt $gte $lt $lte $in` and `$and`; values are scalars. What a client sends never reaches MongoDB as it
came: the filter is built anew from what was understood. The semantics are MongoDB's (tests/integration/test_where.py
compares the two): only values of one type compare (numbers of all kinds are one type), null stands for a missing field
too, and of an array any element may match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from server.core.errors import bad_request
from server.wire.codec import JSON

MAX_CONDITIONS: Final = 50
MAX_IN: Final = 200
MAX_DEPTH: Final = 8
MAX_PARTS: Final = 100
"""Of a path; MongoDB stores nothing deeper."""
_DECIMAL128: Final = Context(prec=34)

Document = Mapping[str, Any]
Operand = Any
"""A scalar, or of `$in` a tuple of them."""


class Condition(NamedTuple):
    """All conditions of a `where` have to hold: `$and` needs no node of its own."""

    path: str
    operator: str
    operand: Operand


class Where(NamedTuple):
    conditions: tuple[Condition, ...]
    key: str
    """The same for the same conditions: what a view is known by."""

    def filter(self, ids: Callable[[str], list[Any]]) -> dict[str, Any]:
        """A MongoDB filter. `ids`: what `_id` may be in MongoDB for an id of ours."""
        return {"$and": [_clause(condition, ids) for condition in self.conditions]} if self.conditions else {}

    def matches(self, document: Document) -> bool:
        """Whether a document, as JSON (document_json.py), matches."""
        return all(_holds(condition, document) for condition in self.conditions)


def parse(value: Any, field: str = "where") -> Where:
    """`bad_request` names what is not part of the language."""
    conditions = tuple(_conditions(value, field, 0))
    if len(conditions) > MAX_CONDITIONS:
        raise bad_request(f"{field}: {MAX_CONDITIONS} conditions at most")
    unique = dict.fromkeys(conditions_key(condition) for condition in conditions)
    return Where(conditions, "\n".join(sorted(unique)))


def conditions_key(condition: Condition) -> str:
    # Through JSON: true, 1 and 1.0 are equal in Python, but not all of them in MongoDB.
    return JSON.encode(list(condition)).decode()


def check_path(path: str, field: str) -> str:
    """A dotted path into a document. Not into arrays by number, which could as well be a field's name."""
    parts = path.split(".")
    if not path or any(not part or part[0] == "$" or "\0" in part or part.isdigit() for part in parts):
        raise bad_request(f"{field}: {path!r} is not the path of a field")
    if len(parts) > MAX_PARTS:
        raise bad_request(f"{field}: a path has {MAX_PARTS} parts at most")
    if parts[0] == "_rev":
        raise bad_request(f"{field}: _rev is not stored in the document")
    if parts[0] == "_id" and len(parts) > 1:
        raise bad_request(f"{field}: _id is a string")
    return path


def _conditions(value: Any, field: str, depth: int) -> Iterator[Condition]:
    if not isinstance(value, dict):
        raise bad_request(f"{field}: expected an object of conditions")
    if depth > MAX_DEPTH:
        raise bad_request(f"{field}: $and may be nested {MAX_DEPTH} deep")
    for name, wanted in value.items():
        if name == "$and":
            if not isinstance(wanted, list) or not wanted:
                raise bad_request(f"{field}: $and takes a list of conditions")
            for part in wanted:
                yield from _conditions(part, field, depth + 1)
            continue
        path = check_path(name, field)
        for operator, operand in _operators(wanted, path, field):
            if path == "_id" and operator not in ("$eq", "$ne", "$in"):
                raise bad_request(f"{field}: _id takes equality, $ne and $in")
            yield Condition(path, operator, operand)


def _operators(wanted: Any, path: str, field: str) -> Iterator[tuple[str, Operand]]:
    if not isinstance(wanted, dict):
        yield "$eq", _scalar(wanted, path, field)
        return
    if not wanted:
        raise bad_request(f"{field}: {path}: expected a value or an operator")
    for operator, operand in wanted.items():
        if operator == "$in":
            if not isinstance(operand, list) or len(operand) > MAX_IN:
                raise bad_request(f"{field}: {path}: $in takes a list of {MAX_IN} values at most")
            yield "$in", tuple(_scalar(item, path, field) for item in operand)
        elif operator == "$eq" or operator == "$ne" or operator in _ORDER:
            yield operator, _scalar(operand, path, field)
        else:
            raise bad_request(f"{field}: {path}: {operator!r} is none of $eq, $ne, $gt, $gte, $lt, $lte, $in")


def _scalar(value: Any, path: str, field: str) -> Any:
    if isinstance(value, dict | list):
        raise bad_request(f"{field}: {path}: a value is text, a number, true, false or null")
    return value


# --- in MongoDB -------------------------------------------------------------------------------------------------------


def _clause(condition: Condition, ids: Callable[[str], list[Any]]) -> dict[str, Any]:
    path, operator, operand = condition
    if path == "_id":
        wanted = operand if operator == "$in" else [operand]
        stored = [each for one in wanted for each in (ids(one) if isinstance(one, str) else [one])]
        return {"_id": {"$nin" if operator == "$ne" else "$in": stored}}
    return {path: {operator: list(operand) if operator == "$in" else operand}}


# --- in Python --------------------------------------------------------------------------------------------------------

_MISSING: Final = object()


def _holds(condition: Condition, document: Document) -> bool:
    path, operator, operand = condition
    values = _values(document, path.split("."))
    if operator == "$eq":
        return any(_equal(value, operand) for value in values)
    if operator == "$ne":
        return not any(_equal(value, operand) for value in values)
    if operator == "$in":
        return any(_equal(value, one) for value in values for one in operand)
    compare = _ORDER[operator]
    return any(compare(value, operand) for value in values)


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    """What a path leads to: of an array its elements, and at the end itself."""
    for index, part in enumerate(path):
        if isinstance(value, list):
            for element in value:
                if isinstance(element, dict) and not is_special(element):
                    yield from _values(element, path[index:])
            return
        value = value.get(part, _MISSING) if isinstance(value, dict) and not is_special(value) else _MISSING
        if value is _MISSING:
            yield None
            return
    if isinstance(value, list):
        yield from value
        return
    yield value


def _kind(value: Any) -> tuple[str, Any]:
    """(type, something to compare); the types are MongoDB's, as far as scalars reach."""
    if value is None or isinstance(value, bool | str):
        return type(value).__name__, value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, dict) and len(value) == 1:
        # Anything else under these names is an object that another program has stored as it is.
        if value.get("$numberDouble") in ("NaN", "Infinity", "-Infinity"):
            return "number", float(value["$numberDouble"])
        if isinstance(decimal := value.get("$numberDecimal"), str):
            with suppress(InvalidOperation):
                number = Decimal(decimal)
                return ("other", None) if number.is_snan() else ("number", number)
    return "other", None


def _comparable(value: Any, operand: Any) -> tuple[Any, Any] | None:
    kind, one = _kind(value)
    wanted, other = _kind(operand)
    if kind != wanted or kind == "other":
        return None
    if isinstance(one, Decimal) and isinstance(other, float):
        other = _DECIMAL128.create_decimal_from_float(other)
    if kind == "number" and math.isnan(one):
        return None  # what a client asks for is finite, and compares with NaN in no way
    return one, other


def _equal(value: Any, operand: Any) -> bool:
    pair = _comparable(value, operand)
    return pair is not None and pair[0] == pair[1]


def _ordered(test: Callable[[Any, Any], bool], equal: bool) -> Callable[[Any, Any], bool]:
    def compare(value: Any, operand: Any) -> bool:
        pair = _comparable(value, operand)
        if pair is None:
            return False
        return equal if pair[0] is None else test(*pair)

    return compare


_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$gt": _ordered(lambda one, other: one > other, False),
    "$gte": _ordered(lambda one, other: one >= other, True),
    "$lt": _ordered(lambda one, other: one < other, False),
    "$lte": _ordered(lambda one, other: one <= other, True),
}

_SPECIAL: Final = frozenset(
    f"${name}"
    for name in ("oid", "date", "numberDecimal", "numberDouble", "binary", "regularExpression", "timestamp", "code")
)


def is_special(value: Document) -> bool:
    """Whether an object stands for a value that JSON does not have (document_json.py)."""
    return len(value) in (1, 2) and next(iter(value)) in _SPECIAL
