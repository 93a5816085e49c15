"""The `where` of documents: a small typed language, as a MongoDB filter and as a test in Python with the same answers.

    {"status": "open", "price": {"$gte": 10, "$lt": 20}, "address.city": {"$in": ["Rome", "Oslo"]}, "$and": [{…}, {…}]}

Equality, `$ne $gt $gte $lt $lte $in` and `$and`; values are scalars. What a client sends never reaches MongoDB as it
came: the filter is built anew from what was understood. The semantics are MongoDB's (tests/integration/test_where.py
compares the two): only values of one type compare (numbers of all kinds are one type), null stands for a missing field
too, and of an array any element may match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from operator import ge, gt, le, lt
from typing import Any, Final

from server.core.errors import Error, bad_request
from server.wire.codec import JSON

MAX_CONDITIONS: Final = 50
MAX_IN: Final = 200
MAX_SIZE: Final = 32_768
"""Characters of all conditions: they are kept for as long as somebody watches."""
MAX_DEPTH: Final = 8
_SCALAR_OPERATORS: Final = frozenset(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"))
MAX_PARTS: Final = 100
"""Of a path; MongoDB stores nothing deeper."""

Document = Mapping[str, Any]
Operand = Any
"""A scalar, or of `$in` a Choice."""
Condition = tuple[str, str, Operand]
"""Path, operator, operand. Plain, and without a function of its own: there may be hundreds of thousands, and the
garbage collector need not look at what has nothing but texts and numbers in it."""


class Where:
    """All conditions have to hold: `$and` needs no node of its own. Known by its `key`: the same for the same
    conditions, so that watchers of one view share it."""

    __slots__ = ("conditions", "key")

    def __init__(self, conditions: tuple[Condition, ...], key: str) -> None:
        self.conditions = conditions
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Where) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def filter(self, ids: Callable[[str], list[Any]]) -> dict[str, Any]:
        """A MongoDB filter. `ids`: what `_id` may be in MongoDB for an id of ours."""
        return {"$and": [_clause(condition, ids) for condition in self.conditions]} if self.conditions else {}

    def matches(self, document: Document) -> bool:
        """Whether a document, as JSON (document_json.py), matches."""
        return self.holds(Facts(document))

    def holds(self, facts: Facts) -> bool:
        """The same of a document of which much may be known already. TooMuch if finding out takes too long."""
        return all(_TESTS[operator](facts.at(path), operand) for path, operator, operand in self.conditions)


def parse(value: Any, field: str = "where") -> Where:
    """`bad_request` names what is not part of the language."""
    conditions: list[Condition] = []
    keys: set[str] = set()
    size = 0
    for path, operator, operand in _conditions(value, field, 0):
        conditions.append((path, operator, Choice(operand) if operator == "$in" else operand))
        if len(conditions) > MAX_CONDITIONS:
            raise bad_request(f"{field}: {MAX_CONDITIONS} conditions at most")
        # Through JSON: true, 1 and 1.0 are equal in Python, but not all of them in MongoDB.
        key = JSON.encode([path, operator, operand]).decode()
        keys.add(key)
        size += len(key)
        if size > MAX_SIZE:
            raise bad_request(f"{field}: {MAX_SIZE} characters at most, as JSON")
    return Where(tuple(conditions), "\n".join(sorted(keys)))


def check_path(path: str, field: str) -> str:
    """A dotted path into a document. Not into arrays by number, which could as well be a field's name."""
    parts = path.split(".")
    if not path or any(not part or part[0] == "$" or "\0" in part or part.isdigit() for part in parts):
        raise bad_request(f"{field}: {path!r} is not the path of a field", f"{field}: not the path of a field")
    if len(parts) > MAX_PARTS:
        raise bad_request(f"{field}: a path has {MAX_PARTS} parts at most")
    if parts[0] == "_rev":
        raise bad_request(f"{field}: _rev is not stored in the document")
    if parts[0] == "_id" and len(parts) > 1:
        raise bad_request(f"{field}: _id is a string")
    return path


def _conditions(value: Any, field: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    if not isinstance(value, dict):
        raise bad_request(f"{field}: expected an object of conditions")
    if depth > MAX_DEPTH:
        raise bad_request(f"{field}: $and may be nested {MAX_DEPTH} deep")
    for name, wanted in value.items():
        if name == "$and":
            if not isinstance(wanted, list) or not 0 < len(wanted) <= MAX_CONDITIONS:
                raise bad_request(f"{field}: $and takes a list of up to {MAX_CONDITIONS} objects of conditions")
            for part in wanted:
                yield from _conditions(part, field, depth + 1)
            continue
        path = check_path(name, field)
        for operator, operand in _operators(wanted, path, field):
            if path == "_id" and operator not in ("$eq", "$ne", "$in"):
                raise bad_request(f"{field}: _id takes equality, $ne and $in")
            yield path, operator, operand


def _wrong(field: str, path: str, why: str) -> Error:
    """For others than the sender without the path, which is theirs."""
    return bad_request(f"{field}: {path}: {why}", f"{field}: {why}")


def _operators(wanted: Any, path: str, field: str) -> Iterator[tuple[str, Operand]]:
    if not isinstance(wanted, dict):
        yield "$eq", _scalar(wanted, path, field)
        return
    if not wanted:
        raise _wrong(field, path, "expected a value or an operator")
    for operator, operand in wanted.items():
        if operator == "$in":
            if not isinstance(operand, list) or len(operand) > MAX_IN:
                raise _wrong(field, path, f"$in takes a list of {MAX_IN} values at most")
            yield "$in", tuple(_scalar(item, path, field) for item in operand)
        elif operator in _SCALAR_OPERATORS:
            yield operator, _scalar(operand, path, field)
        else:
            known = "none of $eq, $ne, $gt, $gte, $lt, $lte, $in"
            raise bad_request(f"{field}: {path}: {operator!r} is {known}", f"{field}: an operator is {known}")


def _scalar(value: Any, path: str, field: str) -> Any:
    if isinstance(value, dict | list):
        raise _wrong(field, path, "a value is text, a number, true, false or null")
    return value


# --- in MongoDB -------------------------------------------------------------------------------------------------------


def _clause(condition: Condition, ids: Callable[[str], list[Any]]) -> dict[str, Any]:
    path, operator, operand = condition
    if path == "_id":
        wanted = operand.choices if operator == "$in" else [operand]
        stored = [each for one in wanted for each in (ids(one) if isinstance(one, str) else [one])]
        return {"_id": {"$nin" if operator == "$ne" else "$in": stored}}
    return {path: {operator: list(operand.choices) if operator == "$in" else operand}}


# --- in Python --------------------------------------------------------------------------------------------------------

STEPS: Final = 50_000
"""Values that may be looked at in one document, for all paths together: about 10 ms."""
_MISSING: Final = object()
_NONE: Final[frozenset[Any]] = frozenset()


Extreme = Callable[..., Any]
"""`max` or `min`."""


class TooMuch(Exception):
    """So many different paths lead through so long lists that trying them would hold everybody up."""


class Values:
    """What a path leads to, by type, so that a condition takes as long for 10,000 elements as for one. The types are
    MongoDB's, as far as scalars reach: what is of any other compares with nothing that a client may ask for."""

    __slots__ = ("null", "texts", "numbers", "decimals", "bools", "_extremes")

    def __init__(self, values: list[Any], null: bool) -> None:
        kinds = set(map(type, values))
        self.null = null or type(None) in kinds
        self.texts: Set[str] = _NONE
        self.numbers: Set[int | float] = _NONE
        self.decimals: Set[Decimal] = _NONE
        self.bools: Set[bool] = _NONE
        self._extremes: dict[tuple[str, Extreme], Any] | None = None
        if kinds == {str}:
            self.texts = set(values)
        elif kinds and kinds <= _NUMBERS:
            self.numbers = set(values)
        elif kinds:
            self._sort(values)

    def _sort(self, values: list[Any]) -> None:
        self.texts, self.bools = set(), set()
        numbers, decimals = set[int | float](), set[Decimal]()
        for value in values:
            if isinstance(value, str):
                self.texts.add(value)
            elif isinstance(value, bool):
                self.bools.add(value)
            elif isinstance(value, int | float):
                numbers.add(value)
            elif isinstance(value, dict) and len(value) == 1:
                # Anything else under these names is an object that another program has stored as it is. NaN compares
                # with nothing that a client may ask for.
                if value.get("$numberDouble") in ("Infinity", "-Infinity"):
                    numbers.add(float(value["$numberDouble"]))
                elif isinstance(decimal := value.get("$numberDecimal"), str):
                    with suppress(InvalidOperation):
                        number = Decimal(decimal)
                        if not number.is_nan():
                            decimals.add(number)
        self.numbers, self.decimals = numbers, decimals

    def extreme(self, kind: str, which: Extreme) -> Any:
        """The greatest or the least of one type, or None: looked for once, however many conditions ask."""
        known = self._extremes
        if known is None:
            known = self._extremes = {}
        if (kind, which) not in known:
            known[kind, which] = which(getattr(self, kind), default=None)
        return known[kind, which]


_NUMBERS: Final = {int, float}


class Facts:
    """A document, and what is known of it: found once for all the views that ask. `bounded`: within STEPS."""

    __slots__ = ("document", "_known", "_objects", "_left")

    def __init__(self, document: Document, bounded: bool = False) -> None:
        self.document = document
        self._known: dict[str, Values] = {}
        self._objects: dict[int, list[Document]] = {}
        """Of a list (by its identity) the elements that a path leads through."""
        self._left: float = STEPS if bounded else math.inf

    def at(self, path: str) -> Values:
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._find(path.split("."))
        return known

    def _find(self, path: list[str]) -> Values:
        """Through lists as well: of one the elements, and what is missing is null."""
        nodes: list[Any] = [self.document]
        null = False
        for part in path:
            self._spend(len(nodes))
            reached: list[Any] = []
            for node in nodes:
                if isinstance(node, list):
                    self._spend(len(node))
                    objects = self._objects.get(id(node))
                    if objects is None:
                        objects = self._objects[id(node)] = [
                            one for one in node if isinstance(one, dict) and not (len(one) <= 2 and is_special(one))
                        ]
                    reached += [one.get(part, _MISSING) for one in objects]
                elif isinstance(node, dict):  # also one that stands for a scalar: no path leads into that
                    reached.append(node.get(part, _MISSING))
                else:
                    null = True
            nodes = [one for one in reached if one is not _MISSING]
            null = null or len(nodes) < len(reached)
        values: list[Any] = []
        for node in nodes:
            if isinstance(node, list):
                self._spend(len(node))
                values += node
            else:
                values.append(node)
        self._spend(len(nodes))
        return Values(values, null)

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooMuch


class Choice:
    """What `$in` asks for: one of these."""

    __slots__ = ("choices", "_values", "_decimals")

    def __init__(self, choices: tuple[Any, ...]) -> None:
        self.choices = choices
        self._values = Values(list(choices), False)
        self._decimals = {Decimal(number) for number in self._values.numbers}

    def meets(self, values: Values) -> bool:
        asked = self._values
        return (
            (asked.null and values.null)
            or not asked.texts.isdisjoint(values.texts)
            or not asked.numbers.isdisjoint(values.numbers)
            or not asked.bools.isdisjoint(values.bools)
            or not self._decimals.isdisjoint(values.decimals)
        )


def _equal(values: Values, operand: Any) -> bool:
    if isinstance(operand, str):
        return operand in values.texts
    if operand is None:
        return values.null
    if isinstance(operand, bool):
        return operand in values.bools
    return operand in values.numbers or (bool(values.decimals) and Decimal(operand) in values.decimals)


def _ordered(operator: str) -> Callable[[Values, Any], bool]:
    """Of many values the greatest decides, or the least. Only values of one type compare, and null with null."""
    compare = _ORDER[operator]
    which: Extreme = max if operator in ("$gt", "$gte") else min

    def among(values: Values, kind: str, wanted: Any) -> bool:
        found = values.extreme(kind, which)
        return found is not None and compare(found, wanted)

    def test(values: Values, operand: Any) -> bool:
        if operand is None:
            return values.null and operator in ("$gte", "$lte")
        if isinstance(operand, str):
            return among(values, "texts", operand)
        if isinstance(operand, bool):
            return among(values, "bools", operand)
        if among(values, "numbers", operand):
            return True
        # Exactly, as MongoDB compares numbers of different kinds.
        return bool(values.decimals) and among(values, "decimals", Decimal(operand))

    return test


_ORDER: Final[Mapping[str, Callable[[Any, Any], bool]]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
_TESTS: Final[Mapping[str, Callable[[Values, Any], bool]]] = {
    "$eq": _equal,
    "$ne": lambda values, operand: not _equal(values, operand),
    "$in": lambda values, operand: operand.meets(values),
    **{operator: _ordered(operator) for operator in _ORDER},
}

_SPECIAL: Final = frozenset(
    f"${name}"
    for name in ("oid", "date", "numberDecimal", "numberDouble", "binary", "regularExpression", "timestamp", "code")
)


def is_special(value: Document) -> bool:
    """Whether an object stands for a value that JSON does not have (document_json.py)."""
    return len(value) in (1, 2) and next(iter(value)) in _SPECIAL
